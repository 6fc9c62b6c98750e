"""Loops and branches are what Python's would be, under every transformation."""

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans import lax
from functrans.compiler.pipeline import lower_to_program
from functrans.control_flow import while_loops
from functrans.loop_ir import HostStep, NativeStep
from functrans.printing_loops import run_python

RNG = np.random.default_rng(0)
W = RNG.normal(size=(3, 3)) / 2
XS = RNG.normal(size=(6, 3))
C = RNG.normal(size=3)


def same(a, b, tolerance=1e-9):
    a, b = ft.tree.leaves(a), ft.tree.leaves(b)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert np.shape(x) == np.shape(y)
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------------------- programs
# Each is (with lax, plain Python, arguments): plain Python is traced as it runs.


def python_scan(f, carry, xs, length=None, reverse=False):
    leaves, tree = ft.tree.flatten(xs)
    n = len(leaves[0]) if leaves else length
    ys = [None] * n
    for i in reversed(range(n)) if reverse else range(n):
        carry, ys[i] = f(carry, ft.tree.unflatten(tree, [x[i] for x in leaves]))
    return carry, ft.tree.map(lambda *rows: fnp.stack(rows), *ys)


def rnn_step(w):
    def step(c, x):
        h = fnp.tanh(c["h"] @ w + x)
        return {"h": h, "n": c["n"] + 1}, (h * 2, c["n"])

    return step


def rnn(scan, *, reverse):
    def f(w, c, xs):
        carry, (ys, ns) = scan(rnn_step(w), {"h": c, "n": 0}, xs, reverse=reverse)
        return fnp.sum(carry["h"] ** 2) + fnp.sum(ys * (1 + ns[:, None])) + carry["n"]

    return f


def polynomial(loop):
    return lambda x: loop(0, 5, lambda i, v: v * x + i, 1.5)


def python_fori(lower, upper, body, v):
    for i in range(lower, upper):
        v = body(i, v)
    return v


def nested(scan):
    def f(w, c, xs):
        def outer(c, x):
            def inner(d, _):
                d = fnp.sin(d @ w) + x
                return d, fnp.sum(d)

            d, s = scan(inner, c, None, length=3)
            return d * 0.5, s

        c, ys = scan(outer, c, xs)
        return fnp.sum(c) + fnp.sum(ys**2)

    return f


def branches(cond):
    def f(w, c, xs):
        def step(c, x):
            c = cond(
                fnp.sum(c) > 0,
                lambda c, x: fnp.tanh(c * x),
                lambda c, x: c - fnp.exp(x) @ w,
                c, x,
            )  # fmt: skip
            return c, c[0]

        (c, ys) = (lax.scan if cond is lax.cond else python_scan)(step, c, xs)
        return fnp.sum(c * c) + fnp.sum(ys)

    return f


def python_cond(p, f, g, *xs):
    value = p.concrete() if isinstance(p, ft.core.Tracer) else p
    return (f if value else g)(*xs)


CASES = {
    "rnn": (rnn(lax.scan, reverse=False), rnn(python_scan, reverse=False), (W, C, XS)),
    "rnn backwards": (rnn(lax.scan, reverse=True), rnn(python_scan, reverse=True), (W, C, XS)),
    "fori": (polynomial(lax.fori_loop), polynomial(python_fori), (1.3,)),
    "nested": (nested(lax.scan), nested(python_scan), (W, C, XS)),
    "branches": (branches(lax.cond), branches(python_cond), (W, C, XS)),
}
each_case = pytest.mark.parametrize(("f", "g", "args"), CASES.values(), ids=CASES)


@each_case
def test_values(f, g, args):
    same(f(*args), g(*args))
    same(ft.jit(f)(*args), g(*args))
    with ft.disable_jit():
        same(f(*args), g(*args))


@each_case
def test_programs_are_native_and_their_text_runs(f, g, args):
    program = lower_to_program(ft.make_jaxpr(f)(*args))
    assert not any(isinstance(s, HostStep) for s in program.steps)
    assert any(isinstance(s, NativeStep) for s in program.steps)
    same(run_python(program, args)[0], g(*args))


@each_case
def test_derivatives(f, g, args):
    numbers = tuple(range(len(args)))
    want = ft.grad(g, argnums=numbers)(*args)
    same(ft.grad(f, argnums=numbers)(*args), want)
    same(ft.jit(ft.grad(f, argnums=numbers))(*args), want)
    tangents = tuple(np.cos(np.asarray(a)) for a in args)
    same(ft.jvp(f, args, tangents), ft.jvp(g, args, tangents))
    same(ft.jit(lambda *a: ft.jvp(f, a, tangents))(*args), ft.jvp(g, args, tangents))
    value, tangent_map = ft.linearize(f, *args)
    same((value, tangent_map(*tangents)), ft.jvp(g, args, tangents))


@each_case
def test_second_derivatives(f, g, args):
    last = len(args) - 1
    want = ft.jacfwd(ft.grad(g, argnums=last), argnums=last)(*args)
    same(ft.jacfwd(ft.grad(f, argnums=last), argnums=last)(*args), want)
    same(ft.jacrev(ft.grad(f, argnums=last), argnums=last)(*args), want)
    same(ft.jit(ft.jacrev(ft.jacfwd(f, argnums=last), argnums=last))(*args), want)


@each_case
def test_batches(f, g, args):
    rows = [tuple(np.asarray(a) * s for a in args) for s in (1.0, 0.5, -0.3)]
    n = len(args)
    one_each = [tuple(0 if j == i else None for j in range(n)) for i in range(n)]
    for axes in [(0,) * n, *one_each]:
        batch = [np.stack([r[i] for r in rows]) if a == 0 else args[i] for i, a in enumerate(axes)]
        each = [[r[i] if a == 0 else args[i] for i, a in enumerate(axes)] for r in rows]
        same(ft.vmap(f, in_axes=axes)(*batch), np.stack([g(*a) for a in each]))
        gradient = ft.vmap(ft.grad(f), in_axes=axes)
        want = np.stack([ft.grad(g)(*a) for a in each])
        same(gradient(*batch), want)
        same(ft.jit(gradient)(*batch), want)


# ---------------------------------------------------------------------------- while


def doubling(x):
    return lax.while_loop(lambda v: fnp.abs(v) < 1000, lambda v: v * v + v, x)


def python_doubling(x):
    while abs(x) < 1000:
        x = x * x + x
    return x


@pytest.mark.parametrize("x", [1.5, 2.0, -3.0, 30.0, 2000.0])
def test_while_loop_in_both_modes(x):
    same(doubling(x), python_doubling(x))
    same(ft.jvp(doubling, (x,), (1.0,)), ft.jvp(python_doubling, (x,), (1.0,)))
    want = ft.grad(python_doubling)(x)
    for gradient in (ft.grad(doubling), ft.jit(ft.grad(doubling)), ft.grad(ft.jit(doubling))):
        same(gradient(x), want)
    same(ft.grad(ft.grad(doubling))(x), ft.grad(ft.grad(python_doubling))(x))
    same(ft.jit(ft.hessian(doubling))(x), ft.hessian(python_doubling)(x))


def test_while_loop_ends_for_each_lane_by_itself():
    x = np.array([1.5, 2.0, -3.0, 30.0, 2000.0])
    same(ft.vmap(doubling)(x), np.array([python_doubling(v) for v in x]))
    want = np.array([ft.grad(python_doubling)(v) for v in x])
    same(ft.vmap(ft.grad(doubling))(x), want)
    same(ft.jit(ft.vmap(ft.grad(doubling)))(x), want)


@pytest.mark.parametrize("slots", [2, 4, 16])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 16, 17, 70, 300])
def test_gradient_of_more_iterations_than_checkpoints(monkeypatch, n, slots):
    monkeypatch.setattr(while_loops, "LEAST_SLOTS", slots)
    monkeypatch.setattr(while_loops, "MOST_SLOTS", slots)

    def f(w, x):
        def body(state):
            i, x = state
            return i + 1, fnp.sin(w * x) + 0.1 * x * x

        return fnp.sum(lax.while_loop(lambda s: s[0] < n, body, (0, x))[1])

    def g(w, x):
        for _ in range(n):
            x = fnp.sin(w * x) + 0.1 * x * x
        return fnp.sum(x)

    x = np.array([0.3, 0.7])
    want = ft.grad(g, argnums=(0, 1))(0.9, x)
    same(ft.grad(f, argnums=(0, 1))(0.9, x), want)
    same(ft.jit(ft.grad(f, argnums=(0, 1)))(0.9, x), want)


def test_gradient_of_d2l_control_flow():
    def f(a):
        b = lax.while_loop(lambda b: fnp.linalg.norm(b) < 1000, lambda b: b * 2, a * 2)
        return lax.cond(fnp.sum(b) > 0, lambda b: b, lambda b: 100 * b, b)

    gradient = ft.jit(ft.grad(f))
    found = [float(gradient(a)) for a in (1.0, -1.0, 0.3, 500.0, -0.001)]
    assert found == [1024.0, 102400.0, 4096.0, 2.0, 104857600.0]


def test_fori_loop_with_traced_bounds():
    f = lambda x, n: lax.fori_loop(0, n, lambda i, v: v * x + i, 1.0)  # noqa: E731
    g = lambda x, n: python_fori(0, n, lambda i, v: v * x + i, 1.0)  # noqa: E731
    for n in (0, 1, 5):
        same(ft.jit(f)(1.2, n), g(1.2, n))
        same(ft.jit(ft.grad(f))(1.2, n), np.float64(ft.grad(g)(1.2, n)))
        moved = ft.jit(lambda x, n=n: ft.jvp(lambda x: f(x, n), (x,), (1.0,)))(1.2)
        want = ft.jvp(lambda x, n=n: g(x, n), (1.2,), (1.0,)) if n else (1.0, 0.0)
        same(moved, tuple(map(np.float64, want)))
    lanes = ft.vmap(ft.grad(f), in_axes=(None, 0))(1.2, np.arange(5))
    same(lanes, np.array([float(ft.grad(g)(1.2, int(n))) for n in range(5)]))


# ---------------------------------------------------------------------------- details


def test_a_loop_of_no_iterations_gives_what_it_began_with():
    f = lambda c, xs: lax.scan(lambda c, x: (c + x, c * x), c, xs)  # noqa: E731
    for run in (f, ft.jit(f)):
        same(run(C, np.zeros((0, 3))), (C, np.zeros((0, 3))))
    same(ft.grad(lambda c: fnp.sum(f(c, np.zeros((0, 3)))[0]))(C), np.ones(3))
    same(ft.jit(lambda x: lax.while_loop(lambda x: x < 0, lambda x: x + 1, x))(3), np.int64(3))


def test_carries_may_change_places():
    f = lambda a, b: lax.fori_loop(0, 7, lambda i, s: (s[1], s[0] + s[1]), (a, b))  # noqa: E731
    same(ft.jit(f)(np.int64(0), np.int64(1)), (np.int64(13), np.int64(21)))
    x, y = np.arange(40.0), np.arange(40.0)[::-1].copy()
    swapped = ft.jit(lambda x, y: lax.fori_loop(0, 3, lambda i, s: (s[1], s[0]), (x, y)))
    same(swapped(x, y), (y, x))


def test_arrays_are_updated_in_place():
    def fill(x):
        return lax.fori_loop(0, 5000, lambda i, x: fnp.at(x, i).set(x[i] + i), x)

    x = np.ones(5000)
    before = x.copy()
    same(ft.jit(fill)(x), 1 + np.arange(5000.0))
    np.testing.assert_array_equal(x, before)
    program = lower_to_program(ft.make_jaxpr(fill)(x))
    (step,) = [s for s in program.steps if isinstance(s, NativeStep)]
    assert step.programs[0].donations


def test_index_errors_come_out_of_loops():
    f = ft.jit(lambda x, i: lax.fori_loop(0, 3, lambda k, s: s + x[i + k], 0.0))
    assert f(np.arange(5.0), 1) == 6
    with pytest.raises(IndexError, match="index 5 is out of bounds for axis 0 with size 5"):
        f(np.arange(5.0), 3)
    g = ft.jit(lambda p, x, i: lax.cond(p, lambda: x[i], lambda: x[2 * i]))
    assert g(True, np.arange(5.0), 3) == 3
    with pytest.raises(IndexError, match="index 6 is out of bounds"):
        g(False, np.arange(5.0), 3)


def test_a_body_with_a_host_step():
    f = lambda x: lax.scan(lambda c, x: (fnp.fft.fft(c).real + x, c[0]), C, x)  # noqa: E731
    with ft.disable_jit():
        want = f(XS)
    same(f(XS), want)
    same(ft.jit(f)(XS), want)
    with pytest.raises(TypeError, match=r"fft at .* has no native form"):
        ft.jit(f, host_steps="error")(XS)

    def g(x):
        return lax.while_loop(lambda v: fnp.sum(v) < 50, lambda v: fnp.fft.fft(v).real + 9, x)

    with ft.disable_jit():
        want = g(C)
    same(ft.jit(g)(C), want)


def test_closed_over_arrays_are_read_at_each_call():
    w = np.ones(3)
    f = ft.jit(lambda x: lax.fori_loop(0, 2, lambda i, x: x * w, x))
    same(f(C), C)
    w[:] = 2
    same(f(C), 4 * C)


def test_python_numbers_take_the_dtype_of_the_body():
    x = np.arange(3, dtype=np.float32)
    total, rows = lax.scan(lambda c, x: (c + x, c), 0, x)
    assert (total.dtype, rows.dtype) == (np.float32, np.float32)
    assert lax.fori_loop(0, 3, lambda i, v: v + 0.5, 0) == 1.5


def test_map_by_slices_and_by_batches():
    f = lambda x: {"a": fnp.sum(x**2), "b": x[::-1]}  # noqa: E731
    want = ft.vmap(f)(XS)
    for size in (None, 1, 2, 3, 4, 6, 7):
        same(lax.map(f, XS, batch_size=size), want)
        same(ft.jit(lambda x, size=size: lax.map(f, x, batch_size=size))(XS), want)


@pytest.mark.parametrize("i", [-5, 0, 1, 2, 9])
def test_switch_clamps_its_index(i):
    functions = [lambda x: x + 1, lambda x: x * x, fnp.sin]
    f = lambda i, x: lax.switch(i, functions, x)  # noqa: E731
    want = functions[min(max(i, 0), 2)](3.0)
    same(f(i, 3.0), want)
    same(ft.jit(f)(i, 3.0), want)
    indices = np.array([-5, 0, 1, 2, 9])
    same(ft.vmap(f, in_axes=(0, None))(indices, 3.0)[list(indices).index(i)], want)


def test_cond_with_operands_of_each_branch():
    same(lax.cond(True, 2.0, fnp.sin, 3.0, fnp.cos), np.sin(2.0))
    same(lax.cond(np.bool(False), 2.0, fnp.sin, 3.0, fnp.cos), np.cos(3.0))


# ---------------------------------------------------------------------------- mistakes


def message(call):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    return str(caught.value)


def test_a_carry_that_changes_is_named():
    text = message(lambda: lax.scan(lambda c, x: ({"h": c["h"][None]}, x), {"h": C}, XS))
    assert "carry['h']: f64[3] goes in, f64[1,3] comes out" in text
    text = message(
        lambda: lax.while_loop(lambda v: v[0] < 3, lambda v: (v[0] + 1, v[1] > 0), (0, C))
    )
    assert "carry[1]: f64[3] goes in, bool[3] comes out" in text
    text = message(lambda: lax.fori_loop(0, 3, lambda i, v: (v, v), C))
    assert "structure" in text
    x = np.zeros(3, np.float32)
    assert "f32[3] goes in, f64[3] comes out" in message(
        lambda: lax.scan(lambda c, x: (c * C, x), x, XS)
    )


def test_other_mistakes_say_what_to_do():
    assert "must return a pair (carry, y)" in message(lambda: lax.scan(lambda c, x: c, 0.0, XS))
    assert "length=n" in message(lambda: lax.scan(lambda c, x: (c, x), 0.0))
    assert "xs[0] 6, xs[1] 3" in message(lambda: lax.scan(lambda c, x: (c, c), 0.0, (XS, C)))
    assert "np.all" in message(lambda: lax.while_loop(lambda v: v < 3, lambda v: v, C))
    assert "np.any" in message(lambda: lax.cond(C > 0, lambda: 1, lambda: 2))
    text = message(lambda: lax.cond(True, lambda: C, lambda: C[:2]))
    assert "result is f64[2] in one branch and f64[3] in the other" in text
    assert "structures" in message(lambda: lax.switch(0, [lambda: 1, lambda: (1, 2)]))
    assert "integer scalar" in message(lambda: lax.fori_loop(0.0, 3, lambda i, v: v, C))


# ---------------------------------------------------------------------------- lanes


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("lanes", "dtype"), [(4, "f8"), (8, "f4"), (16, "f8"), (24, "f8"), (160, "f4")]
)
def test_scans_of_blocks_of_lanes(lanes, dtype, reverse):
    s = RNG.normal(size=(lanes, 3)).astype(dtype)
    xs, w = RNG.normal(size=(lanes, 7, 4)).astype(dtype), RNG.normal(size=3).astype(dtype)

    def f(scan):
        def run(s, xs, w):
            def step(c, x):
                c = {"s": fnp.sin(c["s"] * w) + x[:3] * c["s"][0], "n": c["n"] + 1}
                return c, (fnp.sum(c["s"]), c["s"] * c["n"])

            return scan(step, {"s": s, "n": 0}, xs, reverse=reverse)

        return run

    def gradient(scan):
        return ft.grad(lambda s, xs, w: fnp.sum(f(scan)(s, xs, w)[1][1] ** 2), argnums=(0, 1, 2))

    tolerance = 1e-9 if dtype == "f8" else 2e-3
    for axes in ((0, 0, None), (0, None, None), (0, 0, 0)):
        args = [
            a if axis == 0 or name == "w" else a[0]
            for name, a, axis in zip("sxw", (s, xs, w), axes, strict=True)
        ]
        if axes[2] == 0:
            args[2] = np.stack([w / (1 + i) for i in range(lanes)]).astype(dtype)
        rows = [
            [a[i] if ax == 0 else a for a, ax in zip(args, axes, strict=True)] for i in range(lanes)
        ]
        for build in (f, gradient):
            want = [build(python_scan)(*row) for row in rows]
            want = ft.tree.map(lambda *r: np.stack(r), *want)
            found = ft.jit(ft.vmap(build(lax.scan), in_axes=axes))(*args)
            same(found, want, tolerance)


@pytest.mark.parametrize(("lanes", "dtype"), [(4, "f8"), (16, "f4"), (48, "f8"), (2048, "f8")])
def test_while_loops_of_blocks_of_lanes(lanes, dtype):
    x = np.linspace(-40, 40, lanes).astype(dtype)
    x[0], x[-1] = np.nan, np.inf

    def f(x, bound, step):
        def body(s):
            i, v, (a, ok) = s
            return i + 1, v * v / 8 + step, (a + i * i, ok ^ (v > 0))

        return lax.while_loop(
            lambda s: (s[0] < 20) & (fnp.abs(s[1]) < bound), body, (0, x, (np.int32(0), True))
        )

    def plain(x, bound, step):
        i, v, a, ok = 0, x, np.int32(0), True
        while i < 20 and abs(v) < bound:
            i, v, a, ok = i + 1, v * v / 8 + step, np.int32(a + i * i), ok ^ (v > 0)
        return np.int64(i), v, (a, np.bool(ok))

    bounds = np.linspace(1, 1000, lanes).astype(dtype)
    step = x.dtype.type(0.5)
    for axes, args in (((0, None, None), (x, bounds[-1], step)), ((0, 0, None), (x, bounds, step))):
        each = [
            plain(*(a[i] if ax == 0 else a for a, ax in zip(args, axes, strict=True)))
            for i in range(lanes)
        ]
        want = ft.tree.map(lambda *r: np.stack(r), *each)
        same(ft.jit(ft.vmap(f, in_axes=axes))(*args), want, 1e-6)
        same(ft.vmap(f, in_axes=axes)(*args), want, 1e-6)


def test_a_branch_in_a_loop_of_numbers():
    def f(cond):
        def run(x):
            def step(c, _):
                c = cond(c > 1, lambda c: fnp.sqrt(c - 1), lambda c: c * 1.7, c)
                return c, c

            return (lax.scan if cond is lax.cond else python_scan)(step, x, None, length=9)[1]

        return lambda x: ft.grad(lambda x: fnp.sum(run(x)))(x), run

    gradient, run = f(lax.cond)
    want_gradient, want = f(python_cond)
    for x in (0.3, 1.0, 5.0):
        same(ft.jit(run)(x), want(x))
        same(ft.jit(gradient)(x), want_gradient(x))
        same(ft.vmap(gradient)(np.full(16, x)), np.full(16, want_gradient(x)))


# ---------------------------------------------------------------------------- segments


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 29])
def test_a_scan_in_segments_is_the_scan(n, levels, reverse):
    xs = np.linspace(-1, 1, 3 * n).reshape(n, 3)

    def f(xs, c, **options):
        step = lambda c, x: (fnp.tanh(c * 1.1 + x), c[:2])  # noqa: E731
        return lax.scan(step, c, xs, reverse=reverse, **options)

    def loss(xs, c, **options):
        return fnp.sum(f(xs, c, **options)[1] ** 2) + fnp.sum(f(xs, c, **options)[0])

    options = {"checkpoint": levels}
    same(f(xs, C, **options), f(xs, C))
    want = ft.grad(loss, argnums=(0, 1))(xs, C)
    same(ft.grad(lambda x, c: loss(x, c, **options), argnums=(0, 1))(xs, C), want)
    same(ft.jit(ft.grad(lambda x, c: loss(x, c, **options), argnums=(0, 1)))(xs, C), want)


def test_segments_keep_less():
    x = np.full(2000, 0.1)

    def arena(**options):
        def f(x):
            return fnp.sum(
                lax.scan(lambda c, _: (fnp.sin(c), None), x, None, length=900, **options)[0]
            )

        return lower_to_program(ft.make_jaxpr(ft.grad(f))(x)).arena_bytes

    assert arena() > 900 * x.nbytes
    assert arena(checkpoint=True) < 140 * x.nbytes
    assert arena(checkpoint=2) < 80 * x.nbytes


def test_a_function_that_loops_again_is_not_traced_again():
    count = []

    def body(i, x):
        count.append(i)
        return x * w + i

    w = np.ones(3)
    for _ in range(3):
        same(lax.fori_loop(0, 3, body, C), C + 3)
    assert len(count) == 1
    w[:] = 2
    same(lax.fori_loop(0, 1, body, C), 2 * C)
    before = len(count)
    ft.grad(lambda v: fnp.sum(lax.fori_loop(0, 3, lambda i, x: body(i, x) * v, C)))(1.0)
    assert len(count) == before + 1
