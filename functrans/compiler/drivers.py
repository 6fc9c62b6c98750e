"""Drivers: straight lines of calls of kernels and matrix products, over a table of pointers.

A driver is `i32 driver(ptr buffers, ptr arena)`: `buffers` has the data pointers of inputs,
constants and outputs, in this order. It returns 0, or 1 after it wrote (check, offending number)
behind the arena. `runtime/entry` is what Python calls. A program with host steps has one driver
per stretch between them.
"""

from __future__ import annotations

from collections.abc import Sequence

from functrans import loop_ir as ir
from functrans.compiler import emission, matmul

DONE, CHECK_FAILED = 0, 1  # what a driver returns


def emit_program(
    program: ir.Program, segments: Sequence[Sequence[ir.Step]]
) -> tuple[str, list[str]]:
    """The LLVM text of a program, and the names of its drivers: one per segment of native steps."""
    module = emission.Module()
    names = []
    for i, steps in enumerate(segments):
        copies = program.copies if i == len(segments) - 1 else ()
        names.append(f"ft_entry_{i}")
        module.need(_driver(module, program, steps, copies, names[-1]))
    return module.text(), names


def table_order(program: ir.Program) -> list[ir.Buffer]:
    """The buffers whose pointers a driver is given."""
    return [*program.inputs, *(b for b, _ in program.consts), *program.outputs]


def _driver(
    module: emission.Module,
    program: ir.Program,
    steps: Sequence[ir.Step],
    copies: Sequence[tuple[str, str]],
    name: str,
) -> str:
    body = emission.FunctionBody(module)
    pointers = {}
    for i, buffer in enumerate(table_order(program)):
        place = body.emit(f"getelementptr ptr, ptr %buffers, i64 {i}")
        pointers[buffer.name] = body.emit(f"load ptr, ptr {place}")
    for temp, offset in program.offsets:
        pointers[temp] = body.emit(f"getelementptr i8, ptr %arena, i64 {offset}")
    body.lines.append(f"  %status = getelementptr i8, ptr %arena, i64 {status_offset(program)}")
    for step in steps:
        if isinstance(step, ir.KernelCall):
            _call_kernel(body, module, step, pointers)
        elif isinstance(step, ir.MatMul):
            matmul.emit(body, step, pointers)
        elif isinstance(step, ir.NativeStep):
            _call_routine(body, step, pointers)
    sizes = {b.name: b.nbytes for b in program.outputs}
    for out, source in copies:
        body.do(
            f"call void @llvm.memcpy.p0.p0.i64(ptr {pointers[out]}, ptr {pointers[source]}, "
            f"i64 {sizes[out]}, i1 false)"
        )
    head = f"define i32 @{name}(ptr %buffers, ptr %arena) nounwind {{"
    return "\n".join([head, "entry:", *body.lines, f"  ret i32 {DONE}", "}"])


def status_offset(program: ir.Program) -> int:
    """Where the status words are, in bytes from the start of the arena."""
    return -(-program.arena_bytes // 8) * 8


def _call_kernel(
    body: emission.FunctionBody,
    module: emission.Module,
    step: ir.KernelCall,
    pointers: dict[str, str],
) -> None:
    args = [f"ptr {pointers[b]}" for b in step.buffers]
    if not step.checks:
        body.do(f"call i32 @{module.kernel(step.kernel)}({', '.join(args)})")
        return
    args += [f"i64 {c}" for c in step.checks] + ["ptr %status"]
    status = body.emit(f"call i32 @{module.kernel(step.kernel)}({', '.join(args)})")
    bad, fine = body.fresh_label("failed"), body.fresh_label("passed")
    wrong = body.emit(f"icmp ne i32 {status}, 0")
    body.do(f"br i1 {wrong}, label %{bad}, label %{fine}")
    body.start(bad)
    body.do(f"ret i32 {CHECK_FAILED}")
    body.start(fine)


def _call_routine(
    body: emission.FunctionBody, step: ir.NativeStep, pointers: dict[str, str]
) -> None:
    symbol = step.provide()
    body.need(f"declare i32 @{symbol}(ptr, ptr, ptr)")
    given = [pointers[b] for b in (*step.inputs, *step.outputs)]
    table = _table(body, "ptr", given)
    numbers = _table(body, "i64", [str(n) for n in step.numbers])
    result = body.emit(f"call i32 @{symbol}(ptr {table}, ptr {numbers}, ptr %status)")
    if not step.checks:
        return
    bad, fine = body.fresh_label("failed"), body.fresh_label("passed")
    wrong = body.emit(f"icmp ne i32 {result}, 0")
    body.do(f"br i1 {wrong}, label %{bad}, label %{fine}")
    body.start(bad)
    wide = body.emit(f"sext i32 {result} to i64")
    body.do(f"store i64 {body.emit(f'add i64 {wide}, {step.checks[0] - 1}')}, ptr %status")
    body.do(f"ret i32 {CHECK_FAILED}")
    body.start(fine)


def _table(body: emission.FunctionBody, t: str, values: Sequence[str]) -> str:
    """An array on the stack that holds the values."""
    table = body.emit(f"alloca [{len(values)} x {t}]")
    for i, value in enumerate(values):
        place = body.emit(f"getelementptr {t}, ptr {table}, i64 {i}")
        body.do(f"store {t} {value}, ptr {place}")
    return table
