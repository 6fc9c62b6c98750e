"""`conv_general_dilated`: sums of products over windows, with any number of spatial axes.

With batch n, features c (in) and o (out), and one spatial axis (more go alike),

    out[n, o, p] = sum over c, k of  lhs[n, c, i] * rhs[o, c, k]
        where i * lhs_dilation = p * window_stride + k * rhs_dilation - padding_low;

terms without such an i, in the padding or between dilated elements, are 0. `dimension_numbers` says
which axis of each array is which. Features may form groups that do not mix, or the batch may, with
one part of the out features for each part of the batch.

It is linear in each operand, and each transpose is again such a sum, as in JAX: but for the spatial
axes the three are `(n, c) (c, o) -> (n, o)`, `(n, o) (o, c) -> (n, c)`, `(c, n) (n, o) -> (c, o)`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from functrans import dtypes
from functrans.core import Linear, Primitive, Zero, get_aval
from functrans.ir import ShapedArray
from functrans.ops import axes, structural
from functrans.ops import elementwise as el
from functrans.ops.axes import Shape

Pads = tuple[tuple[int, int], ...]

# Elements of the windows that are written out at once: they stay in the caches.
CHUNK = 1 << 20


class ConvDimensionNumbers(NamedTuple):
    """Which axes are which: `(batch, feature, *spatial)` of lhs and of the result.

    `rhs_spec` is `(out feature, in feature, *spatial)`.
    """

    lhs_spec: Shape
    rhs_spec: Shape
    out_spec: Shape


class Geometry(NamedTuple):
    """The extents of a convolution by role; the spatial ones in the order of the specs.

    `batch`, `inputs` and `outputs` are those of one of the `groups`.
    """

    batch: int
    inputs: int
    outputs: int
    groups: int
    space: Shape  # of lhs
    window: Shape  # of rhs
    out_space: Shape


def dilated(n: int, step: int) -> int:
    """The extent of `n` elements with `step - 1` zeros between neighbours."""
    return (n - 1) * step + 1 if n else 0


def _places(shape: Shape, spec: Shape) -> Shape:
    return tuple(shape[i] for i in spec)


def geometry(lhs: Any, rhs: Any, params: dict[str, Any]) -> Geometry:
    """The extents, for operands that `abstract_eval` accepts."""
    lhs_spec, rhs_spec, _ = params["dimension_numbers"]
    batch, inputs, *space = _places(lhs.shape, lhs_spec)
    outputs, _, *window = _places(rhs.shape, rhs_spec)
    features, batches = params["feature_group_count"], params["batch_group_count"]
    groups = features * batches
    return Geometry(
        batch // batches, inputs // features, outputs // groups, groups,
        tuple(space), tuple(window), _out_space(space, window, params),
    )  # fmt: skip


def _out_space(space: Sequence[int], window: Sequence[int], params: dict[str, Any]) -> Shape:
    rows = zip(
        space, window, params["window_strides"], params["padding"], params["lhs_dilation"],
        params["rhs_dilation"], strict=True,
    )  # fmt: skip
    return tuple(
        max(0, (dilated(n, ld) + low + high - dilated(k, rd)) // stride + 1)
        for n, k, stride, (low, high), ld, rd in rows
    )


# ---------------------------------------------------------------------------- checks


def _shown(lhs: ShapedArray, rhs: ShapedArray, params: dict[str, Any]) -> str:
    specs = ", ".join(map(str, map(tuple, params["dimension_numbers"])))
    return f"conv_general_dilated of {lhs} and {rhs} with dimension_numbers ({specs})"


def _check(lhs: ShapedArray, rhs: ShapedArray, params: dict[str, Any]) -> None:
    problem = _problem(lhs, rhs, params) or _group_problem(lhs, rhs, params)
    if problem:
        raise ValueError(f"{_shown(lhs, rhs, params)}: {problem}")


def _problem(lhs: ShapedArray, rhs: ShapedArray, params: dict[str, Any]) -> str:
    """What is wrong with the shapes and the numbers along spatial axes, and the remedy."""
    if lhs.ndim != rhs.ndim or lhs.ndim < 2:
        return (
            "both need a batch or out-feature axis, a feature axis, and as many spatial axes as "
            "the other. Add axes with functrans.numpy.expand_dims."
        )
    for spec, name in zip(params["dimension_numbers"], ("lhs", "rhs", "out"), strict=True):
        if sorted(spec) != list(range(lhs.ndim)):
            return f"{name}_spec must name each of the axes 0..{lhs.ndim - 1} once, got {spec}."
    count = lhs.ndim - 2
    for name in ("window_strides", "padding", "lhs_dilation", "rhs_dilation"):
        entries = params[name]
        if len(entries) != count:
            return f"{name} needs an entry for each of {count} spatial axes, got {entries}."
        if name != "padding" and any(n < 1 for n in entries):
            return f"the entries of {name} must be positive, got {entries}."
    space = _places(lhs.shape, params["dimension_numbers"].lhs_spec)[2:]
    for n, ld, (low, high) in zip(space, params["lhs_dilation"], params["padding"], strict=True):
        if dilated(n, ld) + low + high < 0:
            return (
                f"the negative padding in {params['padding']} removes more than there is of the "
                f"spatial extents {space}."
            )
    return ""


def _group_problem(lhs: ShapedArray, rhs: ShapedArray, params: dict[str, Any]) -> str:
    features, batches = params["feature_group_count"], params["batch_group_count"]
    lhs_spec, rhs_spec, _ = params["dimension_numbers"]
    batch, inputs = _places(lhs.shape, lhs_spec)[:2]
    outputs, given = _places(rhs.shape, rhs_spec)[:2]
    if features < 1 or batches < 1 or (features > 1 and batches > 1):
        return (
            "feature_group_count and batch_group_count must be positive, and one of them 1, got "
            f"{features} and {batches}."
        )
    if inputs != given * features:
        groups = f" in {features} groups" if features > 1 else ""
        return (
            f"lhs has {inputs} features{groups}, rhs takes {given}. Give one of them other "
            "dimension_numbers, or set feature_group_count."
        )
    if batch % batches or outputs % (features * batches):
        return (
            f"{features * batches} groups must divide the {outputs} out features of rhs, and "
            f"batch_group_count={batches} the batch of {batch}."
        )
    return ""


@functools.lru_cache(maxsize=4096)
def _result_aval(lhs: ShapedArray, rhs: ShapedArray, rows: tuple[Any, ...]) -> ShapedArray:
    params = dict(rows)
    if lhs.dtype != rhs.dtype or lhs.dtype == dtypes.bool_:
        raise TypeError(
            f"conv_general_dilated needs numbers of equal dtype, got {lhs} and {rhs}. "
            "Convert with x.astype(...)."
        )
    _check(lhs, rhs, params)
    sizes = geometry(lhs, rhs, params)
    shape = [0] * lhs.ndim
    extents = (sizes.batch, sizes.outputs * sizes.groups, *sizes.out_space)
    for axis, n in zip(params["dimension_numbers"].out_spec, extents, strict=True):
        shape[axis] = n
    return ShapedArray(tuple(shape), lhs.dtype)


# ---------------------------------------------------------------------------- the primitive


class ConvGeneralDilated(Primitive):
    """The sum of products over a window, for each position of the window; see the module."""

    def abstract_eval(self, lhs: ShapedArray, rhs: ShapedArray, **params: Any) -> ShapedArray:
        return _result_aval(lhs, rhs, tuple(params.items()))

    def impl(self, lhs: Any, rhs: Any, **params: Any) -> Any:
        self.abstract_eval(get_aval(lhs), get_aval(rhs), **params)  # refuses bad operands
        if lhs.dtype == np.float16:  # summed in single precision, as products of matrices are
            return _by_matrices(lhs.astype("f4"), rhs.astype("f4"), params).astype("f2")
        return _by_matrices(lhs, rhs, params)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
        (lhs, rhs), (t_lhs, t_rhs) = primals, tangents
        out = self(lhs, rhs, **params)
        terms = []
        if type(t_lhs) is not Zero:
            terms.append(self(t_lhs, rhs, **params))
        if type(t_rhs) is not Zero:
            terms.append(self(lhs, t_rhs, **params))
        if not terms:
            return out, Zero(get_aval(out).tangent_aval())
        return out, terms[0] if len(terms) == 1 else el.add(*terms)

    def transpose(self, ct: Any, lhs: Any, rhs: Any, **params: Any) -> list[Any]:
        if type(lhs) is Linear and type(rhs) is Linear:
            raise TypeError(
                f"conv_general_dilated of {lhs.aval} and {rhs.aval} is not linear in both operands "
                "at once; linear_transpose needs a linear function."
            )
        linear, known = (lhs, rhs) if type(lhs) is Linear else (rhs, lhs)
        rule = _transpose_lhs if linear is lhs else _transpose_rhs
        is_empty = 0 in ct.shape or 0 in known.shape
        out = structural.zeros(linear.aval) if is_empty else rule(ct, lhs, rhs, params)
        return [out, None] if linear is lhs else [None, out]

    def batch(self, size: int, args: Sequence[Any], dims: Sequence[Any], **params: Any) -> Any:
        lhs, rhs = args
        if size == 0:
            avals = [get_aval(x) for x in args]
            singles = (
                a if d is None else a.update(shape=axes.without(a.shape, d))
                for a, d in zip(avals, dims, strict=True)
            )
            aval = self.abstract_eval(*singles, **params)
            return structural.zeros(aval.update(shape=(0, *aval.shape))), 0
        if dims[1] is None:
            return _batch_lhs(size, lhs, rhs, dims[0], params)
        if dims[0] is None:
            return _batch_rhs(size, lhs, rhs, dims[1], params)
        return _batch_both(size, args, dims, params)


conv_general_dilated = ConvGeneralDilated("conv_general_dilated")

# ---------------------------------------------------------------------------- by products


def _by_matrices(lhs: Any, rhs: Any, params: dict[str, Any]) -> Any:
    """Windows written out as rows of a matrix, some of the batch at a time; see `CHUNK`."""
    _, rhs_spec, out_spec = params["dimension_numbers"]
    sizes = geometry(lhs, rhs, params)
    groups, batch, inputs, outputs = sizes.groups, sizes.batch, sizes.inputs, sizes.outputs
    points, taps = math.prod(sizes.out_space), math.prod(sizes.window)
    weights = rhs.transpose((rhs_spec[0], *rhs_spec[2:], rhs_spec[1]))
    weights = weights.reshape(groups, outputs, taps * inputs).transpose(0, 2, 1)
    windows = _windows(_padded(lhs, params), sizes, params)
    out = np.empty((groups, batch, points, outputs), lhs.dtype)
    rows = max(1, CHUNK // max(1, groups * points * taps * inputs))
    for start in range(0, batch, rows):
        target = out[:, start : start + rows]
        matrix = windows[:, start : start + rows].reshape(
            groups, target.shape[1] * points, taps * inputs
        )
        target[...] = np.matmul(matrix, weights).reshape(target.shape)
    out = out.transpose(1, 2, 0, 3).reshape(batch, *sizes.out_space, groups * outputs)
    order = np.argsort((out_spec[0], *out_spec[2:], out_spec[1]))
    return axes.value(out.transpose(order))


def _padded(lhs: Any, params: dict[str, Any]) -> Any:
    """lhs as (batch, *spatial, features), with the zeros of its dilation and padding written."""
    batch, feature, *space = params["dimension_numbers"].lhs_spec
    x = lhs.transpose((batch, *space, feature))
    pads = zip(params["padding"], params["lhs_dilation"], strict=True)
    config = ((0, 0, 0), *((low, high, d - 1) for (low, high), d in pads), (0, 0, 0))
    if not any(any(entry) for entry in config):
        return x
    return structural.pad.impl(x, lhs.dtype.type(0), config=config)


def _windows(x: np.ndarray, sizes: Geometry, params: dict[str, Any]) -> np.ndarray:
    """A view of `x` as (groups, batch, *out_space, *window, inputs)."""
    by_batch = params["batch_group_count"] > 1
    at_batch, *at_space, at_input = x.strides
    group = sizes.batch * at_batch if by_batch else sizes.inputs * at_input
    steps = (n * at for n, at in zip(params["window_strides"], at_space, strict=True))
    taps = (n * at for n, at in zip(params["rhs_dilation"], at_space, strict=True))
    return np.lib.stride_tricks.as_strided(
        x,
        (sizes.groups, sizes.batch, *sizes.out_space, *sizes.window, sizes.inputs),
        (group, at_batch, *steps, *taps, at_input),
        writeable=False,
    )


# ---------------------------------------------------------------------------- transposes


def _swapped(spec: Shape) -> Shape:
    return (spec[1], spec[0], *spec[2:])


def _transpose_lhs(ct: Any, lhs: Any, rhs: Any, params: dict[str, Any]) -> Any:
    """ct, dilated by the strides, with rhs flipped: in and out features change places."""
    lhs_spec, rhs_spec, out_spec = params["dimension_numbers"]
    batches = params["batch_group_count"]
    groups = params["feature_group_count"] * batches
    if groups > 1:
        rhs = _into(_out_of(rhs, rhs_spec[0], groups), rhs_spec[0], rhs_spec[1])
    out = conv_general_dilated(
        ct,
        structural.rev(rhs, dimensions=tuple(rhs_spec[2:])) if rhs_spec[2:] else rhs,
        window_strides=params["lhs_dilation"],
        padding=_lhs_padding(ct, lhs, rhs, params),
        lhs_dilation=params["window_strides"],
        rhs_dilation=params["rhs_dilation"],
        dimension_numbers=ConvDimensionNumbers(out_spec, _swapped(rhs_spec), lhs_spec),
        feature_group_count=groups,
        batch_group_count=1,
    )
    if batches > 1:
        out = _into(_out_of(out, lhs_spec[1], batches), lhs_spec[1], lhs_spec[0])
    return out


def _transpose_rhs(ct: Any, lhs: Any, rhs: Any, params: dict[str, Any]) -> Any:
    """lhs with ct as the window: batch and features change places."""
    lhs_spec, rhs_spec, out_spec = map(_swapped, params["dimension_numbers"])
    return conv_general_dilated(
        lhs,
        ct,
        window_strides=params["rhs_dilation"],
        padding=_rhs_padding(ct, lhs, rhs, params),
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["window_strides"],
        dimension_numbers=ConvDimensionNumbers(lhs_spec, out_spec, rhs_spec),
        feature_group_count=params["batch_group_count"],
        batch_group_count=params["feature_group_count"],
    )


def _spatial_rows(ct: Any, lhs: Any, rhs: Any, params: dict[str, Any]) -> Any:
    """(extent of lhs, of rhs, of ct, low padding) for each spatial axis, dilations included."""
    keys = ("lhs_dilation", "rhs_dilation", "window_strides", "padding")
    rows = zip(*(params[key] for key in keys), strict=True)
    axes_of = zip(*(spec[2:] for spec in params["dimension_numbers"]), strict=True)
    for (i, j, k), (ld, rd, stride, (low, _)) in zip(axes_of, rows, strict=True):
        n, m, p = lhs.shape[i], rhs.shape[j], ct.shape[k]
        yield dilated(n, ld), dilated(m, rd), dilated(p, stride), low


def _lhs_padding(ct: Any, lhs: Any, rhs: Any, params: dict[str, Any]) -> Pads:
    pads = []
    for n, m, p, low in _spatial_rows(ct, lhs, rhs, params):
        before = m - low - 1
        pads.append((before, n + m - 1 - p - before))
    return tuple(pads)


def _rhs_padding(ct: Any, lhs: Any, rhs: Any, params: dict[str, Any]) -> Pads:
    rows = _spatial_rows(ct, lhs, rhs, params)
    return tuple((low, (p - n) + (m - low - 1)) for n, m, p, low in rows)


# ---------------------------------------------------------------------------- batches


def _out_of(x: Any, axis: int, count: int) -> Any:
    """`x` with an axis cut in two, the first of extent `count`."""
    shape = x.shape
    cut = (*shape[:axis], count, shape[axis] // count, *shape[axis + 1 :])
    return structural.reshape(x, shape=cut)


def _into(x: Any, source: int, axis: int) -> Any:
    """`x` with the axis `source` merged into what is `axis` once it is gone, as the outer part."""
    x = structural.moveaxis(x, source, axis)
    shape = x.shape
    merged = (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
    return structural.reshape(x, shape=merged)


def _batch_lhs(size: int, lhs: Any, rhs: Any, dim: int, params: dict[str, Any]) -> Any:
    """More of the batch; with groups in it, within each group."""
    at, out_at = (params["dimension_numbers"][i][0] for i in (0, 2))
    lhs = structural.moveaxis(lhs, dim, at)
    groups = params["batch_group_count"]
    if groups > 1:
        lhs = structural.moveaxis(_out_of(lhs, at + 1, groups), at + 1, at)
        lhs = _into(lhs, at, at)
    out = conv_general_dilated(_into(lhs, at, at), rhs, **params)
    return _out_of(out, out_at, size), out_at


def _batch_rhs(size: int, lhs: Any, rhs: Any, dim: int, params: dict[str, Any]) -> Any:
    """More out features; with groups, within each group."""
    at, out_at = params["dimension_numbers"][1][0], params["dimension_numbers"][2][1]
    rhs = structural.moveaxis(rhs, dim, at)
    groups = params["feature_group_count"] * params["batch_group_count"]
    if groups == 1:
        out = conv_general_dilated(lhs, _into(rhs, at, at), **params)
        return _out_of(out, out_at, size), out_at
    rhs = structural.moveaxis(_out_of(rhs, at + 1, groups), at + 1, at)
    out = conv_general_dilated(lhs, _into(_into(rhs, at, at), at, at), **params)
    out = _out_of(_out_of(out, out_at, groups), out_at + 1, size)
    return _into(out, out_at, out_at + 1), out_at


def _batch_both(size: int, args: Sequence[Any], dims: Sequence[Any], params: dict[str, Any]) -> Any:
    """Each example is a group."""
    lhs_spec, rhs_spec, out_spec = params["dimension_numbers"]
    by_batch = params["batch_group_count"] > 1
    at = lhs_spec[0 if by_batch else 1]
    name = "batch_group_count" if by_batch else "feature_group_count"
    out = conv_general_dilated(
        _into(args[0], dims[0], at),
        _into(args[1], dims[1], rhs_spec[0]),
        **{**params, name: params[name] * size},
    )
    return _out_of(out, out_spec[1], size), out_spec[1]


__all__ = ["ConvDimensionNumbers", "conv_general_dilated"]
