"""Checks of one primitive's rules against each other, calling the rules directly on arrays."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import strategies as st

from functrans.core import Linear, Primitive, Zero, get_aval, instantiate

extents = st.integers(0, 4)
shapes = st.lists(extents, min_size=0, max_size=3).map(tuple)
nonscalar_shapes = st.lists(extents, min_size=1, max_size=3).map(tuple)


def random_array(shape: tuple[int, ...], dtype: Any = float, seed: int = 0) -> np.ndarray:
    """Normal numbers; complex ones if the dtype is."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.normal(size=shape)
    return np.asarray(x).astype(dtype)


def evaluate(primitive: Primitive, *args: Any, **params: Any) -> Any:
    """The value, once its shape and dtype were seen to be those `abstract_eval` promises."""
    out = primitive(*args, **params)
    aval = primitive.abstract_eval(*(get_aval(x) for x in args), **params)
    assert get_aval(out) == aval
    return out


def inner(a: Any, b: Any) -> Any:
    """The sum of products, without conjugation."""
    return np.sum(np.asarray(a) * np.asarray(b))


def check_jvp(
    primitive: Primitive, *args: Any, moving: tuple[int, ...] = (0,), rtol: float = 1e-6, **params
) -> None:
    """The tangent is the central difference, moving all of `moving` at once and each alone."""
    tangents = [
        random_array(np.shape(x), x.dtype, seed=i + 10) if i in moving else None
        for i, x in enumerate(args)
    ]
    for subset in {moving, *((i,) for i in moving)}:
        ts = [
            tangents[i] if i in subset else Zero(get_aval(x).tangent_aval())
            for i, x in enumerate(args)
        ]
        out, tangent = primitive.jvp(args, ts, **params)
        np.testing.assert_allclose(out, primitive(*args, **params), rtol=1e-12)
        tangent = instantiate(tangent)
        assert get_aval(tangent) == get_aval(out).tangent_aval()
        step = 1e-6
        ahead, behind = (
            primitive(
                *(x + s * t if type(t) is not Zero else x for x, t in zip(args, ts, strict=True)),
                **params,
            )
            for s in (step, -step)
        )
        expected = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(tangent, expected, rtol=rtol, atol=1e-7)


def check_jvp_of_zero(primitive: Primitive, *args: Any, **params: Any) -> None:
    """Zero tangents give a `Zero` of the tangent dtype."""
    zeros = [Zero(get_aval(x).tangent_aval()) for x in args]
    out, tangent = primitive.jvp(args, zeros, **params)
    assert type(tangent) is Zero
    assert tangent.aval == get_aval(out).tangent_aval()


def check_transpose(
    primitive: Primitive, *args: Any, linear: tuple[int, ...] = (0,), **params: Any
) -> None:
    """<ct, f(t)> == <f^T ct, t> with the operands `linear` taken as linear, together."""
    ts = [random_array(np.shape(x), x.dtype, i + 20) if i in linear else x
          for i, x in enumerate(args)]  # fmt: skip
    out = primitive(*ts, **params)
    ct = random_array(np.shape(out), out.dtype, seed=30)
    placed = [Linear(get_aval(x)) if i in linear else x for i, x in enumerate(args)]
    cts = primitive.transpose(ct, *placed, **params)
    assert [i for i, c in enumerate(cts) if c is not None] == list(linear)
    for i in linear:
        assert get_aval(cts[i]) == get_aval(args[i])
    total = sum(inner(cts[i], ts[i]) for i in linear)
    np.testing.assert_allclose(total, inner(ct, out), rtol=1e-9, atol=1e-9)


def check_batch(primitive: Primitive, make_args: Any, size: int = 3, **params: Any) -> None:
    """The batch rule is a stack of single calls, for every choice of batched operands and axes.

    `make_args(seed)` gives the operands of one example.
    """
    examples = [make_args(seed) for seed in range(size)]
    options = [sorted({None, 0, x.ndim}, key=str) for x in map(np.asarray, examples[0])]
    for dims in itertools.product(*options):
        if all(d is None for d in dims):
            continue
        args = [
            examples[0][i] if d is None else np.stack([e[i] for e in examples], d)
            for i, d in enumerate(dims)
        ]
        out, out_dim = primitive.batch(size, args, dims, **params)
        assert isinstance(out_dim, int)
        singles = [
            primitive(
                *(examples[0][i] if d is None else e[i] for i, d in enumerate(dims)), **params
            )
            for e in examples
        ]
        np.testing.assert_allclose(np.moveaxis(out, out_dim, 0), np.stack(singles), rtol=1e-12)
        assert out.dtype == singles[0].dtype
