"""Random programs over extents on both sides of the compiler's limits, in mixed dtypes.

Arrays hold small integers, and a value is *exact* while rounding cannot touch it: only exact ones
are compared, sorted and searched, so that a rounding error never becomes a different program. A
program is run at two sets of shapes, the second with the machine code of the first where that fits,
with one thread and with several, as printed Python where it is small, and differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans import lax, ops
from functrans.printing_loops import run_python

EXTENTS = [0, 1, 1, 2, 3, 7, 8, 9, 10, 63, 64, 65, 100, 128, 1023, 1024, 1025, 4096, 70000]
DTYPES = "f8 f8 f8 f4 f4 i8 i8 i4 ? c16 c8 f2 u1 i2".split()
LITERALS = [128.0, 100, 64, 65, 1024, 1025, 4096, 1 / 128, 1 / 100, 0.5, -0.0, 3, 1e-310, np.inf]
LIMIT = 60_000  # elements of an array
PRINTED = 1500  # elements of programs that are also run as Python

Value = tuple[Any, bool]  # and whether it is exact


class Skip(Exception):
    """A step that does not suit its operands."""


def unless(unsuitable: Any) -> None:
    if unsuitable:
        raise Skip


def kind(x: Any) -> str:
    return np.dtype(x.dtype).kind


def choice(rng: Any, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def axis_of(rng: Any, x: Any) -> int:
    unless(not x.shape)
    return int(rng.integers(len(x.shape)))


# ---------------------------------------------------------------------------- steps


def with_literal(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    unless(kind(x) == "b")
    literal = choice(rng, LITERALS)
    if kind(x) in "iu":
        literal = int(literal) if np.isfinite(literal) and 0 < literal < 120 else 3
    f = choice(rng, [lambda a, b: a + b, lambda a, b: a * b, lambda a, b: b - a])
    return f(x, literal), exact and float(literal).is_integer()


def over_extent(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    unless(kind(x) != "f")
    return x / max(x.shape[axis_of(rng, x)], 1), False


def unary(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    unless(kind(x) in "bu")
    rounding = [np.tanh, lambda a: fnp.exp(-a * a), np.sin] if kind(x) == "f" else []
    f = choice(rng, [lambda a: -a, lambda a: a * a, lambda a: a + a, *rounding])
    return f(x), exact and f not in rounding


def binary(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    unless(np.prod(np.broadcast_shapes(x.shape, y.shape), dtype=float) > LIMIT)
    unless("b" in kind(x) + kind(y))
    f = choice(rng, [lambda a, b: a + b, lambda a, b: a * b, lambda a, b: a - b])
    return f(x, y), exact and also


def compare(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    unless(np.prod(np.broadcast_shapes(x.shape, y.shape), dtype=float) > LIMIT)
    unless(not (exact and also) or "c" in kind(x) + kind(y))
    return choice(rng, [lambda: x < y, lambda: fnp.where(x < y, x, y)])(), True


def convert(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    to = np.dtype(choice(rng, ["f8", "f4", "i8", "i4", "c16"]))
    unless(kind(x) == "c" and to.kind != "c")
    if kind(x) == "f" and to.kind == "i":
        unless(not exact)
        x = fnp.clip(fnp.nan_to_num(x), -100, 100)
    return fnp.astype(x, to), exact


def reduction(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    axis_of(rng, x)
    axes = tuple(i for i in range(len(x.shape)) if rng.random() < 0.5)
    keepdims = bool(rng.random() < 0.5)
    names = ["sum", "sum", "max", "min", "mean", "var", "any", "all"]
    name = choice(rng, names if exact else names[:6])
    unless(kind(x) == "c" and name in ("max", "min"))
    unless(x.dtype == np.float16 and name in ("mean", "var"))
    exact = exact and name not in ("mean", "var") and (kind(x) not in "fc" or x.dtype.itemsize > 4)
    return getattr(fnp, name)(x, axis=axes, keepdims=keepdims), exact


def position(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    unless(not exact or kind(x) == "c")
    return choice(rng, [fnp.argmax, fnp.argmin])(x, axis=axis_of(rng, x)), True


def ordered(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    unless(not exact)
    axis = axis_of(rng, x)
    f = choice(rng, [fnp.sort, lambda a, axis: fnp.argsort(a, axis=axis, stable=True)])
    return f(x, axis=axis), True


def running(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    unless(kind(x) in "bc" or x.dtype == np.float16)
    f = choice(rng, [ops.cumsum, ops.cumsum, ops.cummax, ops.cummin])
    value = f(x, axis=axis_of(rng, x), reverse=bool(rng.random() < 0.5))
    return value, exact and (kind(x) in "iu" or f is not ops.cumsum)


def permuted(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    return fnp.transpose(x, tuple(map(int, rng.permutation(len(x.shape))))), exact


def sliced(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    rows = [np.s_[:], np.s_[1:], np.s_[::-1], np.s_[:-1], np.s_[::2], np.s_[::-3], np.s_[2:9]]
    return x[tuple(choice(rng, rows) for _ in x.shape)], exact


def padded(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    config = tuple(
        (int(low) - 2, int(high) - 2, int(inner))
        for low, high, inner in rng.integers(0, [5, 5, 3], (len(x.shape), 3))
    )
    return lax.pad(x, x.dtype.type(1), config), exact


def concatenated(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    axis = axis_of(rng, x)
    return fnp.concatenate(choice(rng, [[x, fnp.flip(x)], [x, y, x]]), axis=axis), exact and also


def repeated(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    n = choice(rng, [1, 2, 3, 9, 65])
    unless(x.size * n > LIMIT)
    front = rng.random() < 0.5
    shape = (n, *x.shape) if front else (*x.shape, n)
    return fnp.broadcast_to(x if front else x[..., None], shape), exact


def reshaped(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    if len(x.shape) < 2 or rng.random() < 0.3:
        n = next((n for n in (8, 3, 2, 5) if x.size and x.size % n == 0), 1)
        return fnp.reshape(x, choice(rng, [(-1,), (n, x.size // n), (x.size // n, n)])), exact
    i, s = int(rng.integers(len(x.shape) - 1)), x.shape
    return fnp.reshape(x, (*s[:i], s[i] * s[i + 1], *s[i + 2 :])), exact


def gathered(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    axis = axis_of(rng, x)
    n, count = x.shape[axis], choice(rng, [1, 2, 9, 70, 130])
    unless(not n or x.size // n * count > LIMIT)
    if rng.random() < 0.5:
        index = rng.integers(-n - 2, n + 2, count)
        return fnp.take(x, index, axis=axis, mode=choice(rng, ["clip", "wrap"])), exact
    return x[(slice(None),) * axis + (rng.integers(-n, n, count),)], exact


def scattered(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    axis_of(rng, x)
    n, mode = x.shape[0], choice(rng, [None, "drop", "clip"])
    how = choice(rng, ["set", "add", "min", "max"] if kind(x) in "fiu" else ["set"])
    unless(not n)
    beyond = 0 if mode is None else 2
    index = rng.integers(-n - beyond, n + beyond, choice(rng, [1, 2, 9, 70, 130]))
    if how == "set":
        index = np.unique(index % n if mode is None else index)
        unless(mode == "clip")
    value = fnp.broadcast_to(x[:1] + x[:1], (len(index), *x.shape[1:]))
    return getattr(fnp.at(x, index), how)(value, mode=mode), exact


def moved_block(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    axis_of(rng, x)
    sizes = [min(n, choice(rng, [1, 2, 9, 65, n])) for n in x.shape]
    starts: list[Any] = [int(rng.integers(-1, n + 3)) for n in x.shape]
    if also and kind(y) in "iu" and y.size:
        starts[0] = fnp.astype(fnp.ravel(y)[0], np.int64)
    block = lax.dynamic_slice(x, starts, sizes)
    if rng.random() < 0.5:
        return block, exact
    return lax.dynamic_update_slice(x, block, [int(rng.integers(4)) for _ in sizes]), exact


def product(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    unless(kind(x) in "bu" or kind(y) in "bu" or min(x.dtype.itemsize, y.dtype.itemsize) < 4)
    names = iter("abcdefghijklmn")
    left, right, extents = [next(names) for _ in x.shape], [], {}
    for n in y.shape:
        fitting = [a for a, m in zip(left, x.shape, strict=True) if m == n and a not in right]
        shared = fitting and rng.random() < 0.75
        right.append(choice(rng, fitting) if shared else next(names))
    extents |= dict(zip(left, x.shape, strict=True)) | dict(zip(right, y.shape, strict=True))
    kept = [a for a in extents if rng.random() < (0.4 if a in left and a in right else 0.9)]
    rng.shuffle(kept)
    unless(np.prod([float(extents[a]) for a in kept]) > LIMIT)
    unless(np.prod([float(n) for n in extents.values()]) > 3e6)
    z = fnp.einsum(f"{''.join(left)},{''.join(right)}->{''.join(kept)}", x, y)
    return z, exact and also and kind(z) == "i"


def softmax(rng: Any, x: Any, y: Any, exact: bool, also: bool) -> Value:
    unless(kind(x) != "f" or not x.size or x.dtype.itemsize < 4)
    axis = axis_of(rng, x)
    e = fnp.exp(x - fnp.max(x, axis=axis, keepdims=True))
    return e / fnp.sum(e, axis=axis, keepdims=True), False


STEPS: list[Callable[..., Value]] = [
    with_literal, over_extent, unary, binary, binary, compare, convert, reduction, reduction,
    reduction, position, ordered, running, permuted, permuted, sliced, padded, concatenated,
    repeated, reshaped, gathered, scattered, moved_block, product, product, product, softmax,
]  # fmt: skip


# ---------------------------------------------------------------------------- programs


def random_program(seed: int, length: int) -> Callable[..., tuple[Any, ...]]:
    """A function that takes steps of its own, leaving out those that its values do not suit."""

    def program(*inputs: Any) -> tuple[Any, ...]:
        values: list[Value] = [(x, True) for x in inputs]
        for i in range(length):
            rng = np.random.default_rng((seed, i))
            x, exact = values[-min(int(rng.geometric(0.35)), len(values))]
            y, also = choice(rng, values)
            try:
                value, still = choice(rng, STEPS)(rng, x, y, exact, also)
            except (Skip, ValueError, IndexError, TypeError):
                continue
            if value.size > LIMIT or len(value.shape) > 6:
                continue
            if kind(value) == "f" and rng.random() < 0.6:
                value = fnp.clip(value, -40, 40)
            elif kind(value) == "i" and rng.random() < 0.6:
                value = value % 41 - 20
            values.append((value, still))
        results = [values[-1][0], values[len(values) // 2][0]]
        return (*results, fnp.transpose(results[0])) if seed % 3 == 0 else tuple(results)

    return program


def random_inputs(rng: Any) -> list[np.ndarray]:
    extents = [choice(rng, EXTENTS) for _ in range(4)]
    out = []
    for _ in range(int(rng.integers(1, 4))):
        shape = [choice(rng, extents) for _ in range(choice(rng, [0, 1, 1, 2, 2, 2, 3, 3, 4]))]
        while np.prod(shape, dtype=float) > LIMIT:
            shape.pop()
        out.append(small_integers(rng, shape, np.dtype(choice(rng, DTYPES))))
    return out


def at_other_extents(rng: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    place = {n: choice(rng, EXTENTS) for x in arrays for n in x.shape}
    shapes = [[place[n] for n in x.shape] for x in arrays]
    if any(np.prod(shape, dtype=float) > LIMIT for shape in shapes):
        return arrays
    return [small_integers(rng, s, x.dtype) for s, x in zip(shapes, arrays, strict=True)]


def small_integers(rng: Any, shape: Any, dtype: np.dtype) -> np.ndarray:
    x = np.asarray(rng.integers(0 if dtype.kind in "bu" else -3, 4, shape)).astype(dtype)
    return x * dtype.type(1 + 2j) if dtype.kind == "c" else x


# ---------------------------------------------------------------------------- checks


def same(got: Any, want: Any) -> None:
    for g, w in zip(got, want, strict=True):
        g, w = np.asarray(g), np.asarray(w)
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        if g.dtype.kind not in "fc":
            np.testing.assert_array_equal(g, w)
            continue
        tolerance = {2: 5e-2, 4: 3e-3, 8: 1e-6}[g.real.itemsize]
        scale = np.max(np.abs(w[np.isfinite(w)]), initial=1.0)
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * min(scale, 1e300))


def bits(results: Any) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in results]


def check_gradient(f: Callable[..., Any], args: list[np.ndarray]) -> None:
    def loss(*args: Any) -> Any:
        floats = [fnp.astype(z, np.float64) for z in f(*args) if kind(z) == "f"]
        return sum((fnp.sum(fnp.sin(z)) for z in floats), 0.0)

    where = tuple(i for i, x in enumerate(args) if x.dtype in (np.float32, np.float64))
    if where:
        slope = ft.grad(loss, argnums=where)
        same(ft.jit(slope)(*args), slope(*args))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("first", range(0, 400, 10))
def test_programs_at_any_extents_equal_eager(first: int) -> None:
    for seed in range(first, first + 10):
        rng = np.random.default_rng(seed)
        f = random_program(seed, int(rng.integers(1, 12)))
        compiled, args = ft.jit(f), random_inputs(rng)
        with np.errstate(all="ignore"):
            for shaped in (args, at_other_extents(rng, args)):
                want, got = f(*shaped), compiled(*shaped)
                same(got, want)
                with ft.threads(1):
                    assert bits(compiled(*shaped)) == bits(got)
                if sum(x.size for x in (*shaped, *want)) < PRINTED:
                    same(run_python(compiled.lower(*shaped).program, shaped), want)
                if seed % 3 == 0:
                    check_gradient(f, shaped)
