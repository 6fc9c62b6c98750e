"""Sorting and searching: values, derivatives, batches, and native code against NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import functrans as ft
import functrans.numpy as fnp
from functrans import lax, ops
from functrans.compiler.lowering.lowering import HostStepError
from functrans.core import Zero
from functrans.printing_loops import run_python
from functrans.runtime import numpy_sorts
from tests.helpers.primitive_rules import (
    check_batch,
    check_jvp,
    check_jvp_of_zero,
    evaluate,
    nonscalar_shapes,
    random_array,
)

DTYPES = "?bBhHiIlLefdFD"
SHAPES = [(7,), (3, 5), (2, 300, 3), (0, 3), (3, 0), (1,)]


def sample(code, shape, seed=0):
    """Many ties; floats with nan, infinities and both zeros."""
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(size=shape) * 4)
    if np.dtype(code).kind == "c":
        x = x + 1j * np.round(rng.normal(size=shape))
    x = x.astype(code)
    if x.dtype.kind in "fc" and x.size > 6:
        x.flat[:6] = [np.nan, 0.0, -0.0, np.inf, -np.inf, np.nan]
    return x


def native(f):
    return ft.jit(f, host_steps="error")


# ---------------------------------------------------------------------------- rules


@given(shape=nonscalar_shapes, data=st.data())
def test_sorting_rules_agree(shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = random_array(shape)
    rounded = np.round(x)
    np.testing.assert_array_equal(evaluate(ops.sort, rounded, axis=axis), np.sort(rounded, axis))
    np.testing.assert_array_equal(
        evaluate(ops.argsort, rounded, axis=axis), np.argsort(rounded, axis, kind="stable")
    )
    check_jvp(ops.sort, x, axis=axis)
    for primitive in (ops.sort, ops.argsort):
        check_jvp_of_zero(primitive, x, axis=axis)
        check_batch(primitive, lambda seed: (random_array(shape, seed=seed),), axis=axis)
    _, tangent = ops.argsort.jvp([x], [x], axis=axis)
    assert type(tangent) is Zero


@given(shape=nonscalar_shapes, data=st.data())
def test_positions_of_the_largest_are_those_of_the_turned_order(shape, data):
    k = data.draw(st.integers(0, shape[-1]))
    x = np.round(random_array(shape))
    order = np.argsort(-x, axis=-1, kind="stable")
    np.testing.assert_array_equal(evaluate(ops.argtop_k, x, k=k), order[..., :k])
    check_batch(ops.argtop_k, lambda seed: (random_array(shape, seed=seed),), k=k)
    check_jvp_of_zero(ops.argtop_k, x, k=k)


@pytest.mark.parametrize("side", ["left", "right"])
@given(batch=st.lists(st.integers(0, 3), max_size=2), n=st.integers(0, 5), more=nonscalar_shapes)
def test_searching_is_numpys_row_by_row(side, batch, n, more):
    def make(seed):
        rows = np.sort(np.round(random_array((*batch, n), seed=seed)), axis=-1)
        return rows, np.round(random_array((*batch, *more), seed=seed + 10))

    rows, values = make(0)
    out = evaluate(ops.searchsorted, rows, values, side=side)
    for i in np.ndindex(*batch):
        np.testing.assert_array_equal(out[i], np.searchsorted(rows[i], values[i], side))
    check_batch(ops.searchsorted, make, side=side)
    check_jvp_of_zero(ops.searchsorted, rows, values, side=side)


def test_refusals_say_what_to_do():
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match="k must be between 0 and"):
        ops.argtop_k(x, k=4)
    with pytest.raises(TypeError, match="does not accept c128"):
        ops.argtop_k(x + 0j, k=1)
    with pytest.raises(ValueError, match="'left' and 'right'"):
        ops.searchsorted(x[0], x, side="up")
    with pytest.raises(ValueError, match="begins with that of the rows"):
        ops.searchsorted(x, x[:1], side="left")
    with pytest.raises(TypeError, match="equal dtype"):
        ops.searchsorted(x[0], x.astype("f4"), side="left")
    with pytest.raises(ValueError, match="num_keys=3"):
        lax.sort([x, x], num_keys=3)


# ---------------------------------------------------------------------------- native


@pytest.mark.parametrize("code", DTYPES)
def test_native_sorts_are_numpys_in_every_dtype(code):
    for shape in SHAPES:
        x = sample(code, shape)
        for axis in range(x.ndim):
            f = native(lambda x, axis=axis: (ops.sort(x, axis=axis), ops.argsort(x, axis=axis)))
            values, order = f(x)
            assert values.dtype == x.dtype
            np.testing.assert_array_equal(values, np.sort(x, axis))
            np.testing.assert_array_equal(order, np.argsort(x, axis, kind="stable"))


@pytest.mark.parametrize("code", [c for c in DTYPES if c not in "FD"])
def test_native_positions_of_the_largest_are_the_eager_ones(code):
    for shape in SHAPES:
        x = sample(code, shape)
        for k in {0, min(1, shape[-1]), min(2, shape[-1]), shape[-1]}:
            f = native(lambda x, k=k: ops.argtop_k(x, k=k))
            np.testing.assert_array_equal(f(x), ops.argtop_k(x, k=k))


@pytest.mark.parametrize("code", ["b", "f", "d"])
@pytest.mark.parametrize("k", [1, 30, 2000])
def test_the_largest_of_many_are_found_whatever_their_order(code, k):
    ramp = np.arange(5000).astype(code)
    for x in (ramp, ramp[::-1], sample(code, (5000,)), np.stack([ramp, ramp * 0])):
        np.testing.assert_array_equal(
            native(lambda x: ops.argtop_k(x, k=k))(x), ops.argtop_k(x, k=k)
        )


@pytest.mark.parametrize("code", ["?", "b", "B", "i", "l", "e", "f", "d"])
@pytest.mark.parametrize("n", [147, 148, 149, 296, 297])  # the buffer for k = 30 holds 148
def test_the_largest_are_found_where_the_buffer_is_just_full(code, n):
    rising = np.arange(n) % 120
    for x in (rising, rising[::-1], rising * 0, rising - 60, np.arange(n) % 2):
        x = x.astype(code)
        for k in (0, 1, 30, n - 1, n):
            got = native(lambda x, k=k: ops.argtop_k(x, k=k))(x)
            np.testing.assert_array_equal(got, ops.argtop_k(x, k=k))


@pytest.mark.parametrize("code", "?bBhHiIlL")
def test_the_least_integers_of_all_are_taken_where_there_are_not_enough_others(code):
    x = np.zeros((3, 5000), code) if code == "?" else np.full((3, 5000), np.iinfo(code).min, code)
    x[1, 4000:4020] = x[2, ::7] = 1
    for k in (1, 30, 2000):
        got = native(lambda x, k=k: ops.argtop_k(x, k=k))(x)
        np.testing.assert_array_equal(got, ops.argtop_k(x, k=k))


@pytest.mark.parametrize("k", [3, 700, 40_000])
def test_the_largest_of_long_rows_are_the_same_with_any_number_of_threads(k):
    x = sample("f", (5, 40_000))
    x[1].sort()
    x[2] = 1
    f = native(lambda x: lax.top_k(x, k))
    values, order = f(x)
    np.testing.assert_array_equal(order, ops.argtop_k(x, k=k))
    np.testing.assert_array_equal(values, np.take_along_axis(x, order, 1))
    with ft.threads(1):
        np.testing.assert_array_equal(f(x)[1], order)


@pytest.mark.parametrize("code", DTYPES)
def test_native_searching_is_numpys_in_every_dtype(code):
    for n in (0, 1, 2, 7, 12):
        rows, values = np.sort(sample(code, (n,))), sample(code, (4, 9), seed=1)
        if values.dtype.kind == "c" and n > 6:
            parts = [
                complex(*p) for p in [(1, np.nan), (np.nan, 1), (np.nan, np.nan), (-9, np.nan)]
            ]
            rows[:4], values[0, :4] = parts, parts
            rows = np.sort(rows)
        for side in ("left", "right"):
            f = native(lambda r, v, side=side: ops.searchsorted(r, v, side=side))
            np.testing.assert_array_equal(f(rows, values), np.searchsorted(rows, values, side))
            np.testing.assert_array_equal(f(rows, rows), np.searchsorted(rows, rows, side))


def test_the_printed_program_runs_to_the_same():
    x = sample("d", (3, 300))

    def f(x):
        rows = ops.sort(x, axis=1)
        return rows, ops.argsort(x, axis=0), ops.argsort(x, axis=1), ops.argtop_k(x, k=3)

    lowered = native(f).lower(x)
    assert "# argsort float64[3, 300]" in lowered.loop_program
    for got, want in zip(run_python(lowered.program, [x]), f(x), strict=True):
        np.testing.assert_array_equal(got, want)


def test_sorting_reads_views_and_what_was_just_computed():
    x = np.asfortranarray(sample("d", (40, 30)))[::-1, ::2]
    f = lambda x: fnp.sort(fnp.negative(x).T[1:], axis=0)[::-1]  # noqa: E731
    np.testing.assert_array_equal(native(f)(x), f(x))


def test_a_numpy_with_other_functions_makes_sorting_a_host_step(monkeypatch):
    monkeypatch.setattr(numpy_sorts, "address", lambda name, dtype: None)
    x = np.array([2.0, 1.0])
    f = lambda x: ops.sort(x, axis=0)  # noqa: E731
    np.testing.assert_array_equal(ft.jit(f)(x), [1, 2])
    with pytest.raises(HostStepError, match="by a NumPy whose functions are elsewhere"):
        native(f)(x)


# ---------------------------------------------------------------------------- user functions


def test_several_arrays_are_sorted_by_their_keys():
    a, b = np.array([2, 1, 2, 1, 1]), np.array([0.5, 3.0, 0.25, np.nan, 1.0])
    c = np.arange(5)
    for f in (lax.sort, native(lambda xs, **options: lax.sort(xs, **options))):
        np.testing.assert_array_equal(f((a, b, c))[2], [1, 3, 4, 0, 2])
    two = native(lambda xs: lax.sort(xs, num_keys=2))((a, b, c))
    np.testing.assert_array_equal(two[2], [4, 1, 3, 2, 0])
    np.testing.assert_array_equal(two[1], [1, 3, np.nan, 0.25, 0.5])
    rows = native(lambda a, b: lax.sort([a, b], dimension=0))(A := sample("i", (4, 3)), A * 2)
    np.testing.assert_array_equal(rows[1], np.sort(A, 0) * 2)


def test_sorted_values_and_the_largest_carry_derivatives():
    x, w = random_array((4, 6)), random_array((4, 6), seed=1)
    for f in (
        lambda x: fnp.sum(lax.sort((-x, x * w))[1] ** 2 * w),
        lambda x: fnp.sum(lax.top_k(x, 3)[0] ** 2 * w[:, :3]),
        lambda x: fnp.sum(lax.top_k(x, 2, axis=0)[0] ** 3 * w[:2]),
        lambda x: fnp.sum(fnp.sort(x, axis=0) ** 2 * w),
    ):
        ft.test_util.check_grads(f, (x,), order=2)
        np.testing.assert_allclose(native(ft.grad(f))(x), ft.grad(f)(x), rtol=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_largest_of_a_batch_are_those_of_each(axis):
    x = sample("d", (5, 12, 6))
    f = lambda x: lax.top_k(x, 4)  # noqa: E731
    singles = [f(row) for row in np.moveaxis(x, axis, 0)]
    for got, want in zip(
        native(ft.vmap(f, in_axes=axis))(x), zip(*singles, strict=True), strict=True
    ):
        np.testing.assert_array_equal(got, np.stack(want))
