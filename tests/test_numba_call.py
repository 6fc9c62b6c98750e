"""Numba kernels and C functions inside traced programs."""

import ctypes
import gc
import sys
import threading
import weakref

import numba
import numpy as np
import pytest

import functrans as ft
from functrans.errors import MissingRule
from functrans.printing_loops import run_python
from functrans.test_util import check_grads

Struct = ft.ShapeDtypeStruct


@numba.njit
def scale_kernel(x, a, out):
    if a < 0:
        raise ValueError("the factor is negative", a)
    for i in range(x.shape[0]):
        out[i] = x[i] * a


@numba.njit
def ends_kernel(x, least, where, power=1):
    """Two outputs: a number, and a position of another dtype."""
    least[()] = np.inf
    for i in range(x.size):
        value = x.flat[i] ** power
        if value < least[()]:
            least[()] = value
            where[()] = i


def same(x, a):
    return x


scale = ft.numba_kernel(scale_kernel, out=same)  # no rules
scale_fwd = ft.numba_kernel(scale_kernel, out=same)
scale_rev = ft.numba_kernel(scale_kernel, out=same)


@scale_fwd.defjvp
def _(primals, tangents):
    (x, a), (dx, da) = primals, tangents
    return scale_fwd(x, a), dx * a + x * da


scale_rev.defvjp(
    lambda x, a: (scale_rev(x, a), {"x": x, "a": a}),
    lambda kept, ct: (ct * kept["a"], np.sum(ct * kept["x"])),
)

x = np.array([0.5, -1.0, 2.0])
X = np.arange(6.0).reshape(2, 3) / 4
A = np.array([2.0, 3.0])


def jit(f):
    return ft.jit(f, host_steps="error")


def assert_same(actual, expected):
    ft.tree.map(
        lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-13, atol=1e-15), actual, expected
    )


# ---------------------------------------------------------------------------- values


def test_a_kernel_runs_between_other_operations_without_a_host_step():
    def f(x, a):
        return ft.numba_call(scale_kernel, Struct(x.shape, x.dtype), np.sin(x), a) + 1

    np.testing.assert_array_equal(f(x, 2.0), np.sin(x) * 2 + 1)
    assert_same(jit(f)(x, 2.0), f(x, 2.0))
    lowered = jit(f).lower(x, 2.0)
    assert "# numba_call scale_kernel" in lowered.loop_program
    assert_same(run_python(lowered.program, [x, np.array(2.0)])[0], f(x, 2.0))


def test_other_sizes_share_the_routine():
    jit(scale)(x, 2.0)
    count = len(scale_kernel._functrans_routines)
    assert_same(jit(scale)(np.arange(50.0), 3.0), np.arange(50.0) * 3)
    assert jit(scale)(np.zeros(0), 3.0).shape == (0,)
    assert len(scale_kernel._functrans_routines) == count


def test_outputs_form_a_tree_of_any_dtypes_and_numbers_are_scalars():
    outs = {"least": Struct((), float), "where": Struct((), np.int64)}

    def f(x):
        return ft.numba_call(ends_kernel, outs, x, power=2)

    for result in (f(X), jit(f)(X)):
        assert result == {"least": 0.0, "where": 0}
        assert type(result["where"]) is np.int64
    assert jit(f)(np.array([[2.0, -1.0]]))["where"] == 1


@pytest.mark.parametrize("wrap", [lambda f: f, jit])
def test_inputs_in_other_layouts_are_copied_and_results_alias_nothing(wrap):
    f = wrap(lambda x, a: (scale(x[::2], a), scale(x, 1.0), x))
    given = np.arange(12.0).reshape(6, 2)[:, 1].astype(">f8")
    before = given.copy()
    strided, whole, _ = f(given, np.array(2.0))
    np.testing.assert_array_equal(strided, given[::2] * 2)
    whole[:] = -1
    np.testing.assert_array_equal(given, before)


def test_plain_functions_are_compiled_and_static_values_are_constants():
    @ft.numba_kernel(out=lambda x, *, times: Struct((times,), x.dtype))
    def repeat(x, out, times):
        for i in range(times):
            out[i] = x

    for f in (lambda x: repeat(x, times=2), jit(lambda x: repeat(x, times=2))):
        np.testing.assert_array_equal(f(3.0), [3.0, 3.0])


# ---------------------------------------------------------------------------- vmap


def test_vmap_calls_the_kernel_for_each_lane_and_shares_unbatched_operands():
    f = ft.vmap(scale, (0, None))
    assert_same(f(X, 2.0), X * 2)
    assert_same(jit(f)(X, 2.0), X * 2)
    assert_same(jit(ft.vmap(scale, (1, 0), 1))(X.T.copy(), A), (X * A[:, None]).T)
    nested = ft.vmap(ft.vmap(scale, (0, None)), (None, 0))
    expected = X[None] * A[:, None, None]
    assert_same(nested(X, A), expected)
    assert_same(jit(nested)(X, A), expected)


def test_a_vmap_rule_replaces_the_loop():
    whole = ft.numba_kernel(scale_kernel, out=same)
    seen = []

    @whole.defvmap
    def _(size, batched, x, a):
        seen.append((size, batched))
        return x * a, True

    assert_same(ft.vmap(whole, (0, None))(X, 2.0), X * 2)
    assert_same(jit(ft.vmap(whole, (0, None)))(X, 2.0), X * 2)
    assert seen == [(2, [True, False])] * 2


# ---------------------------------------------------------------------------- derivatives


def loss(kernel):
    return lambda x, a: np.sum(np.cos(kernel(x * x, a)))


LOSS = loss(lambda x, a: x * a)
GRAD = ft.grad(LOSS, (0, 1))


@pytest.mark.parametrize("kernel", [scale_fwd, scale_rev])
def test_rules_give_gradients_under_jit_and_vmap_in_any_order(kernel):
    f = loss(kernel)
    check_grads(f, (x, 2.0), order=2, modes=("rev",))
    for gradient in (ft.grad(f, (0, 1)), jit(ft.grad(f, (0, 1))), ft.grad(jit(f), (0, 1))):
        assert_same(gradient(x, 2.0), GRAD(x, 2.0))
    lanes = ft.vmap(ft.grad(f, (0, 1)), (0, None))
    assert_same(jit(lanes)(X, 2.0), ft.vmap(GRAD, (0, None))(X, 2.0))

    def summed(f):
        return ft.grad(lambda X, A: np.sum(ft.vmap(ft.vmap(f, (0, None)), (None, 0))(X, A)), (0, 1))

    assert_same(summed(f)(X, A), summed(LOSS)(X, A))
    assert_same(jit(summed(f))(X, A), summed(LOSS)(X, A))


def test_defjvp_serves_forward_mode_and_hessians():
    f = loss(scale_fwd)
    check_grads(f, (x, 2.0), order=2)
    assert_same(jit(ft.hessian(f))(x, 2.0), ft.hessian(LOSS)(x, 2.0))


def test_reverse_over_reverse_of_a_kernel_with_defvjp():
    assert_same(jit(ft.jacrev(ft.grad(loss(scale_rev))))(x, 2.0), ft.jacrev(ft.grad(LOSS))(x, 2.0))


def test_integer_outputs_carry_no_tangent():
    ends = ft.numba_kernel(ends_kernel, out=lambda x: (Struct((), float), Struct((), np.int64)))
    ends.defvjp(
        lambda x: (ends(x), (ends(x)[1], np.zeros_like(x))),
        lambda kept, ct: (ft.numpy.at(kept[1], kept[0]).set(ct[0]),),
    )
    gradient = ft.grad(lambda x: 3 * ends(x)[0])
    np.testing.assert_array_equal(gradient(x), [0, 3, 0])
    np.testing.assert_array_equal(jit(gradient)(x), [0, 3, 0])
    np.testing.assert_array_equal(jit(ft.vmap(gradient))(X), [[3, 0, 0], [3, 0, 0]])


def test_missing_derivatives_name_the_remedy():
    with pytest.raises(MissingRule, match=r"(?s)has no derivative.*numba_kernel.*defjvp or defvjp"):
        ft.grad(loss(scale))(x, 2.0)
    for f in (loss(scale_rev), ft.jit(loss(scale_rev))):
        with pytest.raises(MissingRule, match="for reverse mode alone"):
            ft.jvp(f, (x, 2.0), (x, 0.0))
    bad = ft.numba_kernel(scale_kernel, out=same)
    bad.defjvp(lambda p, t: (bad(*p), bad(t[0], p[1])))
    with pytest.raises(MissingRule, match="applied to a tangent"):
        ft.grad(loss(bad))(x, 2.0)
    with pytest.raises(ValueError, match="has a derivative already"):
        scale_rev.defjvp(None)


def test_rules_that_return_something_else_are_refused_with_both():
    k = ft.numba_kernel(scale_kernel, out=same)
    k.defvjp(lambda x, a: (k(x, a), a), lambda a, ct: (ct,))
    with pytest.raises(TypeError, match=r"each of the 2 inputs .* got a tuple of length 1"):
        ft.grad(loss(k))(x, 2.0)
    k = ft.numba_kernel(scale_kernel, out=same)
    k.defjvp(lambda p, t: (k(*p), t[1]))
    with pytest.raises(TypeError, match=r"returned np\.float64\(1\.0\), where f64\[3\] is"):
        ft.jvp(k, (x, 2.0), (x, 1.0))


# ---------------------------------------------------------------------------- errors


@pytest.mark.parametrize("wrap", [lambda f: f, jit])
@pytest.mark.parametrize("lanes", [False, True])
def test_what_the_kernel_raises_arrives_as_it_is(wrap, lanes):
    f = wrap(ft.vmap(scale, (None, 0)) if lanes else scale)
    a = np.array([1.0, -3.0]) if lanes else -3.0
    for _ in range(3):
        with pytest.raises(ValueError, match="the factor is negative") as caught:
            f(x, a)
        assert caught.value.args == ("the factor is negative", -3.0)
    np.testing.assert_array_equal(f(x, np.abs(a)), np.multiply.outer(np.abs(a), x))


def test_a_kept_exception_is_freed_with_its_last_reference():
    f = jit(scale)
    with pytest.raises(ValueError, match="negative") as caught:
        f(x, -1.0)
    error = caught.value
    del caught
    error.__traceback__ = None
    assert sys.getrefcount(error) == 2
    assert "test_numba_call.py" in error.__notes__[0]


def test_wrong_calls_say_what_the_kernel_takes():
    out = Struct((3,), float)
    with pytest.raises(TypeError, match=r"takes \(x, a, out\), and gets 1 input\(s\) and 1 output"):
        ft.numba_call(scale_kernel, out, x)
    with pytest.raises(TypeError, match=r"(?s)numba\.njit, got .*sin.*native_call"):
        ft.numba_call(np.sin, out, x)
    with pytest.raises(TypeError, match="argument 0 is a list of length 3"):
        ft.numba_call(scale_kernel, out, [1.0, 2.0, 3.0], 2.0)
    with pytest.raises(TypeError, match=r"ShapeDtypeStruct\(shape, dtype\), got 3"):
        ft.numba_call(scale_kernel, 3, x, 2.0)
    with pytest.raises(TypeError, match=r"\['power'\] are constants .* must be hashable"):
        ft.numba_call(ends_kernel, (out, out), x, power=[1])


def test_types_that_the_kernel_was_not_made_for_are_refused():
    @numba.njit("void(f8[:], f8[:])")
    def declared(x, out):
        out[0] = 2 * x[0]

    f = ft.numba_kernel(declared, out=lambda x: x)
    given = np.ones(1)
    given.flags.writeable = False
    assert f(given) == jit(f)(given) == 2.0
    with pytest.raises(numba.TypingError, match=r"Known signatures") as caught:
        jit(f)(np.ones(1, np.float32))
    assert "while compiling declared for (float32[:], float32[:])" in caught.value.__notes__
    with pytest.raises(TypeError, match="float16 on a CPU: convert"):
        jit(scale)(x.astype(np.float16), np.float16(1))


def test_inputs_cannot_be_written_to():
    @numba.njit
    def careless(x, out):
        x[0] = 1.0

    f = ft.numba_kernel(careless, out=lambda x: x)
    for g in (f, jit(f)):
        with pytest.raises(numba.TypingError, match=r"[Rr]eadonly|immutable"):
            g(x)


# ---------------------------------------------------------------------------- lifetime, threads


def test_compiled_programs_keep_their_kernel_and_release_it():
    def make():
        @numba.njit
        def add_one(x, out):
            for i in range(x.size):
                out[i] = x[i] + 1

        f = jit(lambda x: ft.numba_call(add_one, Struct(x.shape, x.dtype), x))
        return f, weakref.ref(add_one)

    f, kernel = make()
    f(x)
    gc.collect()
    np.testing.assert_array_equal(f(x), x + 1)
    assert kernel() is not None
    del f
    gc.collect()
    assert kernel() is None


def test_threads_call_one_program_at_once():
    f = jit(ft.vmap(scale, (0, None)))
    big = np.arange(40_000.0).reshape(200, 200)
    f(big, 1.0)
    wrong = []

    def work(a):
        for _ in range(20):
            if not np.array_equal(f(big, a), big * a):
                wrong.append(a)
            try:
                f(big, -a)
            except ValueError as error:
                wrong.extend([] if error.args[1] == -a else [error])

    workers = [threading.Thread(target=work, args=(float(a),)) for a in (1, 2, 3)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


# ---------------------------------------------------------------------------- C functions


def _double(buffers, numbers, status):
    x, out = (ctypes.cast(buffers[i], ctypes.POINTER(ctypes.c_double)) for i in range(2))
    for i in range(numbers[0]):
        out[i] = 2 * x[i]
    return 0 if x[0] >= 0 else -5


_pointer = ctypes.POINTER
double = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    _pointer(ctypes.c_void_p),
    _pointer(ctypes.c_int64),
    _pointer(ctypes.c_int64),
)(_double)


def test_c_functions_are_called_by_pointer_and_their_codes_raise():
    def f(x):
        return ft.native_call(double, Struct((2,), float), x * 2, numbers=(2,), name="double")

    for g in (f, jit(f)):
        np.testing.assert_array_equal(g(x), [2, -4])
        with pytest.raises(RuntimeError, match="C function double returned the error code -5"):
            g(-x)
    with pytest.raises(MissingRule, match="no rule for vmap"):
        ft.vmap(f)(X)
    with pytest.raises(MissingRule, match="no derivative"):
        ft.jacrev(f)(x)
    with pytest.raises(TypeError, match="numba_call"):
        ft.native_call(scale_kernel, Struct((2,), float), x)


def test_numba_cfuncs_have_an_address():
    words = numba.types.CPointer(numba.types.int64)

    @numba.cfunc(numba.types.int32(words, words, words))
    def nothing(buffers, numbers, status):
        return 0

    f = jit(lambda x: ft.native_call(nothing, Struct((1,), float), x))
    assert f(x).shape == (1,)
