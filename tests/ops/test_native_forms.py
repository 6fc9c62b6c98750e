"""Every first-order primitive runs natively in every dtype it accepts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import functrans as ft
from functrans import ops
from functrans.compiler.pipeline import lower_to_program
from functrans.core import Primitive
from functrans.ops import elementwise
from functrans.ops.base import Elementwise
from functrans.ops.convolution import ConvGeneralDilated
from functrans.ops.matrices import MatrixOperation
from functrans.printing_loops import run_python
from functrans.runtime.executable import compile_program

DTYPES = "?bBhHiIlLefdFD"
# (primitive, dtypes): reason. Host steps that are meant.
DELIBERATE_GAPS: dict[str, str] = {
    "fft": "NumPy's pocketfft is faster than loops of ours would be; see docs/architecture.md",
}
AXIS: Callable[..., Any] = lambda p, x: [p(x, axis=0), p(x, axis=1)]  # noqa: E731
AXES: Callable[..., Any] = lambda p, x: [p(x, axes=a) for a in ((0,), (1,), (0, 1))]  # noqa: E731
I8 = np.dtype(np.int64)
CALLS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("argsort", "sort"), AXIS),
    **dict.fromkeys(("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum"), AXIS),
    **{f"reduce_{name}": AXES for name in "and or sum prod max min".split()},
    "argmax": lambda p, x: [p(x, axis=a, index_dtype=I8) for a in (0, 1)],
    "argmin": lambda p, x: [p(x, axis=a, index_dtype=I8) for a in (0, 1)],
    "argtop_k": lambda p, x: p(x, k=2),
    "broadcast_in_dim": lambda p, x: p(x, shape=(2, 3, 4), broadcast_dimensions=(1, 2)),
    "concatenate": lambda p, x: p(x, x, dimension=0),
    "convert_element_type": lambda p, x: [p(x, dtype=np.dtype(c)) for c in DTYPES],
    "dot_general": lambda p, x: p(x, x, dimension_numbers=(((1,), (1,)), ((), ()))),
    "dynamic_slice": lambda p, x: p(x, np.int64(0), np.int64(1), slice_sizes=(2, 2)),
    "dynamic_update_slice": lambda p, x: p(x, x[:2], np.int64(0), np.int64(1)),
    "gather": lambda p, x: p(x, np.array([0, 2])),
    "iota": lambda p, x: p(dtype=x.dtype, shape=(3, 4), dimension=1),
    "pad": lambda p, x: p(x, x[0, 0], config=((1, 1, 0), (0, 0, 1))),
    "permute": lambda p, x: p(x, permutation=(1, 0)),
    "pow": lambda p, x: p(x, np.full((3, 4), 3).astype(x.dtype)),
    "reshape": lambda p, x: p(x, shape=(12,)),
    "rev": lambda p, x: p(x, dimensions=(0,)),
    "scatter": lambda p, x: [p(x, x[:2], np.array([0, 0]), op=o) for o in ("add", "min", "set")],
    "searchsorted": lambda p, x: p(ops.sort(x[0], axis=0), x, side="right"),
    "select": lambda p, x: p(ops.eq(x, x), x, x),
    "slice": lambda p, x: p(x, start_indices=(0, 0), limit_indices=(2, 2), strides=(1, 1)),
}
PRIMITIVES = {
    p.name: p
    for p in [*(getattr(ops, name) for name in ops.__all__), elementwise.minus_two_zeta3]
    if isinstance(p, Primitive)
}
# These take operands of their own kind: test_linalg.py and test_convolution.py run them natively.
ELSEWHERE = (MatrixOperation, ConvGeneralDilated)


def values(code: str) -> np.ndarray:
    """Numbers of both signs, large enough for float16 sums to round; positive where unsigned."""
    x = np.array([[1, 2, 3, 0], [5, 5, -2, 7], [100, -31, 9, 4]])
    if code in "efdFD":
        x = x / 8
    if code in "FD":
        x = x + 1j * x[::-1]
    return (abs(x) if np.dtype(code).kind == "u" else x).astype(code)


def call(primitive: Primitive, x: Any) -> Any:
    if primitive.name in CALLS:
        return CALLS[primitive.name](primitive, x)
    assert isinstance(primitive, Elementwise), f"{primitive} needs a row in CALLS"
    return primitive(*[x] * primitive.arity)


def accepted(primitive: Primitive) -> list[np.ndarray]:
    """A value of each dtype that the primitive takes."""
    found = []
    for x in map(values, DTYPES):
        try:
            ft.eval_shape(lambda x: call(primitive, x), x)
        except TypeError as refusal:
            if "Convert" not in str(refusal) and "accept" not in str(refusal):
                raise
        else:
            found.append(x)
    return found


@pytest.mark.parametrize(
    "name",
    [n for n, p in PRIMITIVES.items() if n not in DELIBERATE_GAPS and not isinstance(p, ELSEWHERE)],
)
def test_every_primitive_is_native_in_every_dtype_it_accepts(name: str) -> None:
    xs = accepted(PRIMITIVES[name])
    closed = ft.make_jaxpr(lambda *xs: [call(PRIMITIVES[name], x) for x in xs])(*xs)
    with np.errstate(all="ignore"):
        want = ft.eval_jaxpr(closed.jaxpr, closed.consts, *xs)
    program = lower_to_program(closed, host_steps="error")
    for results in (run_python(program, xs), compile_program(program)(xs)):
        for got, expected in zip(map(np.asarray, results), map(np.asarray, want), strict=True):
            assert got.dtype == expected.dtype
            near = {"e": 2e-3, "f": 1e-5, "F": 1e-5}.get(got.dtype.char, 1e-12)
            np.testing.assert_allclose(got, expected, rtol=near, atol=near)
