"""A trace that computes, and holds every primitive to what it says of shapes and dtypes.

Its tracers wrap plain values. Each operation runs `impl` on them and compares the result with
`abstract_eval`, so one call of a `functrans.numpy` function checks both the function and the
operations that it is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from functrans.core import Trace, Tracer, current, eval_trace, get_aval


class CheckedTracer(Tracer):
    __slots__ = ("value",)

    def __init__(self, trace: Trace, value: Any, weak_type: bool = False):
        self._trace = trace
        self.value = value
        self.aval = get_aval(value)
        self.weak_type = weak_type


class CheckedTrace(Trace):
    parent = eval_trace

    def process(self, primitive: Any, args: Any, params: Any) -> Any:
        values = [x.value if isinstance(x, CheckedTracer) else x for x in args]
        assert not any(isinstance(v, Tracer) for v in values), primitive
        hash(tuple(params.items()))
        said = primitive.abstract_eval(*[get_aval(v) for v in values], **params)
        with np.errstate(all="ignore"):
            out = primitive.impl(*values, **params)
        outs, avals = (out, said) if primitive.multiple_results else ([out], [said])
        for y, aval in zip(outs, avals, strict=True):
            assert not isinstance(y, np.ndarray) or y.ndim, f"{primitive}: a 0-d array, no scalar"
            assert get_aval(y) == aval, f"{primitive}: says {aval}, gives {get_aval(y)} ({params})"
        tracers = [CheckedTracer(self, y) for y in outs]
        return tracers if primitive.multiple_results else tracers[0]


def wrap(trace: CheckedTrace, x: Any) -> Any:
    """Arrays and NumPy scalars as tracers, Python floats and ints in lists left as they are."""
    if isinstance(x, (np.ndarray, np.generic)):
        return CheckedTracer(trace, x)
    if isinstance(x, list):
        return [wrap(trace, item) for item in x]
    return x


def unwrap(x: Any) -> Any:
    if isinstance(x, CheckedTracer):
        return x.value
    if isinstance(x, (tuple, list)):
        return tuple(unwrap(item) for item in x)
    return x


def traced(f: Callable[..., Any], *args: Any, weak: bool = False, **kwargs: Any) -> Any:
    """The value of `f` with its array arguments traced."""
    trace = CheckedTrace()
    with current(trace):
        xs = [
            CheckedTracer(trace, np.asarray(x)[()], True) if weak and np.isscalar(x)
            else wrap(trace, x) for x in args
        ]  # fmt: skip
        return unwrap(f(*xs, **kwargs))


def same(actual: Any, expected: Any, *, rtol: float = 1e-12, what: str = "") -> None:
    """Equal values, dtypes and shapes, nested in tuples and lists alike."""
    if isinstance(expected, (tuple, list)):
        assert len(actual) == len(expected), what
        for a, e in zip(actual, expected, strict=True):
            same(a, e, rtol=rtol, what=what)
        return
    a, e = np.asarray(actual), np.asarray(expected)
    assert a.dtype == e.dtype, f"{what}: dtype {a.dtype}, NumPy has {e.dtype}"
    assert a.shape == e.shape, f"{what}: shape {a.shape}, NumPy has {e.shape}"
    if e.dtype.kind in "fc":
        rtol = max(rtol, 8 * float(np.finfo(e.dtype).eps))
        np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol, err_msg=what)
    else:
        np.testing.assert_array_equal(a, e, err_msg=what)


def like_numpy(f: Callable[..., Any], *args: Any, rtol: float = 1e-12, **kwargs: Any) -> None:
    """`f` traced gives what it gives on plain arrays, or raises an error of the same type."""
    with np.errstate(all="ignore"):
        try:
            expected = f(*args, **kwargs)
        except Exception as error:
            expected = error
    what = f"{getattr(f, '__name__', f)}{args!r}{kwargs or ''}"
    if not isinstance(expected, Exception):
        same(traced(f, *args, **kwargs), expected, rtol=rtol, what=what)
        return
    error = None
    try:
        out = traced(f, *args, **kwargs)
    except Exception as raised:
        error = raised
    assert error is not None, f"{what}: gives {out!r}, NumPy raises {expected!r}"
    related = isinstance(error, type(expected)) or isinstance(expected, type(error))
    assert related, f"{what}: raises {error!r}, NumPy {expected!r}"
