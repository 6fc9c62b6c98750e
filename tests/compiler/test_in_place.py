"""Results in the memory of operands, where that is right; donated arguments; fastmath."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import functrans as ft
import functrans.numpy as fnp
from functrans.loop_ir import KernelCall
from functrans.printing_loops import run_python

RNG = np.random.default_rng(0)
A = RNG.normal(size=(6, 6))


def product(x):
    """A value that is in memory: what follows cannot be computed with it."""
    return x @ x


def check(f, *args, temps=None):
    """Compiled, printed and eager agree; the program has so many temporaries."""
    lowered = ft.jit(f).lower(*args)
    want = ft.tree.leaves(f(*args))
    for got in (lowered.compile()(*args), run_python(lowered.program, args)):
        for a, b in zip(ft.tree.leaves(got), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
    if temps is not None:
        assert len(lowered.program.temps) == temps
    return lowered.program


def test_a_chain_of_kernels_works_in_its_output():
    check(lambda x: np.tanh(product(x)) * 2, A, temps=0)


def test_a_softmax_over_a_product_needs_no_second_array():
    def softmax(x):
        e = np.exp(x - np.max(x, axis=1, keepdims=True))
        return e / np.sum(e, axis=1, keepdims=True)

    check(lambda x: softmax(product(x)), A, temps=0)


def test_what_is_used_later_is_kept():
    check(lambda x: (np.tanh(y := product(x)), y @ np.tanh(y)), A, temps=1)


def test_a_transpose_cannot_be_in_place():
    def f(x):
        y = product(x)
        return np.tanh(y) + y.T

    check(f, A, temps=1)


def test_a_reversal_cannot_be_in_place():
    check(lambda x: np.tanh(product(x)[::-1]), A, temps=1)


def test_a_sum_over_rows_cannot_be_in_place():
    check(lambda x: product(x) - np.sum(product(x), axis=0), A)
    check(lambda x: (y := product(x)) / np.sum(y), A)


def test_updates_of_places_copy_nothing():
    def f(x):
        y = product(x)
        for i in range(4):
            y = fnp.at(y, i).set(y[i] * 2)
        return fnp.at(y, np.array([0, 3, 3])).add(1.0) @ x

    program = check(f, A, temps=1)
    loops = [len(s.kernel.body) for s in program.steps if isinstance(s, KernelCall)]
    assert loops == [1] * 5  # none fills its result first


def test_an_update_with_what_it_overwrites_is_no_update_in_place():
    def f(x):
        y = product(x)
        return fnp.at(y, np.array([0, 1, 2])).set(y[np.array([1, 2, 0])]) @ x

    check(f, A)
    check(lambda x: fnp.at(y := product(x), 0).set(y[1]) @ x, A)
    check(lambda x: fnp.at(y := product(x), slice(1, None)).set(y[:-1]) @ x, A)


def test_a_copy_over_what_was_filled_is_no_copy_to_itself():
    def f(x):
        y = product(x)
        return fnp.at(np.zeros_like(y), slice(0, 6)).set(y) @ x, fnp.at(y, slice(0, 6)).set(0.0)

    check(f, A)
    check(lambda x: ft.lax.dynamic_update_slice(np.zeros((6, 6)), product(x), (0, 0)) @ x, A)


@given(st.lists(st.sampled_from("tTrsmuacp"), min_size=1, max_size=6))
def test_random_chains_agree(steps):
    moves = {
        "t": np.tanh,
        "T": lambda y: y.T,
        "r": lambda y: y[::-1],
        "s": lambda y: y - np.sum(y, axis=0),
        "m": lambda y: y * np.max(y, axis=1, keepdims=True),
        "u": lambda y: fnp.at(y, 2).set(y[1] + y[2]),
        "a": lambda y: fnp.at(y, np.array([1, 1, 4])).add(y[:3]),
        "c": lambda y: np.cumsum(y, axis=0),
        "p": lambda y: y @ y / 8,
    }

    def f(x):
        y = x @ x / 8
        for step in steps:
            y = moves[step](y)
        return y, np.sum(y)

    check(f, A)


def test_a_host_step_writes_into_an_output_of_its_own_shape():
    def f(x):
        return np.fft.fft(x @ x).real.reshape(36) * 2, np.tanh(np.sort(x @ x, axis=0).reshape(4, 9))

    check(f, A)


# ---------------------------------------------------------------------------- donation


def test_a_donated_array_is_the_result():
    step = ft.jit(lambda p, g: p - 0.1 * g, donate_argnums=0)
    p, g = np.ones(1000), np.full(1000, 2.0)
    for i in range(3):
        q = step(p, g)
        assert q is p
        np.testing.assert_allclose(p, 1 - 0.2 * (i + 1))


def test_trees_are_donated_by_name_and_by_position():
    def step(params, batch, *, state):
        return {k: v + batch for k, v in params.items()}, state * 2

    compiled = ft.jit(step, donate_argnums=(0,), donate_argnames="state")
    params, state = {"w": np.ones((3, 4)), "b": np.zeros((3, 4))}, np.ones(5)
    out, new = compiled(params, 1.0, state=state)
    assert out["w"] is params["w"]
    assert out["b"] is params["b"]
    assert new is state
    np.testing.assert_array_equal(state, 2 * np.ones(5))


@pytest.mark.parametrize("make", [
    lambda x: x[::2], lambda x: x.astype(">f8")[::2], lambda x: np.broadcast_to(x[:1], 4),
    lambda x: (y := x[:4].copy(), y.setflags(write=False))[0],
])  # fmt: skip
def test_what_cannot_be_written_over_is_copied(make):
    x = make(np.arange(8.0))
    before = x.copy()
    y = ft.jit(lambda x: x * 2, donate_argnums=0)(x)
    assert not np.may_share_memory(x, y)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(y, 2 * before)


def test_an_array_given_twice_is_read_unharmed():
    f = ft.jit(lambda x, y: (x + 1, x * y), donate_argnums=0)
    x = np.arange(5.0)
    a, b = f(x, x)
    np.testing.assert_array_equal(a, np.arange(5.0) + 1)
    np.testing.assert_array_equal(b, np.arange(5.0) ** 2)
    a, _ = f(x, x[::1])
    assert a is not x


def test_a_donated_array_that_is_read_to_the_end_is_not_overwritten():
    f = ft.jit(lambda x: x.T + x, donate_argnums=0)
    x = RNG.normal(size=(4, 4))
    before = x.copy()
    np.testing.assert_array_equal(f(x), before + before.T)
    np.testing.assert_array_equal(x, before)


def test_places_that_do_not_exist_are_refused_by_the_options_name():
    with pytest.raises(ValueError, match="donate_argnums has 3"):
        ft.jit(lambda x: x, donate_argnums=3)
    with pytest.raises(ValueError, match="donate_argnames has 'z'"):
        ft.jit(lambda x: x, donate_argnames="z")


def test_donation_means_nothing_to_transformations():
    f = ft.jit(lambda x: np.sum(x * x), donate_argnums=0)
    x = np.arange(4.0)
    np.testing.assert_array_equal(ft.grad(f)(x), 2 * np.arange(4.0))
    np.testing.assert_array_equal(x, np.arange(4.0))


# ---------------------------------------------------------------------------- fastmath


def test_fastmath_contracts_and_the_default_does_not():
    def f(x, y, z):
        return x * y + z

    args = [RNG.normal(size=1000) for _ in range(3)]
    strict, fast = ft.jit(f), ft.jit(f, fastmath=True)
    np.testing.assert_array_equal(strict(*args), f(*args))
    np.testing.assert_allclose(fast(*args), f(*args), rtol=1e-12)
    assert "contract" in fast.lower(*args).llvm
    assert "fmul contract" not in strict.lower(*args).llvm
    assert "reassoc" not in strict.lower(*args).llvm


def test_fastmath_still_knows_nan_and_infinity():
    def f(x):
        return np.isnan(x), np.isinf(x * 2), np.where(np.isnan(x), 0.0, x)

    x = np.array([1.0, np.nan, np.inf, -np.inf])
    for got, want in zip(ft.jit(f, fastmath=True)(x), f(x), strict=True):
        np.testing.assert_array_equal(got, want)
