"""Random straight-line programs: compiled, differentiated and printed, all equal to eager."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import functrans as ft
import functrans.numpy as fnp
from functrans.printing_loops import run_python

UNARY = [
    fnp.sin, fnp.tanh, lambda x: x * 0.5, lambda x: -x, lambda x: fnp.exp(-x * x),
    lambda x: fnp.where(x > 0.1, x, 0.3 * x), lambda x: fnp.transpose(x), lambda x: x[::-1],
    lambda x: x[:, 1:], lambda x: x[..., ::2], lambda x: x[0], lambda x: x[..., -1],
    lambda x: fnp.reshape(x, -1), lambda x: fnp.expand_dims(x, 0), lambda x: fnp.flip(x),
    lambda x: fnp.sum(x, axis=0), lambda x: fnp.sum(x, axis=-1, keepdims=True), fnp.mean,
    lambda x: fnp.roll(x, 1), lambda x: fnp.pad(x, 1), lambda x: fnp.cumsum(x, axis=0),
    lambda x: fnp.tril(x), lambda x: x[[0, -1, 0]], lambda x: fnp.sum(x * x), fnp.cos,
    lambda x: x / (1 + x * x), lambda x: fnp.sqrt(1 + x * x), lambda x: fnp.concatenate([x, x]),
]  # fmt: skip
ON_NUMBERS = [*UNARY[:6], UNARY[12], fnp.cos]
BINARY = [
    lambda x, y: x + y, lambda x, y: x * y, lambda x, y: x - 2 * y, lambda x, y: x @ y,
    lambda x, y: fnp.swapaxes(x, -1, -2) @ y, lambda x, y: fnp.stack([x, y]),
    lambda x, y: fnp.concatenate([x, y], axis=0), lambda x, y: fnp.where(x < y, x * 0.5, y),
    lambda x, y: fnp.outer(x, y), lambda x, y: fnp.hypot(x, 1 + y * y),
    lambda x, y: fnp.tensordot(x, y, 1),
]  # fmt: skip

steps = st.lists(
    st.tuples(
        st.integers(0, len(UNARY) + 2 * len(BINARY) - 1), st.integers(0, 5), st.integers(0, 5)
    ),
    min_size=1,
    max_size=9,
)
shapes = st.lists(
    st.sampled_from([(), (3,), (1, 3), (2, 3), (3, 3), (3, 1)]), min_size=2, max_size=2
)


def program(chosen: list[tuple[int, int, int]]) -> Any:
    """The function that takes the steps one by one, leaving out those whose shapes do not fit."""

    def run(x: Any, y: Any) -> Any:
        values = [x, y]
        for op, i, j in chosen:
            a, b = values[-1 - i % len(values)], values[-1 - j % len(values)]
            if op < len(UNARY) and not np.ndim(a) and UNARY[op] not in ON_NUMBERS:
                continue  # NumPy takes axis=0 of a number; tracers do not
            try:
                if op < len(UNARY):
                    value = UNARY[op](a)
                else:
                    value = BINARY[(op - len(UNARY)) % len(BINARY)](a, b)
            except (ValueError, IndexError, TypeError):
                continue
            if np.size(value) <= 400:
                values.append(value)
        return values[-1], values[-2], values[len(values) // 2]

    return run


def same(got: Any, want: Any) -> None:
    for g, w in zip(got, want, strict=True):
        assert np.shape(g) == np.shape(w)
        assert np.asarray(g).dtype == np.asarray(w).dtype
        np.testing.assert_allclose(g, w, rtol=1e-9, atol=1e-9)


@settings(max_examples=25)
@given(steps, shapes, st.integers(0, 1000))
def test_compiled_and_printed_programs_and_their_gradients_equal_eager(
    chosen: Any, given_shapes: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, y = (rng.uniform(-1, 1, s) for s in given_shapes)
    f = program(chosen)
    want = f(x, y)
    same(ft.jit(f)(x, y), want)
    same(run_python(ft.jit(f).lower(x, y).program, [x, y]), want)

    def loss(x: Any, y: Any) -> Any:
        return sum(fnp.sum(fnp.sin(v)) for v in f(x, y))

    slope = ft.grad(loss, argnums=(0, 1))
    want = slope(x, y)
    same(ft.jit(slope)(x, y), want)
    same(run_python(ft.jit(slope).lower(x, y).program, [x, y]), want)


@settings(max_examples=25)
@given(st.lists(steps, min_size=2, max_size=3), st.integers(0, 2**9 - 1), st.integers(0, 1000))
def test_gradients_of_checkpointed_parts_equal_eager(parts: Any, bits: int, seed: int) -> None:
    def whole(wrap: Any) -> Any:
        def run(x: Any, y: Any) -> Any:
            for k, part in enumerate(parts):
                a, b, _ = wrap(program(part), k)(x, y)
                x, y = (v if np.ndim(v) else v + np.zeros(3) for v in (a, b))
            return np.sum(np.sin(x)) + np.sum(y * 0.1)

        return run

    def checkpointed(f: Any, k: int) -> Any:
        saved = bits >> 3 * k & 3
        policy = (
            None if saved == 3 else lambda primitive, *_, **__: len(primitive.name) % 3 == saved
        )
        wrapped = ft.checkpoint(f, policy=policy)
        return ft.jit(wrapped) if bits >> 3 * k & 4 else wrapped

    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    want = ft.grad(whole(lambda f, k: f), argnums=(0, 1))(x, y)
    with ft.checking_ir():
        gradient = ft.grad(whole(checkpointed), argnums=(0, 1))
        same(gradient(x, y), want)
        same(ft.jit(gradient)(x, y), want)
