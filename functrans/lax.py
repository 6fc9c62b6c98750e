"""The operations themselves under JAX's names: no implicit promotion, no implicit broadcasting.

Operands of elementwise functions have equal dtypes and equal shapes (numbers go with any shape);
Python scalars take the dtype of the others. `functrans.numpy` promotes and broadcasts as NumPy
does.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import dtypes, ops, pytree
from functrans import lax_linalg as linalg
from functrans.control_flow import (
    associative_scan,
    cond,
    custom_linear_solve,
    custom_root,
    fori_loop,
    map,
    scan,
    switch,
    while_loop,
)
from functrans.core import get_aval, is_weak
from functrans.interpreters.collectives import axis_index, pmax, pmean, pmin, psum
from functrans.numpy import promotion
from functrans.numpy.fft import transform_operand
from functrans.numpy.promotion import array, cast, normalize_axes, normalize_axis
from functrans.ops.fourier import FftType
from functrans.windows import (
    ConvDimensionNumbers,
    conv,
    conv_dimension_numbers,
    conv_general_dilated,
    conv_transpose,
    conv_with_general_padding,
    padtype_to_pads,
    reduce_window,
)

# ---------------------------------------------------------------------------- elementwise


def _operands(xs: Sequence[Any]) -> list[Any]:
    xs = [promotion.operand(x) for x in xs]
    if builtins.any(is_weak(x) for x in xs):
        strong = [x for x in xs if not is_weak(x)]
        dtype = promotion.result_type(*xs)
        if not strong or builtins.all(x.dtype == dtype for x in strong):
            return [cast(x, dtype) for x in xs]
    return [promotion.strong(x) for x in xs]


def _elementwise(name: str, op: Callable[..., Any]) -> Callable[..., Any]:
    def function(*operands: Any) -> Any:
        return op(*_operands(operands))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Elementwise `{op!r}`; operands of equal dtype and shape."
    function.op = op  # type: ignore[attr-defined]  # what `reduce_window` knows it by
    return function


abs = _elementwise("abs", ops.abs)
acos = _elementwise("acos", ops.arccos)
acosh = _elementwise("acosh", ops.arccosh)
add = _elementwise("add", ops.add)
asin = _elementwise("asin", ops.arcsin)
asinh = _elementwise("asinh", ops.arcsinh)
atan = _elementwise("atan", ops.arctan)
atan2 = _elementwise("atan2", ops.atan2)
atanh = _elementwise("atanh", ops.arctanh)
bitwise_and = _elementwise("bitwise_and", ops.and_)
bitwise_not = _elementwise("bitwise_not", ops.not_)
bitwise_or = _elementwise("bitwise_or", ops.or_)
bitwise_xor = _elementwise("bitwise_xor", ops.xor)
cbrt = _elementwise("cbrt", ops.cbrt)
ceil = _elementwise("ceil", ops.ceil)
complex = _elementwise("complex", ops.complex)
conj = _elementwise("conj", ops.conj)
cos = _elementwise("cos", ops.cos)
cosh = _elementwise("cosh", ops.cosh)
digamma = _elementwise("digamma", ops.digamma)
eq = _elementwise("eq", ops.eq)
erf = _elementwise("erf", ops.erf)
erf_inv = _elementwise("erf_inv", ops.erf_inv)
erfc = _elementwise("erfc", ops.erfc)
exp = _elementwise("exp", ops.exp)
exp2 = _elementwise("exp2", ops.exp2)
expm1 = _elementwise("expm1", ops.expm1)
floor = _elementwise("floor", ops.floor)
ge = _elementwise("ge", ops.ge)
gt = _elementwise("gt", ops.gt)
imag = _elementwise("imag", ops.imag)
is_finite = _elementwise("is_finite", ops.is_finite)
le = _elementwise("le", ops.le)
lgamma = _elementwise("lgamma", ops.lgamma)
log = _elementwise("log", ops.log)
log1p = _elementwise("log1p", ops.log1p)
logistic = _elementwise("logistic", ops.logistic)
lt = _elementwise("lt", ops.lt)
max = _elementwise("max", ops.max)
min = _elementwise("min", ops.min)
mul = _elementwise("mul", ops.mul)
ne = _elementwise("ne", ops.ne)
neg = _elementwise("neg", ops.neg)
nextafter = _elementwise("nextafter", ops.nextafter)
population_count = _elementwise("population_count", ops.population_count)
real = _elementwise("real", ops.real)
reciprocal = _elementwise("reciprocal", ops.reciprocal)
rem = _elementwise("rem", ops.fmod)
rsqrt = _elementwise("rsqrt", ops.rsqrt)
shift_left = _elementwise("shift_left", ops.shift_left)
shift_right_arithmetic = _elementwise("shift_right_arithmetic", ops.shift_right)
sign = _elementwise("sign", ops.sign)
sin = _elementwise("sin", ops.sin)
sinh = _elementwise("sinh", ops.sinh)
sqrt = _elementwise("sqrt", ops.sqrt)
square = _elementwise("square", ops.square)
sub = _elementwise("sub", ops.sub)
tan = _elementwise("tan", ops.tan)
tanh = _elementwise("tanh", ops.tanh)


def div(x: Any, y: Any) -> Any:
    """x / y; of integers the quotient rounded toward zero, as in JAX."""
    x, y = _operands((x, y))
    if dtypes.is_inexact(get_aval(x).dtype):
        return ops.div(x, y)
    return ops.floor_divide(ops.sub(x, ops.fmod(x, y)), y)


def pow(x: Any, y: Any) -> Any:
    """x ** y; y of the dtype of x, or an integer."""
    x, y = _operands((x, y))
    return ops.pow(x, cast(y, get_aval(x).dtype))


def integer_pow(x: Any, y: int) -> Any:
    """x ** y for a Python int y."""
    return array(x) ** y


def clamp(min: Any, x: Any, max: Any) -> Any:
    """`x` kept between `min` and `max`."""
    low, x, high = _operands((min, x, max))
    return ops.min(ops.max(x, low), high)


def select(pred: Any, on_true: Any, on_false: Any) -> Any:
    """`on_true` where `pred` else `on_false`."""
    on_true, on_false = _operands((on_true, on_false))
    return ops.select(array(pred), on_true, on_false)


def select_n(which: Any, *cases: Any) -> Any:
    """`cases[which]`, element by element; a bool chooses among two."""
    which, cases = array(which), tuple(_operands(cases))
    if which.dtype == dtypes.bool_:
        if len(cases) != 2:
            raise TypeError(f"select_n with a bool chooses among 2 cases, got {len(cases)}.")
        return ops.select(which, cases[1], cases[0])
    result = cases[-1]
    for i in reversed(range(len(cases) - 1)):
        result = ops.select(ops.le(which, which.dtype.type(i)), cases[i], result)
    return result


def convert_element_type(operand: Any, new_dtype: Any) -> Any:
    """`operand` in another dtype."""
    return cast(array(operand), np.dtype(new_dtype))


def stop_gradient(x: Any) -> Any:
    """`x`, a pytree, as constants: no derivative flows through it."""

    def stop(leaf: Any) -> Any:
        if not promotion.holds_tracer(leaf):
            return leaf
        return ops.stop_gradient(leaf) if dtypes.is_inexact(leaf.dtype) else leaf

    return pytree.tree_map(stop, x)


# ---------------------------------------------------------------------------- structure


def broadcast_in_dim(operand: Any, shape: Sequence[int], broadcast_dimensions: Any) -> Any:
    """`operand` repeated: its axis i becomes axis `broadcast_dimensions[i]` of the result."""
    return ops.broadcast_in_dim(
        array(operand), shape=tuple(shape), broadcast_dimensions=tuple(broadcast_dimensions)
    )


def broadcast(operand: Any, sizes: Sequence[int]) -> Any:
    """`operand` repeated along new leading axes."""
    x = array(operand)
    axes = range(len(sizes), len(sizes) + x.ndim)
    return broadcast_in_dim(x, (*sizes, *x.shape), axes)


def reshape(operand: Any, new_sizes: Sequence[int]) -> Any:
    """`operand` in another shape of equal size."""
    return ops.reshape(array(operand), shape=tuple(new_sizes))


def transpose(operand: Any, permutation: Sequence[int]) -> Any:
    """`operand` with its axes in the order of `permutation`."""
    return ops.permute(array(operand), permutation=tuple(permutation))


def expand_dims(array: Any, dimensions: Sequence[int]) -> Any:
    """`array` with axes of extent 1 at these positions of the result."""
    x = promotion.array(array)
    axes = normalize_axes(tuple(dimensions), x.ndim + len(dimensions))
    return promotion.insert_axes(x, axes)


def squeeze(array: Any, dimensions: Sequence[int]) -> Any:
    """`array` without these axes, which have extent 1."""
    x = promotion.array(array)
    axes = normalize_axes(tuple(dimensions), x.ndim)
    if builtins.any(x.shape[i] != 1 for i in axes):
        raise ValueError(f"squeeze of axes {axes} of shape {x.shape}: their extents must be 1.")
    return ops.reshape(x, shape=tuple(n for i, n in enumerate(x.shape) if i not in axes))


def slice(operand: Any, start_indices: Any, limit_indices: Any, strides: Any = None) -> Any:
    """A block of `operand`; all bounds are known, strides are positive."""
    return ops.slice(
        array(operand),
        start_indices=tuple(start_indices),
        limit_indices=tuple(limit_indices),
        strides=(1,) * len(tuple(start_indices)) if strides is None else tuple(strides),
    )


def slice_in_dim(operand: Any, start_index: int | None, limit_index: int | None, stride: int = 1,
                 axis: int = 0) -> Any:  # fmt: skip
    """A slice along one axis."""
    x = array(operand)
    axis = normalize_axis(axis, x.ndim)
    begin, end, _ = builtins.slice(start_index, limit_index).indices(x.shape[axis])
    starts, limits, strides = [0] * x.ndim, list(x.shape), [1] * x.ndim
    starts[axis], limits[axis], strides[axis] = begin, builtins.max(begin, end), stride
    return slice(x, starts, limits, strides)


def index_in_dim(operand: Any, index: int, axis: int = 0, keepdims: bool = True) -> Any:
    """One position of an axis."""
    x = array(operand)
    axis = normalize_axis(axis, x.ndim)
    n = x.shape[axis]
    if not -n <= index < n:
        raise IndexError(f"index {index} is out of bounds for axis {axis} with size {n}")
    y = slice_in_dim(x, index % n, index % n + 1, axis=axis)
    return y if keepdims else squeeze(y, (axis,))


def _starts(start_indices: Any, ndim: int) -> list[Any]:
    starts = [array(i) for i in start_indices]
    if len(starts) != ndim:
        raise TypeError(f"{ndim} start indices are needed, one per axis; got {len(starts)}.")
    return starts


def dynamic_slice(operand: Any, start_indices: Any, slice_sizes: Sequence[int]) -> Any:
    """A block of known sizes from a traced start, moved inside the bounds if it sticks out."""
    x = array(operand)
    starts = _starts(start_indices, x.ndim)
    return ops.dynamic_slice(x, *starts, slice_sizes=tuple(slice_sizes))


def dynamic_update_slice(operand: Any, update: Any, start_indices: Any) -> Any:
    """`operand` with a block replaced from a traced start, moved inside the bounds."""
    x = array(operand)
    return ops.dynamic_update_slice(x, array(update), *_starts(start_indices, x.ndim))


def _starts_in_dim(x: Any, start_index: Any, axis: int) -> list[Any]:
    starts: list[Any] = [0] * x.ndim
    starts[axis] = start_index
    dtype = promotion.dtype_of(array(start_index))
    return [cast(s, dtype) for s in starts]


def dynamic_slice_in_dim(operand: Any, start_index: Any, slice_size: int, axis: int = 0) -> Any:
    """`dynamic_slice` along one axis."""
    x = array(operand)
    axis = normalize_axis(axis, x.ndim)
    sizes = list(x.shape)
    sizes[axis] = slice_size
    return dynamic_slice(x, _starts_in_dim(x, start_index, axis), sizes)


def dynamic_index_in_dim(operand: Any, index: Any, axis: int = 0, keepdims: bool = True) -> Any:
    """`dynamic_slice` of one position of an axis."""
    x = array(operand)
    y = dynamic_slice_in_dim(x, index, 1, axis)
    return y if keepdims else squeeze(y, (axis,))


def dynamic_update_slice_in_dim(operand: Any, update: Any, start_index: Any, axis: int) -> Any:
    """`dynamic_update_slice` along one axis."""
    x = array(operand)
    axis = normalize_axis(axis, x.ndim)
    return dynamic_update_slice(x, update, _starts_in_dim(x, start_index, axis))


def dynamic_update_index_in_dim(operand: Any, update: Any, index: Any, axis: int) -> Any:
    """`dynamic_update_slice` of one position of an axis."""
    x, u = array(operand), array(update)
    if u.ndim < x.ndim:
        u = promotion.insert_axes(u, (normalize_axis(axis, x.ndim),))
    return dynamic_update_slice_in_dim(x, u, index, axis)


def pad(operand: Any, padding_value: Any, padding_config: Sequence[Any]) -> Any:
    """`operand` with (low, high, interior) padding per axis; negative low and high crop."""
    x = array(operand)
    return ops.pad(x, cast(promotion.operand(padding_value), x.dtype),
                   config=tuple(tuple(c) for c in padding_config))  # fmt: skip


def concatenate(operands: Sequence[Any], dimension: int) -> Any:
    """Arrays of one dtype end to end."""
    return ops.concatenate(*builtins.map(array, operands), dimension=dimension)


def rev(operand: Any, dimensions: Sequence[int]) -> Any:
    """`operand` reversed along axes."""
    return ops.rev(array(operand), dimensions=tuple(dimensions))


def full(shape: Sequence[int], fill_value: Any, dtype: Any = None) -> Any:
    """An array of one number."""
    value = array(fill_value)
    return promotion.full(tuple(shape), value, value.dtype if dtype is None else np.dtype(dtype))


def full_like(x: Any, fill_value: Any, dtype: Any = None, shape: Any = None) -> Any:
    """An array of one number with the shape and dtype of `x`."""
    x = array(x)
    return full(x.shape if shape is None else shape, fill_value, dtype or x.dtype)


def iota(dtype: Any, size: int) -> Any:
    """0, 1, ..., size - 1."""
    return ops.iota(dtype=np.dtype(dtype), shape=(size,), dimension=0)


def broadcasted_iota(dtype: Any, shape: Sequence[int], dimension: int) -> Any:
    """The position along one axis, in an array of this shape."""
    return ops.iota(dtype=np.dtype(dtype), shape=tuple(shape), dimension=dimension)


# ---------------------------------------------------------------------------- reductions


def _reduction(name: str, op: Callable[..., Any]) -> Callable[..., Any]:
    def function(operand: Any, axes: Sequence[int]) -> Any:
        return op(array(operand), axes=tuple(axes))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"`{op!r}` over axes."
    return function


def _running(name: str, op: Callable[..., Any]) -> Callable[..., Any]:
    def function(operand: Any, axis: int = 0, reverse: bool = False) -> Any:
        x = array(operand)
        return op(x, axis=normalize_axis(axis, x.ndim), reverse=reverse)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"`{op!r}` along an axis."
    return function


reduce_and = _reduction("reduce_and", ops.reduce_and)
reduce_max = _reduction("reduce_max", ops.reduce_max)
reduce_min = _reduction("reduce_min", ops.reduce_min)
reduce_or = _reduction("reduce_or", ops.reduce_or)
reduce_prod = _reduction("reduce_prod", ops.reduce_prod)
reduce_sum = _reduction("reduce_sum", ops.reduce_sum)
cumlogsumexp = _running("cumlogsumexp", ops.cumlogsumexp)
cummax = _running("cummax", ops.cummax)
cummin = _running("cummin", ops.cummin)
cumprod = _running("cumprod", ops.cumprod)
cumsum = _running("cumsum", ops.cumsum)


def argmax(operand: Any, axis: int, index_dtype: Any = np.int64) -> Any:
    """The first position of the largest element along an axis."""
    x = array(operand)
    return ops.argmax(x, axis=normalize_axis(axis, x.ndim), index_dtype=np.dtype(index_dtype))


def argmin(operand: Any, axis: int, index_dtype: Any = np.int64) -> Any:
    """The first position of the smallest element along an axis."""
    x = array(operand)
    return ops.argmin(x, axis=normalize_axis(axis, x.ndim), index_dtype=np.dtype(index_dtype))


def sort(operand: Any, dimension: int = -1, is_stable: bool = True, num_keys: int = 1) -> Any:
    """`operand` sorted along an axis; a sequence of arrays by its first `num_keys`, together.

    The result for a sequence is a tuple. Every sort of several arrays is stable.
    """
    if not isinstance(operand, (list, tuple)):
        x = array(operand)
        return ops.sort(x, axis=normalize_axis(dimension, x.ndim))
    xs = [array(x) for x in operand]
    if not 1 <= num_keys <= len(xs) or builtins.any(x.shape != xs[0].shape for x in xs):
        shapes = ", ".join(str(x.shape) for x in xs) or "none"
        raise ValueError(
            f"sort needs arrays of equal shape, the first num_keys of them keys; got shapes "
            f"{shapes} and num_keys={num_keys}."
        )
    axis = normalize_axis(dimension, xs[0].ndim)
    order = ops.sort_together(xs[:num_keys], axis)
    return tuple(ops.take_along(x, order, axis) for x in xs)


def top_k(operand: Any, k: int, *, axis: int = -1) -> tuple[Any, Any]:
    """The `k` largest elements along an axis, largest first, and their positions (int64).

    nan is larger than all numbers; of equal elements the first comes first.
    """
    x = array(operand)
    axis = normalize_axis(axis, x.ndim)
    rows = ops.moveaxis(x, axis, x.ndim - 1)
    places = ops.argtop_k(rows, k=int(k))
    values = ops.take_along(rows, places, x.ndim - 1)
    return tuple(ops.moveaxis(y, x.ndim - 1, axis) for y in (values, places))  # type: ignore[return-value]


def dot_general(lhs: Any, rhs: Any, dimension_numbers: Any) -> Any:
    """Sum of products over pairs of axes; `(contracting pair, batch pair)` of axis tuples."""
    (lc, rc), (lb, rb) = dimension_numbers
    numbers = ((tuple(lc), tuple(rc)), (tuple(lb), tuple(rb)))
    return ops.dot_general(array(lhs), array(rhs), dimension_numbers=numbers)


def dot(lhs: Any, rhs: Any) -> Any:
    """The product of vectors and matrices: last axis of `lhs` with first of `rhs`."""
    a, b = array(lhs), array(rhs)
    return dot_general(a, b, (((a.ndim - 1,), (0,)), ((), ())))


def fft(x: Any, fft_type: FftType | str, fft_lengths: Sequence[int]) -> Any:
    """The transform `fft_type`, a name as in numpy.fft, of as many points over the last axes.

    Nothing is padded or cropped: extents are `fft_lengths`, for irfft the last is n // 2 + 1.
    """
    if isinstance(fft_type, str):
        if fft_type.upper() not in FftType.__members__:
            names = ", ".join(FftType.__members__)
            raise ValueError(f"fft_type must be one of {names}, got {fft_type!r}.")
        fft_type = FftType[fft_type.upper()]
    x = transform_operand(x, fft_type)
    lengths = tuple(n.__index__() for n in fft_lengths)
    return ops.fft(x, fft_type=fft_type, fft_lengths=lengths) if lengths else x


__all__ = [
    "ConvDimensionNumbers", "FftType", "abs", "acos", "acosh", "add", "argmax", "argmin",
    "asin", "asinh", "associative_scan", "atan", "atan2", "atanh", "axis_index", "bitwise_and",
    "bitwise_not", "bitwise_or", "bitwise_xor", "broadcast", "broadcast_in_dim",
    "broadcasted_iota", "cbrt", "ceil", "clamp", "complex", "concatenate", "cond", "conj",
    "conv", "conv_dimension_numbers", "conv_general_dilated", "conv_transpose",
    "conv_with_general_padding", "convert_element_type", "cos", "cosh", "cumlogsumexp",
    "cummax", "cummin", "cumprod", "cumsum", "custom_linear_solve", "custom_root", "digamma",
    "div", "dot", "dot_general", "dynamic_index_in_dim", "dynamic_slice",
    "dynamic_slice_in_dim", "dynamic_update_index_in_dim", "dynamic_update_slice",
    "dynamic_update_slice_in_dim", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expand_dims",
    "expm1", "fft", "floor", "fori_loop", "full", "full_like", "ge", "gt", "imag",
    "index_in_dim", "integer_pow", "iota", "is_finite", "le", "lgamma", "linalg", "log",
    "log1p", "logistic", "lt", "map", "max", "min", "mul", "ne", "neg", "nextafter", "pad",
    "padtype_to_pads", "pmax", "pmean", "pmin", "population_count", "pow", "psum", "real",
    "reciprocal", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod",
    "reduce_sum", "reduce_window", "rem", "reshape", "rev", "rsqrt", "scan", "select",
    "select_n", "shift_left", "shift_right_arithmetic", "sign", "sin", "sinh", "slice",
    "slice_in_dim", "sort", "sqrt", "square", "squeeze", "stop_gradient", "sub", "switch",
    "tan", "tanh", "top_k", "transpose", "while_loop",
]  # fmt: skip
