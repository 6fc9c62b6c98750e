"""Wrong rules are named, with the value, the types and what to do."""

from __future__ import annotations

import re

import numpy as np
import pytest

import functrans as ft
from functrans.errors import MissingRule, UnexpectedTracerError

X = np.array([0.3, -1.0, 2.0])


def message(error):
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


def fails(kind, pattern, call):
    with pytest.raises(kind) as caught:
        call()
    assert re.search(pattern, message(caught.value), re.S), message(caught.value)


# ---------------------------------------------------------------------------- missing rules


@pytest.mark.parametrize("declare", [ft.custom_jvp, ft.custom_vjp])
@pytest.mark.parametrize("wrap", [lambda f: f, ft.jit], ids=["eager", "jit"])
def test_a_function_without_rules_runs_and_is_not_differentiated(declare, wrap):
    def double(x):
        return 2 * x

    f = wrap(declare(double))
    assert f(3.0) == 6.0
    np.testing.assert_array_equal(ft.vmap(f)(X), 2 * X)
    for derivative in (ft.grad(f), lambda x: ft.jvp(f, (x,), (x,))):
        fails(
            MissingRule, r"double .* has none.*double\.defjvp\(rule\)", lambda d=derivative: d(1.0)
        )


def test_rules_must_be_functions():
    f = ft.custom_vjp(lambda x: x)
    fails(TypeError, r"defvjp takes functions, got 3", lambda: f.defvjp(3, 4))
    fails(TypeError, r"defjvp takes functions, got None", lambda: f.defjvp(None))
    fails(
        TypeError, r"custom_jvp takes a function, got 'f' of type str", lambda: ft.custom_jvp("f")
    )


def test_names_that_are_no_parameters_are_refused():
    declare = lambda: ft.custom_jvp(lambda x: x, nondiff_argnames="mode")  # noqa: E731
    fails(ValueError, r"nondiff_argnames has 'mode', but the parameters are \['x'\]", declare)


def test_what_is_no_array_has_to_be_declared_so():
    f = ft.custom_jvp(lambda x, mode: x)
    remedy = r"the argument mode = 'fast' of type str .* nondiff_argnums or nondiff_argnames"
    fails(TypeError, remedy, lambda: ft.grad(f)(1.0, "fast"))


# ---------------------------------------------------------------------------- defjvp


def scaled(x, n):
    return x * n, n


JVP_MISTAKES = {
    "no pair": (lambda p, t: p[0], r"must return a pair, \(outputs, tangents.*got f64\[3\]"),
    "structure": (
        lambda p, t: (scaled(*p), t[0]),
        r"tangents of the structure PyTreeDef\(\*\) for outputs of .*\(\*, \*\).*None for zero",
    ),
    "shape": (
        lambda p, t: (scaled(*p), (t[0][1:], None)),
        r"f64\[2\] as the tangent of output\[0\], which is f64\[3\].*shape \(3,\)",
    ),
    "dtype": (
        lambda p, t: (scaled(*p), (t[0].astype("float32"), None)),
        r"f32\[3\] as the tangent of output\[0\], which is f64\[3\].*\.astype\('float64'\)",
    ),
    "no array": (
        lambda p, t: (scaled(*p), ("zero", None)),
        r"'zero' of type str as the tangent of output\[0\], which is f64\[3\]",
    ),
}


@pytest.mark.parametrize("name", JVP_MISTAKES)
@pytest.mark.parametrize("wrap", [lambda f: f, ft.jit, ft.vmap], ids=["eager", "jit", "vmap"])
def test_mistakes_of_a_jvp_rule_are_named(name, wrap):
    rule, pattern = JVP_MISTAKES[name]
    f = ft.custom_jvp(scaled)
    f.defjvp(rule)
    whole = rf"the defjvp rule <lambda> of scaled \(.*test_custom_rule_errors.py:\d+\).*{pattern}"
    x = X if wrap is not ft.vmap else np.stack([X, X])
    fails(TypeError, whole, lambda: ft.grad(lambda x: np.sum(wrap(lambda x: f(x, 2)[0])(x)))(x))
    fails(TypeError, whole, lambda: ft.jvp(wrap(lambda x: f(x, 2)), (x,), (x,)))


def test_outputs_of_a_staged_rule_must_be_those_of_the_function():
    f = ft.custom_jvp(scaled)
    g = ft.jit(lambda x: f(x, 2)[0])
    f.defjvp(lambda p, t: ((p[0].astype("float32"), p[1]), (t[0], None)))
    pattern = r"returned f32\[3\] as output\[0\], where the function returns f64\[3\]"
    fails(TypeError, pattern, lambda: ft.jvp(g, (X,), (X,)))
    f.defjvp(lambda p, t: (p[0], t[0]))
    pattern = r"outputs of the structure PyTreeDef\(\*\), but the function returns .*\(\*, \*\)"
    fails(TypeError, pattern, lambda: ft.jvp(ft.jit(lambda x: f(x, 2)[0]), (X,), (X,)))


def test_defjvps_wants_a_rule_for_each_argument():
    f = ft.custom_jvp(scaled)
    f.defjvps(lambda t, out, x, n: (t * n, None))
    pattern = r"defjvps of scaled was given 1 rules for 2 arguments"
    fails(TypeError, pattern, lambda: ft.jvp(lambda x: f(x, 2), (X,), (X,)))
    f.defjvps(lambda t, out, x, n: (t[1:], None), None)
    pattern = r"the defjvps rule <lambda> of scaled \(.*f64\[2\] as the tangent of output\[0\]"
    fails(TypeError, pattern, lambda: ft.jvp(lambda x: f(x, 2), (X,), (X,)))
    g = ft.custom_jvp(scaled, nondiff_argnums=1)
    fails(TypeError, r"no place for nondiff_argnums", lambda: g.defjvps(None))


# ---------------------------------------------------------------------------- defvjp


def fwd(p, n):
    return p["x"] * n, (p["x"], n)


VJP_MISTAKES = {
    "no pair": (lambda p, n: p["x"], None, r"must return a pair, \(outputs, resid.*f64\[3\]"),
    "number": (fwd, lambda r, ct: ({"x": ct},), r"cotangent for each of the 2 .*tuple of length 1"),
    "no tuple": (fwd, lambda r, ct: ct, r"cotangent for each of the 2 .*got f64\[3\]"),
    "structure": (
        fwd,
        lambda r, ct: (ct, None),
        r"for differentiable argument 0 a cotangent of the structure PyTreeDef\(\*\); the "
        r"argument has PyTreeDef\(\{'x': \*\}\)",
    ),
    "shape": (
        fwd,
        lambda r, ct: ({"x": np.sum(ct)}, None),
        r"f64\[\] as the cotangent of p\['x'\], which is f64\[3\].*shape \(3,\); for zero",
    ),
    "more axes": (
        fwd,
        lambda r, ct: ({"x": np.stack([ct, ct])}, None),
        r"f64\[2,3\] as the cotangent of p\['x'\].*Sum it over the axes that broadcasting added",
    ),
    "dtype": (
        fwd,
        lambda r, ct: ({"x": ct.astype("float32")}, None),
        r"f32\[3\] as the cotangent of p\['x'\], which is f64\[3\].*\.astype\('float64'\)",
    ),
}


@pytest.mark.parametrize("name", VJP_MISTAKES)
@pytest.mark.parametrize("wrap", [lambda f: f, ft.jit, ft.vmap], ids=["eager", "jit", "vmap"])
def test_mistakes_of_vjp_rules_are_named(name, wrap):
    forward, backward, pattern = VJP_MISTAKES[name]

    def product(p, n):
        return p["x"] * n

    f = ft.custom_vjp(product)
    f.defvjp(forward, backward or (lambda r, ct: None))
    whole = (
        rf"the defvjp .*ward rule \S+ of product \(.*test_custom_rule_errors.py:\d+\).*{pattern}"
    )
    x = X if wrap is not ft.vmap else np.stack([X, X])
    total = lambda x: np.sum(wrap(lambda x: f({"x": x}, 2.0))(x))  # noqa: E731
    fails(TypeError, whole, lambda: ft.grad(total)(x))


def test_none_stands_for_zero_cotangents_and_tangents_of_whole_trees():
    f = ft.custom_vjp(lambda p, x: p["a"] * p["b"] * x)
    f.defvjp(lambda p, x: (f(p, x), None), lambda _, ct: (None, ct))
    zero, ct = ft.grad(f, (0, 1))({"a": 1.0, "b": 2.0}, 3.0)
    assert (zero, ct) == ({"a": 0.0, "b": 0.0}, 1.0)
    g = ft.custom_jvp(lambda x: {"a": x, "b": [x, x]})
    g.defjvp(lambda p, t: (g(*p), {"a": t[0], "b": None}))
    assert ft.jvp(g, (1.0,), (2.0,))[1] == {"a": 2.0, "b": [0.0, 0.0]}
    h = ft.custom_jvp(lambda x: {"a": x, "b": [x, x]})
    h.defjvp(lambda p, t: (h(*p), None))
    assert ft.jvp(ft.jit(h), (1.0,), (2.0,))[1] == {"a": 0.0, "b": [0.0, 0.0]}


# ---------------------------------------------------------------------------- modes and closures


def test_forward_mode_of_a_backward_rule_that_is_not_linear_names_the_remedy():
    def clip(x):
        return x

    f = ft.custom_vjp(clip)
    f.defvjp(lambda x: (x, None), lambda _, ct: (np.clip(ct, -1, 1),))
    for g in (f, ft.jit(f), ft.vmap(f)):
        assert (ft.grad(lambda x, g=g: np.sum(5 * g(x)))(X) == 1).all()
        call = lambda g=g: ft.jvp(g, (X,), (X,))  # noqa: E731
        fails(TypeError, r"Forward mode transposes the backward rule of clip.*defjvp", call)
    f.defvjp(lambda x: (x, None), lambda _, ct: (np.ones(()),))
    fails(TypeError, "does not depend on its cotangents", lambda: ft.jvp(f, (1.0,), (1.0,)))
    f.defvjp(lambda x: (x, None), lambda _, ct: (ct if ct > 0 else -ct,))
    fails(TypeError, "Forward mode transposes", lambda: ft.jvp(f, (1.0,), (1.0,)))
    f.defjvp(lambda p, t: (clip(*p), t[0]))
    assert ft.jvp(f, (1.0,), (1.0,)) == (1.0, 1.0)


@pytest.mark.parametrize("kind", ["jvp", "vjp"])
@pytest.mark.parametrize("wrap", [lambda f: f, ft.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("argument", [lambda y: y, lambda y: 2.0], ids=["moving", "constant"])
def test_closing_over_what_is_differentiated_is_explained(kind, wrap, argument):
    def scaled_by(y):
        def product(x):
            return x * y

        f = ft.custom_jvp(product)
        if kind == "jvp":
            f.defjvp(lambda p, t: (p[0] * y, t[0] * y))
        else:
            f.defvjp(lambda x: (x * y, None), lambda _, ct: (ct * y,))
        return f(argument(y))

    pattern = r"product has rules of its own: neither it nor .*closure_convert"
    fails(UnexpectedTracerError, pattern, lambda: ft.grad(wrap(scaled_by))(3.0))
    fails(UnexpectedTracerError, pattern, lambda: ft.jvp(wrap(scaled_by), (3.0,), (1.0,)))


def test_rules_that_close_over_an_argument_of_jit_are_explained_when_it_has_ended():
    def outer(y, x):
        f = ft.custom_vjp(lambda x: x * y)
        f.defvjp(lambda x: (x * y, None), lambda _, ct: (ct * y,))
        return f(x)

    pattern = r"rules over an argument of a jitted function that has ended"
    fails(UnexpectedTracerError, pattern, lambda: ft.grad(ft.jit(outer), 1)(2.0, 3.0))
    along = lambda x: np.sum(ft.vmap(lambda y: outer(y, x))(X))  # noqa: E731
    fails(UnexpectedTracerError, "has rules of its own", lambda: ft.grad(along)(2.0))
