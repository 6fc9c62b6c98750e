"""Convolutions and reductions over windows under JAX's names; `functrans.lax` has them too.

A convolution is a primitive. A reduction over windows is made of others: neighbours that do not
overlap are an axis to reduce over; overlapping ones are folded slice by slice, along one axis after
the other, which costs no memory in compiled code.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import ops
from functrans.core import Tracer
from functrans.numpy.promotion import array, cast
from functrans.ops.convolution import ConvDimensionNumbers, Pads, dilated

Padding = str | Sequence[tuple[int, int]]
Numbers = Sequence[int]

# ---------------------------------------------------------------------------- conventions


def padtype_to_pads(
    in_shape: Numbers, window_shape: Numbers, window_strides: Numbers, padding: str
) -> list[tuple[int, int]]:
    """The (low, high) padding of each axis for 'VALID', 'SAME' or 'SAME_LOWER'.

    'SAME' gives `ceil(n / stride)` positions; an odd element of padding goes behind, for
    'SAME_LOWER' in front.
    """
    mode = str(padding).upper()
    if mode not in ("VALID", "SAME", "SAME_LOWER"):
        raise ValueError(
            f"padding must be 'VALID', 'SAME', 'SAME_LOWER' or a pair (low, high) for each spatial "
            f"axis, got {padding!r}."
        )
    pads = []
    for n, m, stride in zip(in_shape, window_shape, window_strides, strict=True):
        total = max((-(-n // stride) - 1) * stride + m - n, 0) if mode != "VALID" else 0
        less, more = total // 2, total - total // 2
        pads.append((less, more) if mode == "SAME" else (more, less))
    return pads


_ROLES = {"lhs": "NC", "rhs": "OI", "out": "NC"}


def conv_dimension_numbers(
    lhs_shape: Numbers, rhs_shape: Numbers, dimension_numbers: Any
) -> ConvDimensionNumbers:
    """`dimension_numbers` (None, three strings, or already so) as a `ConvDimensionNumbers`.

    None says that batch (of rhs: out feature), feature and spatial axes follow in this order.
    """
    if isinstance(dimension_numbers, ConvDimensionNumbers):
        return ConvDimensionNumbers(*map(tuple, dimension_numbers))
    ndim = len(lhs_shape)
    if ndim != len(rhs_shape):
        raise TypeError(
            f"a convolution needs as many axes of lhs as of rhs, got the shapes {tuple(lhs_shape)} "
            f"and {tuple(rhs_shape)}. Add axes with functrans.numpy.expand_dims."
        )
    if dimension_numbers is None:
        return ConvDimensionNumbers(*3 * (tuple(range(ndim)),))
    specs = dimension_numbers
    if not isinstance(specs, (tuple, list)) or len(specs) != 3:
        raise _bad_specs(specs, "three strings such as ('NHWC', 'HWIO', 'NHWC') are needed")
    for spec, (name, roles) in zip(specs, _ROLES.items(), strict=True):
        if not isinstance(spec, str) or len(spec) != ndim or len(set(spec)) != ndim:
            raise _bad_specs(
                specs, f"{name} needs a string of {ndim} distinct letters, one per axis"
            )
        if not set(roles) <= set(spec):
            raise _bad_specs(specs, f"{name} needs the letters {roles[0]} and {roles[1]}")
    spatial = [c for c in specs[1] if c not in "OI"]
    for spec, roles in zip(specs, _ROLES.values(), strict=True):
        if set(spec) != {*roles, *spatial}:
            raise _bad_specs(specs, "the spatial letters of all three must be the same")
    return ConvDimensionNumbers(
        *(
            tuple(spec.index(c) for c in (*roles, *spatial))
            for spec, roles in zip(specs, _ROLES.values(), strict=True)
        )
    )


def _bad_specs(specs: Any, what: str) -> TypeError:
    return TypeError(f"convolution dimension_numbers {specs!r}: {what}.")


def _per_axis(name: str, entries: Numbers | None, ones: Numbers, what: str) -> tuple[int, ...]:
    """The entries of a parameter, which has one for each axis; None: all 1."""
    given = tuple(ones if entries is None else map(operator.index, entries))
    if len(given) != len(ones) or any(n < 1 for n in given):
        raise ValueError(
            f"{what} needs a positive entry of {name} for each of {len(ones)} axes, got {given}."
        )
    return given


def _pads(
    padding: Padding, lhs: Any, rhs: Any, numbers: ConvDimensionNumbers, strides: Numbers,
    lhs_dilation: Numbers, rhs_dilation: Numbers,
) -> Pads:  # fmt: skip
    if not isinstance(padding, str):
        try:
            return tuple((operator.index(low), operator.index(high)) for low, high in padding)
        except (TypeError, ValueError):
            raise ValueError(
                "padding must be 'VALID', 'SAME', 'SAME_LOWER' or a pair of integers (low, high) "
                f"for each spatial axis, got {padding!r}."
            ) from None
    if any(d != 1 for d in lhs_dilation):
        raise ValueError(
            f"padding={padding!r} has no meaning with lhs_dilation={tuple(lhs_dilation)}. Give a "
            "pair (low, high) for each spatial axis, or use conv_transpose."
        )
    space = [lhs.shape[i] for i in numbers.lhs_spec[2:]]
    extents = [rhs.shape[i] for i in numbers.rhs_spec[2:]]
    window = [dilated(n, d) for n, d in zip(extents, rhs_dilation, strict=True)]
    return tuple(padtype_to_pads(space, window, strides, padding))


# ---------------------------------------------------------------------------- convolutions


def conv_general_dilated(
    lhs: Any, rhs: Any, window_strides: Numbers, padding: Padding,
    lhs_dilation: Numbers | None = None, rhs_dilation: Numbers | None = None,
    dimension_numbers: Any = None, feature_group_count: int = 1, batch_group_count: int = 1,
    precision: Any = None, preferred_element_type: Any = None,
) -> Any:  # fmt: skip
    """Sums of products of `rhs` with the windows of `lhs`, in any number of spatial axes.

    Shapes: as `dimension_numbers` say, by default lhs (n, c, *space), rhs (o, c / groups, *window),
    result (n, o, *places). `precision` is taken and ignored: products are of the operands' dtype.
    """
    x, w = array(lhs), array(rhs)
    numbers = conv_dimension_numbers(x.shape, w.shape, dimension_numbers)
    ones = (1,) * (len(x.shape) - 2)
    what = f"a convolution of shapes {x.shape} and {w.shape}, for its spatial ones,"
    strides = _per_axis("window_strides", window_strides, ones, what)
    lhs_dilation = _per_axis("lhs_dilation", lhs_dilation, ones, what)
    rhs_dilation = _per_axis("rhs_dilation", rhs_dilation, ones, what)
    pads = _pads(padding, x, w, numbers, strides, lhs_dilation, rhs_dilation)
    dtype = x.dtype if preferred_element_type is None else np.dtype(preferred_element_type)
    if x.dtype == w.dtype and np.promote_types(x.dtype, dtype) == dtype:
        x, w = cast(x, dtype), cast(w, dtype)
    out = ops.conv_general_dilated(
        x, w, window_strides=strides, padding=pads, lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation, dimension_numbers=numbers,
        feature_group_count=operator.index(feature_group_count),
        batch_group_count=operator.index(batch_group_count),
    )  # fmt: skip
    return cast(out, dtype)


def conv(
    lhs: Any, rhs: Any, window_strides: Numbers, padding: str, precision: Any = None,
    preferred_element_type: Any = None,
) -> Any:  # fmt: skip
    """`conv_general_dilated` without dilations, of axes (batch, feature, *spatial)."""
    return conv_general_dilated(
        lhs, rhs, window_strides, padding, preferred_element_type=preferred_element_type
    )


def conv_with_general_padding(
    lhs: Any, rhs: Any, window_strides: Numbers, padding: Padding, lhs_dilation: Numbers | None,
    rhs_dilation: Numbers | None, precision: Any = None, preferred_element_type: Any = None,
) -> Any:  # fmt: skip
    """`conv_general_dilated` of axes (batch, feature, *spatial)."""
    return conv_general_dilated(
        lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation,
        preferred_element_type=preferred_element_type,
    )  # fmt: skip


def _transposed_pads(k: int, stride: int, padding: Any) -> tuple[int, int]:
    """The padding with which a window of extent `k` undoes a convolution with `padding`."""
    if padding == "SAME":
        total = k + stride - 2
        low = k - 1 if stride > k - 1 else -(-total // 2)
        return low, total - low
    if padding == "VALID":
        return k - 1, k + stride - 2 + max(k - stride, 0) - (k - 1)
    low, high = padding
    return k - low - 1, k - high - 1


_DEFAULTS = {2: ("NC", "IO", "NC"), 3: ("NHC", "HIO", "NHC"), 4: ("NHWC", "HWIO", "NHWC"),
             5: ("NHWDC", "HWDIO", "NHWDC")}  # fmt: skip


def conv_transpose(
    lhs: Any, rhs: Any, strides: Numbers, padding: Padding, rhs_dilation: Numbers | None = None,
    dimension_numbers: Any = None, transpose_kernel: bool = False, precision: Any = None,
    preferred_element_type: Any = None, use_consistent_padding: bool = False,
) -> Any:  # fmt: skip
    """A convolution with fractional strides, which undoes the shapes of one with `strides`.

    `dimension_numbers` are by default ('NHWC', 'HWIO', 'NHWC') and their like. 'SAME' and 'VALID'
    mean the padding of the convolution that is undone; so do pairs with `use_consistent_padding`,
    else they are this one's. `transpose_kernel` flips `rhs` and swaps its features, which makes
    the result the gradient of a convolution by `rhs`.
    """
    x, w = array(lhs), array(rhs)
    ndim = len(x.shape)
    if dimension_numbers is None:
        if ndim not in _DEFAULTS:
            raise ValueError(
                f"conv_transpose has default dimension_numbers for 0 to 3 spatial axes; lhs has "
                f"the shape {x.shape}. Give dimension_numbers."
            )
        dimension_numbers = _DEFAULTS[ndim]
    numbers = conv_dimension_numbers(x.shape, w.shape, dimension_numbers)
    steps = (1,) * (ndim - 2) if rhs_dilation is None else tuple(rhs_dilation)
    if use_consistent_padding or padding in ("SAME", "VALID"):
        window = [dilated(w.shape[i], d) for i, d in zip(numbers.rhs_spec[2:], steps, strict=True)]
        given = [padding] * len(window) if isinstance(padding, str) else padding
        padding = [_transposed_pads(*row) for row in zip(window, strides, given, strict=True)]
    if transpose_kernel:
        spatial = tuple(numbers.rhs_spec[2:])
        w = ops.rev(w, dimensions=spatial) if spatial else w
        order = list(range(ndim))
        i, j = numbers.rhs_spec[:2]
        order[i], order[j] = j, i
        w = ops.permute(w, permutation=tuple(order))
    return conv_general_dilated(
        x, w, (1,) * (ndim - 2), padding, strides, steps, numbers,
        preferred_element_type=preferred_element_type,
    )  # fmt: skip


# ---------------------------------------------------------------------------- reductions

_REDUCTIONS = {
    ops.add: ops.reduce_sum, ops.mul: ops.reduce_prod, ops.max: ops.reduce_max,
    ops.min: ops.reduce_min,
}  # fmt: skip


def _identity(op: Any, dtype: np.dtype) -> Any:
    """The number that `op`, one of `_REDUCTIONS`, leaves every other as it is with."""
    if op in (ops.add, ops.mul):
        return dtype.type(op is ops.mul)
    if dtype.kind == "f":
        return dtype.type(-np.inf if op is ops.max else np.inf)
    if dtype.kind == "b":
        return np.bool_(op is ops.min)
    return dtype.type(getattr(np.iinfo(dtype), "min" if op is ops.max else "max"))


def reduce_window(
    operand: Any, init_value: Any, computation: Callable[[Any, Any], Any],
    window_dimensions: Numbers, window_strides: Numbers | None = None, padding: Padding = "VALID",
    base_dilation: Numbers | None = None, window_dilation: Numbers | None = None,
) -> Any:  # fmt: skip
    """Each window of `operand` folded by `computation`, from `init_value` on.

    `computation(x, y)` is `lax.add`, `lax.mul`, `lax.max` or `lax.min`, which see nothing in the
    padding and between dilated elements; or another elementwise function whose grouping and order
    do not matter, which finds `init_value` there. Windows have an extent along every axis.
    A maximum's derivative is shared at ties.
    """
    x = array(operand)
    ones = (1,) * len(x.shape)
    what = f"reduce_window of an array of shape {x.shape}"
    window = _per_axis("window_dimensions", window_dimensions, ones, what)
    strides = _per_axis("window_strides", window_strides, ones, what)
    dilation = _per_axis("base_dilation", base_dilation, ones, what)
    steps = _per_axis("window_dilation", window_dilation, ones, what)
    if isinstance(padding, str):
        whole = [dilated(k, d) for k, d in zip(window, steps, strict=True)]
        padding = padtype_to_pads(x.shape, whole, strides, padding)
    if len(padding) != x.ndim:
        raise ValueError(f"{what} needs {x.ndim} pairs (low, high) of padding, got {padding}.")
    config = tuple((low, high, d - 1) for (low, high), d in zip(padding, dilation, strict=True))
    init = cast(array(init_value), x.dtype)
    op = getattr(computation, "op", None)
    nothing = _identity(op, x.dtype) if op in _REDUCTIONS else init
    if any(any(entry) for entry in config):
        x = ops.pad(x, nothing, config=config)
    windows = x, window, strides, steps
    if op in _REDUCTIONS:
        windows = _tiled(*windows, _REDUCTIONS[op])
    out = _folded(windows, computation)
    is_nothing = op in _REDUCTIONS and not isinstance(init, Tracer) and init == nothing
    return out if is_nothing else computation(init, out)


Windows = tuple[Any, ...]  # an array; extents, strides and steps of its windows along each axis


def _tiled(
    x: Any, window: tuple[int, ...], strides: tuple[int, ...], steps: tuple[int, ...],
    reduction: Any,
) -> Windows:  # fmt: skip
    """Reduce over the axes along which windows neither overlap nor leave gaps; what is left."""
    rows = list(zip(window, strides, steps, strict=True))
    axes = [i for i, (k, stride, step) in enumerate(rows) if k == stride > 1 and step == 1]
    shape: list[int] = []
    inner = []
    for i, n in enumerate(x.shape):
        if i in axes:
            x = ops.slice_axis(x, i, 0, n // window[i] * window[i])
            inner.append(len(shape) + 1)
        shape += [n // window[i], window[i]] if i in axes else [n]
    if axes:
        x = reduction(ops.reshape(x, shape=tuple(shape)), axes=tuple(inner))
    done = [(1, 1, 1) if i in axes else row for i, row in enumerate(rows)]
    return x, *zip(*done, strict=True)


def _folded(windows: Windows, computation: Callable[[Any, Any], Any]) -> Any:
    x, *rows = windows
    for axis, (k, stride, step) in enumerate(zip(*rows, strict=True)):
        count = max(0, (x.shape[axis] - dilated(k, step)) // stride + 1)
        span = (count - 1) * stride + 1 if count else 0
        starts = [i * step if count else 0 for i in range(k)]
        parts = [ops.slice_axis(x, axis, i, i + span, stride) for i in starts]
        x = functools.reduce(computation, parts)
    return x


__all__ = [
    "ConvDimensionNumbers", "conv", "conv_dimension_numbers", "conv_general_dilated",
    "conv_transpose", "conv_with_general_padding", "padtype_to_pads",
    "reduce_window",
]  # fmt: skip
