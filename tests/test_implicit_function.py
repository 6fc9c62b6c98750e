"""A solver that knows nothing of derivatives has those of the equation that it solves."""

import numpy as np
import pytest
from scipy import optimize

import functrans as ft
import functrans.numpy as fnp
from functrans import lax
from functrans.test_util import check_grads

M = np.array([[2.0, 0.5, 0.0], [0.3, 3.0, 0.1], [0.0, -0.4, 2.5]])
THETA = np.array([0.7, -1.1, 2.0])


def residual(x, theta, scale):
    return x**3 + fnp.dot(M, x) - scale * fnp.sin(theta)


@ft.implicit_function(residual, check=1e-9)
def by_scipy(guess, theta, scale):
    assert type(theta) is np.ndarray
    return optimize.root(residual, guess, (theta, scale), tol=1e-13).x


@ft.implicit_function(residual)
def by_python(x, theta, scale):
    for _ in range(50):
        step = np.linalg.solve(np.diag(3 * x**2) + M, residual(x, theta, scale))
        x -= step
        if np.max(np.abs(step)) < 1e-14:
            return x
    raise RuntimeError("no convergence")


def newton(x, theta, scale):
    def step(x):
        return x - fnp.linalg.solve(3 * x**2 * np.eye(3) + M, residual(x, theta, scale))

    going = lambda x: fnp.max(fnp.abs(residual(x, theta, scale))) > 1e-13  # noqa: E731
    return lax.while_loop(going, step, x)


def gmres(matvec, b):
    """A Krylov method that is exact after three steps: the equation has three unknowns."""
    basis = [b]
    for _ in range(2):
        basis.append(matvec(basis[-1]))
    images = fnp.stack([matvec(v) for v in basis], axis=1)
    return fnp.stack(basis, axis=1) @ fnp.linalg.solve(images, b)


SOLVERS = {
    "scipy": by_scipy,
    "python": by_python,
    "traced": ft.implicit_function(residual, host=False)(newton),
    "linear_solve": ft.implicit_function(residual, linear_solve=gmres, host=False)(newton),
}
each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
START = np.zeros(3)


@each_solver
def test_derivatives_are_those_of_newton_unrolled(solver):
    f = lambda theta, scale: solver(START, theta, scale)  # noqa: E731
    want = ft.jacfwd(lambda t, s: newton(START, t, s), argnums=(0, 1))(THETA, 2.0)
    for jacobian in (ft.jacfwd, ft.jacrev):
        for call in (jacobian(f, argnums=(0, 1)), ft.jit(jacobian(f, argnums=(0, 1)))):
            for a, b in zip(call(THETA, 2.0), want, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


@each_solver
def test_second_derivatives_against_finite_differences(solver):
    f = lambda theta, scale: fnp.sum(solver(START, theta, scale) ** 2)  # noqa: E731
    check_grads(f, (THETA, 2.0), order=2, atol=1e-6, rtol=1e-6)


@each_solver
def test_batches_of_batches(solver):
    thetas = np.stack([THETA, 0.5 * THETA])
    scales = np.array([1.0, 2.0, 3.0])
    f = lambda theta, scale: solver(START, theta, scale)  # noqa: E731
    table = ft.vmap(ft.vmap(f, in_axes=(None, 0)), in_axes=(0, None))
    want = np.stack([np.stack([newton(START, t, s) for s in scales]) for t in thetas])
    np.testing.assert_allclose(table(thetas, scales), want, atol=1e-9)
    np.testing.assert_allclose(ft.jit(table)(thetas, scales), want, atol=1e-9)
    gradients = ft.jit(ft.vmap(ft.grad(lambda t: fnp.sum(f(t, 2.0)))))(thetas)
    rows = np.stack([ft.grad(lambda t: fnp.sum(f(t, 2.0)))(t) for t in thetas])
    np.testing.assert_allclose(gradients, rows, atol=1e-9)


def test_trees_of_unknowns_and_of_arguments():
    def equations(x, p):
        return {"u": x["u"] ** 2 - p[0] * x["v"], "v": x["v"] - p[1]["b"] - fnp.sum(x["u"]) / 9}

    @ft.implicit_function(equations, check=1e-10)
    def solve(x, p):
        for _ in range(200):
            x = {"u": np.sqrt(p[0] * x["v"]), "v": p[1]["b"] + np.sum(x["u"]) / 9}
        return x

    def f(p):
        x = solve({"u": np.ones(2), "v": 1.0}, p)
        return fnp.sum(x["u"] * np.array([1.0, 2.0])) + x["v"]

    check_grads(f, ((np.array([1.0, 2.0]), {"b": 3.0}),), order=2, atol=1e-5, rtol=1e-5)


def test_the_solver_runs_once_for_a_value_and_its_gradient():
    calls = []

    @ft.implicit_function(lambda x, a: x - a)
    def solve(x, a):
        calls.append(type(a))
        return a

    f = ft.value_and_grad(lambda a: solve(0.0, a) ** 2)
    assert f(3.0) == (9.0, 6.0)
    assert calls == [np.float64]
    assert ft.jit(f)(3.0) == (9.0, 6.0)
    assert calls == [np.float64] * 2


@pytest.mark.parametrize("host", [True, False])
def test_a_result_that_is_no_solution_is_refused_on_demand(host):
    solver = lambda x, a: x + 0.5  # noqa: E731
    unchecked = ft.implicit_function(lambda x, a: x - a, host=host)(solver)
    assert unchecked(0.0, 1.0) == 0.5
    checked = ft.implicit_function(lambda x, a: x - a, check=1e-3, host=host)(solver)
    assert checked(0.5, 1.0) == 1.0
    lanes = ft.vmap(checked, in_axes=(None, 0))
    np.testing.assert_array_equal(lanes(0.5, np.ones(3)), np.ones(3))
    for call in (checked, ft.jit(checked), ft.grad(checked, argnums=1)):
        with pytest.raises(ValueError, match=r"residual is up to 0.5 there, check=0.001"):
            call(0.0, 1.0)
    with pytest.raises(ValueError, match=r"residual is up to 0\.5 there"):
        ft.jit(lanes)(0.0, np.array([0.5, 1.0]))
    nothing = ft.implicit_function(lambda x, a: x - a, check=1.0, host=host)(lambda x, a: x / x)
    with pytest.raises(ValueError, match="up to nan"), np.errstate(all="ignore"):
        nothing(0.0, 1.0)


def test_mistakes_say_what_to_do():
    wrong_shape = ft.implicit_function(lambda x, a: x - a)(lambda x, a: np.zeros(2))
    with pytest.raises(TypeError, match=r"result of the solver is f64\[2\], where the guess is"):
        wrong_shape(0.0, 1.0)
    with pytest.raises(TypeError, match=r"custom_root of residual: result of the function is"):
        ft.implicit_function(residual)(lambda x, a, b: x)(1.0, THETA, 1.0)
    wrong_tree = ft.implicit_function(lambda x, a: x - a)(lambda x, a: (x, x))
    with pytest.raises(TypeError, match="structure of the guess"):
        wrong_tree(0.0, 1.0)

    def failing(a):
        return ft.implicit_function(lambda x: x - a)(lambda x: float(a))(0.0)

    with pytest.raises(ft.errors.ConcretizationTypeError) as caught:
        ft.grad(failing)(1.0)
    assert "not by a closure" in "".join(caught.value.__notes__)


def test_compiled_code_says_that_the_solver_is_python():
    lowered = ft.jit(lambda t: by_scipy(START, t, 1.0)).lower(THETA)
    assert "host" in lowered.loop_program
    with pytest.raises(TypeError, match="pure_callback"):
        ft.jit(lambda t: by_scipy(START, t, 1.0), host_steps="error")(THETA)
