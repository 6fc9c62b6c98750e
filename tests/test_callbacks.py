"""pure_callback, io_callback, and what the compiler keeps of operations with effects."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans.compiler.jaxprs.simplify import simplify
from functrans.errors import MissingRule
from functrans.ir import ShapedArray
from functrans.printing_loops import run_python

NUMBER = ft.ShapeDtypeStruct((), float)
ROW = ft.ShapeDtypeStruct((3,), float)
X = np.array([1.0, 2.0, 4.0])
EAGER_AND_JIT = pytest.mark.parametrize("transform", [lambda f: f, ft.jit], ids=["eager", "jit"])


class Recorder:
    """A callback that keeps what it was given."""

    def __init__(self, result=None):
        self.seen = []
        self.result = result or (lambda *args: None)

    def __call__(self, *args):
        self.seen.append(args if len(args) > 1 else args[0])
        return self.result(*args)

    @property
    def shapes(self):
        return [tuple(np.shape(x) for x in args) for args in self.seen]


def median_of(x):
    return ft.pure_callback(np.median, NUMBER, x, vmap_method="sequential")


# ---------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: f, ft.jit, lambda f: ft.jit(ft.jit(f)),
        lambda f: lambda x: ft.vmap(f)(x[None])[0],
        lambda f: lambda x: ft.jit(ft.vmap(f, axis_name="i"))(x[None])[0],
        lambda f: lambda x: ft.vmap(ft.jit(f), axis_name="i")(x[None])[0],
        lambda f: lambda x: ft.vmap(ft.vmap(f))(x[None, None])[0, 0],
    ],
)  # fmt: skip
def test_pure_callback_has_the_value_of_its_function_under(transform):
    f = transform(lambda x: median_of(x * 2) + 1)
    for x in (X, X[::-1], X * 3):
        assert f(x) == 2 * np.median(x) + 1


@EAGER_AND_JIT
def test_arguments_and_results_are_trees(transform):
    def split(pair, *, scale):
        return {"sum": pair["a"] + scale, "parts": (pair["b"], np.int32(len(pair["b"])))}

    shapes = {"sum": NUMBER, "parts": (ROW, ft.ShapeDtypeStruct((), np.int32))}
    f = transform(lambda a, b: ft.pure_callback(split, shapes, {"a": a, "b": b}, scale=2))
    out = f(1.0, X)
    assert out["sum"] == 3.0
    np.testing.assert_array_equal(out["parts"][0], X)
    assert out["parts"][1] == 3
    assert out["parts"][1].dtype == np.int32


def test_python_numbers_are_results_of_the_described_dtype():
    single = ft.ShapeDtypeStruct((), np.float32)
    out = ft.jit(lambda: ft.pure_callback(lambda: 2, single))()
    assert (out, out.dtype) == (2, np.float32)


@EAGER_AND_JIT
def test_a_callback_may_keep_and_write_to_its_arguments_and_results(transform):
    kept = []

    def keep(x):
        x += 1
        kept.append(x)
        return x

    f = transform(lambda x: ft.io_callback(keep, ROW, x) * 2)
    given = X.copy()
    first, second = f(given), f(given + 1)
    np.testing.assert_array_equal(given, X)
    np.testing.assert_array_equal(kept, [X + 1, X + 2])
    np.testing.assert_array_equal([first, second], [2 * X + 2, 2 * X + 4])
    kept[0][...] = 0
    np.testing.assert_array_equal(first, 2 * X + 2)


def test_a_result_is_not_the_array_that_the_callback_keeps():
    kept = X.copy()
    out = ft.pure_callback(lambda: kept, ROW)
    kept[...] = 0
    np.testing.assert_array_equal(out, X)


def test_a_callback_calls_jitted_functions_and_itself():
    @ft.jit
    def factorial(n):
        smaller = ft.io_callback(lambda n: factorial(n - 1) if n > 1 else 1.0, NUMBER, n)
        return n * smaller

    assert factorial(5.0) == 120
    assert ft.vmap(factorial)(np.array([1.0, 4.0])).tolist() == [1.0, 24.0]


def test_transformations_around_do_not_reach_into_a_callback():
    def inner(x):
        return ft.grad(lambda y: y * y)(x) + ft.jit(np.sin)(0.0)

    def f(x):
        return x * ft.pure_callback(inner, NUMBER, ft.lax.stop_gradient(x))

    assert ft.grad(f)(3.0) == 6.0
    assert ft.grad(ft.jit(f))(3.0) == 6.0


def test_threads_run_callbacks_of_one_program():
    many = ft.ShapeDtypeStruct((500,), float)
    f = ft.jit(lambda x: ft.pure_callback(lambda x: x + 1, many, x * 2) - 1)
    results = {}

    def work(k):
        results[k] = [f(np.full(500, float(k + i))) for i in range(50)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(results) == [0, 1, 2, 3]
    for k, outs in results.items():
        np.testing.assert_array_equal(outs, [np.full(500, 2.0 * (k + i)) for i in range(50)])


# ---------------------------------------------------------------------------- vmap


@pytest.mark.parametrize(
    ("method", "once", "twice"),
    [
        ("sequential", [((), ())] * 3, [((), ())] * 6),
        ("expand_dims", [((3,), (1,))], [((1, 3), (2, 1))]),
        ("broadcast_all", [((3,), (3,))], [((2, 3), (2, 3))]),
    ],
)
@EAGER_AND_JIT
def test_vmap_method_says_what_the_callback_is_given(method, once, twice, transform):
    add = Recorder(lambda x, y: x + y)

    def f(x, y):
        return ft.pure_callback(add, NUMBER, x, y, vmap_method=method)

    over_x = ft.vmap(f, in_axes=(0, None))
    np.testing.assert_array_equal(transform(over_x)(X, 1.0), X + 1)
    assert add.shapes == once
    add.seen.clear()
    both = ft.vmap(over_x, in_axes=(None, 0))
    np.testing.assert_array_equal(transform(both)(X, X[:2]), X[:2, None] + X)
    assert add.shapes == twice


def test_legacy_vectorized_leaves_shared_arguments_alone():
    add = Recorder(lambda x, y: x + y)

    def f(x, y):
        return ft.pure_callback(add, NUMBER, x, y, vmap_method="legacy_vectorized")

    np.testing.assert_array_equal(ft.vmap(f, in_axes=(0, None))(X, 1.0), X + 1)
    assert add.shapes == [((3,), ())]


def test_vmap_moves_the_batch_axis_in_front():
    def total(x):
        return ft.pure_callback(lambda x: x.sum(-1), NUMBER, x, vmap_method="expand_dims")

    a = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(ft.vmap(total, in_axes=1)(a), a.sum(axis=0))
    np.testing.assert_array_equal(ft.vmap(median_of, in_axes=1)(a), np.median(a, axis=0))


def test_vmap_over_no_examples_calls_nothing():
    def never(x):
        return ft.pure_callback(pytest.fail, NUMBER, x, vmap_method="sequential")

    assert ft.jit(ft.vmap(never))(X[:0]).shape == (0,)


def test_vmap_of_what_all_examples_share_calls_once():
    log = Recorder()
    ft.vmap(lambda x, y: (ft.io_callback(log, None, y), x)[1], in_axes=(0, None))(X, 5.0)
    assert log.seen == [5.0]


def test_vmap_without_a_method_is_refused():
    with pytest.raises(
        MissingRule, match=r"(?s)median at .*callbacks.py.*vmap_method='sequential'"
    ):
        ft.vmap(lambda x: ft.pure_callback(np.median, NUMBER, x))(X[None])
    with pytest.raises(ValueError, match=r"vmap_method is one of .* got 'parallel'"):
        ft.pure_callback(np.median, NUMBER, X, vmap_method="parallel")


def test_vmap_calls_an_io_callback_for_each_example_unless_it_is_ordered():
    log = Recorder(lambda x: 2 * x)
    f = ft.jit(ft.vmap(ft.vmap(lambda x: ft.io_callback(log, NUMBER, x))))
    a = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(f(a), 2 * a)
    assert log.seen == a.ravel().tolist()

    def ordered(x):
        return ft.io_callback(log, NUMBER, x, ordered=True)

    assert ft.jit(ordered)(1.0) == 2.0
    with pytest.raises(MissingRule, match=r"is ordered.*\n.*ordered=False"):
        ft.vmap(ordered)(X)


# ---------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize("callback", [ft.pure_callback, ft.io_callback])
@EAGER_AND_JIT
def test_callbacks_with_float_results_are_not_differentiated(callback, transform):
    def f(x):
        return callback(np.sin, NUMBER, x)

    with pytest.raises(MissingRule, match=r"(?s)callback of sin at .*custom_jvp.*stop_gradient"):
        ft.grad(transform(f))(3.0)
    with pytest.raises(MissingRule, match="has no derivative"):
        ft.jvp(transform(f), (3.0,), (1.0,))
    stopped = transform(lambda x: x * f(ft.lax.stop_gradient(x)))
    assert ft.grad(stopped)(3.0) == np.sin(3.0)


def test_results_that_are_not_floats_have_no_derivative_to_refuse():
    def f(x):
        return x * ft.pure_callback(lambda x: int(x), ft.ShapeDtypeStruct((), int), x)

    assert ft.grad(f)(2.5) == 2.0
    assert ft.grad(ft.jit(f))(2.5) == 2.0


@pytest.mark.parametrize(
    "transform",
    [
        ft.grad, lambda f: ft.jit(ft.grad(f)), lambda f: ft.grad(ft.jit(f)), ft.value_and_grad,
        lambda f: lambda x: ft.vjp(ft.jit(f), x)[1](1.0), ft.hessian, ft.jacfwd,
        lambda f: ft.hessian(ft.jit(f)), lambda f: ft.jit(ft.hessian(f)),
        lambda f: lambda x: ft.jvp(ft.jit(f), (x,), (x,)),
        lambda f: lambda x: ft.linearize(f, x)[1](x),
        lambda f: lambda x: ft.linearize(ft.jit(f), x)[1](x),
    ],
)  # fmt: skip
def test_derivatives_run_an_effect_once_with_the_values(transform):
    log = Recorder()

    def f(x):
        ft.io_callback(log, None, x)
        return np.sum(np.sin(x) * x)

    transform(f)(X)
    (seen,) = log.seen
    np.testing.assert_array_equal(seen, X)


# ---------------------------------------------------------------------------- what a program keeps


def test_a_compiled_program_keeps_every_effect_in_order():
    log = Recorder(lambda x: x)

    @ft.jit
    def inner(x):
        ft.io_callback(log, None, x + 1)

    def f(x):
        ft.io_callback(log, NUMBER, x)
        ft.io_callback(log, NUMBER, x)
        inner(x)
        ft.jit(inner)(x * 2)
        return x * 3

    for call in (f, ft.jit(f), ft.jit(ft.jit(f))):
        for x in (10.0, 20.0, 30.0):  # the third call takes a short way where there is one
            log.seen.clear()
            log.result = lambda y, x=x: y if y == x else None
            assert call(x) == 3 * x
            assert log.seen == [x, x, x + 1, 2 * x + 1]


def test_a_function_may_have_effects_alone():
    log = Recorder()
    f = ft.jit(lambda: ft.io_callback(log, None, 7))
    assert [f(), f(), f()] == [None] * 3
    assert log.seen == [7, 7, 7]


def test_equal_pure_callbacks_are_one_and_unused_ones_none():
    median = Recorder(np.median)

    def call(x):
        return ft.pure_callback(median, NUMBER, x)

    assert ft.jit(lambda x: call(x) + call(x))(X) == 4.0
    assert len(median.seen) == 1
    assert ft.jit(lambda x: (call(x), 5.0)[1])(X) == 5.0
    assert len(median.seen) == 1


def test_simplify_keeps_equations_that_hold_programs_with_effects():
    silent = ft.make_jaxpr(lambda x: x * 2)(1.0)
    noisy = ft.make_jaxpr(lambda x: ft.io_callback(print, None, x))(1.0)
    assert (silent.has_effects, noisy.has_effects) == (False, True)

    class Either(ft.Primitive):
        """Holds programs as control flow does."""

        multiple_results = True

        def abstract_eval(self, *avals, branches):
            return [ShapedArray((), np.dtype(float))]

    either = Either("either")

    def f(x):
        either(x, branches=(silent, noisy))
        either(x, branches=(silent, noisy))
        either(x, branches=(silent,))
        return x

    kept = simplify(ft.make_jaxpr(f)(1.0))
    assert [len(e.params["branches"]) for e in kept.eqns] == [2, 2]
    assert kept.has_effects


def test_a_primitive_of_a_user_says_that_it_has_effects():
    seen = []

    class Note(ft.Primitive):
        has_effects = True

        def abstract_eval(self, x):
            return x

        def impl(self, x):
            seen.append(x)
            return x

    note = Note("note")
    assert ft.jit(lambda x: (note(x), note(x), 2 * x)[2])(3.0) == 6.0
    assert seen == [3.0, 3.0]


@pytest.mark.parametrize("options", [{}, {"donate_argnums": 0}])
def test_effects_see_values_before_their_memory_is_used_again(options):
    log = Recorder()

    def f(x, w):
        for i in range(4):
            x = np.tanh(x @ w)
            ft.io_callback(log, None, x.sum(), x[0])
            x = fnp.at(x, 0).set(i)
            ft.io_callback(log, None, x.sum(), x[0])
        return x

    generator = np.random.default_rng(0)
    x, w = generator.normal(size=(300, 64)), generator.normal(size=(64, 64)) / 8
    expected = ft.disable_jit()(f)(x, w)
    eager = list(log.seen)
    log.seen.clear()
    np.testing.assert_allclose(ft.jit(f, **options)(x.copy(), w), expected, rtol=1e-9, atol=1e-12)
    assert len(log.seen) == 8
    for got, want in zip(log.seen, eager, strict=True):
        np.testing.assert_allclose(got[0], want[0], rtol=1e-9)
        np.testing.assert_allclose(got[1], want[1], rtol=1e-9, atol=1e-12)


def noted_scan(note, x):
    return ft.lax.scan(lambda c, y: (note(c, y), (c * x, c + y))[1], x, X)[0]


def noted_scan_without_results(note, x):
    ft.lax.scan(lambda c, y: (note(y, c), (c, None))[1], 1.0, X)
    return x


def noted_map(note, x):
    return np.sum(ft.lax.map(lambda y: (note(y, y), x * y)[1], X))


def noted_fori_loop(note, x):
    return ft.lax.fori_loop(0, 3, lambda i, c: (note(i, c), c * x)[1], x)


def noted_cond(note, x):
    ft.lax.cond(x < 0, lambda: note(0, 0), lambda: note(1, x))
    return ft.lax.cond(x > 1, lambda: (note(x, 2), x * 2)[1], lambda: (note(x, 3), x)[1])


def noted_while_loop(note, x):
    return ft.lax.while_loop(lambda c: (note(c, 0), c < 9)[1], lambda c: (note(c, 1), c * c)[1], x)


def recorded(f, transform):
    """What the callbacks of `f` are given when its transformation runs at 2.0."""
    log = []

    def note(*args):
        ft.debug.callback(lambda *args: log.append(args), *args)

    transform(lambda x: f(note, x))(2.0)
    return log


FORWARD = [
    lambda f: f, ft.jit, lambda f: lambda x: ft.jvp(ft.jit(f), (x,), (1.0,)),
    lambda f: ft.jit(ft.jacfwd(f)),
]  # fmt: skip
REVERSE = [ft.grad, lambda f: ft.grad(ft.jit(f)), lambda f: ft.jit(ft.grad(f))]
BOUNDED = [noted_scan, noted_scan_without_results, noted_map, noted_fori_loop]


@pytest.mark.parametrize(
    ("f", "transform"),
    [
        *((f, t) for f in (*BOUNDED, noted_cond) for t in (*FORWARD, *REVERSE)),
        *((noted_while_loop, t) for t in FORWARD),
    ],
)
def test_loops_and_branches_run_the_effects_in_them(f, transform):
    assert recorded(f, transform) == recorded(f, ft.disable_jit())


@pytest.mark.parametrize("f", [*BOUNDED, noted_while_loop])
def test_loops_under_vmap_run_the_effects_in_them(f):
    found = recorded(f, lambda f: lambda x: ft.jit(ft.vmap(f))(np.full(1, x)))
    assert found == recorded(f, ft.disable_jit())


def test_host_steps_in_a_loop_can_be_refused():
    f = ft.jit(lambda x: noted_scan(lambda *a: ft.debug.callback(print, *a), x), host_steps="error")
    with pytest.raises(TypeError, match=r"callback of print\) at .*callbacks.py"):
        f(2.0)


def lookup_first(note, x, i):
    z = x[i + 1] * 2
    note("behind", i)
    return np.sum(z * fnp.cumsum(np.sin(i * 1.0)))


def lookup_last(note, x, i):
    total = np.sum(x * 2)
    note("before", i)
    z = x[i + 1] * total
    note("behind", z)
    return z


def lookup_of_numbers(note, x, i):
    first, second = i[0] + 1, i[1] * 3
    note("before", first)
    note("before", second)
    return x[first] + second


def update_last(note, x, i):
    note("before", i)
    y = fnp.at(x, i).add(1.0)
    note("behind", y)
    return y


@pytest.mark.parametrize("f", [lookup_first, lookup_last, lookup_of_numbers, update_last])
@pytest.mark.parametrize("index", [3, 400])
def test_errors_and_effects_keep_their_order(f, index):
    def run(transform):
        log = []
        call = transform(lambda x, i: f(lambda s, y: ft.debug.callback(log.append, (s, y)), x, i))
        try:
            call(np.ones(30), np.full(20, index))
        except IndexError:
            log.append("error")
        return log

    expected = run(lambda f: f)
    assert ("error" in expected) == (index == 400)
    np.testing.assert_equal(run(ft.jit), expected)


def test_a_loop_program_shows_callbacks():
    log = Recorder()
    lowered = ft.jit(lambda x: (ft.io_callback(log, None, x), x * 2)[1]).lower(X)
    assert "io_callback[call=io_callback of Recorder" in str(lowered.jaxpr)
    assert "# host io_callback" in lowered.loop_program
    with ft.checking_ir():
        np.testing.assert_array_equal(lowered.compile()(X), 2 * X)
    (out,) = run_python(lowered.program, [X])
    np.testing.assert_array_equal(out, 2 * X)
    np.testing.assert_array_equal(log.seen, [X, X])


# ---------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: (x, x), "structure PyTreeDef.*result_shape_dtypes has"),
        (lambda x: None, "structure PyTreeDef"),
        (lambda x: np.ones(3), r"f64\[3\], but result_shape_dtypes has f64\[\]"),
        (lambda x: np.float32(1), r"np.float32\(1.0\), but .* has f64\[\].\n.*np.asarray"),
        (lambda x: 1j, r"1j, but .* has f64\[\]"),
        (lambda x: "text", r"'text' of type str, but .* has f64\[\]"),
    ],
)
@pytest.mark.parametrize("callback", [ft.pure_callback, ft.io_callback])
@EAGER_AND_JIT
def test_a_result_of_another_type_is_refused(function, message, callback, transform):
    name = callback.__name__
    with pytest.raises(TypeError, match=rf"(?s){name} of <lambda> returned .*{message}") as caught:
        transform(lambda x: callback(function, NUMBER, x))(1.0)
    assert "test_callbacks.py" in caught.value.__notes__[0]


@pytest.mark.parametrize("transform", [lambda f: f, ft.jit, ft.grad], ids=["eager", "jit", "grad"])
def test_an_exception_in_a_callback_reaches_the_caller_as_it_is(transform):
    error = KeyError("mine")

    def fail(x):
        raise error

    with pytest.raises(KeyError) as caught:
        transform(lambda x: (ft.io_callback(fail, None, x), x)[1])(1.0)
    assert caught.value is error
    assert "io_callback of fail at" in error.__notes__[0]
    assert "test_callbacks.py" in error.__notes__[0]


def test_an_exception_names_the_example_of_a_vmap():
    def fail(x):
        if x == 4:
            raise ValueError("four")

    with pytest.raises(ValueError, match="four") as caught:
        ft.jit(ft.vmap(lambda x: (ft.io_callback(fail, None, x), x)[1]))(X)
    assert "for example 2 of 3 under vmap" in caught.value.__notes__


def test_a_program_runs_after_an_exception_in_its_callback():
    f = ft.jit(lambda x: ft.io_callback(lambda x: 1 // int(x), NUMBER, x) + x)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            f(0.0)
        assert f(1.0) == 2.0


def test_host_steps_of_callbacks_can_be_refused():
    f = ft.jit(lambda x: ft.pure_callback(np.median, NUMBER, x), host_steps="error")
    with pytest.raises(TypeError, match=r"callback of median\) at .*callbacks.py.*host_steps"):
        f(X)


def test_what_is_not_a_callback_is_refused():
    with pytest.raises(TypeError, match="pure_callback takes a function, got 3"):
        ft.pure_callback(3, NUMBER)
    with pytest.raises(TypeError, match="argument x = 'a' of type str"):
        ft.io_callback(lambda x: None, None, "a")
    with pytest.raises(TypeError, match="result_shape_dtypes has <class 'float'>"):
        ft.pure_callback(np.median, float, X)
