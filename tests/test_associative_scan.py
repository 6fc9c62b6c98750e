"""`associative_scan` is the running result of a loop, under every transformation."""

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans import lax

RNG = np.random.default_rng(0)


def running(fn, xs, *, reverse=False):
    """What a loop over the leading axis gives."""
    rows = list(xs[::-1] if reverse else xs)
    out = rows[:1]
    for x in rows[1:]:
        out.append(fn(out[-1], x))
    out = np.stack(out[::-1] if reverse else out) if out else xs
    return out.astype(xs.dtype)


def affine(f, g):
    """`x -> g(f(x))` for maps (a, b): x -> a @ x + b; not commutative."""
    (a, b), (c, d) = f, g
    return c @ a, fnp.einsum("...ij,...j->...i", c, b) + d


def maps(n):
    return RNG.normal(size=(n, 2, 2)), RNG.normal(size=(n, 2))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 7, 8, 13, 33])
@pytest.mark.parametrize("reverse", [False, True])
def test_values_for_every_extent(n, reverse):
    x = RNG.normal(size=(n, 3))
    want = running(np.add, x, reverse=reverse)
    f = lambda x: lax.associative_scan(fnp.add, x, reverse=reverse)  # noqa: E731
    np.testing.assert_allclose(f(x), want)
    np.testing.assert_allclose(ft.jit(f)(x), want)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_any_axis(axis):
    x = RNG.integers(0, 9, size=(5, 6, 7))
    got = lax.associative_scan(fnp.maximum, x, axis=axis)
    np.testing.assert_array_equal(got, np.maximum.accumulate(x, axis=axis))
    assert got.dtype == x.dtype


@pytest.mark.parametrize("reverse", [False, True])
def test_pairs_that_do_not_commute(reverse):
    a, b = maps(11)
    found_a, found_b = ft.jit(lambda e: lax.associative_scan(affine, e, reverse=reverse))((a, b))
    rows = list(zip(a, b, strict=True))[:: -1 if reverse else 1]
    state = rows[0]
    for i, row in enumerate(rows):
        state = row if i == 0 else affine(state, row)
        at = len(rows) - 1 - i if reverse else i
        np.testing.assert_allclose(found_a[at], state[0])
        np.testing.assert_allclose(found_b[at], state[1])


@pytest.mark.parametrize("n", [1, 2, 6, 7])
def test_derivatives(n):
    f = lambda e: lax.associative_scan(affine, e)  # noqa: E731
    ft.test_util.check_grads(f, (maps(n),), order=2)
    ft.test_util.check_grads(ft.jit(f), (maps(n),), order=1)


def test_batches():
    x = RNG.normal(size=(4, 7)) + 3
    f = lambda x: lax.associative_scan(fnp.multiply, x, axis=0)  # noqa: E731
    np.testing.assert_allclose(ft.vmap(f)(x), np.cumprod(x, axis=1))
    np.testing.assert_allclose(ft.jit(ft.vmap(f, in_axes=1, out_axes=1))(x), np.cumprod(x, axis=0))
    each = np.stack([ft.jacrev(f)(row) for row in x])
    np.testing.assert_allclose(ft.jit(ft.vmap(ft.jacfwd(f)))(x), each)


def test_applications_are_few_and_the_depth_is_logarithmic():
    calls = []

    def fn(a, b):
        calls.append(len(a))
        return a + b

    lax.associative_scan(fn, np.ones(1024))
    assert sum(calls) < 2 * 1024
    assert len(calls) <= 2 * 10


def test_mistakes_say_what_to_do():
    with pytest.raises(ValueError, match=r"elems\[1\] is f64\[\] and has no axis 0"):
        lax.associative_scan(lambda a, b: a, (np.ones(3), 2.0))
    with pytest.raises(ValueError, match=r"differ: elems\[0\] 3, elems\[1\] 4"):
        lax.associative_scan(lambda a, b: a, (np.ones(3), np.ones(4)))
    with pytest.raises(TypeError, match="structure of one element"):
        lax.associative_scan(lambda a, b: (a, b), np.ones(3))
    with pytest.raises(TypeError, match=r"result is f64\[2\], of operands f32\[2\]"):
        lax.associative_scan(lambda a, b: a + np.float64(1), np.ones(4, np.float32))
