"""Operators and array methods of tracers, so that code written for arrays runs on them.

`install` attaches them to `core.Tracer` when `functrans.numpy` is imported: the core knows nothing
of NumPy's operations. Each is a row: the operator's ufunc, or the method's NumPy function, looked
up in the tables of `ufuncs` and `dispatch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.core import Tracer
from functrans.numpy import protocols
from functrans.numpy.dispatch import TRACED
from functrans.numpy.promotion import cast
from functrans.numpy.ufunc import Ufunc
from functrans.numpy.ufuncs import UFUNCS

_OPERANDS = (Tracer, np.ndarray, np.generic, bool, int, float, complex, list, tuple)

_BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide,
    "floordiv": np.floor_divide, "mod": np.remainder, "divmod": np.divmod,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "lshift": np.left_shift, "rshift": np.right_shift,
}  # fmt: skip
_COMPARISONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip
_UNARY = {
    "neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert,
}  # fmt: skip

# ---------------------------------------------------------------------------- operators


def _forward(ufunc: Ufunc) -> Callable[[Any, Any], Any]:
    def operator(self: Tracer, other: Any) -> Any:
        return ufunc.operator(self, other) if isinstance(other, _OPERANDS) else NotImplemented

    return operator


def _reflected(ufunc: Ufunc) -> Callable[[Any, Any], Any]:
    def operator(self: Tracer, other: Any) -> Any:
        return ufunc.operator(other, self) if isinstance(other, _OPERANDS) else NotImplemented

    return operator


def _unary(ufunc: Ufunc) -> Callable[[Any], Any]:
    return lambda self: ufunc.operator(self)


def _power(self: Tracer, exponent: Any, modulus: Any = None) -> Any:
    if modulus is not None or not isinstance(exponent, _OPERANDS):
        return NotImplemented
    if type(exponent) is int and exponent == 2:  # NumPy: bool ** 2 is int8, as of square
        return UFUNCS[np.square].operator(self)
    return UFUNCS[np.power].operator(self, exponent)


def _matmul(self: Tracer, other: Any) -> Any:
    return TRACED[np.matmul](self, other) if isinstance(other, _OPERANDS) else NotImplemented


def _rmatmul(self: Tracer, other: Any) -> Any:
    return TRACED[np.matmul](other, self) if isinstance(other, _OPERANDS) else NotImplemented


def _getitem(self: Tracer, index: Any) -> Any:
    return TRACED["getitem"](self, index)


def _setitem(self: Tracer, index: Any, value: Any) -> None:
    raise TypeError(
        f"a traced array {self.aval} cannot be assigned to: traced arrays do not change.\n"
        "  Write `x = x.at[i].set(v)` instead of `x[i] = v`, and `x = x.at[i].add(v)` instead of "
        "`x[i] += v`."
    )


def _iterate(self: Tracer) -> Iterator[Any]:
    if not self.shape:
        raise TypeError("iteration over a 0-d array")
    rest = self.shape[1:]
    zeros = (0,) * len(rest)
    ones = (1,) * len(self.shape)
    for i in range(self.shape[0]):
        row = ops.slice(self, start_indices=(i, *zeros), limit_indices=(i + 1, *rest), strides=ones)
        yield ops.reshape(row, shape=rest)


def _contains(self: Tracer, value: Any) -> bool:
    return bool(TRACED[np.any](self == value))


# ---------------------------------------------------------------------------- methods


def _method(function: Any) -> Callable[..., Any]:
    def method(self: Tracer, *args: Any, **kwargs: Any) -> Any:
        return TRACED[function](self, *args, **kwargs)

    return method


_METHODS = {
    "sum": np.sum, "prod": np.prod, "mean": np.mean, "var": np.var, "std": np.std,
    "max": np.max, "min": np.min, "all": np.all, "any": np.any,
    "argmax": np.argmax, "argmin": np.argmin, "cumsum": np.cumsum, "cumprod": np.cumprod,
    "ravel": np.ravel, "squeeze": np.squeeze, "swapaxes": np.swapaxes,
    "repeat": np.repeat, "take": np.take, "trace": np.trace, "diagonal": np.diagonal,
    "dot": np.dot, "clip": np.clip, "round": np.round, "argsort": np.argsort,
    "nonzero": np.nonzero, "copy": np.copy,
}  # fmt: skip

_IN_PLACE = {
    "sort": "y = np.sort(x)", "fill": "x = np.full_like(x, value)",
    "put": "x = x.at[i].set(v)", "resize": "y = np.resize(x, shape)",
    "partition": "y = np.sort(x)", "setfield": "x = x.at[i].set(v)",
    "setflags": "nothing: traced arrays do not change", "itemset": "x = x.at[i].set(v)",
}  # fmt: skip


def _in_place(name: str, remedy: str) -> Callable[..., Any]:
    def method(self: Tracer, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f".{name}() would change a traced array {self.aval} in place, and traced arrays do not "
            f"change. Write: {remedy}."
        )

    return method


def _reshape(self: Tracer, *shape: Any, order: str = "C", copy: Any = None) -> Any:
    new_shape = shape[0] if len(shape) == 1 else shape
    return TRACED[np.reshape](self, new_shape, order=order)


def _transpose(self: Tracer, *axes: Any) -> Any:
    order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else (axes or None)
    return TRACED[np.transpose](self, order)


def _flatten(self: Tracer, order: str = "C") -> Any:
    return TRACED[np.ravel](self, order)


def _astype(self: Tracer, dtype: Any, order: str = "K", casting: str = "unsafe",
            subok: bool = True, copy: bool = True) -> Any:  # fmt: skip
    dtype = np.dtype(dtype)
    if not dtypes.is_supported(dtype):
        raise TypeError(f"a traced array cannot be converted to {dtype}: it is not numeric.")
    if not np.can_cast(self.dtype, dtype, casting):  # type: ignore[arg-type]
        raise TypeError(
            f"Cannot cast array data from {self.dtype!r} to {dtype!r} according to the rule "
            f"'{casting}'"
        )
    return cast(self, dtype)


def _item(self: Tracer, *args: Any) -> Any:
    value = self._value_or(TypeError, ".item()", "Keep the traced array: x[()] or x.reshape(()).")
    return np.asarray(value).item(*args)


def _tolist(self: Tracer) -> Any:
    value = self._value_or(TypeError, ".tolist()", "Iterate over the traced array: list(x).")
    return np.asarray(value).tolist()


def _view(self: Tracer, *args: Any, **kwargs: Any) -> Any:
    raise TypeError(
        f".view() of a traced array {self.aval} is not supported: a traced array has no memory to "
        "look at. To convert values write x.astype(dtype)."
    )


def _conjugate(self: Tracer) -> Any:
    return UFUNCS[np.conjugate].traced(self)


def _real(self: Tracer) -> Any:
    return ops.real(self) if self.dtype.kind == "c" else self


def _imag(self: Tracer) -> Any:
    return TRACED[np.imag](self)


def _matrix_transposed(self: Tracer) -> Any:
    return TRACED[np.matrix_transpose](self)


class _At:
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return TRACED["at"](instance) if instance is not None else self


def _round(self: Tracer, ndigits: int | None = None) -> Any:
    return TRACED[np.round](self, ndigits or 0)


# ---------------------------------------------------------------------------- installation


def _members() -> Iterator[tuple[str, Any]]:
    for name, ufunc in _BINARY.items():
        yield f"__{name}__", _forward(UFUNCS[ufunc])
        yield f"__r{name}__", _reflected(UFUNCS[ufunc])
    for name, ufunc in _COMPARISONS.items():
        yield f"__{name}__", _forward(UFUNCS[ufunc])
    for name, ufunc in _UNARY.items():
        yield f"__{name}__", _unary(UFUNCS[ufunc])
    yield "__rpow__", _reflected(UFUNCS[np.power])
    for name, function in _METHODS.items():
        yield name, _method(function)
    for name, remedy in _IN_PLACE.items():
        yield name, _in_place(name, remedy)
    yield from {
        "__pow__": _power, "__matmul__": _matmul, "__rmatmul__": _rmatmul, "__round__": _round,
        "__getitem__": _getitem, "__setitem__": _setitem, "__iter__": _iterate,
        "__contains__": _contains, "reshape": _reshape, "transpose": _transpose,
        "flatten": _flatten, "astype": _astype, "item": _item, "tolist": _tolist, "view": _view,
        "T": property(_transpose), "mT": property(_matrix_transposed), "real": property(_real),
        "imag": property(_imag), "conj": _conjugate, "conjugate": _conjugate, "at": _At(),
            "device": property(lambda self: "cpu"),
        "__array_ufunc__": protocols.array_ufunc, "__array_function__": protocols.array_function,
        "__array_namespace__": protocols.array_namespace,
    }.items()  # fmt: skip


def install() -> None:
    """Give `Tracer` its operators and methods."""
    for name, member in _members():
        setattr(Tracer, name, member)
