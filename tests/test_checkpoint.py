"""Checkpoints: the same derivatives, from fewer values kept."""

from __future__ import annotations

import contextlib
import io
import itertools
import tracemalloc

import numpy as np
import pytest

import functrans as ft
from functrans import checkpoint_policies as policies
from functrans.ad_checkpoint import checkpoint_name, print_saved_residuals, saved_residuals
from functrans.ops.base import Elementwise, slope
from functrans.test_util import check_grads

POLICIES = {
    "none": None,
    "everything": policies.everything_saveable,
    "nothing": policies.nothing_saveable,
    "dots": policies.checkpoint_dots,
    "dots without batch": policies.checkpoint_dots_with_no_batch_dims,
    "only h": policies.save_only_these_names("h"),
    "any name but h": policies.save_any_names_but_these("h"),
    "all but h": policies.save_anything_except_these_names("h"),
    "dots or h": policies.save_from_both_policies(
        policies.dots_saveable, policies.save_only_these_names("h")
    ),
}


def block(x, w, *, shift=0.1):
    """Products, a name, a jitted function, integers, a row-wise sum."""
    h = checkpoint_name(np.tanh(x @ w["a"] + shift), "h")
    scaled = ft.jit(lambda h: np.exp(h) * w["b"])(h)
    order = np.argsort(x, axis=-1)
    return scaled / np.sum(scaled, axis=-1, keepdims=True) + np.take_along_axis(x, order, -1)


RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3))
W = {"a": RNG.normal(size=(3, 3)), "b": RNG.normal(size=3) ** 2}


def loss(f):
    return lambda x, w: np.sum(np.sin(f(x, w, shift=0.2)) ** 2)


def assert_trees_close(actual, desired, rtol=1e-9):
    pairs = zip(ft.tree.leaves(actual), ft.tree.leaves(desired), strict=True)
    for x, y in pairs:
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-12)
    assert ft.tree.structure(actual) == ft.tree.structure(desired)


# ---------------------------------------------------------------------------- derivatives

DERIVATIVES = {
    "value": lambda f: loss(f)(X, W),
    "grad": lambda f: ft.grad(loss(f), argnums=(0, 1))(X, W),
    "value_and_grad": lambda f: ft.value_and_grad(loss(f), argnums=1)(X, W),
    "jit of grad": lambda f: ft.jit(ft.grad(loss(f), argnums=(0, 1)))(X, W),
    "grad of jit": lambda f: ft.grad(ft.jit(loss(f)), argnums=(0, 1))(X, W),
    "jit of grad of jit": lambda f: ft.jit(ft.grad(ft.jit(loss(f)), argnums=(0, 1)))(X, W),
    "vjp": lambda f: ft.vjp(f, X, W)[1](np.cos(X)),
    "vjp of jit": lambda f: ft.vjp(ft.jit(f), X, W)[1](np.cos(X)),
    "jvp": lambda f: ft.jvp(f, (X, W), (np.cos(X), W)),
    "jit of jvp": lambda f: ft.jit(lambda x, w: ft.jvp(f, (x, w), (np.cos(x), w)))(X, W),
    "linearize": lambda f: ft.linearize(f, X, W)[1](np.cos(X), W),
    "jacrev": lambda f: ft.jacrev(f)(X, W),
    "jacfwd": lambda f: ft.jacfwd(f)(X, W),
    "hessian": lambda f: ft.hessian(loss(f))(X, W),
    "jit of hessian": lambda f: ft.jit(ft.hessian(loss(f)))(X, W),
    "jacrev of grad": lambda f: ft.jacrev(ft.grad(loss(f)))(X, W),
    "jit of jacrev of grad": lambda f: ft.jit(ft.jacrev(ft.grad(loss(f))))(X, W),
    "vmap": lambda f: ft.vmap(f, in_axes=(0, None))(X, W),
    "vmap of grad": lambda f: ft.vmap(ft.grad(loss(f), argnums=(0, 1)), (0, None))(X, W),
    "jit of vmap of grad": lambda f: ft.jit(ft.vmap(ft.grad(loss(f)), (0, None)))(X, W),
    "grad of vmap": lambda f: ft.grad(
        lambda x, w: np.sum(ft.vmap(f, in_axes=(0, None))(x, w) ** 2), argnums=(0, 1)
    )(X, W),
}


@pytest.mark.parametrize("way", DERIVATIVES)
@pytest.mark.parametrize("policy", POLICIES)
def test_derivatives_are_those_without_checkpoint(policy, way):
    with ft.checking_ir():
        actual = DERIVATIVES[way](ft.checkpoint(block, policy=POLICIES[policy]))
    assert_trees_close(actual, DERIVATIVES[way](block))


@pytest.mark.parametrize("way", DERIVATIVES)
def test_checkpoints_in_checkpoints_have_the_same_derivatives(way):
    def nested(wrap):
        inner = wrap(block)
        return wrap(lambda x, w, *, shift=0.1: np.cos(inner(np.sin(inner(x, w)), w, shift=shift)))

    assert_trees_close(DERIVATIVES[way](nested(ft.remat)), DERIVATIVES[way](nested(lambda f: f)))


def test_second_derivatives_agree_with_finite_differences():
    check_grads(ft.checkpoint(lambda x: np.sin(x) * np.exp(x)), (X,), order=2)


def test_closures_over_traced_values_and_arrays():
    def outer(x, wrap):
        inner = wrap(lambda y: np.sin(y * x) + W["a"])
        return np.sum(inner(x**2))

    for transform in (ft.grad, lambda f: ft.jit(ft.grad(f)), lambda f: ft.grad(ft.jit(f))):
        actual = transform(lambda x: outer(x, ft.checkpoint))(W["a"])
        assert_trees_close(actual, ft.grad(lambda x: outer(x, lambda f: f))(W["a"]))


def test_arrays_written_to_before_the_way_back_keep_their_values():
    scale, x = np.ones(3), np.ones(3)
    f = ft.checkpoint(lambda x: np.sin(x * scale) * ft.jit(lambda y: y * scale)(x))
    want = ft.vjp(f, x)[1](np.ones(3))[0]
    _, pullback = ft.vjp(f, x)
    scale[:] = x[:] = 7.0
    np.testing.assert_array_equal(pullback(np.ones(3))[0], want)


def test_integers_pass_through_and_carry_no_derivative():
    @ft.checkpoint
    def f(x, n, rows):
        return {"y": np.sin(x)[rows] * n, "n": n + 1, "b": x > 0}

    rows = np.array([2, 0])
    gradient = ft.grad(lambda x, n, rows: np.sum(f(x, n, rows)["y"]))
    want = np.array([3 * np.cos(0.3), 0.0, 3 * np.cos(0.5)])
    x = np.array([0.3, 0.4, 0.5])
    for g in (gradient, ft.jit(gradient)):
        np.testing.assert_allclose(g(x, 3, rows), want)
    out = ft.jit(f)(x, 3, rows)
    assert out["n"] == 4
    assert out["b"].dtype == bool


def test_named_axes_reach_into_checkpoints():
    f = ft.checkpoint(lambda x: np.sin(x) - ft.lax.pmean(np.sin(x), "i"))

    def total(f):
        return lambda x: np.sum(ft.vmap(f, axis_name="i")(x) ** 2)

    want = ft.grad(lambda x: np.sum((np.sin(x) - np.mean(np.sin(x))) ** 2))(X[:, 0])
    np.testing.assert_allclose(ft.grad(total(f))(X[:, 0]), want)
    np.testing.assert_allclose(ft.jit(ft.grad(total(f)))(X[:, 0]), want)


def test_static_arguments_are_seen_as_they_are():
    @ft.checkpoint(static_argnums=(-1,), policy=policies.dots_saveable)
    def f(x, kind):
        return np.sin(x) if kind == "sin" else np.cos(x)

    assert ft.grad(f)(0.3, "sin") == np.cos(0.3)
    assert ft.grad(f)(0.3, "cos") == -np.sin(0.3)


def test_wrong_uses_say_what_to_do():
    with pytest.raises(ValueError, match=r"static_argnums has 5, but the call has 1 positional"):
        ft.grad(ft.checkpoint(np.sin, static_argnums=5))(1.0)
    with pytest.raises(TypeError, match=r"checkpoint of f: the argument kind = 'sin'"):
        ft.grad(ft.checkpoint(lambda_named("f")))(1.0, "sin")
    with pytest.raises(TypeError, match=r"policy is a function .* got 'dots'"):
        ft.checkpoint(np.sin, policy="dots")
    with pytest.raises(TypeError, match="checkpoint takes a function, got 3"):
        ft.checkpoint(3)
    with pytest.raises(ft.errors.TracerBoolConversionError):
        ft.grad(ft.checkpoint(lambda x: x if x > 0 else -x))(1.0)


def lambda_named(name):
    def f(x, kind):
        return x

    f.__name__ = name
    return f


def origins(f, *args, **kwargs):
    """What is kept, without places."""
    return [
        f"{aval} {origin.split(' from /')[0]}"
        for aval, origin in saved_residuals(f, *args, **kwargs)
    ]


# ---------------------------------------------------------------------------- what is computed

calls = []
counted = Elementwise(
    "counted", lambda x: calls.append(1) or np.sin(x), [slope(lambda y, x: np.cos(x))]
)


def evaluations(run):
    calls.clear()
    run()
    return len(calls)


@pytest.mark.parametrize("transform", [lambda g: g, ft.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(
    ("policy", "count"),
    [
        (policies.everything_saveable, 2),
        (None, 4),
        (policies.save_only_these_names("last"), 3),
        (policies.save_only_these_names("first"), 3),
    ],
)
def test_what_is_not_kept_is_evaluated_again(transform, policy, count):
    def f(x):
        y = checkpoint_name(counted(x), "first")
        return np.exp(checkpoint_name(counted(y), "last"))

    gradient = transform(ft.grad(lambda x: np.sum(np.sin(ft.checkpoint(f, policy=policy)(x)))))
    assert evaluations(lambda: gradient(X)) == count


def test_a_name_serves_the_derivative_of_what_it_names():
    f = ft.checkpoint(
        lambda x: np.sum(checkpoint_name(np.exp(counted(x)), "e")),
        policy=policies.save_only_these_names("e"),
    )
    # The derivative of exp is exp itself. It is not computed again, nor is its argument.
    assert evaluations(lambda: ft.grad(f)(X)) == 1
    assert origins(f, X) == ["f64[4,3] from the argument x", "f64[4,3] named 'e'"]


def test_blocks_in_blocks_are_evaluated_once_more_per_level():
    def f(x):
        return counted(counted(x))

    once = ft.grad(lambda x: np.sum(ft.checkpoint(f)(x)))
    twice = ft.grad(lambda x: np.sum(ft.checkpoint(lambda x: ft.checkpoint(f)(x) * x)(x)))
    assert evaluations(lambda: once(X)) == 2 + 1  # the last one's value is not needed
    assert evaluations(lambda: twice(X)) == 2 + 2 + 1


def test_what_no_derivative_needs_is_not_evaluated_again():
    f = ft.checkpoint(lambda x: x * 2 + counted(np.floor(x)))
    assert evaluations(lambda: ft.grad(lambda x: np.sum(f(x)))(X)) == 1


def test_compiled_code_shares_both_ways_only_if_allowed():
    def sines(prevent_cse):
        f = ft.checkpoint(lambda x: np.sin(np.sin(x)), prevent_cse=prevent_cse)
        program = ft.jit(ft.value_and_grad(lambda x: np.sum(f(x)))).lower(X).simplified
        return sum(eqn.primitive.name == "sin" for eqn in program.eqns)

    assert sines(prevent_cse=False) == 2
    assert sines(prevent_cse=True) == 3


def test_equal_blocks_are_one_program_and_others_are_not():
    def programs(*scales):
        def chain(x):
            for scale in scales:
                x = ft.checkpoint(lambda x, scale=scale: ft.lax.mul(np.sin(x), scale))(x)
            return x

        return {eqn.params["jaxpr"] for eqn in ft.make_jaxpr(chain)(X).eqns}

    assert len(programs(2.0, 2.0, 2.0)) == 1
    assert programs(2.0) == programs(2.0)
    assert len(programs(0.0, -0.0, 3.0)) == 3
    assert len(programs(np.ones(X.shape), np.zeros(X.shape))) == 1  # arrays are operands


# ---------------------------------------------------------------------------- what is kept


def named_block(x, w):
    return np.sum(np.exp(checkpoint_name(np.sin(x @ w), "s")))


ARGUMENTS = ["f64[4,3] from the argument x", "f64[3,3] from the argument w"]
DOT, NAME = ["f64[4,3] output of dot_general"], ["f64[4,3] named 's'"]
COMPUTED = ["f64[4,3] output of cos", "f64[4,3] output of exp"]


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (None, []),
        (policies.nothing_saveable, []),
        (policies.everything_saveable, COMPUTED),
        (policies.dots_saveable, DOT),
        (policies.dots_with_no_batch_dims_saveable, DOT),
        (policies.save_only_these_names("s"), NAME),
        (policies.save_only_these_names("other"), []),
        (policies.save_any_names_but_these("s"), []),
        (policies.save_any_names_but_these("other"), NAME),
        (policies.save_anything_except_these_names("s"), COMPUTED),
        (
            policies.save_from_both_policies(
                policies.dots_saveable, policies.save_only_these_names("s")
            ),
            DOT + NAME,
        ),
    ],
)
def test_a_policy_says_what_is_kept(policy, kept):
    f = ft.checkpoint(named_block, policy=policy)
    assert origins(f, X, W["a"]) == ARGUMENTS + kept
    assert origins(ft.jit(f), X, W["a"]) == ARGUMENTS + kept


def test_products_with_batch_axes_are_told_apart():
    f = ft.checkpoint(
        lambda x, y: np.sum(np.sin(x @ y)), policy=policies.dots_with_no_batch_dims_saveable
    )
    stack = RNG.normal(size=(2, 3, 3))
    assert len(origins(f, stack, stack)) == 2
    assert len(origins(f, X, W["a"])) == 3


def test_an_outer_checkpoint_keeps_what_both_policies_keep():
    def nested(outer, inner):
        f = ft.checkpoint(lambda x: np.sin(np.exp(x)), policy=inner)
        return ft.checkpoint(lambda x: np.sum(f(np.sqrt(x)) ** 2), policy=outer)

    def kept(*both):
        return [o.split(" output of ")[-1] for o in origins(nested(*both), X**2)]

    everything = policies.everything_saveable
    assert kept(None, everything) == kept(None, None) == ["f64[4,3] from the argument x"]
    assert kept(everything, None) == ["sqrt", "div", "mul"]
    assert kept(everything, everything) == ["div", "exp", "cos", "mul"]


def test_residuals_are_printed_with_their_origin():
    def f(x, params, n):
        table = np.array([1.0, 2.0, 3.0])
        return np.sum(np.sin(x @ params["w"]) * checkpoint_name(np.exp(n) * x, "scaled") * table)

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print_saved_residuals(f, X, {"w": W["a"]}, n=2.0)
    line = f.__code__.co_firstlineno + 2
    place = f"from {__file__}:{line} (f)"
    lines = out.getvalue().splitlines()
    assert "f64[3,3] from the argument params['w']" in lines
    assert "f64[4,3] from the argument x" in lines
    assert f"f64[4,3] output of cos {place}" in lines
    assert f"f64[4,3] named 'scaled' {place}" in lines
    assert f"f64[] output of exp {place}" in lines


# ---------------------------------------------------------------------------- memory


def arena_bytes(wrap, depth):
    def layer(w, x):
        return np.tanh(np.tanh(np.tanh(x @ w) * 2) @ w) + x

    def total(ws, x):
        for w in ws:
            x = wrap(layer)(w, x)
        return np.sum(x**2)

    ws = [np.eye(32) * 0.1] * depth
    program = ft.jit(ft.grad(total)).lower(ws, np.ones((256, 32))).program
    return program.arena_bytes


def test_a_deep_chain_keeps_one_value_per_block():
    value = 256 * 32 * 8
    plain, deeper = (arena_bytes(lambda f: f, n) for n in (8, 16))
    kept, kept_deeper = (arena_bytes(ft.checkpoint, n) for n in (8, 16))
    assert deeper - plain == 8 * 4 * value
    assert kept_deeper - kept == 8 * value
    assert kept_deeper < deeper / 2.5


def test_without_jit_arrays_are_free_after_their_last_use():
    def peak(wrap):
        f = wrap(lambda x: np.sin(np.exp(np.sin(np.exp(np.sin(x)))) * 0.1))
        gradient = ft.grad(lambda x: np.sum(f(f(f(f(f(f(x))))))))
        gradient(np.ones(100_000))
        tracemalloc.start()
        gradient(np.ones(100_000))
        bytes_ = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_

    assert peak(ft.checkpoint) < 0.5 * peak(lambda f: f)


def test_chains_in_checkpoints_keep_a_square_root():
    x = np.ones((64, 64))

    def chain(wrap_group, wrap_block, groups, size):
        def group(x):
            for _ in range(size):
                x = wrap_block(lambda x: np.sin(np.exp(np.sin(x @ x))))(x)
            return x

        def total(x):
            for _ in range(groups):
                x = wrap_group(group)(x)
            return np.sum(x)

        return ft.jit(ft.grad(total)).lower(x).program.arena_bytes

    one_level = chain(lambda f: f, ft.checkpoint, 5, 5)
    two_levels = chain(ft.checkpoint, ft.checkpoint, 5, 5)
    assert two_levels < 0.6 * one_level


@pytest.mark.parametrize(("policy", "way"), list(itertools.product(["none", "dots"], [0, 1])))
def test_deep_chains_have_the_gradient_of_plain_ones(policy, way):
    def total(wrap):
        f = wrap(lambda x, w: np.tanh(np.sin(x @ w) @ w) + x)

        def run(x):
            for k in range(6):
                x = f(x, 0.3 * W["a"] * (k % 2 + 1))
            return np.sum(x**2)

        return ft.jit(ft.grad(run)) if way else ft.grad(run)

    checkpointed = total(lambda f: ft.checkpoint(f, policy=POLICIES[policy]))
    assert_trees_close(checkpointed(X), total(lambda f: f)(X))
