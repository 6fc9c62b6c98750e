"""`custom_linear_solve` and `custom_root` have the derivatives of the exact solution."""

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans import lax
from functrans.compiler.pipeline import lower_to_program
from functrans.loop_ir import HostStep

RNG = np.random.default_rng(0)
A = RNG.normal(size=(3, 3)) + 4 * np.eye(3)
B = RNG.normal(size=3)


def same(a, b, tolerance=1e-9):
    for x, y in zip(ft.tree.leaves(a), ft.tree.leaves(b), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def dense(matvec, b):
    return fnp.linalg.solve(ft.jacfwd(matvec)(fnp.zeros_like(b)), b)


def conjugate_gradients(matvec, b):
    def step(state):
        x, r, p, k = state
        q = matvec(p)
        a = r @ r / (p @ q)
        new = r - a * q
        return x + a * p, new, new + (new @ new) / (r @ r) * p, k + 1

    start = fnp.zeros_like(b), b, b, 0
    return lax.while_loop(lambda s: (s[1] @ s[1] > 1e-24) & (s[3] < 50), step, start)[0]


def exact(a, b):
    return fnp.linalg.solve(fnp.exp(a), b)


def given(a, b):
    return lax.custom_linear_solve(lambda x: fnp.exp(a) @ x, b, dense, dense)


def positive(a):
    return fnp.exp(a) @ fnp.exp(a).T + np.eye(3)


def exact_symmetric(a, b):
    return fnp.linalg.solve(positive(a), b)


def symmetric(a, b):
    return lax.custom_linear_solve(
        lambda x: positive(a) @ x, b, conjugate_gradients, symmetric=True
    )


def trees(a, b):
    def matvec(x):
        return {"u": fnp.exp(a)[:2] @ fnp.concatenate([x["u"], x["v"]]),
                "v": fnp.exp(a)[2:] @ fnp.concatenate([x["u"], x["v"]])}  # fmt: skip

    def solve(f, b):
        flat = lambda x: {"u": x[:2], "v": x[2:]}  # noqa: E731
        joined = lambda t: fnp.concatenate([t["u"], t["v"]])  # noqa: E731
        return flat(dense(lambda x: joined(f(flat(x))), joined(b)))

    x = lax.custom_linear_solve(matvec, {"u": b[:2], "v": b[2:]}, solve, solve)
    return fnp.concatenate([x["u"], x["v"]])


def solved_root(a, b):
    """The root of x**3 + exp(a) x = b, by Newton's method with values that know no derivative."""

    def solve(f, x):
        step = lambda s: (s[0] - dense(lambda t: ft.jvp(f, (s[0],), (t,))[1], f(s[0])), s[1] + 1)  # noqa: E731
        return lax.while_loop(lambda s: fnp.sum(f(s[0]) ** 2) > 1e-26, step, (x, 0))[0]

    return lax.custom_root(cubic(a, b), fnp.zeros(3), solve, dense)


def cubic(a, b):
    return lambda x: x**3 + positive(a) @ x - b


def unrolled_root(a, b):
    x = fnp.zeros(3)
    for _ in range(12):
        f = cubic(a, b)
        x = x - fnp.linalg.solve(ft.jacfwd(f)(x), f(x))
    return x


CASES = {
    "dense": (given, exact),
    "symmetric": (symmetric, exact_symmetric),
    "trees": (trees, exact),
    "root": (solved_root, unrolled_root),
}
SMALL = 0.1 * A
each_case = pytest.mark.parametrize(("f", "g"), CASES.values(), ids=CASES)


@each_case
def test_values_and_first_derivatives(f, g):
    same(f(SMALL, B), g(SMALL, B))
    same(ft.jit(f)(SMALL, B), g(SMALL, B))
    for jacobian in (ft.jacfwd, ft.jacrev):
        want = jacobian(g, argnums=(0, 1))(SMALL, B)
        same(jacobian(f, argnums=(0, 1))(SMALL, B), want)
        same(ft.jit(jacobian(f, argnums=(0, 1)))(SMALL, B), want)
        same(jacobian(ft.jit(f), argnums=(0, 1))(SMALL, B), want)


@each_case
def test_second_derivatives(f, g):
    want = ft.jacfwd(ft.jacfwd(g))(SMALL, B)
    for outer, inner in [(ft.jacfwd, ft.jacrev), (ft.jacrev, ft.jacrev), (ft.jacrev, ft.jacfwd)]:
        same(outer(inner(f))(SMALL, B), want, 1e-7)
    same(ft.jit(ft.hessian(f))(SMALL, B), want, 1e-7)


@each_case
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (1, 1)])
def test_batches(f, g, axes):
    many = [
        np.stack([x, 0.5 * x, 1.2 * x], axis=a or 0) for x, a in zip((SMALL, B), axes, strict=True)
    ]
    args = [m if a is not None else x for m, x, a in zip(many, (SMALL, B), axes, strict=True)]
    same(ft.vmap(f, in_axes=axes)(*args), ft.vmap(g, in_axes=axes)(*args))
    rows = ft.vmap(ft.jacrev(g, argnums=(0, 1)), in_axes=axes)(*args)
    same(ft.jit(ft.vmap(ft.jacrev(f, argnums=(0, 1)), in_axes=axes))(*args), rows)
    lanes = lambda *args: fnp.sum(ft.vmap(f, in_axes=axes)(*args) ** 2)  # noqa: E731
    want = ft.grad(lambda *args: fnp.sum(ft.vmap(g, in_axes=axes)(*args) ** 2))(*args)
    same(ft.grad(lanes)(*args), want)


@each_case
def test_compiled_code_has_no_host_steps_and_programs_are_well_formed(f, g):
    gradient = ft.grad(lambda a, b: fnp.sum(f(a, b)), argnums=(0, 1))
    closed = ft.make_jaxpr(gradient)(SMALL, B)
    assert not any(isinstance(s, HostStep) for s in lower_to_program(closed).steps)
    with ft.checking_ir():
        ft.check_jaxpr(closed)
        ft.jit(gradient, host_steps="error")(SMALL, B)


@each_case
def test_inside_a_scan(f, g):
    def chain(h):
        def run(a, b):
            return fnp.sum(lax.scan(lambda c, x: (h(a, c + x), c[0]), b, fnp.ones((4, 3)))[0])

        return run

    want = ft.grad(chain(g), argnums=(0, 1))(SMALL, B)
    same(ft.jit(ft.grad(chain(f), argnums=(0, 1)))(SMALL, B), want)


def newton(f, x):
    return lax.while_loop(lambda x: fnp.abs(f(x)) > 1e-13, lambda x: x - f(x) / ft.grad(f)(x), x)


def square_root(a):
    return lax.custom_root(lambda x: x * x - a, 1.0, newton, lambda g, y: y / g(1.0))


def chained(root, scan):
    return lambda a: scan(lambda c, x: (root(c + x), c), a, np.arange(1.0, 5.0))[0]


def python_scan(f, carry, xs):
    for x in xs:
        carry, _ = f(carry, x)
    return carry, None


def test_roots_of_numbers_in_loops_and_branches():
    f, g = chained(square_root, lax.scan), chained(fnp.sqrt, python_scan)
    lanes = np.array([1.0, 2.0, 3.0])
    for change in (lambda h: h, ft.grad, lambda h: ft.jit(ft.hessian(h))):
        same(change(f)(2.0), change(g)(2.0))
        same(ft.jit(ft.vmap(change(f)))(lanes), ft.vmap(change(g))(lanes))
    end = lambda a: lax.while_loop(lambda x: x > 1.1, square_root, a)  # noqa: E731
    same(ft.jit(ft.grad(end))(7.0), ft.grad(lambda a: a ** (1 / 32))(7.0))
    same(ft.vmap(ft.grad(end))(np.array([7.0, 1.2])), np.array([ft.grad(end)(7.0), 0.5 / 1.2**0.5]))
    h = lambda p, a: lax.cond(p, square_root, lambda a: a * a, a)  # noqa: E731
    slopes = ft.jit(ft.vmap(ft.grad(h, argnums=1), in_axes=(0, None)))
    same(slopes(np.array([True, False]), 4.0), np.array([0.25, 8.0]))
    third = ft.jit(ft.grad(ft.grad(ft.grad(square_root))))
    same(third(2.0), np.float64(3 / 8 * 2**-2.5))


def by_fori(a):
    return lambda x: lax.fori_loop(0, 2, lambda _, x: ft.jit(lambda a, x: a @ x)(fnp.exp(a), x), x)


def by_while(a):
    step = lambda s: (s[0] + 1, fnp.exp(a) @ s[1])  # noqa: E731
    return lambda x: lax.while_loop(lambda s: s[0] < 2, step, (0, x))[1]


def by_cond(a):
    return lambda x: lax.cond(a[0, 0] < 9, lambda x: fnp.exp(a) @ (fnp.exp(a) @ x), lambda x: x, x)


def by_solve(a):
    inverse = lambda x: given(a, x)  # noqa: E731
    return lambda x: lax.custom_linear_solve(lambda z: inverse(inverse(z)), x, dense, dense)


@pytest.mark.parametrize("matvec", [by_fori, by_while, by_cond, by_solve])
def test_maps_with_programs_inside(matvec):
    f = lambda a, b: lax.custom_linear_solve(matvec(a), b, dense, dense)  # noqa: E731
    g = lambda a, b: exact(a, exact(a, b))  # noqa: E731
    # Reverse mode twice through a `while` is a large program.
    second = ft.jacfwd if matvec is by_while else ft.jacrev
    for jacobian in (ft.jacfwd, ft.jacrev, lambda h: second(ft.jacrev(h))):
        same(ft.jit(jacobian(f))(SMALL, B), jacobian(g)(SMALL, B), 1e-7)
        same(jacobian(f)(SMALL, B), jacobian(g)(SMALL, B), 1e-7)


def test_nothing_leaks():
    total = lambda a: fnp.sum(given(a, B))  # noqa: E731
    with ft.checking_leaks():
        ft.jit(ft.grad(total))(SMALL)
        ft.vmap(ft.grad(square_root))(np.ones(2))


def test_linear_maps_are_kept_and_closed_over_arrays_are_read_at_each_call():
    value, tangents = ft.linearize(given, SMALL, B)
    same((value, tangents(A, B)), ft.jvp(exact, (SMALL, B), (A, B)))
    _, pull = ft.vjp(given, SMALL, B)
    same(ft.vmap(pull)(np.eye(3)), ft.jacrev(exact, argnums=(0, 1))(SMALL, B))
    same(ft.linear_transpose(lambda b: given(SMALL, b), B)(B), (exact(SMALL.T, B),))
    w = np.array([2.0, 4.0])
    f = ft.jit(lambda b: lax.custom_linear_solve(lambda x: w * x, b, lambda m, y: y / w))
    same(f(np.ones(2)), np.array([0.5, 0.25]))
    w[:] = 1
    same(f(np.ones(2)), np.ones(2))


def test_named_axes_reach_the_programs():
    def f(x, scale):
        matvec = lambda t: t * scale + lax.psum(t, "rows") * 0  # noqa: E731
        return lax.custom_linear_solve(matvec, x, lambda m, y: y / scale)

    got = ft.vmap(f, in_axes=(0, None), axis_name="rows")(np.arange(3.0), 2.0)
    same(got, np.arange(3.0) / 2)


def test_what_solve_does_inside_is_never_differentiated():
    def f(a, noise):
        solve = lambda m, y: y / a + 0 * noise  # noqa: E731
        return lax.custom_linear_solve(lambda x: a * x, 1.0, solve, solve)

    same(ft.grad(f, argnums=(0, 1))(2.0, 5.0), (np.float64(-0.25), np.float64(0)))


def test_aux_comes_along_without_a_derivative():
    def f(a):
        solve = lambda m, y: (y / a, {"norm": a * a})  # noqa: E731
        x, aux = lax.custom_linear_solve(lambda x: a * x, 1.0, solve, solve, has_aux=True)
        return x + aux["norm"], aux

    for call in (ft.value_and_grad(f, has_aux=True), ft.jit(ft.value_and_grad(f, has_aux=True))):
        same(call(2.0), ((np.float64(4.5), {"norm": np.float64(4)}), np.float64(-0.25)))

    def g(a):
        solve = lambda f, x: (fnp.sqrt(a), a)  # noqa: E731
        return lax.custom_root(lambda x: x * x - a, 1.0, solve, lambda g, y: y / g(1.0),
                               has_aux=True)[0]  # fmt: skip

    same(ft.jit(ft.grad(g))(4.0), np.float64(0.25))
    same(ft.vmap(ft.grad(ft.grad(g)))(np.array([4.0, 1.0])), np.array([-1 / 32, -1 / 4]))


def test_forward_mode_needs_no_transpose_solve():
    f = lambda b: lax.custom_linear_solve(lambda x: A @ x, b, dense)  # noqa: E731
    same(ft.jacfwd(f)(B), np.linalg.inv(A))
    with pytest.raises(TypeError, match="transpose_solve"):
        ft.jacrev(f)(B)


def test_complex_equations():
    a, b = A * 0.1 + 1j * np.eye(3), B + 1j
    f = lambda a, b: lax.custom_linear_solve(lambda x: a @ x, b, dense_complex, dense_complex)  # noqa: E731
    dense_complex = lambda m, y: fnp.linalg.solve(  # noqa: E731
        ft.jacfwd(m, holomorphic=True)(fnp.zeros_like(y)), y
    )
    real = lambda h: lambda a, b: fnp.sum(fnp.abs(h(a, b)) ** 2)  # noqa: E731
    want = ft.grad(real(fnp.linalg.solve), argnums=(0, 1))(a, b)
    same(ft.grad(real(f), argnums=(0, 1))(a, b), want)


def test_the_guess_has_no_derivative():
    f = lambda x: lax.custom_root(lambda y: y - 2, x, lambda f, x: x - f(x), lambda g, y: y)  # noqa: E731
    same(ft.value_and_grad(f)(1.0), (np.float64(2), np.float64(0)))


def message(call):
    with pytest.raises(TypeError) as caught:
        call()
    return str(caught.value) + str(getattr(caught.value, "__notes__", ""))


def test_mistakes_say_what_to_do():
    identity = lambda m, y: y  # noqa: E731
    solve, root = lax.custom_linear_solve, lax.custom_root
    text = message(lambda: solve(lambda x: A[:2] @ x, B, identity))
    assert "result of matvec is f64[2], where the unknown is f64[3]" in text
    assert "structure" in message(lambda: solve(lambda x: (x, x), B, identity))
    assert "of solve is f32[3]" in message(
        lambda: solve(lambda x: x, B, lambda m, y: y.astype(np.float32))
    )
    assert "must return (x, aux)" in message(lambda: solve(lambda x: x, B, identity, has_aux=True))
    assert "must be linear in its argument" in message(
        lambda: ft.jacrev(lambda b: solve(lambda x: x * x, b, identity, identity))(B)
    )
    assert "initial_guess is i64[]" in message(
        lambda: root(lambda x: x, 1, identity, lambda g, y: y)
    )
    assert "of the function is f64[]" in message(
        lambda: root(lambda x: fnp.sum(x), B, identity, lambda g, y: y)
    )
