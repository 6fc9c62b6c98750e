"""Small loop programs for tests: kernels in a line, programs without an arena plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from functrans.loop_ir import (
    Affine,
    Buffer,
    Kernel,
    KernelCall,
    Let,
    Load,
    Loop,
    MatMul,
    Param,
    Program,
    Stmt,
    Store,
)


def at(*terms: str | int | tuple[str, int]) -> Affine:
    """`at("i", ("j", 2), 3)` is i + 2 j + 3."""
    named = [t if isinstance(t, tuple) else (t, 1) for t in terms if not isinstance(t, int)]
    return Affine(tuple(sorted(named)), sum(t for t in terms if isinstance(t, int)))


def program(
    inputs: Sequence[Buffer],
    outputs: Sequence[Buffer],
    steps: Sequence[object],
    temps: Sequence[Buffer] = (),
    **fields: object,
) -> Program:
    """A program whose temps follow each other in the arena."""
    offsets, end = [], 0
    for temp in temps:
        offsets.append((temp.name, end))
        end += -(-temp.nbytes // 64) * 64
    return Program(
        "f", tuple(inputs), (), tuple(outputs), tuple(temps), tuple(steps),
        offsets=tuple(offsets), arena_bytes=end, **fields,
    )  # type: ignore[arg-type]  # fmt: skip


def elementwise(op: str, dtypes: Sequence[np.dtype], out: np.dtype, n: int) -> Program:
    """`out[i] = op(x0[i], x1[i], ...)` for i < n."""
    names = [f"x{j}" for j in range(len(dtypes))]
    loads = [
        Load(f"v{j}", x, (at("i"),), d) for j, (x, d) in enumerate(zip(names, dtypes, strict=True))
    ]
    body: list[Stmt] = [*loads, Let("y", op, tuple(f"v{j}" for j in range(len(names))), out)]
    params = [Param(x, (n,), d, "in") for x, d in zip(names, dtypes, strict=True)]
    kernel = Kernel(
        (*params, Param("out", (n,), out, "out")),
        (Loop("i", n, (*body, Store("out", (at("i"),), "y"))),),
    )
    inputs = [Buffer(x, (n,), d) for x, d in zip(names, dtypes, strict=True)]
    return program(inputs, [Buffer("out", (n,), out)], [KernelCall(kernel, (*names, "out"))])


def kernel_program(
    inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray], body: Sequence[Stmt]
) -> Program:
    """One kernel whose formal buffers are the inputs and outputs, shaped as the arrays given."""
    roles = [("in", inputs), ("out", outputs)]
    params = [Param(n, a.shape, a.dtype, role) for role, group in roles for n, a in group.items()]
    kernel = Kernel(tuple(params), tuple(body))
    return program(
        [Buffer(n, a.shape, a.dtype) for n, a in inputs.items()],
        [Buffer(n, a.shape, a.dtype) for n, a in outputs.items()],
        [KernelCall(kernel, (*inputs, *outputs))],
    )


def product(
    sizes: tuple[int, int, int, int], dtype: np.dtype, *, lhs: str = "bmk", rhs: str = "bkn"
) -> Program:
    """A matrix product of operands whose axes are stored in the order named; `out` is (b, m, n)."""
    extents = dict(zip("bmnk", sizes, strict=True))

    def buffer(name: str, order: str) -> Buffer:
        return Buffer(name, tuple(extents[axis] for axis in order), dtype)

    def strides(order: str, axes: str) -> tuple[int, int, int]:
        shape = [extents[axis] for axis in order]
        step = {a: int(np.prod(shape[i + 1 :])) for i, a in enumerate(order)}
        return tuple(step.get(axis, 0) for axis in axes)  # type: ignore[return-value]

    step = MatMul(
        "out", "lhs", "rhs", sizes, strides(lhs, "bmk"), strides(rhs, "bkn"),
        strides("bmn", "bmn"), dtype,
    )  # fmt: skip
    return program([buffer("lhs", lhs), buffer("rhs", rhs)], [buffer("out", "bmn")], [step])
