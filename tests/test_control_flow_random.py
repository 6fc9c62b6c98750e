"""Random loops in loops: what Python's own would be, compiled, batched, differentiated, printed.

A program is a function of a state of several leaves, arrays to run over and constants. It is built
from a seed, once with functrans' loops and once with Python's, which never see a tracer in a
condition: conditions depend on integers alone. A batch is compared with its rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import functrans as ft
import functrans.numpy as fnp
from functrans import lax
from functrans.compiler.pipeline import lower_to_program
from functrans.control_flow import while_loops
from functrans.printing_loops import run_python

SHAPES = [(), (), (3,), (3,), (2, 3), (40,), (0,), (1,)]
DTYPES = "f8 f8 f8 f4 c16 i8 i8 i4 i1 u1 ?".split()


def choice(rng: Any, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def kind(x: Any) -> str:
    return np.dtype(x.dtype).kind


# ---------------------------------------------------------------------------- Python's loops


def zeros_like_row(y: Any) -> np.ndarray:
    return np.zeros((0, *np.shape(y)), y.dtype)


class Python:
    """Loops and branches as Python has them."""

    @staticmethod
    def scan(f: Any, carry: Any, xs: Any, length: int, reverse: bool = False) -> Any:
        if length == 0:
            zeros = tuple(np.zeros(x.shape[1:], x.dtype) for x in xs)
            return carry, tuple(map(zeros_like_row, f(carry, zeros)[1]))
        ys: list[Any] = [None] * length
        for i in reversed(range(length)) if reverse else range(length):
            carry, ys[i] = f(carry, tuple(x[i] for x in xs))
        return carry, tuple(fnp.stack(rows) for rows in zip(*ys, strict=True))

    @staticmethod
    def while_loop(test: Any, body: Any, state: Any) -> Any:
        while test(state):
            state = body(state)
        return state

    @staticmethod
    def fori_loop(lower: Any, upper: Any, body: Any, state: Any) -> Any:
        for i in range(int(lower), int(upper)):
            state = body(np.int64(i), state)
        return state

    @staticmethod
    def switch(index: Any, functions: Any, *args: Any) -> Any:
        return functions[min(max(int(index), 0), len(functions) - 1)](*args)

    @staticmethod
    def cond(p: Any, f: Any, g: Any, *args: Any) -> Any:
        return (f if p else g)(*args)

    @staticmethod
    def map(f: Any, xs: Any, batch_size: Any) -> Any:
        return Python.scan(lambda _, x: ((), f(x)), (), xs, xs[0].shape[0])[1]


class Functrans:
    """Those of functrans."""

    scan, while_loop, fori_loop = lax.scan, lax.while_loop, lax.fori_loop
    switch, cond, map = lax.switch, lax.cond, lax.map


# ---------------------------------------------------------------------------- bodies


def fit(x: Any, shape: Any, dtype: Any) -> Any:
    """`x`, or a number made of it, as an array of this type."""
    if kind(x) == "b" and np.dtype(dtype).kind != "b":
        x = x.astype(np.int64)
    if kind(x) == "c" and np.dtype(dtype).kind != "c":
        x = fnp.real(x) - fnp.imag(x)
    if np.shape(x) != shape:
        if np.dtype(dtype).kind == "b":
            x = fnp.any(x)
        else:
            x = fnp.sum(x) * 0.125 if kind(x) in "fc" else fnp.sum(x, dtype=np.int64)
        x = fnp.broadcast_to(x, shape)
    return x if x.dtype == dtype else x.astype(dtype)


def number(rng: Any, values: Any) -> Any:
    """An int64 number that is the same with and without rounding."""
    exact = [v for v in values if kind(v) in "iub"]
    if not exact:
        return np.int64(rng.integers(-3, 4))
    x = choice(rng, exact)
    return fnp.sum(x.astype(np.int64)) if np.shape(x) else x.astype(np.int64)


def position(rng: Any, values: Any, n: int) -> Any:
    if rng.random() < 0.3:
        return int(rng.integers(-n, n))
    return number(rng, values) % n - (n if rng.random() < 0.3 else 0)


def any_new(L: Any, rng: Any, seed: Any, a: Any, values: Any, depth: int) -> Any:
    """The next value of a leaf, of its type."""
    shape, dtype = np.shape(a), a.dtype
    how = rng.integers(10)
    if how == 0:
        return a
    if how == 1:
        same = [v for v in values if np.shape(v) == shape and v.dtype == dtype]
        return choice(rng, same)
    if how == 2 and shape and shape[0]:
        i = position(rng, values, shape[0])
        return fnp.at(a, i).set(fit(choice(rng, sources(values, dtype)), shape[1:], dtype))
    if how in (3, 8) and depth:
        return nested(L, rng, seed, a, values, depth)
    if kind(a) == "b":
        b = fit(choice(rng, sources(values, dtype)), shape, dtype)
        even = number(rng, values) % 2 == 0
        return choice(rng, [lambda: ~a, lambda: a ^ b, lambda: a & even, lambda: b | ~even])()
    b, c = (fit(choice(rng, sources(values, dtype)), shape, dtype) for _ in "bc")
    if how == 4 and shape and shape[0]:
        return fnp.flip(b, 0) if rng.random() < 0.5 else fnp.roll(a, 1, 0)
    if how == 5:
        return fnp.where(number(rng, values) % 3 == 0, b, c)
    if kind(a) in "iu":
        three = dtype.type(3)
        return choice(rng, [lambda: a * three + b, lambda: a - b, lambda: a * a + dtype.type(1),
                            lambda: a % dtype.type(5) + b % dtype.type(7), lambda: a ^ b,
                            lambda: fnp.maximum(a, b), lambda: fnp.cumsum(a, -1, dtype=dtype)
                            if shape else a + three])()  # fmt: skip
    half = dtype.type(0.5)
    w = np.cos(np.arange(9.0)).reshape(3, 3).astype(dtype)
    if how == 6 and shape and shape[-1] == 3:
        return fnp.tanh((b @ w) * half) if kind(a) == "f" else fnp.sin((b @ w) * half) * half
    if how == 7 and kind(a) == "f":
        source = [v for v in values if kind(v) == "f" and np.shape(v) and np.shape(v)[0]]
        if source:
            v = choice(rng, source)
            row = fnp.take(v, position(rng, values, np.shape(v)[0]), axis=0)
            return a * half + fit(row, shape, dtype) * half
    forms = [lambda: fnp.sin(a * half + b), lambda: a * half + fnp.cos(b) * half,
             lambda: fnp.sin(b) * fnp.cos(c), lambda: (a + b) * half]  # fmt: skip
    if kind(a) == "f":
        forms += [lambda: fnp.tanh(a * b + c), lambda: fnp.where(a > 0, fnp.log(a), b),
                  lambda: fnp.sqrt(1 + b * b) * half, lambda: fnp.exp(-a * a)]  # fmt: skip
        forms[5] = lambda: fnp.log(1 + a * a) - c * half  # a comparison would see rounding
    return choice(rng, forms)()


def sources(values: Any, dtype: Any) -> Any:
    """What may flow into a leaf: nothing rounded into an exact one."""
    if np.dtype(dtype).kind in "fc":
        return values
    return [v for v in values if kind(v) in "iub"]


def nested(L: Any, rng: Any, seed: Any, a: Any, values: Any, depth: int) -> Any:
    """A loop or a branch over (a, another leaf, a counter)."""
    other = choice(rng, values)
    state = (a, other, number(rng, values) % 3)
    known = [v for v in values if rng.random() < 0.5]

    def body(key: int, s: Any, more: Any = ()) -> Any:
        return step(L, (*seed, key), s, [*known, *more], depth - 1)

    n = number(rng, values) % 4
    how = rng.integers(7)
    if how == 0:
        xs = tuple(v for v in values if np.shape(v) and np.shape(v)[0] == 3)
        reverse = bool(rng.random() < 0.5)
        out, ys = L.scan(
            lambda s, x: (body(1, s, x), (s[0], *body(2, s, x)[1:])), state, xs,
            length=3, reverse=reverse,
        )  # fmt: skip
        return fit(ys[0], np.shape(a), a.dtype) if rng.random() < 0.3 else out[0]
    if how == 1:
        counted = L.while_loop(
            lambda s: s[0] < n, lambda s: (s[0] + 1, body(3, s[1], (s[0],))), (np.int64(0), state)
        )
        return counted[1][0]
    if how == 2:
        return L.fori_loop(0, int(rng.integers(4)), lambda i, s: body(4, s, (i,)), state)[0]
    if how == 3:
        return L.fori_loop(np.int64(-1), n, lambda i, s: body(5, s, (i,)), state)[0]
    if how == 4:
        return L.cond(n > 1, lambda s: body(6, s)[0], lambda s: body(7, s)[0], state)
    if how == 5:
        functions = [functools.partial(body, k) for k in (8, 9, 10)]
        return L.switch(n - 1, [lambda s, f=f: f(s)[0] for f in functions], state)
    if not np.shape(a) or not np.shape(a)[0]:
        return a
    size = choice(rng, [None, 2])
    return L.map(lambda x: body(11, (x[0], other, n))[:1], (a,), batch_size=size)[0]


def step(L: Any, seed: Any, state: Any, known: Any, depth: int) -> Any:
    """One iteration: every leaf of the state gets a new value of its type."""
    rng = np.random.default_rng(seed)
    values = [*state, *known]
    new = []
    for i, a in enumerate(state):
        new.append(any_new(L, rng, (*seed, i), a, [*values, *new], depth))
    return tuple(new)


class Case:
    """A random program and its arguments."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.seed, self.length = seed, choice(rng, [0, 1, 2, 3, 5])
        self.reverse = bool(rng.random() < 0.5)
        self.depth = choice(rng, [0, 1, 1, 2])
        counts = rng.integers([1, 0, 0], [5, 3, 3])
        self.nc, self.nx, _ = map(int, counts)
        dtypes = choice(rng, [DTYPES, ["f8", "f8", "i8", "?"]])
        if rng.random() < 0.7:
            shapes = choice(rng, [SHAPES[:5], SHAPES[:4], [(), (40,)]])
        else:
            shapes = SHAPES
        self.args = []
        for i in range(int(sum(counts))):
            shape, dtype = choice(rng, shapes), np.dtype(choice(rng, dtypes))
            if self.nc <= i < self.nc + self.nx:
                shape = (self.length, *shape)
            self.args.append(random_array(rng, shape, dtype))
        self.kept = [bool(rng.random() < 0.7) for _ in range(self.nc + 1)]
        single = any(x.dtype == np.float32 for x in self.args)
        self.tolerance = 2e-3 if single else 1e-7

    def run(self, L: Any, *args: Any) -> tuple[Any, ...]:
        nc, nx = self.nc, self.nx
        carry, xs, consts = args[:nc], args[nc : nc + nx], args[nc + nx :]

        def body(state: Any, x: Any) -> Any:
            i, carry = state
            new = step(L, (self.seed, 1), carry, [*x, *consts, i], self.depth)
            ys = tuple(v for v, k in zip((*new, i), self.kept, strict=True) if k)
            return (i + 1, new), (*ys, carry[0])

        (i, out), ys = L.scan(
            body, (np.int64(0), carry), xs, length=self.length, reverse=self.reverse
        )
        return (i, *out, *ys)

    def program(self, *args: Any) -> Any:
        return self.run(Functrans, *args)

    def plain(self, *args: Any) -> Any:
        return self.run(Python, *args)

    def moving(self) -> list[int]:
        return [i for i, x in enumerate(self.args) if x.dtype.kind in "fc"]

    def same(self, got: Any, want: Any) -> None:
        got, want = ft.tree.leaves(got), ft.tree.leaves(want)
        for g, w in zip(got, want, strict=True):
            g, w = np.asarray(g), np.asarray(w)
            assert (g.shape, g.dtype) == (w.shape, w.dtype)
            if g.dtype.kind in "fc":
                scale = max(1.0, float(np.max(np.abs(w[np.isfinite(w)]), initial=0.0)))
                t = self.tolerance
                np.testing.assert_allclose(g, w, rtol=t, atol=t * scale)
            else:
                np.testing.assert_array_equal(g, w)


def random_array(rng: Any, shape: Any, dtype: np.dtype) -> Any:
    if dtype.kind == "b":
        return rng.random(shape) < 0.5 if shape else np.bool(rng.random() < 0.5)
    if dtype.kind in "iu":
        return np.asarray(rng.integers(0, 100, shape)).astype(dtype)[()]
    x = rng.uniform(-1, 1, shape)
    x = x + 1j * rng.uniform(-1, 1, shape) if dtype.kind == "c" else x
    return np.asarray(x).astype(dtype)[()]


def loss_of(f: Callable[..., Any]) -> Callable[..., Any]:
    def loss(*args: Any) -> Any:
        total = np.float64(0)
        for y in f(*args):
            if kind(y) == "c":
                y = fnp.real(y) + 2 * fnp.imag(y)
            if kind(y) == "f":
                total = total + fnp.sum(fnp.sin(y).astype(np.float64))
        return total

    return loss


# ---------------------------------------------------------------------------- checks


def check_values(case: Case) -> None:
    want = case.plain(*case.args)
    case.same(case.program(*case.args), want)
    compiled = ft.jit(case.program)
    for _ in range(2):
        case.same(compiled(*case.args), want)
    program = lower_to_program(ft.make_jaxpr(case.program)(*case.args))
    case.same(run_python(program, case.args), list(want))


def check_derivatives(case: Case) -> None:
    where = tuple(case.moving())
    if not where:
        return

    def of(f: Any) -> Any:
        def moved(*moving: Any) -> Any:
            args = list(case.args)
            for i, x in zip(where, moving, strict=True):
                args[i] = x
            return f(*args)

        return moved

    at = [case.args[i] for i in where]
    tangents = tuple(fnp.cos(x) for x in at)
    f, g = of(case.program), of(case.plain)
    want = ft.jvp(lambda *a: loss_of(g)(*a), tuple(at), tangents)
    jvp = lambda *a: ft.jvp(loss_of(f), a, tangents)  # noqa: E731
    case.same(jvp(*at), want)
    case.same(ft.jit(jvp)(*at), want)
    numbers = tuple(range(len(at)))
    want = ft.grad(loss_of(g), argnums=numbers)(*at)
    slope = ft.grad(loss_of(f), argnums=numbers)
    case.same(slope(*at), want)
    case.same(ft.jit(slope)(*at), want)


def check_batches(case: Case, rng: Any) -> None:
    n = len(case.args)
    chosen = [bool(rng.random() < 0.5) for _ in range(n)]
    chosen[int(rng.integers(n))] = True
    axes = tuple(int(rng.integers(np.ndim(x) + 1)) if c else None
                 for x, c in zip(case.args, chosen, strict=True))  # fmt: skip
    rows = [
        [random_array(rng, np.shape(x), x.dtype) if c else x
         for x, c in zip(case.args, chosen, strict=True)]
        for _ in range(4)
    ]  # fmt: skip
    batch = [x if a is None else np.stack([r[i] for r in rows], axis=a)
             for i, (x, a) in enumerate(zip(case.args, axes, strict=True))]  # fmt: skip
    results = [case.plain(*r) for r in rows]
    want = [np.stack([r[k] for r in results]) for k in range(len(results[0]))]
    mapped = ft.vmap(case.program, in_axes=axes)
    case.same(mapped(*batch), want)
    case.same(ft.jit(mapped)(*batch), want)
    where = tuple(case.moving())
    if where:
        gradients = [ft.grad(loss_of(case.plain), argnums=where)(*r) for r in rows]
        want = [np.stack([r[k] for r in gradients]) for k in range(len(where))]
        mapped = ft.vmap(ft.grad(loss_of(case.program), argnums=where), in_axes=axes)
        case.same(mapped(*batch), want)
        case.same(ft.jit(mapped)(*batch), want)


def check(seed: int) -> None:
    case = Case(seed)
    with np.errstate(all="ignore"):
        check_values(case)
        check_derivatives(case)
        check_batches(case, np.random.default_rng((seed, 2)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=25)
@given(st.integers(0, 1 << 20))
def test_random_loops_are_those_of_python(seed: int) -> None:
    check(seed)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(5))
def test_random_loops_with_few_checkpoints(monkeypatch: Any, seed: int) -> None:
    monkeypatch.setattr(while_loops, "LEAST_SLOTS", 2)
    monkeypatch.setattr(while_loops, "MOST_SLOTS", 2)
    check(seed)
