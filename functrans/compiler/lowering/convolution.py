"""Lowering of convolutions: which memory a routine is given, and in which order it runs.

Out features have to be next to each other in rhs and in the result, so operands are permuted where
they are not. Complex numbers are four convolutions of their parts, float16 one of float32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from functrans.compiler.code import convolution_text
from functrans.compiler.code.convolution_tiles import Axis, Plan, distances, text_size, tiles_of
from functrans.compiler.lowering import nodes
from functrans.compiler.lowering.affine import ZERO, Index, scaled
from functrans.compiler.lowering.lowering import NodeBuilder
from functrans.compiler.lowering.nodes import Node
from functrans.ops.convolution import (
    ConvDimensionNumbers,
    Geometry,
    conv_general_dilated,
    dilated,
    geometry,
)

# Products written out along the last axis; where there would be more, zeros are written to memory.
TEXT_LIMIT = 512
Params = dict[str, Any]


def convolve(b: NodeBuilder, lhs: Node, rhs: Node, **params: Any) -> Node:
    """The rule of `conv_general_dilated`."""
    if lhs.dtype.kind == "c":
        return _complex(b, lhs, rhs, params)
    if lhs.dtype == np.float16:
        single = np.dtype(np.float32)
        out = convolve(b, b.convert(lhs, single), b.convert(rhs, single), **params)
        return b.convert(out, lhs.dtype)
    if len(lhs.shape) == 2:
        return _pointwise(b, lhs, rhs, params)
    sizes = geometry(lhs, rhs, params)
    if _wants_exchange(lhs, sizes, params):
        return _exchanged(b, lhs, rhs, sizes, params)
    lhs_spec, rhs_spec, out_spec = params["dimension_numbers"]
    lanes = _lanes(lhs, sizes, params)
    if lanes == "inputs":
        entry = 1 if sizes.inputs > 1 else -1  # with one feature, taps are in a vector
        lhs, lhs_spec = _with_last(b, lhs, lhs_spec, lhs_spec[entry])
        rhs, rhs_spec = _with_last(b, rhs, rhs_spec, rhs_spec[entry])
    else:
        rhs, rhs_spec = _with_last(b, rhs, rhs_spec, rhs_spec[0])
    order = (*sorted(set(range(len(out_spec))) - {out_spec[1]}), out_spec[1])
    numbers = ConvDimensionNumbers(lhs_spec, rhs_spec, tuple(order.index(i) for i in out_spec))
    params = {**params, "dimension_numbers": numbers}
    extents = (sizes.batch, sizes.outputs * sizes.groups, *sizes.out_space)
    shape = tuple(extents[numbers.out_spec.index(i)] for i in range(len(extents)))
    out = _called(b, lhs, rhs, shape, lanes, params)
    return _permuted(b, out, tuple(order.index(i) for i in range(len(order))))


def _lanes(lhs: Node, sizes: Geometry, params: Params) -> str:
    """What vectors run over: see `Plan`."""
    spec = params["dimension_numbers"].lhs_spec
    most = _lane_count(lhs.dtype)
    group = sizes.batch * distances(lhs.shape)[spec[0]]
    if params["batch_group_count"] == 1:
        group = sizes.inputs * distances(lhs.shape)[spec[1]]
    if sizes.groups > 1 and sizes.outputs == 1 and group == 1:
        return "groups"
    # Where features are neighbours, and those of neighbouring taps too, they are one long vector.
    is_row = params["rhs_dilation"][-1] == params["lhs_dilation"][-1] == 1
    terms = sizes.inputs * sizes.window[-1] if is_row else sizes.inputs
    is_few = 4 * sizes.outputs <= most and 2 * terms >= most
    return "inputs" if is_few and not _by_input(lhs, sizes, params) else "outputs"


def _by_input(lhs: Node, sizes: Geometry, params: Params) -> bool:
    """Whether in features are outermost: they are the images of a gradient of weights."""
    return params["dimension_numbers"].lhs_spec[1] == 0 and sizes.inputs > 1


def _complex(b: NodeBuilder, lhs: Node, rhs: Node, params: Params) -> Node:
    (a, c), (d, e) = (
        [b.elementwise(part, x) for part in ("real", "imag")] for x in (lhs, rhs)
    )  # fmt: skip
    ad, ce, ae, cd = (convolve(b, x, y, **params) for x, y in ((a, d), (c, e), (a, e), (c, d)))
    return b.elementwise("complex", b.elementwise("sub", ad, ce), b.elementwise("add", ae, cd))


def _pointwise(b: NodeBuilder, lhs: Node, rhs: Node, params: Params) -> Node:
    """Without spatial axes: one is added, of extent 1."""

    def widened(x: Node) -> Node:
        return b.view(b.stored(x), (*x.shape, 1), lambda index: index[:-1])

    numbers = ConvDimensionNumbers(*((*spec, 2) for spec in params["dimension_numbers"]))
    ones = {k: (1,) for k in ("window_strides", "lhs_dilation", "rhs_dilation")}
    wide = {**params, **ones, "padding": ((0, 0),), "dimension_numbers": numbers}
    out = convolve(b, widened(lhs), widened(rhs), **wide)
    return b.view(out, out.shape[:-1], lambda index: (*index, ZERO))


def _lane_count(dtype: np.dtype) -> int:
    return convolution_text.vector_bits() // (8 * dtype.itemsize)


def _wants_exchange(lhs: Node, sizes: Geometry, params: Params) -> bool:
    """Whether it is a gradient of weights with few out features, and more of the batch."""
    few = 4 * sizes.outputs <= _lane_count(lhs.dtype) and sizes.batch > sizes.outputs
    return few and sizes.groups == 1 and _by_input(lhs, sizes, params)


def _exchanged(b: NodeBuilder, lhs: Node, rhs: Node, sizes: Geometry, params: Params) -> Node:
    """The convolution of rhs with lhs as the window, whose result is the same in reverse.

    What falls together, `i * ld = p * stride + k * rd - low`, is also `k * rd = q * stride + i * ld
    - ((places - 1) * stride - low)` for the place q = places - 1 - p.
    """
    lhs_spec, rhs_spec, out_spec = params["dimension_numbers"]
    pads = []
    for i, (low, _) in enumerate(params["padding"]):
        span = (sizes.out_space[i] - 1) * params["window_strides"][i]
        n = dilated(sizes.space[i], params["lhs_dilation"][i])
        k = dilated(sizes.window[i], params["rhs_dilation"][i])
        pads.append((span - low, n - k + low))
    numbers = ConvDimensionNumbers(rhs_spec, lhs_spec, (out_spec[1], out_spec[0], *out_spec[2:]))
    given = {
        **params, "padding": tuple(pads), "lhs_dilation": params["rhs_dilation"],
        "rhs_dilation": params["lhs_dilation"], "dimension_numbers": numbers,
    }  # fmt: skip
    out = convolve(b, rhs, lhs, **given)

    def index_map(index: Index) -> Index:
        return tuple(
            scaled(a, -1, n - 1) if axis in out_spec[2:] else a
            for axis, (a, n) in enumerate(zip(index, out.shape, strict=True))
        )

    return b.view(out, out.shape, index_map)


def _permuted(b: NodeBuilder, x: Node, order: tuple[int, ...]) -> Node:
    if order == tuple(range(len(order))):
        return x
    inverse = sorted(range(len(order)), key=order.__getitem__)
    shape = tuple(x.shape[i] for i in order)
    view = nodes.View(shape, x.dtype, x, lambda index: tuple(index[i] for i in inverse), order)
    return b.add(view)


def _with_last(
    b: NodeBuilder, x: Node, spec: tuple[int, ...], axis: int
) -> tuple[Node, tuple[int, ...]]:
    """`x` with `axis` last in memory, where neighbours along it are wanted, and its new spec."""
    if x.shape[axis] == 1:
        return x, spec
    order = (*sorted(set(range(len(spec))) - {axis}), axis)
    return _permuted(b, x, order), tuple(order.index(i) for i in spec)


def _called(
    b: NodeBuilder, lhs: Node, rhs: Node, shape: tuple[int, ...], lanes: str, params: Params
) -> Node:
    """The call of the routine; its result has the out features last."""
    sizes = geometry(lhs, rhs, params)
    products = math.prod((*shape, *sizes.window, sizes.inputs))
    if not products:
        return b.view(b.number(0, lhs), shape, lambda index: ())
    plan = _plan(lhs, rhs, shape, lanes, params)
    if text_size(tiles_of(plan.axes[-1], convolution_text.sums_in_registers())) > TEXT_LIMIT:
        lhs, params = _padded(b, lhs, params)
        plan = _plan(lhs, rhs, shape, lanes, params)
    results = [(shape, lhs.dtype)]
    if plan.by_input:
        chunks = convolution_text.chunks_of(plan) - 1
        results.append(((chunks * convolution_text.result_size(plan),), lhs.dtype))
    return b.native(
        f"convolution {'x'.join(map(str, sizes.window))}",
        lambda: convolution_text.unit_of(plan),
        lambda x, w: [
            conv_general_dilated.impl(x, w, **params),
            *(np.zeros(*scratch) for scratch in results[1:]),
        ],
        [lhs, rhs],
        results,
        work=2 * products,
    )[0]


def _padded(b: NodeBuilder, lhs: Node, params: Params) -> tuple[Node, Params]:
    """lhs with the padding and dilation of the last spatial axis in memory."""
    axis = params["dimension_numbers"].lhs_spec[-1]
    (low, high), step = params["padding"][-1], params["lhs_dilation"][-1]
    config = [(0, 0, 0)] * len(lhs.shape)
    config[axis] = (low, high, step - 1)
    shape = list(lhs.shape)
    shape[axis] = dilated(shape[axis], step) + low + high
    value = b.number(0, lhs)
    out = b.add(nodes.Pad(tuple(shape), lhs.dtype, b.stored(lhs), value, tuple(config)))
    done = {
        "padding": (*params["padding"][:-1], (0, 0)),
        "lhs_dilation": (*params["lhs_dilation"][:-1], 1),
    }
    return out, {**params, **done}


def _plan(lhs: Node, rhs: Node, shape: tuple[int, ...], lanes: str, params: Params) -> Plan:
    sizes = geometry(lhs, rhs, params)
    lhs_spec, rhs_spec, out_spec = params["dimension_numbers"]
    l_batch, l_feature, *l_space = (distances(lhs.shape)[i] for i in lhs_spec)
    r_output, r_feature, *r_space = (distances(rhs.shape)[i] for i in rhs_spec)
    o_batch, _, *o_space = (distances(shape)[i] for i in out_spec)
    by_batch = params["batch_group_count"] > 1
    l_group = sizes.batch * l_batch if by_batch else sizes.inputs * l_feature
    if sizes.inputs == 1:  # then taps may take the place of features
        l_feature, r_feature = l_space[-1], r_space[-1]
    rows = zip(
        sizes.space, sizes.window, sizes.out_space, params["window_strides"],
        (low for low, _ in params["padding"]), params["lhs_dilation"], params["rhs_dilation"],
        strict=True,
    )  # fmt: skip
    groups, outputs = sizes.groups, sizes.outputs
    if lanes == "groups":
        groups, outputs = 1, groups
    return Plan(
        lhs.dtype, groups, sizes.batch, sizes.inputs, outputs, tuple(Axis(*row) for row in rows),
        (l_group, l_batch, l_feature, *l_space),
        (sizes.outputs * r_output, r_output, r_feature, *r_space),
        (sizes.outputs, o_batch, *o_space), lanes, _by_input(lhs, sizes, params),
    )  # fmt: skip


__all__ = ["convolve"]
