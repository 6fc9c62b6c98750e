"""Programs as text and as data: printing, walking, checking, running."""

from __future__ import annotations

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans import lax, ops
from functrans.errors import JaxprError
from functrans.printing import jaxpr_to_text

X = np.array([1.0, 2.0, 3.0])


def mlp_loss(params, x):
    hidden = np.tanh(x @ params["w1"] + params["b1"])
    return np.mean((hidden @ params["w2"]) ** 2)


PARAMS = {"w1": np.ones((4, 3)), "b1": np.zeros(3), "w2": np.ones((3, 1))}

PROGRAMS = {
    "sine": (np.sin, (X,)),
    "no_operations": (lambda x: x, (X,)),
    "no_arguments": (lambda: 1.0, ()),
    "constants": (lambda x: x * np.arange(3.0) + 2.0, (X,)),
    "weak_scalars": (lambda x, n: x * n + 1, (X.astype(np.float32), 2)),
    "several_outputs": (lambda x: {"b": x + 1, "a": (x, np.sum(x))}, (X,)),
    "mlp_loss": (mlp_loss, (PARAMS, np.ones((5, 4)))),
    "mlp_gradient": (ft.grad(mlp_loss), (PARAMS, np.ones((5, 4)))),
    "where": (lambda x: fnp.where(x > 0, x, 0.0), (X,)),
    "nested_jit": (lambda x: ft.jit(lambda y: np.sin(y) * 2)(x) + 1, (X,)),
    "vmap_of_grad": (ft.vmap(ft.grad(lambda x: np.sin(x) ** 2)), (X,)),
    "named_axis": (ft.vmap(lambda x: x - lax.pmean(x, "i"), axis_name="i"), (X,)),
    "complex": (lambda z: np.real(z * 1j), (1 + 2j,)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_printed_programs_are_the_ones_kept(name, golden):
    f, args = PROGRAMS[name]
    closed = ft.make_jaxpr(f)(*args)
    ft.check_jaxpr(closed)
    golden(f"jaxpr_{name}", str(closed))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_run_again_gives_the_values_of_the_function(name):
    f, args = PROGRAMS[name]
    closed = ft.make_jaxpr(f)(*args)
    outs = ft.eval_jaxpr(closed.jaxpr, closed.consts, *ft.tree.leaves(args))
    expected = ft.tree.leaves(f(*args))
    assert len(outs) == len(expected)
    for out, y in zip(outs, expected, strict=True):
        np.testing.assert_allclose(out, y, rtol=1e-14)


def test_notation_is_jaxs():
    assert str(ft.make_jaxpr(lambda x: np.sin(x) * 2)(X)) == (
        "{ lambda ; a:f64[3]. let\n"
        "    b:f64[3] = sin a\n"
        "    c:f64[3] = mul b 2.0:f64[]\n"
        "  in (c,) }"
    )


def test_variables_may_take_the_names_of_the_arguments():
    closed = ft.make_jaxpr(mlp_loss)(PARAMS, np.ones((5, 4)))
    text = jaxpr_to_text(closed.jaxpr, argument_names=True)
    assert "params['b1']:f64[3]" in text
    assert "dot_general" in text
    assert " x:f64[5,4]" in text
    assert "params" not in jaxpr_to_text(closed.jaxpr)


def test_each_equation_may_show_its_line():
    closed = ft.make_jaxpr(mlp_loss)(PARAMS, np.ones((5, 4)))
    text = jaxpr_to_text(closed.jaxpr, source_info=True)
    line = mlp_loss.__code__.co_firstlineno + 1
    (tanh,) = [row for row in text.splitlines() if "= tanh" in row]
    assert tanh.endswith(f"test_make_jaxpr.py:{line} (mlp_loss)")
    assert "test_make_jaxpr" not in str(closed)


def test_equations_of_a_gradient_point_to_the_line_they_derive_from():
    closed = ft.make_jaxpr(ft.grad(mlp_loss))(PARAMS, np.ones((5, 4)))
    first = mlp_loss.__code__.co_firstlineno
    lines = {e.source.line for e in closed.jaxpr.eqns if e.source}
    assert lines <= {first + 1, first + 2}


def test_a_program_is_data_to_walk():
    closed = ft.make_jaxpr(lambda x: np.sin(x) * 2)(X)
    (sin, mul) = closed.jaxpr.eqns
    assert sin.primitive is ops.sin
    assert mul.invars[0] is sin.outvars[0]
    assert isinstance(mul.invars[1], ft.Literal)
    assert closed.jaxpr.invars[0].aval.shape == (3,)
    assert closed.jaxpr.outvars[0].aval.dtype == np.float64


def test_static_arguments_and_shapes():
    f = lambda x, n: {"y": np.stack([x] * n)}  # noqa: E731
    closed, shape = ft.make_jaxpr(f, static_argnums=1, return_shape=True)(X, 2)
    assert shape == {"y": ft.ShapeDtypeStruct((2, 3), np.float64)}
    assert len(closed.jaxpr.invars) == 1


def test_eval_shape_does_no_arithmetic():
    big = ft.ShapeDtypeStruct((1_000_000, 1_000_000), np.float32)
    out = ft.eval_shape(lambda x: {"gram": x.T @ x, "mean": np.mean(x, axis=0)}, big)
    assert out["gram"] == ft.ShapeDtypeStruct((1_000_000, 1_000_000), np.float32)
    assert out["mean"] == ft.ShapeDtypeStruct((1_000_000,), np.float32)
    assert ft.eval_shape(np.sin, 1.0) == ft.ShapeDtypeStruct((), np.float64)
    with pytest.raises(ValueError, match=r"matmul|dimension|shape"):
        ft.eval_shape(np.matmul, np.ones((2, 3)), np.ones((2, 3)))


def test_eval_jaxpr_refuses_a_wrong_number_of_arguments():
    closed = ft.make_jaxpr(np.sin)(X)
    with pytest.raises(TypeError, match="0 constants and 1 arguments, got 0 and 2"):
        ft.eval_jaxpr(closed.jaxpr, closed.consts, X, X)


def test_eval_jaxpr_takes_python_numbers_of_the_right_kind():
    closed = ft.make_jaxpr(lambda x: x / 2)(1.0)
    (out,) = ft.eval_jaxpr(closed.jaxpr, closed.consts, 3)
    assert out == 1.5
    integer = ft.make_jaxpr(lambda x: x + 1)(1)
    with pytest.raises(TypeError, match="same_kind"):
        ft.eval_jaxpr(integer.jaxpr, integer.consts, 2.5)


def test_an_error_while_running_names_the_equation_and_its_line():
    closed = ft.make_jaxpr(lambda x, i: x[i] * 2)(X, 0)
    with pytest.raises(IndexError) as info:
        ft.eval_jaxpr(closed.jaxpr, closed.consts, X, np.int64(7))
    assert any("test_make_jaxpr.py" in note for note in info.value.__notes__)


# ---------------------------------------------------------------------------- the checker


def program():
    return ft.make_jaxpr(lambda x: np.sum(np.sin(x) * 2))(X).jaxpr


def test_checker_finds_a_variable_used_before_its_definition():
    jaxpr = program()
    with pytest.raises(JaxprError, match="not defined before it"):
        ft.check_jaxpr(jaxpr.replace(eqns=jaxpr.eqns[1:]))
    with pytest.raises(JaxprError, match="not defined before it after reordering"):
        ft.check_jaxpr(jaxpr.replace(eqns=list(reversed(jaxpr.eqns))), "reordering")


def test_checker_finds_a_variable_assigned_twice():
    jaxpr = program()
    with pytest.raises(JaxprError, match="assigned twice"):
        ft.check_jaxpr(jaxpr.replace(eqns=[jaxpr.eqns[0], *jaxpr.eqns]))


def test_checker_finds_an_output_that_is_not_computed():
    with pytest.raises(JaxprError, match="the outputs uses"):
        ft.check_jaxpr(program().replace(eqns=[]))


def test_checker_finds_a_wrong_type():
    jaxpr = program()
    first = jaxpr.eqns[0]
    wrong = ft.Var(first.outvars[0].aval.update(dtype=np.dtype(np.float32)))
    with pytest.raises(JaxprError, match=r"declares .*f32.*computes .*f64"):
        ft.check_jaxpr(jaxpr.replace(eqns=[first.replace(outvars=[wrong])], outvars=[wrong]))


def test_checker_finds_constants_that_do_not_match():
    closed = ft.make_jaxpr(lambda x: x + np.arange(3.0))(X)
    with pytest.raises(JaxprError, match="1 constant variables but 0"):
        ft.check_jaxpr(ft.ClosedJaxpr(closed.jaxpr, []))
    with pytest.raises(JaxprError, match="a constant"):
        ft.check_jaxpr(ft.ClosedJaxpr(closed.jaxpr, [np.zeros(2)]))


def test_checker_looks_inside_programs_of_programs():
    closed = ft.make_jaxpr(ft.jit(lambda x: np.sin(x) * 2))(X)
    (call,) = closed.jaxpr.eqns
    inner = call.params["jaxpr"]
    broken = ft.ClosedJaxpr(inner.jaxpr.replace(eqns=inner.jaxpr.eqns[1:]), inner.consts)
    eqn = call.replace(params={**call.params, "jaxpr": broken})
    with pytest.raises(JaxprError, match="not defined"):
        ft.check_jaxpr(closed.jaxpr.replace(eqns=[eqn]))


# ---------------------------------------------------------------------------- simplification


def test_the_gradient_of_a_shared_exponential_computes_it_once():
    f = lambda x: (np.exp(x) + 1) * np.exp(x)  # noqa: E731
    simplified = ft.jit(ft.grad(f)).lower(1.0).simplified
    ft.check_jaxpr(simplified)
    names = [e.primitive.name for e in simplified.jaxpr.eqns]
    assert len(names) <= 5
    assert names.count("exp") == 1
    (out,) = ft.eval_jaxpr(simplified.jaxpr, simplified.consts, np.float64(1.0))
    np.testing.assert_allclose(out, 2 * np.exp(2.0) + np.exp(1.0))
