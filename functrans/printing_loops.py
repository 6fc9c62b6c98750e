"""Loop programs as Python that runs.

One function per distinct kernel, and `main`, which allocates buffers and calls them in order. The
text needs NumPy (and SciPy for special functions), so it can be pasted into a file, read, changed
and timed. Tests run it, through `run_python`, as the truth for the machine code of the program.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from functrans import loop_ir
from functrans.loop_ir import Affine, Const, Kernel, Operand, Stmt

# A word as Python on NumPy scalars; {t} is the scalar type of the result.
_WORDS = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "neg": "-{0}",
    "reciprocal": "{t}(1) / {0}",
    "rsqrt": "{t}(1) / np.sqrt({0})",
    "pow": "np.power({0}, {1})",
    "max": "np.maximum({0}, {1})",
    "min": "np.minimum({0}, {1})",
    "round": "np.rint({0})",
    "logistic": "{t}(1) / ({t}(1) + np.exp(-{0}))",
    "erf": "scipy.special.erf({0})",
    "erfc": "scipy.special.erfc({0})",
    "erf_inv": "scipy.special.erfinv({0})",
    "lgamma": "scipy.special.gammaln({0})",
    "digamma": "scipy.special.psi({0})",
    "atan2": "np.arctan2({0}, {1})",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "xor": "{0} ^ {1}",
    "not": "~{0}",
    "shift_left": "np.left_shift({0}, {1})",
    "shift_right": "np.right_shift({0}, {1})",
    "is_finite": "np.isfinite({0})",
    "population_count": "{t}(np.binary_repr({0}, 8 * {0}.itemsize).count('1'))",
    "select": "{1} if {0} else {2}",
    "masked_mul": "{t}(0) if {0} == 0 else {0} * {1}",
    "real": "{0}.real",
    "imag": "{0}.imag",
    "complex": "{t}(complex({0}, {1}))",
    "conj": "{0}.conj()",
    "copy": "{0}",
}
_REDUCE = {
    "add": "{0} + {1}",
    "mul": "{0} * {1}",
    "max": "np.maximum({0}, {1})",
    "min": "np.minimum({0}, {1})",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "xor": "{0} ^ {1}",
    "logaddexp": "np.logaddexp({0}, {1})",
}
_VIEW = [
    "def view(buffer, shape, strides):",
    "    strides = [s * buffer.itemsize for s in strides]",
    "    return np.lib.stride_tricks.as_strided(buffer, shape, strides)",
]


_CALLS = (loop_ir.HostStep, loop_ir.NativeStep)


def program_to_python(program: loop_ir.Program) -> str:
    """The program as a Python module that defines `main(*inputs, *consts, host=())`.

    `host` are the functions of the host steps and native routines, in order.
    """
    kernels: dict[Kernel, str] = {}
    for step in loop_ir.single_steps(program):
        if isinstance(step, loop_ir.KernelCall):
            kernels.setdefault(step.kernel, f"kernel_{len(kernels)}")
    parts = [_KernelText(kernel, name).lines() for kernel, name in kernels.items()]
    if any(isinstance(s, loop_ir.MatMul) for s in loop_ir.single_steps(program)):
        parts.insert(0, _VIEW)
    parts.append(list(_main(program, kernels)))
    imports = ["import numpy as np"]
    if any("scipy.special" in line for part in parts for line in part):
        imports.append("import scipy.special")
    return "\n\n\n".join("\n".join(part) for part in [imports, *parts]) + "\n"


def run_python(program: loop_ir.Program, args: Sequence[Any]) -> list[Any]:
    """Run the program's text on `args` (one per input): what the machine code must agree with."""
    namespace: dict[str, Any] = {}
    exec(compile(program_to_python(program), f"<{program.name}>", "exec"), namespace)
    host = [s.function for s in loop_ir.single_steps(program) if isinstance(s, _CALLS)]
    inputs = [np.asarray(x, b.dtype) for x, b in zip(args, program.inputs, strict=True)]
    return namespace["main"](*inputs, *(x for _, x in program.consts), host=host)


def _type(dtype: np.dtype) -> str:
    return f"np.{dtype.type.__name__}" if dtype.kind != "b" else "np.bool"


def _literal(value: Any) -> str:
    value = np.asarray(value)[()]
    name, item = _type(value.dtype), value.item()
    if value.dtype.kind == "c" or (value.dtype.kind == "f" and not np.isfinite(value)):
        return f"{name}({str(item)!r})"
    return f"{name}({item!r})"


def _operand(x: Operand) -> str:
    return _literal(x.value) if isinstance(x, Const) else x


class _KernelText:
    """The function of one kernel; knows the dtypes of the scalars passed so far."""

    def __init__(self, kernel: Kernel, name: str):
        self.kernel = kernel
        self.name = name
        self.dtypes: dict[str, np.dtype] = dict(kernel.numbers)

    def lines(self) -> list[str]:
        numbers = [name for name, _ in self.kernel.numbers]
        params = [p.name for p in self.kernel.params] + numbers + list(self.kernel.checks)
        notes = [f"    # {p.role} {p.name}: {_shaped(p)}" for p in self.kernel.params]
        body = list(self.block(self.kernel.body, "    ")) or ["    pass"]
        return [f"def {self.name}({', '.join(params)}):", *notes, *body]

    def block(self, body: tuple[Stmt, ...], pad: str) -> Iterator[str]:
        for stmt in body:
            if isinstance(stmt, loop_ir.Loop):
                notes = [stmt.kind, *["shared"] * stmt.is_shared, *["pairwise"] * stmt.is_pairwise]
                yield f"{pad}for {stmt.var} in range({stmt.extent}):  # {', '.join(notes)}"
                inner = list(self.block(stmt.body, pad + "    "))
                yield from inner or [f"{pad}    pass"]
            else:
                for line in _STATEMENTS[type(stmt)](self, stmt):
                    yield pad + line

    def affine(self, index: Affine) -> str:
        terms = []
        for name, factor in index.terms:
            # A NumPy integer would wrap, or refuse to mix signs.
            word = f"int({name})" if name in self.dtypes else name
            sign = {1: "", -1: "-"}.get(factor, f"{factor} * ")
            terms.append(sign + word)
        if index.offset or not terms:
            terms.append(str(index.offset))
        return " + ".join(terms).replace("+ -", "- ")

    def place(self, buffer: str, index: tuple[Affine, ...]) -> str:
        inside = ", ".join(self.affine(i) for i in index)
        return f"{buffer}[{inside or '()'}]"

    def load(self, s: loop_ir.Load) -> list[str]:
        self.dtypes[s.name] = s.dtype
        value = self.place(s.buffer, s.index)
        if s.guard is not None and s.other is not None:
            value = f"{value} if {s.guard} else {_operand(s.other)}"
        return [f"{s.name} = {value}"]

    def let(self, s: loop_ir.Let) -> list[str]:
        args = [_operand(a) for a in s.args]
        if s.op == "convert":
            value = self.convert(s.args[0], s.dtype)
        elif s.op in _WORDS:
            value = _WORDS[s.op].format(*args, t=_type(s.dtype))
        else:
            value = f"np.{s.op}({', '.join(args)})"
        self.dtypes[s.name] = s.dtype
        return [f"{s.name} = {value}"]

    def convert(self, x: Operand, dtype: np.dtype) -> str:
        source = x.value.dtype if isinstance(x, Const) else self.dtypes[x]
        text = _operand(x)
        if source.kind == "c" and dtype.kind not in "cb":
            text += ".real"
        return f"{text}.astype({_type(dtype)})"

    def index_value(self, s: loop_ir.IndexValue) -> list[str]:
        text = f"{s.name} = np.int64({self.affine(s.index)}).astype({_type(s.dtype)})"
        self.dtypes[s.name] = s.dtype
        return [text]

    def store(self, s: loop_ir.Store) -> list[str]:
        return [f"{self.place(s.buffer, s.index)} = {_operand(s.value)}"]

    def store_reduce(self, s: loop_ir.StoreReduce) -> list[str]:
        place = self.place(s.buffer, s.index)
        return [f"{place} = {_REDUCE[s.op].format(place, _operand(s.value))}"]

    def init(self, s: loop_ir.Init) -> list[str]:
        self.dtypes[s.name] = s.dtype
        return [f"{s.name} = {_operand(s.value)}"]

    def update(self, s: loop_ir.Update) -> list[str]:
        return [f"{s.name} = {_REDUCE[s.op].format(s.name, _operand(s.value))}"]

    def arg_update(self, s: loop_ir.ArgUpdate) -> list[str]:
        value, how = _operand(s.value), "<" if s.op == "min" else ">"
        position = f"{_type(self.dtypes[s.position])}({self.affine(s.index)})"
        better = f"{value} {how} {s.name} or ({value} != {value} and {s.name} == {s.name})"
        return [f"if {better}:", f"    {s.name} = {value}", f"    {s.position} = {position}"]

    def check_index(self, s: loop_ir.CheckIndex) -> list[str]:
        self.dtypes[s.name] = s.dtype
        outside = f'raise IndexError(f"index {{{s.value}}} is out of bounds for {{{s.code}}}")'
        wrapped = f"int({s.value}) + {s.bound} if {s.value} < 0 else {s.value}"
        return [
            f"if not -{s.bound} <= {s.value} < {s.bound}:",
            f"    {outside}",
            f"{s.name} = {_type(s.dtype)}({wrapped})",
        ]


_STATEMENTS: dict[type, Any] = {
    loop_ir.Load: _KernelText.load,
    loop_ir.Let: _KernelText.let,
    loop_ir.IndexValue: _KernelText.index_value,
    loop_ir.Store: _KernelText.store,
    loop_ir.StoreReduce: _KernelText.store_reduce,
    loop_ir.Init: _KernelText.init,
    loop_ir.Update: _KernelText.update,
    loop_ir.ArgUpdate: _KernelText.arg_update,
    loop_ir.CheckIndex: _KernelText.check_index,
}


def _shaped(param: loop_ir.Param) -> str:
    shape = "..." if param.shape == (-1,) else ", ".join(map(str, param.shape))
    return f"{param.dtype}[{shape}]"


def _main(program: loop_ir.Program, kernels: dict[Kernel, str]) -> Iterator[str]:
    params = [b.name for b in program.inputs] + [b.name for b, _ in program.consts] + ["host=()"]
    yield f"def main({', '.join(params)}):  # {program.name}"
    for buffer in (*program.temps, *program.outputs):
        yield f"    {buffer.name} = np.empty({buffer.shape}, {_type(buffer.dtype)})"
    shapes = {b.name: b.shape for b in _buffers(program)}
    yield '    with np.errstate(all="ignore"):'
    host = itertools.count()
    for step in program.steps:
        pad = " " * 8
        if isinstance(step, loop_ir.Tiled):
            yield f"{pad}for _ in range(1):  # {step.tiles} tiles of rows, all this for each"
            pad += " " * 4
        steps = step.steps if isinstance(step, loop_ir.Together | loop_ir.Tiled) else (step,)
        for single in steps:
            yield from (pad + line for line in _step(single, program, kernels, shapes, host))
    yield from (f"        {o}[...] = {_reshaped(s, o, shapes)}" for o, s in program.copies)
    if not program.steps and not program.copies:
        yield "        pass"
    results = (b.name if b.shape else f"{b.name}[()]" for b in program.outputs)
    yield f"    return [{', '.join(results)}]"


def _step(
    step: loop_ir.Step,
    program: loop_ir.Program,
    kernels: dict[Kernel, str],
    shapes: dict[str, tuple[int, ...]],
    host: Iterator[int],
) -> Iterator[str]:
    if isinstance(step, loop_ir.KernelCall):
        checks = (_check(program.checks[c]) for c in step.checks)
        actual = (_actual(b, shapes[b], p.shape) for b, p in _arguments(step))
        numbers = map(_number, step.numbers)
        yield f"{kernels[step.kernel]}({', '.join([*actual, *numbers, *checks])})"
    elif isinstance(step, loop_ir.MatMul):
        yield _matmul(step, shapes)
    elif isinstance(step, _CALLS):
        places = "".join(f"{o}[...], " for o in step.outputs).rstrip()
        yield f"# {step.text}"
        yield f"({places}) = host[{next(host)}]({', '.join(step.inputs)})"


def _buffers(program: loop_ir.Program) -> Iterator[loop_ir.Buffer]:
    yield from (*program.inputs, *program.outputs, *program.temps)
    yield from (b for b, _ in program.consts)


def _arguments(step: loop_ir.KernelCall) -> Iterator[tuple[str, loop_ir.Param]]:
    return zip(step.buffers, step.kernel.params, strict=True)


def _actual(name: str, shape: tuple[int, ...], formal: tuple[int, ...]) -> str:
    """A buffer as a kernel sees it: often flat."""
    if shape == formal:
        return name
    return f"{name}.reshape({'-1' if len(formal) == 1 else formal})"


def _number(value: np.generic) -> str:
    return str(value) if value.dtype == np.int64 else _literal(value)


def _check(check: Any) -> str:
    return repr(f"axis {check.axis} with size {check.bound}")


def _reshaped(source: str, out: str, shapes: dict[str, tuple[int, ...]]) -> str:
    return source if shapes[source] == shapes[out] else f"{source}.reshape({out}.shape)"


def _matmul(step: loop_ir.MatMul, shapes: dict[str, tuple[int, ...]]) -> str:
    b, m, n, k = step.sizes
    operands = [
        (step.out, (b, m, n), step.out_strides, step.outer[3]),
        (step.lhs, (b, m, k), step.lhs_strides, step.outer[1]),
        (step.rhs, (b, k, n), step.rhs_strides, step.outer[2]),
    ]
    if step.outer[0] == 1:
        views = [_view(x, shapes[x], size, strides) for x, size, strides, _ in operands]
    else:
        views = [
            f"view({x}, {(step.outer[0], *size)}, {(outer, *strides)})"
            for x, size, strides, outer in operands
        ]
    return f"{views[0]}[...] = {views[1]} @ {views[2]}"


def _view(
    name: str, shape: tuple[int, ...], view: tuple[int, int, int], strides: tuple[int, int, int]
) -> str:
    """The buffer itself, its transpose where that is what the strides mean, or a strided view."""
    _, rows, cols = view
    if view[0] == 1 and shape == (rows, cols) and strides[1:] == (cols, 1):
        return name
    if view[0] == 1 and shape == (cols, rows) and strides[1:] == (1, rows):
        return f"{name}.T"
    if shape == view and strides == (rows * cols, cols, 1):
        return name
    return f"view({name}, {view}, {strides})"
