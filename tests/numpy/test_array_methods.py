"""Methods and attributes of tracers, beside those of arrays."""

from __future__ import annotations

import operator

import numpy as np
import pytest

import functrans.numpy as fnp
from tests.numpy.checked_trace import like_numpy, same, traced

X = np.arange(1.0, 13).reshape(3, 4)
Z = X + 1j * X[::-1]

METHODS = [
    lambda x: x.sum(), lambda x: x.sum(axis=0), lambda x: x.sum(0), lambda x: x.mean(1,
        keepdims=True), lambda x: x.std(),
    lambda x: x.var(0, ddof=1), lambda x: x.prod(), lambda x: x.max(), lambda x: x.min(axis=1),
        lambda x: x.any(), lambda x: x.all(0),
    lambda x: x.argmax(), lambda x: x.argmin(1), lambda x: x.cumsum(), lambda x: x.cumprod(axis=0),
        lambda x: x.ravel(),
    lambda x: x.flatten(), lambda x: x.flatten("F"), lambda x: x.reshape(4, 3),
        lambda x: x.reshape((2, -1)), lambda x: x.reshape(-1),
    lambda x: x.reshape(4, 3, order="F"), lambda x: x.T, lambda x: x.mT, lambda x: x.transpose(),
        lambda x: x.transpose(1, 0),
    lambda x: x.transpose((1, 0)), lambda x: x[None].squeeze(), lambda x: x.swapaxes(0, 1),
        lambda x: x.repeat(2, axis=0),
    lambda x: x.take([0, 1]), lambda x: x.trace(), lambda x: x.diagonal(), lambda x: x.dot(x.T),
        lambda x: x.clip(2, 5), lambda x: x.round(),
    lambda x: x.astype(int), lambda x: x.astype(np.float32), lambda x: x.real, lambda x: x.imag,
        lambda x: x.conj(), lambda x: x.copy(),
    lambda x: x.argsort(), lambda x: x @ x.T, lambda x: [1.0, 2.0, 3.0] @ x, lambda x: x @ [1.0,
        2.0, 3.0, 4.0], lambda x: abs(-x), lambda x: +x,
    lambda x: round(x / 3, 1) if x.ndim == 0 else x, lambda x: divmod(x, 3), lambda x: divmod(7, x),
        lambda x: x // 2, lambda x: 7 % x,
    lambda x: [*x, 1, 2, 3, 4], lambda x: np.ones(4) - x, lambda x: np.float64(2) * x,
        lambda x: x.astype(int) << 2, lambda x: ~x.astype(int),
    lambda x: x.astype(int) & 3 | 4 ^ x.astype(int), lambda x: x == x, lambda x: x != 3,
        lambda x: x.size, lambda x: x.nbytes, lambda x: x.itemsize,
    lambda x: len(x), lambda x: x.ndim, lambda x: x.astype("i4", casting="safe"),
        lambda x: x.dtype.itemsize,
]  # fmt: skip


@pytest.mark.parametrize("f", METHODS)
def test_method_equals_the_arrays(f):
    like_numpy(f, X)


@pytest.mark.parametrize("f", [m for m in METHODS[:49]])
@pytest.mark.filterwarnings("ignore")
def test_method_of_complex_equals_the_arrays(f):
    like_numpy(f, Z)


def test_comparison_with_something_else_is_pythons():
    assert traced(lambda x: x == None, X) is False  # noqa: E711
    assert traced(lambda x: x != "a", X) is True
    with pytest.raises(TypeError):
        traced(lambda x: x < "a", X)
    with pytest.raises(TypeError):
        traced(lambda x: x + object(), X)


def test_namespace_is_functrans_numpy():
    assert traced(lambda x: x.__array_namespace__() is fnp, X)


def test_item_and_tolist_of_unknown_values_are_errors():
    for f in (lambda x: x.item(), lambda x: x.tolist(), lambda x: x.view(np.int64), operator.index):
        with pytest.raises(TypeError):
            traced(f, X)


def test_lists_of_tracers_become_arrays():
    same(traced(lambda x: fnp.array([x[0, 0], 2.0, x[1, 1]]), X), np.array([1.0, 2, 6]))
    same(
        traced(lambda x: fnp.asarray([[x[0, 0], 1], [0, x[0, 1]]]), X), np.array([[1.0, 1], [0, 2]])
    )
    same(traced(lambda x: fnp.sum([x[0, 0], x[0, 1]]), X), np.float64(3.0))
    with pytest.raises(ValueError, match="inhomogeneous"):
        traced(lambda x: fnp.array([x, x[0]]), X)
    with pytest.raises(TypeError, match=r"np\.stack"):
        traced(lambda x: np.array([x[0, 0], x[1, 1]]), X)
