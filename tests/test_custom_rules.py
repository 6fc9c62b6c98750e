"""Functions with rules of their own agree with the plain function in every transformation."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from scipy.optimize import brentq

import functrans as ft
from functrans.test_util import check_grads

X = np.array([0.3, -1.0, 2.0])
KINDS = ("jvp", "jvps", "vjp", "both")


def plain(p, x, n):
    """Trees in and out, an integer among both."""
    return {"y": np.sin(x) * p["w"] + n, "n": n}


def plain_jvp(primals, tangents):
    (p, x, n), (dp, dx, dn) = primals, tangents
    return plain(p, x, n), {"y": np.cos(x) * p["w"] * dx + np.sin(x) * dp["w"], "n": dn}


def plain_fwd(p, x, n):
    return plain(p, x, n), (p["w"], x)


def plain_bwd(residuals, ct):
    w, x = residuals
    return {"w": np.sin(x) * ct["y"]}, np.cos(x) * w * ct["y"], None


def declare(kind):
    """`plain` with the rules of a kind."""
    if kind in ("jvp", "jvps"):
        f = ft.custom_jvp(plain)
    else:
        f = ft.custom_vjp(plain)
        f.defvjp(plain_fwd, plain_bwd)
    if kind in ("jvp", "both"):
        f.defjvp(plain_jvp)
    if kind == "jvps":
        f.defjvps(
            lambda t, out, p, x, n: {"y": np.sin(x) * t["w"], "n": None},
            lambda t, out, p, x, n: {"y": np.cos(x) * p["w"] * t, "n": None},
            None,
        )
    return f


def of_vector(f):
    """`f` as a function of one vector to one vector."""
    return lambda x: f({"w": x[::-1] ** 2}, x, 3)["y"]


STEPS = {
    "jit": ft.jit,
    "vmap": lambda f: lambda x: ft.vmap(f)(np.stack([x, x + 1])).sum(0),
    "grad": lambda f: ft.grad(lambda x: np.sum(f(x) ** 2)),
    "jvp": lambda f: lambda x: ft.jvp(f, (x,), (np.cos(x),))[1],
    "vjp": lambda f: lambda x: ft.vjp(f, x)[1](np.sin(x))[0],
    "linearize": lambda f: lambda x: ft.linearize(f, x)[1](np.cos(x)),
}


def transformed(f, names):
    for name in reversed(names):
        f = STEPS[name](f)
    return f


@functools.cache
def reference(names):
    return transformed(of_vector(plain), [n for n in names if n != "jit"])(X)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outer", STEPS)
def test_every_nesting_of_three_transformations_agrees_with_the_plain_function(kind, outer):
    f = of_vector(declare(kind))
    for names in itertools.product([outer], STEPS, STEPS):
        found = transformed(f, names)(X)
        np.testing.assert_allclose(found, reference(names), rtol=1e-9, atol=1e-9, err_msg=names)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrap", [lambda f: f, ft.jit], ids=["eager", "jit"])
def test_jacobians_and_hessians_agree_with_the_plain_function(kind, wrap):
    f = wrap(of_vector(declare(kind)))
    for jacobian in (ft.jacfwd, ft.jacrev):
        np.testing.assert_allclose(jacobian(f)(X), ft.jacrev(of_vector(plain))(X), atol=1e-12)
    total, expected = lambda x: np.sum(f(x) ** 2), lambda x: np.sum(of_vector(plain)(x) ** 2)
    for outer, inner in itertools.product((ft.jacfwd, ft.jacrev), repeat=2):
        found = outer(inner(total))(X)
        np.testing.assert_allclose(found, ft.hessian(expected)(X), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_checker_passes_right_rules_at_order_two(kind):
    f = declare(kind)
    check_grads(lambda w, x: f({"w": w}, x, 2)["y"], (X, X + 1), 2)
    check_grads(ft.jit(lambda w, x: f({"w": w}, x, 2)["y"]), (X, X + 1), 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (-1, None)])
@pytest.mark.parametrize("wrap", [lambda f: f, ft.jit], ids=["eager", "jit"])
def test_what_all_examples_share_has_the_sum_of_their_gradients(kind, axes, wrap):
    batch = np.stack([X, X + 1, X - 2, X * 2])
    args = [X if a is None else np.moveaxis(batch, 0, a) for a in axes]

    def total(f, w, x):
        outs = ft.vmap(wrap(lambda w, x: f({"w": w}, x, 1)["y"]), in_axes=axes)(w, x)
        return np.sum(outs**2)

    found = ft.grad(functools.partial(total, declare(kind)), argnums=(0, 1))(*args)
    expected = ft.grad(functools.partial(total, plain), argnums=(0, 1))(*args)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_integers_have_float0_tangents_and_cotangents(kind):
    f = declare(kind)
    none = np.zeros((), ft.float0)
    out, tangent = ft.jvp(f, ({"w": X}, X, 3), ({"w": X}, X, none))
    assert tangent["n"].dtype == ft.float0
    assert out["n"] == 3
    _, pullback = ft.vjp(f, {"w": X}, X, 3)
    _, _, ct = pullback({"y": X, "n": none})
    assert ct.dtype == ft.float0


@pytest.mark.parametrize("kind", KINDS)
def test_complex_derivatives_agree_with_the_plain_function(kind):
    f = of_vector(declare(kind))
    z = X + 1j
    for jacobian in (ft.jacfwd, ft.jacrev):
        found = jacobian(f, holomorphic=True)(z)
        np.testing.assert_allclose(found, ft.jacrev(of_vector(plain), holomorphic=True)(z))
    total = lambda f: ft.grad(lambda z: np.sum(np.abs(f(z)) ** 2))(z)  # noqa: E731
    np.testing.assert_allclose(total(f), total(of_vector(plain)))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_leaks_and_programs_are_well_formed(kind):
    f = of_vector(declare(kind))
    with ft.checking_leaks(), ft.checking_ir():
        total = lambda x: np.sum(ft.vmap(ft.jit(f))(np.stack([x, x])))  # noqa: E731
        for derivative in (ft.grad(total), ft.jit(ft.grad(total)), ft.jacfwd(ft.jit(total))):
            np.testing.assert_allclose(derivative(X), 2 * ft.jacrev(of_vector(plain))(X).sum(0))


# ---------------------------------------------------------------------------- which rule runs


def recording(log, **kinds):
    f = ft.custom_vjp(lambda x: np.sin(x))
    if "vjp" in kinds:
        f.defvjp(
            lambda x: (log.append("fwd"), (np.sin(x), x))[1],
            lambda x, ct: (log.append("bwd"), (ct * np.cos(x),))[1],
        )
    if "jvp" in kinds:
        f.defjvp(lambda p, t: (log.append("jvp"), (np.sin(*p), t[0] * np.cos(p[0])))[1])
    return f


def test_each_mode_runs_its_own_rule_where_both_are_given():
    log = []
    f = recording(log, vjp=True, jvp=True)
    ft.jvp(f, (1.0,), (1.0,))
    assert log == ["jvp"]
    log.clear()
    ft.grad(f)(1.0)
    assert log == ["fwd", "bwd"]
    log.clear()
    ft.jit(ft.grad(f))(1.0)
    assert log == ["fwd", "bwd"]
    log.clear()
    ft.vmap(ft.grad(f))(X)
    assert log == ["fwd", "bwd"]


def test_a_program_differentiated_later_still_picks_the_rule_of_the_mode():
    log = []
    f = recording(log, vjp=True, jvp=True)
    f.defjvp(lambda p, t: (np.sin(*p), t[0] * 100.0))  # to tell the modes apart
    program = ft.jit(lambda x: f(x) * 2)
    assert ft.jvp(program, (0.0,), (1.0,))[1] == 200.0
    assert ft.grad(program)(0.0) == 2.0
    assert ft.jit(lambda x: ft.jvp(program, (x,), (x,))[1])(1.0) == 200.0
    assert ft.linearize(program, 0.0)[1](1.0) == 200.0


def test_forward_mode_transposes_the_backward_rule():
    log = []
    f = recording(log, vjp=True)
    _, t = ft.jvp(f, (X,), (X,))
    np.testing.assert_allclose(t, X * np.cos(X))
    assert log == ["fwd", "bwd"]


def test_outside_of_transformations_it_is_the_function():
    f = ft.custom_jvp(lambda x: [x, "anything"])
    assert f("this") == ["this", "anything"]
    assert f.__name__ == "<lambda>"


def test_a_compiled_call_is_the_compiled_body():
    for kind in KINDS:
        program = ft.jit(of_vector(declare(kind))).lower(X)
        assert "custom_call" in str(program.jaxpr)
        body = ft.jit(of_vector(plain)).lower(X)
        assert str(program.simplified) == str(body.simplified)
        assert program.loop_program == body.loop_program


def test_a_jaxpr_shows_the_call_with_the_kinds_of_its_rules():
    f = ft.custom_vjp(lambda x: np.sin(x))
    f.defvjp(lambda x: (np.sin(x), x), lambda x, ct: (ct * np.cos(x),))
    assert str(ft.make_jaxpr(f)(1.0)) == (
        "{ lambda ; a:f64[]. let\n"
        "    b:f64[] = custom_call[ call=<lambda>:vjp\n"
        "      jaxpr={ lambda ; a:f64[]. let\n"
        "          b:f64[] = sin a\n"
        "        in (b,) }\n"
        "    ] a\n"
        "  in (b,) }"
    )


# ---------------------------------------------------------------------------- values and closures


def test_rules_and_functions_may_look_at_values_where_there_are_any():
    @ft.custom_vjp
    def root(a):
        return brentq(lambda x: x**3 - a, 0, 10)

    root.defvjp(lambda a: (root(a),) * 2, lambda r, ct: (ct / (3 * r**2),))
    np.testing.assert_allclose(ft.grad(root)(8.0), 1 / 12)
    np.testing.assert_allclose(ft.grad(ft.grad(root))(8.0), -2 / 9 * 8 ** (-5 / 3))
    np.testing.assert_allclose(ft.jvp(root, (8.0,), (3.0,))[1], 1 / 4)

    @ft.custom_jvp
    def branch(x):
        return x if x > 0 else 0.0

    branch.defjvp(lambda p, t: (branch(*p), t[0] if p[0] > 0 else 0.5 * t[0]))
    assert ft.grad(branch)(-1.0) == 0.5


@pytest.mark.parametrize("kind", ["jvp", "vjp"])
def test_values_of_outer_transformations_may_be_closed_over(kind):
    def scaled(y, x):
        f = ft.custom_jvp(lambda x: x * y)
        if kind == "jvp":
            f.defjvp(lambda p, t: (p[0] * y, t[0] * y))
        else:
            f.defvjp(lambda x: (x * y, None), lambda _, ct: (ct * y,))
        return f(x)

    slope = lambda y: ft.grad(lambda x: scaled(y, x))(2.0)  # noqa: E731
    assert ft.jit(slope)(3.0) == 3.0
    assert ft.grad(slope)(3.0) == 1.0
    assert ft.jvp(slope, (3.0,), (2.0,)) == (3.0, 2.0)
    np.testing.assert_array_equal(ft.vmap(slope)(X), X)
    np.testing.assert_array_equal(ft.jit(ft.vmap(slope))(X), X)
    np.testing.assert_array_equal(ft.vmap(lambda y: scaled(y, 2.0))(X), 2 * X)
    np.testing.assert_array_equal(ft.jit(ft.vmap(lambda y: scaled(y, 2.0)))(X), 2 * X)
    assert ft.jit(lambda y: scaled(y, 2.0))(3) == 6.0
    assert ft.jit(lambda y: ft.jit(lambda x: scaled(y, x))(2.0))(3.0) == 6.0
    along = lambda x: np.sum(ft.vmap(lambda y: scaled(y, x))(X))  # noqa: E731
    np.testing.assert_allclose(ft.jvp(along, (2.0,), (1.0,)), (2 * X.sum(), X.sum()))


@pytest.mark.parametrize("wrap", [lambda f: f, ft.jit], ids=["eager", "jit"])
def test_arrays_closed_over_are_read_at_every_call(wrap):
    w = np.ones(3)
    f = ft.custom_vjp(lambda x: np.sum(x * w))
    f.defvjp(lambda x: (np.sum(x * w), None), lambda _, ct: (ft.numpy.multiply(ct, w),))
    g = wrap(ft.grad(f))
    np.testing.assert_array_equal(g(X), np.ones(3))
    w[:] = 2
    np.testing.assert_array_equal(g(X), np.full(3, 2.0))


def test_a_named_axis_is_seen_by_functions_and_rules():
    def share(x):
        return x / ft.lax.psum(x, "i")

    f = ft.custom_jvp(share)
    f.defjvp(lambda p, t: ft.jvp(share, p, t))
    expected = ft.jacfwd(lambda x: x / np.sum(x))(X)
    for g in (f, ft.jit(f)):
        over = ft.vmap(g, axis_name="i")
        for h in (over, ft.jit(over)):
            np.testing.assert_allclose(h(X), X / X.sum())
            np.testing.assert_allclose(ft.jacfwd(h)(X), expected)
            np.testing.assert_allclose(ft.jacrev(h)(X), expected)


def test_outputs_that_depend_on_no_example_are_not_repeated():
    f = ft.custom_jvp(lambda w: w * 2)
    f.defjvp(lambda p, t: (f(*p), t[0] * 2))
    text = str(ft.make_jaxpr(ft.vmap(lambda w, x: np.sum(f(w)) * x, in_axes=(None, 0)))(X, X))
    assert "broadcast" not in text
    by = ft.vmap(lambda w, x: np.sum(f(w)) * x, in_axes=(None, 0))
    np.testing.assert_allclose(ft.grad(lambda w: by(w, X).sum())(X), np.full(3, 2 * X.sum()))


LOOPS = {
    "scan": lambda f: lambda x: ft.lax.scan(lambda c, w: (f(c, w), c), x, X)[0],
    "scan over moving": lambda f: (
        lambda x: np.sum(ft.lax.scan(lambda c, w: (f(c, w * x), c), 2 * x, X * x)[1])
    ),
    "fori_loop": lambda f: lambda x: ft.lax.fori_loop(0, 5, lambda i, c: f(c, 0.9), x),
    "while_loop": lambda f: (
        lambda x: ft.lax.while_loop(lambda c: c[0] < 4, lambda c: (c[0] + 1, f(c[1], 0.8)), (0, x))[
            1
        ]
    ),
    "cond": lambda f: lambda x: ft.lax.cond(x > 0, lambda x: f(x, x), lambda x: x, x),
    "map under vmap": lambda f: (
        lambda x: np.sum(ft.vmap(lambda s: ft.lax.map(lambda w: f(x * s, w), X))(X))
    ),
}


@pytest.mark.parametrize("kind", ["jvp", "vjp"])
@pytest.mark.parametrize("name", LOOPS)
def test_loops_and_branches_use_the_rules(name, kind):
    body = lambda x, w: np.sin(x) * w  # noqa: E731
    f = ft.custom_jvp(body)
    if kind == "jvp":
        f.defjvp(lambda p, t: (f(*p), np.cos(p[0]) * p[1] * t[0] + np.sin(p[0]) * t[1]))
    else:
        f.defvjp(
            lambda x, w: (body(x, w), (x, w)),
            # Forward mode cannot transpose this, so the rule must run as it stands.
            lambda r, ct: (np.where(ct < 1e9, ct, 0) * np.cos(r[0]) * r[1], ct * np.sin(r[0])),
        )
    program, expected = LOOPS[name](f), LOOPS[name](body)
    derivatives = [
        ft.grad,
        lambda p: ft.jit(ft.grad(p), host_steps="error"),
        lambda p: ft.grad(lambda x: np.sum(ft.vmap(ft.jit(p))(np.stack([x, 2 * x])))),
    ]
    if name != "while_loop":  # its second derivatives are large programs
        derivatives += [lambda p: ft.grad(ft.grad(p)), ft.hessian]
    for derivative in derivatives:
        np.testing.assert_allclose(derivative(program)(0.7), derivative(expected)(0.7))


# ---------------------------------------------------------------------------- arguments


def test_keywords_and_defaults_get_positions():
    @ft.custom_jvp
    def power(x, n=2.0, *, unused=None):
        return x**n

    plain_power = ft.custom_jvp(lambda x, n=2.0: x**n)
    plain_power.defjvp(lambda p, t: (plain_power(*p), p[1] * p[0] ** (p[1] - 1) * t[0]))
    assert ft.grad(plain_power)(3.0) == 6.0
    assert ft.grad(lambda x: plain_power(n=3.0, x=x))(3.0) == 27.0
    with pytest.raises(TypeError, match=r"by position, but \['unused'\] can be given by keyword"):
        ft.grad(power)(3.0, unused=1)


def test_arguments_that_are_not_differentiated_may_be_anything():
    @functools.partial(ft.custom_jvp, nondiff_argnums=(2, 0))
    def apply(f, x, times, scale=1.0):
        return functools.reduce(lambda y, _: f(y), range(len(times)), x) * scale

    @apply.defjvp
    def rule(f, times, primals, tangents):
        (x, scale), (t, _) = primals, tangents
        assert times == "ab"
        return apply(f, x, times, scale), t * 7

    assert ft.grad(apply, 1)(np.sin, 1.0, "ab") == 7.0
    assert ft.jit(lambda x: ft.grad(apply, 1)(np.sin, x, "ab"))(1.0) == 7.0

    @ft.custom_vjp(nondiff_argnames=("mode",))
    def named(x, mode="fast"):
        return x

    named.defvjp(lambda x, mode: (x, mode), lambda mode, kept, ct: (ct * (mode == kept),))
    assert ft.grad(named)(2.0) == 1.0
    assert ft.grad(ft.jit(lambda x: named(x, mode="slow")))(2.0) == 1.0
    assert named.nondiff_argnums == (1,)


def test_traced_arguments_that_are_not_differentiated_reach_the_rules_as_values():
    @ft.custom_vjp(nondiff_argnums=1)
    def f(x, b):
        return x * b

    f.defvjp(lambda x, b: (x * b, None), lambda b, _, ct: (b * ct,))
    assert ft.jit(ft.grad(f))(2.0, 3.0) == 3.0
    assert ft.grad(ft.jit(f))(2.0, 3.0) == 3.0
    np.testing.assert_array_equal(ft.vmap(ft.grad(f))(np.ones(3), X), X)
    total = lambda x: np.sum(ft.vmap(f, in_axes=(None, 0))(x, X))  # noqa: E731
    np.testing.assert_allclose(ft.grad(total)(2.0), X.sum())
    for g in (f, ft.jit(f)):
        with pytest.raises(TypeError, match=r"f: a derivative in an argument of nondiff_argnums"):
            ft.grad(g, 1)(2.0, 3.0)


def test_methods_are_bound():
    class Model:
        @ft.custom_jvp(nondiff_argnums=0)
        def __call__(self, x):
            return x

        @__call__.defjvp
        def rule(self, primals, tangents):
            return self(*primals), 3 * tangents[0]

    assert ft.grad(Model())(1.0) == 3.0


@pytest.mark.parametrize("kind", ["jvp", "vjp"])
def test_python_numbers_do_not_widen_arrays(kind):
    f = ft.custom_jvp(lambda x, s: x * s)
    if kind == "jvp":
        f.defjvp(lambda p, t: (f(*p), t[0] * p[1] + p[0] * t[1]))
    else:
        f.defvjp(lambda x, s: (x * s, (x, s)), lambda r, c: (c * r[1], np.sum(c * r[0])))
    x = X.astype(np.float32)
    for g in (f, ft.jit(f)):
        assert g(x, 2.0).dtype == np.float32
        assert ft.vmap(g, in_axes=(0, None))(x, 2.0).dtype == np.float32
        for y in ft.jvp(g, (x, 2.0), (x, 1.0)):
            assert y.dtype == np.float32
        dx, ds = ft.grad(lambda x, s: np.sum(g(x, s)), (0, 1))(x, 2.0)  # noqa: B023
        assert (dx.dtype, ds.dtype) == (np.float32, np.float64)
    assert ft.jit(lambda x: x * f(2.0, 3.0))(x).dtype == np.float32


# ---------------------------------------------------------------------------- symbolic zeros


def test_rules_may_ask_which_tangents_and_cotangents_are_zero():
    seen = []
    f = ft.custom_jvp(lambda x, y: (x * y, y))
    zero = ft.custom_derivatives.SymbolicZero

    @functools.partial(f.defjvp, symbolic_zeros=True)
    def rule(primals, tangents):
        seen.append([type(t) is zero for t in tangents])
        assert tangents[1].shape == ()
        assert tangents[1].dtype == np.float64
        return f(*primals), (tangents[0] * primals[1], tangents[1])

    assert ft.grad(lambda x: f(x, 3.0)[0])(2.0) == 3.0
    assert seen == [[False, True]]

    g = ft.custom_vjp(lambda x, y: (x * y, y))

    def fwd(x, y):
        assert (x.perturbed, y.perturbed) == (True, False)
        values = ft.custom_derivatives.custom_vjp_primal_tree_values((x, y))
        return (values[0] * values[1], values[1]), values[1]

    def bwd(y, cts):
        assert type(cts[1]) is zero
        return cts[0] * y, cts[1]

    g.defvjp(fwd, bwd, symbolic_zeros=True)
    for h in (g, ft.jit(g)):
        assert ft.grad(lambda x: h(x, 3.0)[0])(2.0) == 3.0  # noqa: B023
    np.testing.assert_array_equal(ft.vmap(ft.grad(lambda x: g(x, 3.0)[0]))(X), np.full(3, 3.0))
    total = lambda x: np.sum(ft.vmap(g, in_axes=(0, None))(x, 3.0)[0])  # noqa: E731
    np.testing.assert_array_equal(ft.grad(total)(X), np.full(3, 3.0))


def test_zero_tangents_are_made_from_primals():
    make = ft.custom_derivatives.zero_from_primal
    dense = make({"x": X, "n": 3})
    assert (dense["x"] == 0).all()
    assert dense["n"].dtype == ft.float0
    assert make(X, symbolic_zeros=True).shape == (3,)
