"""`x[...]` and `.at[...]` on tracers against NumPy's, also by hypothesis."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import functrans.numpy as fnp
from functrans.core import eval_trace
from functrans.errors import ConcretizationTypeError
from functrans.interpreters.staging import trace_to_jaxpr
from functrans.ir import ShapedArray
from tests.numpy.checked_trace import CheckedTracer, like_numpy, same, traced

X = np.arange(60.0).reshape(3, 4, 5)
i0, i1 = np.array([0, 2, -1]), np.array([[1], [0], [-2]])
MASK = X[:, :, 0] > 20

INDICES = [
    0, -1, 3, -4, np.int64(1), (0, 1, 2), (0, 5), (1, 2, 3, 0), (), ..., None, (None, ...), (...,
        None),
    slice(None), slice(1, None), slice(None, None, -1), slice(None, None, 2), slice(3, 0, -2),
        slice(5, 9), slice(2, 1),
    slice(-2, None), (slice(None), 1), (slice(1, 3), slice(0, 4, 3), slice(None, None, -2)), (...,
        0), (0, ..., 1), (None, 0, None, ..., None),
    (..., ...), [0, 2], [[0, 1], [2, 0]], i0, (i0, i0), (i0, i1), (slice(None), i0), (slice(None),
        i0, i0), (i0, slice(None), i0),
    (0, slice(None), i0), (slice(None), 0, i0), (slice(None), i0, 0), (None, i0), (i0, None, i0),
        (i0, ..., i0), (slice(0, 2), i1), (slice(None, None, -1), i0, slice(1, 3)),
    (slice(None), None, i0, 1), [3], [-4], [], np.array([], int), (i0, np.array([0, 1])),
        np.array(1), (np.array(1), slice(None), np.array(2)),
    MASK, (MASK, 0), (slice(None), X[0, :, 0] > 5), (MASK, slice(1, 3)), X > 30, X[0] > 3, [True,
        False, True], ([True, False, True], i0[:2]), np.zeros((3, 4), bool),
    1.5, "a", [1.5], (0.0,), i0.astype(np.uint8), i0.astype(float), (slice(None), slice(None),
        slice(None), 0), (i0, i0, i0), (i0, i0, i0, i0),
    (i0[:2, None], i0[None, :2], 1), (1, i0, slice(None)), (i0, 1, slice(None)), (slice(1, 2), 0,
        [0, 0]),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_reading_equals_numpy(index):
    like_numpy(lambda x: x[index], X)


def as_traced(index):
    """Like `like_numpy`, with the integer arrays of the index traced too."""

    def f(x, *arrays):
        rest = iter(arrays)
        return x[tuple(next(rest) if isinstance(i, np.ndarray) else i for i in index)]

    return f, [i for i in index if isinstance(i, np.ndarray)]


INTEGER_ARRAYS = [
    i for i in INDICES
    if isinstance(i, tuple) and any(isinstance(a, np.ndarray) for a in i)
    and not any(isinstance(a, np.ndarray) and a.dtype.kind != "i" for a in i)
]  # fmt: skip


@pytest.mark.parametrize("index", INTEGER_ARRAYS, ids=repr)
def test_reading_by_traced_integers_equals_numpy(index):
    f, arrays = as_traced(index)
    like_numpy(f, X, *arrays)


@pytest.mark.parametrize("index", INDICES, ids=repr)
@pytest.mark.parametrize("op", ["set", "add", "multiply", "min", "max", "subtract"])
def test_writing_equals_numpy(index, op):
    functions = {"add": np.add, "multiply": np.multiply, "min": np.minimum, "max": np.maximum,
                 "subtract": np.subtract}  # fmt: skip
    values = 2.5

    def numpy_way(x):
        x = x.copy()
        if op == "set":
            x[index] = values
        elif isinstance(index, (list, np.ndarray)) or (isinstance(index, tuple) and index):
            functions[op].at(x, index, values)
        else:
            x[index] = functions[op](x[index], values)
        return x

    try:
        expected = numpy_way(X)
    except Exception as error:
        with pytest.raises(type(error)):
            traced(lambda x: getattr(x.at[index], op)(values), X)
        return
    same(traced(lambda x: getattr(x.at[index], op)(values), X), expected)
    same(getattr(fnp.at(X, index), op)(values), expected)


@pytest.mark.parametrize("index", [i for i in INDICES if not isinstance(i, (str, float))], ids=repr)
def test_writing_an_array_of_values_equals_numpy(index):
    try:
        shape = X[index].shape
    except IndexError:
        return
    v = 100 + np.arange(np.prod(shape)).reshape(shape)
    expected = X.copy()
    expected[index] = v
    same(traced(lambda x, v: x.at[index].set(v), X, v), expected)
    if len(shape) > 1:
        expected[index] = v[:1]
        same(traced(lambda x, v: x.at[index].set(v), X, v[:1]), expected)


def test_divide_power_apply_and_get():
    same(traced(lambda x: x.at[1:, [0, 0]].divide(2.0), X)[1:, 0], X[1:, 0] / 4)
    same(traced(lambda x: x.at[0].power(2.0), X)[0], X[0] ** 2)
    same(traced(lambda x: x.at[0].apply(np.sin), X)[0], np.sin(X[0]))
    same(
        traced(lambda x: x.at[[0, 9]].get(mode="fill", fill_value=-1.0), X)[1],
        np.full((4, 5), -1.0),
    )
    same(traced(lambda x: x.at[[0, 9]].get(mode="clip"), X), X[[0, 2]])
    same(traced(lambda x: x.at[[0, 9]].set(7.0, mode="drop"), X)[1:], X[1:])
    same(traced(lambda x: x.at[9].set(7.0, mode="drop"), X), X)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: x.at[0].set(1j), TypeError, "complex"),
        (lambda x: x.at[0].set(np.ones(3)), ValueError, "could not broadcast"),
        (lambda x: x.astype(int).at[0].divide(2), TypeError, "astype"),
        (lambda x: x.astype(int).at[0].add(1.5), TypeError, "astype"),
        (lambda x: x.at[0].set(1.0, mode="wrong"), ValueError, "mode"),
        (lambda x: x.__setitem__(0, 1.0), TypeError, r"x = x\.at\[i\]\.set\(v\)"),
        (lambda x: x[x > 3], ConcretizationTypeError, "where"),
        (lambda x: x[x[0, 0, 0].astype(int) :], ConcretizationTypeError, "dynamic_slice"),
        (lambda x: x[x], IndexError, "integer"),
        (lambda x: x[np.array(3)], IndexError, "index 3 is out of bounds for axis 0 with size 3"),
        (lambda x: x.sort(), TypeError, r"np\.sort"),
        (lambda x: x.fill(0), TypeError, "full_like"),
    ],
)
def test_mistakes_say_what_to_write(call, error, text):
    with pytest.raises(error, match=text):
        traced(call, X)


def test_assigning_a_traced_value_into_a_plain_array_says_what_to_write():
    def f(x):
        buffer = np.zeros(3)
        buffer[:] = x
        return buffer

    with pytest.raises(TypeError, match=r"functrans\.numpy\.at\(buf, i\)\.set\(x\)"):
        traced(f, np.ones(3))


def test_assigning_a_traced_number_into_a_plain_array_is_an_error():
    def f(x):
        buffer = np.zeros(3)
        buffer[0] = x

    # NumPy says "setting an array element with a sequence"; what we say is the cause shown above.
    with pytest.raises(ValueError, match="sequence") as caught:
        traced(f, np.float64(1.0))
    assert isinstance(caught.value.__cause__, ConcretizationTypeError)


def test_traced_index_out_of_range_is_an_index_error():
    with pytest.raises(IndexError):
        traced(lambda x, i: x[i], X, np.array([5]))


def count_of(f, *shapes):
    avals = [ShapedArray(s, np.dtype(float)) for s in shapes]
    return [e.primitive.name for e in trace_to_jaxpr(lambda *xs: [f(*xs)], avals).eqns]


def test_basic_indices_are_cheap():
    assert count_of(lambda x: x[1], (3, 4)) == ["slice", "reshape"]
    assert count_of(lambda x: x[:, ::-1], (3, 4)) == ["rev"]
    assert count_of(lambda x: x[:], (3, 4)) == []
    assert count_of(lambda x, v: x.at[1:3].set(v), (3, 4), (2, 4)) == ["dynamic_update_slice"]


def basic_entry(n):
    bound = st.none() | st.integers(-n - 2, n + 2)
    step = st.none() | st.sampled_from([1, 2, 3, -1, -2])
    return st.integers(-n - 1, n) | st.builds(slice, bound, bound, step) | st.just(None)


def array_entry(n):
    places = st.integers(-n - (n == 5), n - 1)
    return st.lists(places, min_size=2, max_size=2).map(np.array) | places.map(np.array)


@given(st.data())
def test_any_index_reads_and_writes_as_numpy(data):
    entries = []
    for n in X.shape[: data.draw(st.integers(0, 3))]:
        entries.append(data.draw(basic_entry(n) | array_entry(n)))
    if data.draw(st.booleans()):
        entries.insert(data.draw(st.integers(0, len(entries))), Ellipsis)
    index = tuple(entries)
    like_numpy(lambda x: x[index], X)
    try:
        shape = X[index].shape
    except IndexError:
        return
    v = 100 + np.arange(float(np.prod(shape))).reshape(shape)
    expected = X.copy()
    expected[index] = v
    same(traced(lambda x: x.at[index].set(v), X), expected)


def test_iteration_and_membership():
    assert [float(r.value.sum()) for r in CheckedTracer(eval_trace, np.ones(0))] == []
    same(traced(lambda x: list(x), X), list(X))
    same(traced(lambda x: [*x[0, 0]], X), list(X[0, 0]))
    with pytest.raises(TypeError, match="0-d"):
        traced(lambda x: list(x), np.float64(1.0))


def test_positions_of_known_values():
    same(traced(lambda x: np.compress([True, False, True], x, axis=0), X), X[[0, 2]])
    same(traced(lambda x: np.extract(MASK, x[:, :, 0]), X), X[:, :, 0][MASK])
    for f in (np.nonzero, np.flatnonzero, np.argwhere, lambda x: np.where(x)):
        with pytest.raises(TypeError, match="depends on the values"):
            traced(f, X)
