"""`scipy.special` on tracers; published as `functrans.scipy.special`.

A function called with nothing being traced is SciPy's own. `scipy.special.expit` of a tracer gets
here by its ufunc's name; SciPy functions that are not ufuncs (logsumexp, softmax) cannot be
intercepted, so on traced values use those of this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.core import current_trace, eval_trace
from functrans.numpy import composites, promotion
from functrans.numpy.promotion import broadcast, cast, operand, scalar_like
from functrans.numpy.protocols import SPECIAL
from functrans.numpy.reductions import logsumexp_reduce
from functrans.numpy.ufuncs import absolute, multiply, subtract
from functrans.ops import special_values

_RULES: dict[str, Callable[..., Any]] = {}
_FLOAT32 = np.dtype(np.float32)
_FLOAT32_FIRST = ("entr", "erfinv", "rel_entr")


def _loop_dtype(xs: Any, *, complex_too: bool, name: str) -> np.dtype:
    """The dtype of SciPy's loop: float32 stays, everything else real is made in float64.

    Of functions whose float32 loop SciPy lists first, small integers take that one.
    """
    dtype = promotion.result_type(*xs)
    if dtype.kind == "c":
        if not complex_too:
            raise TypeError(
                f"scipy.special.{name} of a traced complex array ({dtype}) is not supported; of "
                "real ones it is."
            )
        return dtype
    small = name in _FLOAT32_FIRST and np.can_cast(dtype, _FLOAT32)
    return _FLOAT32 if small or dtype == _FLOAT32 else dtypes.float64


def _implements(nin: int = 1, *aliases: str, complex_too: bool = False) -> Callable[[Any], Any]:
    """Make a rule, on operands of SciPy's loop dtype, a function and what SciPy's does traced."""

    def decorate(rule: Callable[..., Any]) -> Callable[..., Any]:
        name = rule.__name__

        def traced(*args: Any, out: Any = None, **options: Any) -> Any:
            if out is not None or options:
                raise TypeError(
                    f"scipy.special.{name} with out= or other options is not traceable."
                )
            if len(args) != nin:
                raise TypeError(f"{name}() takes {nin} operands, got {len(args)}.")
            xs = [operand(x) for x in args]
            dtype = _loop_dtype(xs, complex_too=complex_too, name=name)
            return rule(*broadcast(*[cast(x, dtype) for x in xs]))

        def function(*args: Any, **options: Any) -> Any:
            if current_trace() is eval_trace:
                return special_values.special(name)(*args, **options)
            return traced(*args, **options)

        for alias in (name, *aliases):
            _RULES[alias] = traced
        function.__name__ = function.__qualname__ = name
        function.__doc__ = f"`scipy.special.{name}`, traceable."
        return function

    return decorate


@_implements(complex_too=True)
def expit(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return ops.logistic(x)


@_implements()
def logit(x: Any) -> Any:
    """log(x / (1 - x))."""
    return ops.log(x / (1 - x))


@_implements()
def log_expit(x: Any) -> Any:
    """log(expit(x))."""
    return ops.neg(ops.logaddexp(ops.neg(x), scalar_like(0, x)))


@_implements()
def erf(x: Any) -> Any:
    """The error function."""
    return ops.erf(x)


@_implements()
def erfc(x: Any) -> Any:
    """1 - erf(x)."""
    return ops.erfc(x)


@_implements()
def erfinv(y: Any) -> Any:
    """The inverse of erf."""
    return ops.erf_inv(y)


@_implements()
def gammaln(x: Any) -> Any:
    """log |gamma(x)|."""
    return ops.lgamma(x)


@_implements(1, "psi")
def digamma(x: Any) -> Any:
    """The derivative of gammaln."""
    return ops.digamma(x)


psi = digamma


def _times_log(x: Any, y: Any, log: Callable[[Any], Any]) -> Any:
    # 0 * log(y) is 0 whatever y is, except nan.
    zero, one = scalar_like(0, x), scalar_like(1, x)
    nothing = ops.eq(x, zero) & ~ops.isnan(y)
    safe = composites.choose(nothing, one, y)
    return composites.choose(nothing, zero, multiply.traced(x, log(safe)))


@_implements(2, complex_too=True)
def xlogy(x: Any, y: Any) -> Any:
    """x * log(y), and 0 where x is 0."""
    return _times_log(x, y, ops.log)


@_implements(2, complex_too=True)
def xlog1py(x: Any, y: Any) -> Any:
    """x * log(1 + y), and 0 where x is 0."""
    return _times_log(x, y, ops.log1p)


@_implements()
def entr(x: Any) -> Any:
    """-x log(x); 0 at 0, -inf below."""
    y = ops.neg(_times_log(x, x, ops.log))
    return composites.choose(x < 0, scalar_like(-np.inf, x), y)


@_implements(2)
def rel_entr(x: Any, y: Any) -> Any:
    """x log(x / y); 0 where x is 0 and y >= 0, inf outside."""
    zero = scalar_like(0, x)
    both = (x > 0) & (y > 0)
    safe_x = composites.choose(both, x, scalar_like(1, x))
    safe_y = composites.choose(both, y, scalar_like(1, y))
    inside = multiply.traced(safe_x, ops.log(safe_x / safe_y))
    outside = composites.choose(ops.eq(x, zero) & (y >= 0), zero, scalar_like(np.inf, x))
    outside = composites.choose(ops.isnan(x) | ops.isnan(y), scalar_like(np.nan, x), outside)
    return composites.choose(both, inside, outside)


@_implements()
def ndtr(x: Any) -> Any:
    """The distribution function of the standard normal distribution."""
    half = scalar_like(0.5, x)
    return half * ops.erfc(-x * scalar_like(np.sqrt(0.5), x))


@_implements()
def exp10(x: Any) -> Any:
    """10 ** x."""
    return ops.pow(scalar_like(10, x), x)


@_implements()
def cbrt(x: Any) -> Any:
    """The cube root."""
    return ops.cbrt(x)


def logsumexp(a: Any, axis: Any = None, b: Any = None, keepdims: bool = False,
              return_sign: bool = False, *, where: Any = True) -> Any:  # fmt: skip
    """log(sum(b * exp(a))) without overflow; traced, `return_sign` needs b=None."""
    if current_trace() is eval_trace and where is True:
        return special_values.special("logsumexp")(a, axis, b, keepdims, return_sign)
    x = promotion.inexact(a)
    if b is None and not return_sign:
        return logsumexp_reduce(
            x, axis=axis, dtype=None, keepdims=keepdims, initial=None, where=where
        )
    return _weighted_logsumexp(x, axis, b, keepdims, return_sign, where)


def _weighted_logsumexp(x: Any, axis: Any, b: Any, keepdims: bool, signed: bool,
                        where: Any) -> Any:  # fmt: skip
    weights = promotion.array(1.0 if b is None else b)
    x, weights = promotion.full_broadcast(*promotion.promote(x, weights))
    nothing = ops.eq(weights, scalar_like(0, weights))
    x = ops.select(nothing, scalar_like(-np.inf, x), x)
    top = np.max(ops.stop_gradient(x), axis=axis, keepdims=True)
    top = composites.choose(ops.is_finite(top), top, scalar_like(0, top))
    terms = multiply.traced(weights, ops.exp(subtract.traced(x, top)))
    total = np.sum(terms, axis=axis, keepdims=True, where=where)
    size = absolute.traced(total) if signed else total
    y = ops.log(size) + top
    sign = ops.sign(total)
    if not keepdims:
        axes = promotion.normalize_axes(axis, x.ndim)
        shape = tuple(n for i, n in enumerate(y.shape) if i not in axes)
        y, sign = ops.reshape(y, shape=shape), ops.reshape(sign, shape=shape)
    return (y, sign) if signed else y


def log_softmax(x: Any, axis: Any = None) -> Any:
    """x - logsumexp(x). `axis` is None (all) as in SciPy."""
    if current_trace() is eval_trace:
        return special_values.special("log_softmax")(x, axis)
    x = promotion.inexact(x)
    total = logsumexp_reduce(x, axis=axis, dtype=None, keepdims=True, initial=None, where=True)
    return subtract.traced(x, total)


def softmax(x: Any, axis: Any = None) -> Any:
    """exp(x) / sum(exp(x)), without overflow. `axis` is None (all) as in SciPy."""
    if current_trace() is eval_trace:
        return special_values.special("softmax")(x, axis)
    return ops.exp(log_softmax(x, axis))


def install() -> None:
    """Let SciPy's ufuncs find these rules when they are called with tracers."""
    SPECIAL.update(_RULES)


__all__ = [
    "cbrt", "digamma", "entr", "erf", "erfc", "erfinv", "exp10", "expit", "gammaln", "log_expit",
    "log_softmax", "logit", "logsumexp", "ndtr", "psi", "rel_entr", "softmax", "xlog1py", "xlogy",
]  # fmt: skip
