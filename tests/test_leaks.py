"""Traced values where they do not belong: each mistake is an error that says what to write."""

from __future__ import annotations

import re

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans import errors

X = np.array([1.0, -2.0, 3.0])


# ---------------------------------------------------------------------------- leaks

WAYS = {
    "jit": lambda f: ft.jit(f)(X),
    "grad": lambda f: ft.grad(f)(X),
    "jvp": lambda f: ft.jvp(f, (X,), (X,)),
    "vjp": lambda f: ft.vjp(f, X),
    "linearize": lambda f: ft.linearize(f, X),
    "vmap": lambda f: ft.vmap(f)(X),
    "make_jaxpr": lambda f: ft.make_jaxpr(f)(X),
    "grad of jit": lambda f: ft.grad(ft.jit(f))(X),
    "jit of grad": lambda f: ft.jit(ft.grad(f))(X),
    "vmap of grad": lambda f: ft.vmap(ft.grad(f))(np.stack([X, X])),
    "hessian": lambda f: ft.hessian(f)(X),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_leaked_value_is_refused_when_it_is_used(way):
    kept = []

    def leaky(x):
        kept.append(x * 2)
        return np.sum(x**2)

    WAYS[way](leaky)
    with pytest.raises(errors.UnexpectedTracerError) as info:
        kept[0] + 1
    assert "f64" in str(info.value)
    with pytest.raises(errors.UnexpectedTracerError):
        np.sin(kept[0])
    with pytest.raises(errors.UnexpectedTracerError):
        ft.jit(lambda y: y + kept[0])(1.0)


@pytest.mark.parametrize("way", WAYS)
def test_checking_leaks_finds_a_leak_where_it_happens(way):
    kept = []

    def leaky(x):
        kept.append(x * 2)
        return np.sum(x**2)

    with ft.checking_leaks(), pytest.raises(errors.UnexpectedTracerError, match="outlived"):
        WAYS[way](leaky)


@pytest.mark.parametrize("way", WAYS)
def test_checking_leaks_passes_a_clean_program(way):
    def clean(x):
        y = np.sin(x) * 2
        return np.sum(np.where(y > 0, y, 0.0) ** 2)

    with ft.checking_leaks():
        WAYS[way](clean)
        WAYS[way](clean)


def test_checking_leaks_passes_pullbacks_and_closures():
    with ft.checking_leaks():
        _, pullback = ft.vjp(ft.jit(np.sin), X)
        np.testing.assert_allclose(pullback(X)[0], np.cos(X) * X)
        outer = lambda x: np.sum(ft.jit(lambda y: y * x)(x))  # noqa: E731
        np.testing.assert_allclose(ft.grad(outer)(X), 2 * X)
        ft.jit(ft.vmap(lambda x: ft.grad(np.sin)(x)))(X)


# ---------------------------------------------------------------------------- values of tracers


def test_branching_under_jit_names_argument_line_and_remedy():
    def leaky_relu(slope, x):
        return x if x > 0 else slope * x

    with pytest.raises(errors.TracerBoolConversionError) as info:
        ft.jit(leaky_relu)(0.1, 2.0)
    message = str(info.value)
    line = leaky_relu.__code__.co_firstlineno + 1
    assert f"test_leaks.py:{line}" in message
    assert "jit of leaky_relu" in message
    assert "functrans.numpy.where" in message
    assert "static_argnums" in message


def test_branching_on_an_argument_itself_names_it():
    def choose(params, flag):
        return params["a"] if flag else params["b"]

    with pytest.raises(
        errors.TracerBoolConversionError, match="the argument flag in jit of choose"
    ):
        ft.jit(choose)({"a": 1.0, "b": 2.0}, True)
    with pytest.raises(
        errors.TracerBoolConversionError, match=re.escape("the argument params['a'] in jit")
    ):
        ft.jit(lambda params: 1.0 if params["a"] else 2.0)({"a": 1.0})


def test_branching_under_vmap_says_so():
    with pytest.raises(errors.TracerBoolConversionError, match="under vmap") as info:
        ft.vmap(lambda x: x if x > 0 else -x)(X)
    assert "functrans.numpy.where" in str(info.value)


def test_branching_under_grad_alone_is_fine_and_under_jit_of_grad_is_not():
    f = lambda x: x**2 if x > 0 else -x  # noqa: E731
    assert ft.grad(f)(3.0) == 6.0
    assert ft.grad(ft.grad(f))(3.0) == 2.0
    with pytest.raises(errors.TracerBoolConversionError):
        ft.jit(ft.grad(f))(3.0)


def test_a_loop_over_a_traced_range_is_refused():
    with pytest.raises(errors.TracerIntegerConversionError, match="static"):
        ft.jit(lambda n: sum(range(n)))(3)
    with pytest.raises(errors.TracerIntegerConversionError, match="static"):
        ft.jit(lambda n: [1.0, 2.0][n])(1)


def test_a_shape_from_a_traced_value_is_refused():
    with pytest.raises(TypeError):
        ft.jit(lambda n: fnp.zeros(n))(3)
    assert ft.jit(lambda n: fnp.zeros(n), static_argnums=0)(3).shape == (3,)


def test_a_number_from_a_traced_value_is_refused():
    for convert in (int, float, complex):
        with pytest.raises(errors.ConcretizationTypeError, match="the argument x in jit"):
            ft.jit(lambda x, convert=convert: convert(x))(1.0)
    with pytest.raises(TypeError, match="the argument x in jit"):
        ft.jit(lambda x: x.item())(1.0)


def test_an_array_from_a_traced_value_is_refused():
    with pytest.raises(errors.TracerArrayConversionError, match="the argument x in jit"):
        ft.jit(lambda x: np.asarray(x, dtype=float).tolist())(X)


def chain_of(error):
    """An exception and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "way",
    [ft.jit, ft.grad, lambda f: ft.vmap(f, in_axes=0), ft.make_jaxpr],
    ids=["jit", "grad", "vmap", "make_jaxpr"],
)
def test_writing_a_traced_value_into_a_plain_array_says_what_to_write(way):
    def fill(x):
        buf = np.zeros(3)
        buf[0] = x
        return np.sum(buf)

    with pytest.raises((TypeError, ValueError)) as info:
        way(fill)(np.ones(2) if way not in (ft.grad,) else 1.0)
    texts = [str(e) + "".join(getattr(e, "__notes__", ())) for e in chain_of(info.value)]
    assert any("functrans.numpy.at" in text for text in texts), texts


def test_writing_into_a_traced_array_says_what_to_write():
    def fill(x):
        x[0] = 1.0
        return x

    for way in (ft.jit(fill), ft.vmap(fill), ft.make_jaxpr(fill)):
        with pytest.raises(TypeError, match=r"at\[|\.at"):
            way(np.ones((2, 2)))


def test_the_error_leaves_no_trace_behind():
    with pytest.raises(errors.TracerBoolConversionError):
        ft.jit(lambda x: 1.0 if x > 0 else 2.0)(1.0)
    assert type(fnp.sin(1.0)) is np.float64
    assert ft.grad(np.sin)(0.0) == 1.0
