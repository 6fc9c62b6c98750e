"""The native functions that Python calls: they read the arguments and run the steps in order.

A *driver* is a straight line of calls of kernels and matrix products over raw pointers. An *entry*
is what Python sees: a builtin function of the inputs, the outputs and the arena. It checks each
input, calls the driver and returns a status. A program with host steps has one pair per stretch
between them.
"""

from __future__ import annotations

from collections.abc import Sequence

from functrans import loop_ir as ir
from functrans.compiler import emission, matmul
from functrans.runtime import python_objects as objects

DONE, CHECK_FAILED, NOT_CANONICAL = 0, 1, 2  # what an entry returns
STATUS_BYTES = 16  # behind the arena: (check, offending index)

# The data of an input: of an ndarray of just this dtype and shape, or of a scalar; else null. It is
# compiled once per process, which halves the time for a small program.
DATA_OF_INPUT = f"""
@ft.type.ndarray = external global i8
define ptr @ft_entry_data_of_input(ptr %object, ptr %spec) nounwind {{
entry:
  %type.at = getelementptr i8, ptr %object, i64 {objects.TYPE_OFFSET}
  %type = load ptr, ptr %type.at
  %value = getelementptr i8, ptr %object, i64 {objects.DATA_OFFSET}
  %ndim.at = getelementptr i8, ptr %spec, i64 24
  %ndim = load i64, ptr %ndim.at
  %is.array = icmp eq ptr %type, @ft.type.ndarray
  br i1 %is.array, label %array, label %other
array:
  %dtype.wanted = load ptr, ptr %spec
  %dtype.at = getelementptr i8, ptr %object, i64 {objects.DTYPE_OFFSET}
  %dtype = load ptr, ptr %dtype.at
  %dtype.ok = icmp eq ptr %dtype, %dtype.wanted
  %flags.at = getelementptr i8, ptr %object, i64 {objects.FLAGS_OFFSET}
  %flags = load i32, ptr %flags.at
  %flags.set = and i32 %flags, {objects.FLAGS_NEEDED}
  %flags.ok = icmp eq i32 %flags.set, {objects.FLAGS_NEEDED}
  %given.at = getelementptr i8, ptr %object, i64 {objects.NDIM_OFFSET}
  %given = load i32, ptr %given.at
  %given.wide = zext i32 %given to i64
  %ndim.ok = icmp eq i64 %given.wide, %ndim
  %some.ok = and i1 %dtype.ok, %flags.ok
  %all.ok = and i1 %some.ok, %ndim.ok
  br i1 %all.ok, label %shape, label %refuse
shape:
  %dims.at = getelementptr i8, ptr %object, i64 {objects.SHAPE_OFFSET}
  %dims = load ptr, ptr %dims.at
  br label %axis
axis:
  %i = phi i64 [ 0, %shape ], [ %i.next, %equal ]
  %at.end = icmp eq i64 %i, %ndim
  br i1 %at.end, label %accept, label %compare
compare:
  %dim.at = getelementptr i64, ptr %dims, i64 %i
  %dim = load i64, ptr %dim.at
  %wanted.offset = add i64 %i, 4
  %wanted.at = getelementptr i64, ptr %spec, i64 %wanted.offset
  %wanted = load i64, ptr %wanted.at
  %i.next = add i64 %i, 1
  %dim.ok = icmp eq i64 %dim, %wanted
  br i1 %dim.ok, label %equal, label %refuse
equal:
  br label %axis
accept:
  %data = load ptr, ptr %value
  ret ptr %data
other:
  %scalar.at = getelementptr i8, ptr %spec, i64 8
  %scalar = load ptr, ptr %scalar.at
  %python.at = getelementptr i8, ptr %spec, i64 16
  %python = load ptr, ptr %python.at
  %is.scalar = icmp eq ptr %type, %scalar
  %is.python = icmp eq ptr %type, %python
  %type.ok = or i1 %is.scalar, %is.python
  %zero.dims = icmp eq i64 %ndim, 0
  %scalar.ok = and i1 %type.ok, %zero.dims
  br i1 %scalar.ok, label %accept.scalar, label %refuse
accept.scalar:
  ret ptr %value
refuse:
  ret ptr null
}}"""


def emit_program(
    program: ir.Program, segments: Sequence[Sequence[ir.Step]], *, release_gil: bool
) -> tuple[str, list[str]]:
    """The LLVM text of a program, and the names of its entries: one per segment of native steps."""
    module = emission.Module()
    names = []
    for i, steps in enumerate(segments):
        copies = program.copies if i == len(segments) - 1 else ()
        module.need(_driver(module, program, steps, copies, i))
        names.append(f"ft_entry_{i}")
        module.need(_entry(module, program, i, release_gil=release_gil))
    return module.text(), names


def scalar_outputs(program: ir.Program) -> list[bool]:
    """Which outputs are passed as fresh NumPy scalars to write into, rather than as arrays.

    The two objects of `np.bool` are shared, so booleans are passed as 0-d arrays; so is what host
    steps might see.
    """
    hosted = any(isinstance(s, ir.HostStep) for s in program.steps)
    return [b.shape == () and b.dtype.kind != "b" and not hosted for b in program.outputs]


# ---------------------------------------------------------------------------- drivers


def _buffers(program: ir.Program) -> list[ir.Buffer]:
    return [*program.inputs, *(b for b, _ in program.consts), *program.outputs]


def _driver(
    module: emission.Module,
    program: ir.Program,
    steps: Sequence[ir.Step],
    copies: Sequence[tuple[str, str]],
    number: int,
) -> str:
    body = emission.FunctionBody(module)
    pointers = {b.name: f"%p{i}" for i, b in enumerate(_buffers(program))}
    params = ", ".join([*(f"ptr {p}" for p in pointers.values()), "ptr %arena"])
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
    head = f"define internal i32 @driver_{number}({params}) noinline nounwind {{"
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


# ---------------------------------------------------------------------------- entries


def _spec(module: emission.Module, buffer: ir.Buffer) -> str:
    """A constant that `ft_data_of_input` compares with: dtype, scalar types, ndim, shape."""
    dtype = buffer.dtype
    symbols = (objects.dtype_symbol(dtype), *objects.scalar_symbols(dtype))
    for symbol in symbols:
        module.need(f"@{symbol} = external global i8")
    name = f"@spec.{objects.symbol_letter(dtype)}.{'x'.join(map(str, buffer.shape))}"
    numbers = [len(buffer.shape), *buffer.shape]
    types = ", ".join(["ptr"] * 3 + ["i64"] * len(numbers))
    values = ", ".join([*(f"ptr @{s}" for s in symbols), *(f"i64 {n}" for n in numbers)])
    module.need(f"{name} = private constant {{ {types} }} {{ {values} }}")
    return name


def _entry(module: emission.Module, program: ir.Program, number: int, *, release_gil: bool) -> str:
    module.need("declare ptr @ft_data_of_input(ptr, ptr) nounwind")
    module.need("declare ptr @PyLong_FromLong(i64)")
    body = emission.FunctionBody(module)
    expected = len(program.inputs) + len(program.outputs) + 1
    all_given = body.emit(f"icmp eq i64 %count, {expected}")
    body.do(f"br i1 {all_given}, label %complete, label %refuse")
    body.start("complete")
    args = _input_pointers(body, module, program) + _const_pointers(body, program)
    is_scalar = [*scalar_outputs(program), False]
    for i, scalar in enumerate(is_scalar, len(program.inputs)):
        value = body.emit(f"getelementptr i8, ptr {_object(body, i)}, i64 {objects.DATA_OFFSET}")
        args.append(value if scalar else body.emit(f"load ptr, ptr {value}"))
    state = ""
    if release_gil:
        module.need("declare ptr @PyEval_SaveThread()")
        module.need("declare void @PyEval_RestoreThread(ptr)")
        state = body.emit("call ptr @PyEval_SaveThread()")
    status = body.emit(f"call i32 @driver_{number}({', '.join(f'ptr {a}' for a in args)})")
    if release_gil:
        body.do(f"call void @PyEval_RestoreThread(ptr {state})")
    wide = body.emit(f"sext i32 {status} to i64")
    result = body.emit(f"call ptr @PyLong_FromLong(i64 {wide})")
    head = f"define ptr @ft_entry_{number}(ptr %self, ptr %args, i64 %count) {{"
    return "\n".join(
        [head, "entry:", *body.lines, f"  ret ptr {result}", "refuse:",
         f"  %refused = call ptr @PyLong_FromLong(i64 {NOT_CANONICAL})", "  ret ptr %refused", "}"]
    )  # fmt: skip


def _object(body: emission.FunctionBody, position: int) -> str:
    at = body.emit(f"getelementptr ptr, ptr %args, i64 {position}")
    return body.emit(f"load ptr, ptr {at}")


def _input_pointers(
    body: emission.FunctionBody, module: emission.Module, program: ir.Program
) -> list[str]:
    pointers = []
    for i, buffer in enumerate(program.inputs):
        spec = _spec(module, buffer)
        pointer = body.emit(f"call ptr @ft_data_of_input(ptr {_object(body, i)}, ptr {spec})")
        refused = body.emit(f"icmp eq ptr {pointer}, null")
        following = body.fresh_label("accepted")
        body.do(f"br i1 {refused}, label %refuse, label %{following}")
        body.start(following)
        pointers.append(pointer)
    return pointers


def _const_pointers(body: emission.FunctionBody, program: ir.Program) -> list[str]:
    """Constants never move: `self` is an array of their addresses."""
    if not program.consts:
        return []
    field = body.emit(f"getelementptr i8, ptr %self, i64 {objects.DATA_OFFSET}")
    table = body.emit(f"load ptr, ptr {field}")
    return [
        body.emit(f"load ptr, ptr {body.emit(f'getelementptr ptr, ptr {table}, i64 {i}')}")
        for i in range(len(program.consts))
    ]
