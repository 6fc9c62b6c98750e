"""`scipy.special`, `lax` and `nn` of functrans against SciPy, NumPy and formulas."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.special

import functrans.numpy as fnp
from functrans import lax, nn
from functrans.scipy import special
from tests.numpy.checked_trace import like_numpy, same, traced

X = np.array([[0.1, 0.5, 0.9], [0.25, 0.3, 0.75]])
WIDE = np.array([-800.0, -3.0, -0.5, 0.0, 0.5, 3.0, 800.0])
UNARY = ["expit", "logit", "log_expit", "erf", "erfc", "erfinv", "gammaln", "digamma", "psi",
         "entr", "ndtr", "exp10", "cbrt"]  # fmt: skip
BINARY = ["xlogy", "xlog1py", "rel_entr"]


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize(
    "x", [X, X.astype(np.float32), WIDE, np.array([1, 2, 3]), np.int8(1)], ids=str
)
def test_special_function_equals_scipy(name, x):
    like_numpy(getattr(scipy.special, name), x, rtol=1e-10)
    same(traced(getattr(special, name), x), getattr(scipy.special, name)(x), rtol=1e-10)
    same(getattr(special, name)(x), getattr(scipy.special, name)(x))


@pytest.mark.parametrize("name", BINARY)
def test_binary_special_function_equals_scipy(name):
    y = np.array([0.0, 0.5, 2.0])
    for x in (X, y, np.zeros(3), -y):
        like_numpy(getattr(scipy.special, name), x, y, rtol=1e-10)
    like_numpy(lambda x: getattr(scipy.special, name)(x, 2.0), X)
    same(traced(getattr(special, name), X, y), getattr(scipy.special, name)(X, y), rtol=1e-10)


@pytest.mark.parametrize("options", [{}, {"axis": 0}, {"axis": 1}, {"axis": (0, 1)}], ids=str)
@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
def test_normalizers_equal_scipy(name, options):
    for x in (X, 1000 * X, np.array([[-np.inf, 0.0], [-np.inf, -np.inf]])):
        if name != "logsumexp" and not np.isfinite(x).all():
            continue
        expected = getattr(scipy.special, name)(x, **options)
        same(traced(getattr(special, name), x, **options), expected, rtol=1e-10)
        same(getattr(special, name)(x, **options), expected)


def test_weighted_logsumexp_equals_scipy():
    b = np.array([1.0, -2.0, 0.0])
    for options in ({"b": b, "axis": 1, "return_sign": True}, {"b": np.abs(b), "keepdims": True}):
        expected = tuple(np.atleast_1d(scipy.special.logsumexp(X, **options)))
        actual = traced(lambda x, o=options: special.logsumexp(x, **o), X)
        np.testing.assert_allclose(np.ravel(actual), np.ravel(expected), rtol=1e-12)


def test_special_ufunc_without_a_rule_is_named():
    with pytest.raises(TypeError, match="zeta is not supported on traced arrays"):
        traced(lambda x: scipy.special.zeta(x, 2.0), X)
    with pytest.raises(TypeError, match="expit"):
        traced(lambda x: scipy.special.expit(x, out=np.zeros((2, 3))), X)


# ---------------------------------------------------------------------------- lax

LAX = [
    (lambda m, x: m.add(x, 1.0), lambda x: x + 1),
    (lambda m, x: m.mul(2.0, x), lambda x: 2 * x),
    (lambda m, x: m.div(x, x), lambda x: x / x),
    (lambda m, x: m.div(m.convert_element_type(10 * x, int), -3),
        lambda x: np.trunc((10 * x).astype(int) / -3).astype(int)),
    (lambda m, x: m.rem(x, -0.2), lambda x: np.fmod(x, -0.2)),
    (lambda m, x: m.rsqrt(x), lambda x: 1 / np.sqrt(x)),
    (lambda m, x: m.integer_pow(x, 3), lambda x: x**3),
    (lambda m, x: m.pow(x, 2), lambda x: x**2),
    (lambda m, x: m.clamp(0.2, x, 0.5), lambda x: np.clip(x, 0.2, 0.5)),
    (lambda m, x: m.select(m.gt(x, 0.4), x, 0.0), lambda x: np.where(x > 0.4, x, 0)),
    (lambda m, x: m.select_n(m.gt(x, 0.4), x, -x), lambda x: np.where(x > 0.4, -x, x)),
    (lambda m, x: m.broadcast_in_dim(x, (4, 2, 3), (1, 2)), lambda x: np.broadcast_to(x, (4, 2,
        3))),
    (lambda m, x: m.broadcast(x, (4,)), lambda x: np.broadcast_to(x, (4, 2, 3))),
    (lambda m, x: m.reshape(x, (3, 2)), lambda x: x.reshape(3, 2)),
    (lambda m, x: m.transpose(x, (1, 0)), lambda x: x.T),
    (lambda m, x: m.expand_dims(x, (0, -1)), lambda x: x[None, :, :, None]),
    (lambda m, x: m.squeeze(m.expand_dims(x, (1,)), (1,)), lambda x: x),
    (lambda m, x: m.slice(x, (0, 1), (2, 3)), lambda x: x[:, 1:]),
    (lambda m, x: m.slice_in_dim(x, 0, -1, axis=1), lambda x: x[:, :-1]),
    (lambda m, x: m.slice_in_dim(x, None, None, 2, axis=-1), lambda x: x[:, ::2]),
    (lambda m, x: m.index_in_dim(x, -1, axis=1, keepdims=False), lambda x: x[:, -1]),
    (lambda m, x: m.dynamic_slice(x, (0, 5), (2, 2)), lambda x: x[:, 1:]),
    (lambda m, x: m.dynamic_slice_in_dim(x, 1, 1), lambda x: x[1:]),
    (lambda m, x: m.dynamic_index_in_dim(x, np.int32(1), 1, keepdims=False), lambda x: x[:, 1]),
    (lambda m, x: m.dynamic_update_slice(x, np.zeros((1, 2)), (0, 1)), lambda x: x * [[1, 0, 0], [1,
        1, 1]]),
    (lambda m, x: m.dynamic_update_index_in_dim(x, np.zeros(3), 0, 0), lambda x: x * [[0], [1]]),
    (lambda m, x: m.dynamic_update_slice_in_dim(x, np.zeros((2, 1)), 2, 1), lambda x: x * [1, 1,
        0]),
    (lambda m, x: m.pad(x, 1.0, ((1, 0, 0), (0, 1, 0))), lambda x: np.pad(x, ((1, 0), (0, 1)),
        constant_values=1)),
    (lambda m, x: m.concatenate([x, x], 1), lambda x: np.concatenate([x, x], 1)),
    (lambda m, x: m.rev(x, (0,)), lambda x: x[::-1]),
    (lambda m, x: m.full_like(x, 2), lambda x: np.full_like(x, 2)),
    (lambda m, x: m.iota(np.int32, 4), lambda x: np.arange(4, dtype=np.int32)),
    (lambda m, x: m.broadcasted_iota(int, (2, 3), 1), lambda x: np.indices((2, 3))[1]),
    (lambda m, x: m.reduce_sum(x, (0,)), lambda x: x.sum(0)),
    (lambda m, x: m.reduce_max(x, (0, 1)), lambda x: x.max()),
    (lambda m, x: m.cumsum(x, 1), lambda x: x.cumsum(1)),
    (lambda m, x: m.cummax(x, 1, reverse=True), lambda x: np.maximum.accumulate(x[:, ::-1], 1)[:,
        ::-1]),
    (lambda m, x: m.argmax(x, 1, np.int32), lambda x: x.argmax(1).astype(np.int32)),
    (lambda m, x: m.sort(x), lambda x: np.sort(x)),
    (lambda m, x: m.dot_general(x, x, (((1,), (1,)), ((), ()))), lambda x: x @ x.T),
    (lambda m, x: m.dot(x, x.T), lambda x: x @ x.T),
    (lambda m, x: m.convert_element_type(x, np.float32), lambda x: x.astype(np.float32)),
    (lambda m, x: m.stop_gradient({"a": x})["a"], lambda x: x),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(LAX)))
def test_lax_equals_numpy_traced_and_eager(i):
    ours, numpys = LAX[i]
    same(traced(lambda x: ours(lax, x), X), numpys(X))
    same(ours(lax, X), numpys(X))


def test_lax_does_not_broadcast():
    with pytest.raises(TypeError, match=r"functrans\.numpy\.add broadcasts"):
        traced(lambda x: lax.add(x, x[0]), X)


# ---------------------------------------------------------------------------- nn

NN = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": scipy.special.expit,
    "softplus": lambda x: np.logaddexp(x, 0),
    "silu": lambda x: x * scipy.special.expit(x),
    "swish": lambda x: x * scipy.special.expit(x),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "leaky_relu": lambda x: np.where(x >= 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "log_sigmoid": scipy.special.log_expit,
    "logsumexp": scipy.special.logsumexp,
    "softmax": lambda x: scipy.special.softmax(x, axis=-1),
    "log_softmax": lambda x: scipy.special.log_softmax(x, axis=-1),
    "standardize": lambda x: (
        (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    ),
}


@pytest.mark.parametrize("name", NN)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_activation_equals_its_formula(name, dtype):
    x = np.array([[-3.0, -0.5, 0.0], [0.5, 3.0, 8.0]]).astype(dtype)
    expected = NN[name](x)
    for actual in (traced(getattr(nn, name), x), getattr(nn, name)(x)):
        assert actual.dtype == dtype
        tolerance = 1e-6 if dtype is np.float32 else 1e-12
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_exact_gelu_is_the_normal_distribution():
    np.testing.assert_allclose(
        traced(lambda x: nn.gelu(x, approximate=False), WIDE), WIDE * scipy.special.ndtr(WIDE)
    )


def test_one_hot_places_ones():
    k = np.array([0, 2, 5])
    for out in (traced(lambda k: nn.one_hot(k, 3), k), nn.one_hot(k, 3)):
        np.testing.assert_array_equal(out, [[1, 0, 0], [0, 0, 1], [0, 0, 0]])
    assert traced(lambda k: nn.one_hot(k, 3, dtype=np.float32, axis=0), k).shape == (3, 3)


def test_every_name_is_tested():
    assert set(nn.__all__) == {*NN, "one_hot"}
    assert set(special.__all__) == {*UNARY, *BINARY, "logsumexp", "softmax", "log_softmax"}
    assert all(callable(getattr(lax, name)) for name in set(lax.__all__) - {"linalg"})
    assert fnp.at is not None
