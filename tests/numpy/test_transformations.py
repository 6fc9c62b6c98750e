"""The calls of the table under grad, jvp, vmap and jit; and derivatives at the edges."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special

import functrans as ft
import functrans.numpy as fnp
from functrans import lax, nn
from tests.numpy.checked_trace import same
from tests.numpy.test_against_numpy import CASES, LINALG
from tests.numpy.test_fft import FFT

NOT_ARRAYS = {"shape", "ndim", "size", "result_type", "iscomplexobj", "isrealobj", "isscalar",
              "can_cast", "allclose", "array_equal", "array_equiv", "matrix_rank"}  # fmt: skip
# Functions of Hermitian matrices have the derivative along Hermitian changes.
HERMITIAN = {"linalg-cholesky", "linalg-eigh", "linalg-eigvalsh"}
NO_DIFFERENCES = {
    "linalg-eigh-1": "the phase of complex vectors is free",
    "linalg-svd-4": "the phase of complex vectors is free",
    "linalg-svd-11": "the phase of complex vectors is free",
    "linalg-pinv-6": "at constant rank only: the values cut off must be 0",
}


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def is_wide(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype in (float, complex) and np.isfinite(x).all()


def table() -> dict[str, tuple[Any, Any, tuple[Any, ...], dict[str, Any], int]]:
    """The calls with a float64 or complex128 array, by name and number."""
    found = {}
    tables = (
        ("", fnp, np, CASES),
        ("linalg-", fnp.linalg, np.linalg, LINALG),
        ("fft-", fnp.fft, np.fft, FFT),
    )
    for prefix, module, numpys, cases in tables:
        for name, calls in cases.items():
            for i, (args, kwargs) in enumerate(calls):
                places = [k for k, a in enumerate(args) if is_wide(a)]
                if (
                    not places
                    or name in NOT_ARRAYS
                    or any(
                        a in (np.float32, np.complex64)
                        for a in (*args[1:], kwargs.get("dtype"))
                        if isinstance(a, type)
                    )
                ):
                    continue
                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("ignore")
                    try:
                        getattr(numpys, name)(*args, **kwargs)
                    except Exception:
                        continue
                both = (getattr(module, name), getattr(numpys, name))
                found[f"{prefix}{name}-{i}"] = (*both, args, kwargs, places[0])
    return found


TABLE = table()


def one_argument(f: Any, args: tuple[Any, ...], kwargs: dict[str, Any], k: int) -> Callable:
    return lambda x: f(*args[:k], x, *args[k + 1 :], **kwargs)


def weighted_sum(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`f` as a real function: the real and imaginary parts of its outputs, with fixed weights."""

    def g(x: Any) -> Any:
        out = f(x)
        total = 0.0
        for i, y in enumerate(out if isinstance(out, (tuple, list)) else [out]):
            if y.dtype.kind not in "fc":
                continue
            weights = np.cos(np.arange(y.size) + 1.0 + i).reshape(y.shape)
            total = total + np.sum(np.real(y) * weights)
            if y.dtype.kind == "c":
                total = total + np.sum(np.imag(y) * weights**2)
        return total

    return g


@pytest.mark.parametrize("key", TABLE)
def test_derivatives_agree_with_differences_and_each_other(key):
    if key in NO_DIFFERENCES:
        pytest.skip(NO_DIFFERENCES[key])
    function, _, args, kwargs, k = TABLE[key]
    f = weighted_sum(one_argument(function, args, kwargs, k))
    rng = np.random.default_rng(0)
    shift, x = rng.normal(size=args[k].shape), args[k]
    t = rng.normal(size=x.shape) * (1 if x.dtype.kind == "f" else 1 + 0.5j)
    shift = 1e-2 * shift * (1 if x.dtype.kind == "f" else 1 + 0.5j)
    if key.rsplit("-", 1)[0] in HERMITIAN:
        t, shift = (y + np.conj(y.mT) for y in (t, shift))
    x = x + shift  # away from ties
    if not np.isfinite(f(x)):
        return
    step = 1e-6
    slope = (f(x + step * t) - f(x - step * t)) / (2 * step)
    _, tangent = ft.jvp(f, (x,), (t,))
    np.testing.assert_allclose(tangent, slope, rtol=1e-5, atol=1e-5)
    by_gradient = np.sum(np.real(ft.grad(f)(x) * t))
    np.testing.assert_allclose(by_gradient, tangent, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("key", TABLE)
def test_vmap_is_a_stacked_loop(key):
    function, numpys, args, kwargs, k = TABLE[key]
    xs = np.stack([args[k], args[k] * 1.5 + 0.01])
    try:
        rows = [one_argument(numpys, args, kwargs, k)(x) for x in xs]
    except Exception:
        return
    out = ft.vmap(one_argument(function, args, kwargs, k))(xs)
    if isinstance(rows[0], (tuple, list)):
        same(out, [np.stack(parts) for parts in zip(*rows, strict=True)], rtol=1e-10)
    else:
        same(out, np.stack(rows), rtol=1e-10)


@pytest.mark.parametrize("key", [k for k in TABLE if k.endswith(("-0", "-1", "-2"))])
def test_jit_equals_eager(key):
    function, numpys, args, kwargs, k = TABLE[key]
    out = ft.jit(one_argument(function, args, kwargs, k))(args[k])
    same(out, numpys(*args, **kwargs), rtol=1e-10)


# ---------------------------------------------------------------------------- indexing

PLACES = np.array([2, 0, -1])
INDEXING = [
    lambda x, i: x[i], lambda x, i: x[i, 0], lambda x, i: x[:, i], lambda x, i: x[i, ::-1],
        lambda x, i: x[:, i][i],
    lambda x, i: x[None, i, ..., None], lambda x, i: x[::-1, 1::2], lambda x, i: x[1], lambda x,
        i: x[PLACES, i],
    lambda x, i: fnp.at(x)[i].set(7.0), lambda x, i: fnp.at(x)[i].add(x[0]), lambda x,
        i: fnp.at(x)[:,
        i].multiply(2.0), lambda x, i: fnp.at(x)[1].set(x[0]),
    lambda x, i: fnp.at(x)[::2, 1:3].set(x[1:, :2]), lambda x, i: fnp.at(x)[1:, ::-1].add(x[:2]),
        lambda x,
        i: fnp.at(x)[PLACES].add(x), lambda x, i: fnp.at(x)[i].min(0.5),
    lambda x, i: fnp.at(x)[i, 1].max(0.5), lambda x, i: fnp.at(x)[i].divide(3.0), lambda x,
        i: fnp.at(x)[0].power(2.0), lambda x, i: fnp.at(x)[i].apply(np.sin),
    lambda x, i: fnp.at(x)[i].get(mode="fill", fill_value=0.0), lambda x, i: np.take(x, i, axis=1,
        mode="wrap"), lambda x, i: np.roll(x, i, axis=1),
    lambda x, i: np.take_along_axis(x, np.argsort(x, axis=1), axis=1),
]  # fmt: skip


@pytest.mark.parametrize("place", [1, -1, np.array([0, 2, 2])], ids=str)
@pytest.mark.parametrize("k", range(len(INDEXING)))
def test_indexing_under_every_transformation(k, place):
    f = INDEXING[k]
    x = np.random.default_rng(1).normal(size=(3, 4))
    if k == 23 and np.ndim(place):
        return
    expected = f(x, place)
    same(ft.jit(f)(x, place), expected, rtol=1e-10)
    xs = np.stack([x, x[::-1]])
    same(ft.vmap(f, in_axes=(0, None))(xs, place), np.stack([f(y, place) for y in xs]), rtol=1e-10)
    places = np.stack([place, place])
    same(ft.vmap(f)(xs, places), np.stack([f(y, place) for y in xs]), rtol=1e-10)
    g, t = weighted_sum(lambda x: f(x, place)), np.random.default_rng(2).normal(size=x.shape)
    slope = (g(x + 1e-6 * t) - g(x - 1e-6 * t)) / 2e-6
    np.testing.assert_allclose(np.sum(ft.grad(g)(x) * t), slope, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.sum(ft.jit(ft.grad(g))(x) * t), slope, rtol=1e-5, atol=1e-6)


def test_a_plain_array_is_read_at_traced_places_by_take_or_at():
    table, i = np.arange(12.0).reshape(4, 3), np.array([3, 0, 1])
    same(ft.vmap(lambda i: fnp.take(table, i, axis=0))(i), table[i])
    same(ft.jit(ft.vmap(lambda i: fnp.at(table, i).get()))(i), table[i])
    same(ft.vmap(lambda i: fnp.at(table)[i, 1].set(0.0), in_axes=0)(i)[0, 3], [9.0, 0.0, 11.0])


# ---------------------------------------------------------------------------- plain NumPy code


def plain(x):
    w = np.where(x > 0.5, x, x**2)
    y = np.concatenate([w, np.sin(w)])[::2] @ np.ones(len(x))
    z = np.linalg.norm(x) + np.mean(np.stack([x, 2 * x], axis=1), axis=0).sum()
    return y + z * scipy.special.expit(x[0]) + np.add.reduce(np.multiply.outer(x, x), axis=None)


def test_plain_numpy_code_under_every_transformation():
    x = np.array([0.3, 0.7, 1.1])
    expected = plain(x)
    gradient = np.array([
        (plain(x + 1e-6 * e) - plain(x - 1e-6 * e)) / 2e-6 for e in np.eye(3)
    ])  # fmt: skip
    np.testing.assert_allclose(ft.jit(plain)(x), expected, rtol=1e-12)
    np.testing.assert_allclose(ft.grad(plain)(x), gradient, rtol=1e-6)
    np.testing.assert_allclose(ft.jit(ft.grad(plain))(x), gradient, rtol=1e-6)
    xs = np.stack([x, 2 * x])
    np.testing.assert_allclose(ft.vmap(plain)(xs), [plain(r) for r in xs], rtol=1e-12)
    np.testing.assert_allclose(ft.jit(ft.vmap(ft.grad(plain)))(xs)[0], gradient, rtol=1e-6)


def test_constants_made_under_jit_are_not_data():
    text = str(ft.make_jaxpr(lambda x: x + fnp.zeros((1000, 1000)) + fnp.arange(1000))(1.0))
    assert "iota" in text
    closed = ft.make_jaxpr(lambda x: x + fnp.ones((1000, 1000)))(1.0)
    assert closed.consts == []


def test_zeros_made_while_differentiating_can_be_written():
    def f(x):
        buffer = np.zeros_like(x)
        buffer[0] = 2.0
        return np.sum(buffer * x)

    np.testing.assert_array_equal(ft.grad(f)(np.ones(5000))[:2], [2, 0])


# ---------------------------------------------------------------------------- edges

EDGES = [
    ("norm at 0", lambda x: np.linalg.norm(x), np.zeros(3), np.zeros(3)),
    ("norm along an axis at 0", lambda x: np.linalg.norm(x, axis=1).sum(), np.zeros((2, 3)),
        np.zeros((2, 3))),
    ("norm of order 3 at 0", lambda x: np.linalg.norm(x, 3), np.zeros(3), np.zeros(3)),
    ("|x| at 0", lambda x: np.abs(x).sum(), np.zeros(2), np.zeros(2)),
    ("max splits ties", np.max, np.array([1.0, 3, 3]), [0, 0.5, 0.5]),
    ("maximum splits ties", lambda x: np.maximum(x, 1.0).sum(), np.array([1.0, 3]), [0.5, 1]),
    ("relu at 0", lambda x: nn.relu(x).sum(), np.array([0.0, 1.0]), [0, 1]),
    ("the arm not chosen", lambda x: np.where(x > 0, np.log(x), 0).sum(), np.array([0.0, 2]), [0,
        0.5]),
    ("sqrt in the arm not chosen", lambda x: np.where(x > 0, np.sqrt(x), x).sum(), np.array([0.0,
        4]), [1, 0.25]),
    ("division in the arm not chosen", lambda x: np.where(x != 0, 1 / x, 0).sum(), np.array([0.0,
        2]), [0, -0.25]),
    ("x ** 0.", lambda x: (x**0.0).sum(), np.array([0.0, 2]), [0, 0]),
    ("x ** 2 at 0 and below", lambda x: (x**2).sum(), np.array([0.0, -2]), [0, -4]),
    ("x ** 3 at 0 and below", lambda x: (x**3).sum(), np.array([0.0, -2]), [0, 12]),
    ("x ** 7 at 0 and below", lambda x: (x**7).sum(), np.array([0.0, -1]), [0, 7]),
    ("x ** 1", lambda x: (x**1).sum(), np.array([0.0, -1]), [1, 1]),
    ("0 ** y", lambda x: np.power(0.0, x).sum(), np.array([1.0, 2]), [0, 0]),
    ("std of equal elements", np.std, np.ones(3), np.zeros(3)),
    ("sinc at 0", lambda x: np.sinc(x).sum(), np.zeros(1), [0]),
    ("curvature of sinc at 0", lambda x: ft.grad(lambda y: np.sinc(y))(x[0]), np.zeros(1),
        [-np.pi**2 / 3]),
    ("logsumexp of -inf", lambda x: fnp.logaddexp.reduce(x), np.array([-np.inf, 0.0]), [0, 1]),
    ("hypot at 0", lambda x: np.hypot(x, x).sum(), np.zeros(1), [0]),
    ("prod through a 0", np.prod, np.array([0.0, 2, 3]), [6, 0, 0]),
    ("xlogy at 0", lambda x: scipy.special.xlogy(x, 2 * x + 0.0).sum(), np.array([0.0, 1.0]), [0,
        np.log(2) + 1]),
    ("entr at 1", lambda x: scipy.special.entr(x).sum(), np.array([1.0]), [-1]),
    ("a masked sum", lambda x: np.sum(1 / x, where=x != 0), np.array([0.0, 2]), [0, -0.25]),
    ("nansum", lambda x: np.nansum(3 * x), np.array([np.nan, 2]), [0, 3]),
    ("stop_gradient", lambda x: np.sum(x * lax.stop_gradient(x)), np.array([2.0, 3]), [2, 3]),
    ("an index given twice", lambda x: x[[0, 0, 1]].sum(), np.ones(2), [2, 1]),
    ("a value written over", lambda x: (x.at[0].set(7.0) ** 2).sum(), np.ones(2), [0, 2]),
    ("the last of two values written", lambda x: (fnp.at(np.zeros(2), [0, 0]).set(x) * 3.0).sum(),
        np.ones(2), [0, 3]),
    ("median", np.median, np.array([3.0, 1, 2, 9]), [0.5, 0, 0.5, 0]),
]  # fmt: skip


@pytest.mark.parametrize("edge", EDGES, ids=lambda e: e[0])
def test_derivative_at_the_edge(edge):
    _, f, x, expected = edge
    np.testing.assert_allclose(ft.grad(f)(x), expected, atol=1e-12)
    np.testing.assert_allclose(ft.jit(ft.grad(f))(x), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "gelu", "silu", "softplus", "elu"])
def test_activations_have_second_derivatives(name):
    f = weighted_sum(getattr(nn, name))
    x, t = np.array([-1.0, 0.3, 2.0]), np.array([1.0, -0.5, 0.25])
    gradient = ft.grad(f)
    _, curvature = ft.jvp(gradient, (x,), (t,))
    expected = (gradient(x + 1e-6 * t) - gradient(x - 1e-6 * t)) / 2e-6
    np.testing.assert_allclose(curvature, expected, rtol=1e-5, atol=1e-7)


def test_index_out_of_range_is_an_error_from_compiled_code():
    f = ft.jit(lambda x, i: x[i])
    assert f(np.arange(3.0), 1) == 1.0
    with pytest.raises(IndexError):
        f(np.arange(3.0), 3)


def test_python_scalars_stay_weak_through_jit():
    x = np.ones(2, np.float32)
    assert ft.jit(lambda a, x: (a * 2 + 1) * x)(1.5, x).dtype == np.float32
    assert ft.grad(lambda a: np.sum(a * x))(1.5).dtype == np.float64


def test_collectives_are_in_lax():
    out = ft.vmap(lambda x: x / lax.psum(x, "i"), axis_name="i")(np.array([1.0, 3.0]))
    np.testing.assert_allclose(out, [0.25, 0.75])


def test_roll_by_a_traced_number_that_is_no_integer_is_refused():
    x = np.array([np.inf, 1.0, 0.0])
    for shift in (lambda x: x[0], lambda x: x):
        with pytest.raises(TypeError, match="must be an integer scalar"):
            ft.jit(ft.grad(lambda x, s=shift: np.sum(fnp.roll(x, s(x)))))(x)
    np.testing.assert_array_equal(ft.jit(fnp.roll)(x, 1), np.roll(x, 1))
