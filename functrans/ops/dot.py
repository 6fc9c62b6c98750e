"""`dot_general`: products summed over pairs of axes; matmul, tensordot and einsum are made of it.

`dimension_numbers` is `((lhs_contract, rhs_contract), (lhs_batch, rhs_batch))`, as in JAX. The axes
of the result are the batch axes, what is left of lhs, and what is left of rhs, in this order. It is
linear in each operand, and each transpose is again a `dot_general`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans.core import Linear, Primitive, Zero, get_aval
from functrans.ir import ShapedArray
from functrans.ops import axes, structural
from functrans.ops import elementwise as el

Axes = tuple[int, ...]
DimensionNumbers = tuple[tuple[Axes, Axes], tuple[Axes, Axes]]


@functools.lru_cache(maxsize=4096)
def _product_aval(
    lhs: ShapedArray, rhs: ShapedArray, dimension_numbers: DimensionNumbers
) -> ShapedArray:
    contract, batch = dimension_numbers
    if lhs.dtype != rhs.dtype:
        raise TypeError(
            f"dot_general needs operands of equal dtype, got {lhs} and {rhs}. "
            "functrans.numpy.matmul promotes; ops.dot_general does not."
        )
    for x, side in ((lhs, 0), (rhs, 1)):
        axes.check_axes("dot_general", x, (*contract[side], *batch[side]))
    for word, (l_axes, r_axes) in (("contracted", contract), ("batch", batch)):
        if len(l_axes) != len(r_axes):
            raise ValueError(
                f"dot_general needs as many {word} axes of each operand, "
                f"got {l_axes} and {r_axes} for {lhs} and {rhs}."
            )
        for i, j in zip(l_axes, r_axes, strict=True):
            if lhs.shape[i] != rhs.shape[j]:
                raise ValueError(
                    f"dot_general of {lhs} and {rhs}: the {word} axes {i} and {j} have "
                    f"different extents, {lhs.shape[i]} and {rhs.shape[j]}."
                )
    l_free, r_free = free_axes(lhs.ndim, rhs.ndim, dimension_numbers)
    shape = (
        *(lhs.shape[i] for i in batch[0]),
        *(lhs.shape[i] for i in l_free),
        *(rhs.shape[i] for i in r_free),
    )
    return ShapedArray(shape, lhs.dtype)


class DotGeneral(Primitive):
    """The sum of products over the contracted axes, for each index of the batch axes."""

    def abstract_eval(
        self, lhs: ShapedArray, rhs: ShapedArray, *, dimension_numbers: DimensionNumbers
    ) -> ShapedArray:
        return _product_aval(lhs, rhs, dimension_numbers)

    def impl(self, lhs: Any, rhs: Any, *, dimension_numbers: DimensionNumbers) -> Any:
        (l_contract, r_contract), (l_batch, _) = dimension_numbers
        simple = len(l_contract) == 1 and not l_batch and lhs.ndim <= 2 and rhs.ndim <= 2
        if simple and lhs.dtype == rhs.dtype:
            return np.dot(
                lhs if l_contract[0] == lhs.ndim - 1 else lhs.T,
                rhs if r_contract[0] == 0 else rhs.T,
            )
        return _by_matrices(self, lhs, rhs, dimension_numbers)

    def jvp(
        self,
        primals: Sequence[Any],
        tangents: Sequence[Any],
        *,
        dimension_numbers: DimensionNumbers,
    ) -> Any:
        lhs, rhs = primals
        t_lhs, t_rhs = tangents
        out = self(lhs, rhs, dimension_numbers=dimension_numbers)
        terms = []
        if type(t_lhs) is not Zero:
            terms.append(self(t_lhs, rhs, dimension_numbers=dimension_numbers))
        if type(t_rhs) is not Zero:
            terms.append(self(lhs, t_rhs, dimension_numbers=dimension_numbers))
        if not terms:
            return out, Zero(get_aval(out).tangent_aval())
        return out, terms[0] if len(terms) == 1 else el.add(*terms)

    def transpose(
        self, ct: Any, lhs: Any, rhs: Any, *, dimension_numbers: DimensionNumbers
    ) -> list[Any]:
        if type(lhs) is Linear and type(rhs) is Linear:
            raise TypeError(
                f"dot_general of {lhs.aval} and {rhs.aval} is not linear in both operands at once; "
                "linear_transpose needs a linear function."
            )
        (l_contract, r_contract), (l_batch, r_batch) = dimension_numbers
        l_free, r_free = free_axes(len(lhs.shape), len(rhs.shape), dimension_numbers)
        batch = tuple(range(len(l_batch)))
        ct_l = tuple(range(len(batch), len(batch) + len(l_free)))
        ct_r = tuple(range(len(batch) + len(l_free), len(ct.shape)))
        if type(lhs) is Linear:
            out = self(ct, rhs, dimension_numbers=((ct_r, r_free), (batch, r_batch)))
            # The contracted axes come in the order they have in rhs.
            contracted = _sorted_by(l_contract, r_contract)
            return [_placed(out, (*l_batch, *l_free, *contracted)), None]
        out = self(lhs, ct, dimension_numbers=((l_free, ct_l), (l_batch, batch)))
        contracted = _sorted_by(r_contract, l_contract)
        return [None, _placed(out, (*r_batch, *contracted, *r_free))]

    def batch(
        self,
        size: int,
        args: Sequence[Any],
        dims: Sequence[Any],
        *,
        dimension_numbers: DimensionNumbers,
    ) -> Any:
        (l_contract, r_contract), (l_batch, r_batch) = dimension_numbers
        l_dim, r_dim = dims
        if l_dim is not None:
            l_contract, l_batch = axes.shifted(l_contract, l_dim), axes.shifted(l_batch, l_dim)
        if r_dim is not None:
            r_contract, r_batch = axes.shifted(r_contract, r_dim), axes.shifted(r_batch, r_dim)
        if l_dim is not None and r_dim is not None:
            l_batch, r_batch = (l_dim, *l_batch), (r_dim, *r_batch)
        numbers = ((l_contract, r_contract), (l_batch, r_batch))
        out = self(*args, dimension_numbers=numbers)
        if l_dim is not None and r_dim is not None:
            return out, 0
        l_free, r_free = free_axes(len(args[0].shape), len(args[1].shape), numbers)
        if r_dim is None:
            return out, len(l_batch) + l_free.index(l_dim)
        return out, len(l_batch) + len(l_free) + r_free.index(r_dim)


def free_axes(l_ndim: int, r_ndim: int, dimension_numbers: DimensionNumbers) -> tuple[Axes, Axes]:
    """The axes of each operand that are neither contracted nor batch axes."""
    (l_contract, r_contract), (l_batch, r_batch) = dimension_numbers
    return (
        tuple(i for i in range(l_ndim) if i not in l_contract and i not in l_batch),
        tuple(i for i in range(r_ndim) if i not in r_contract and i not in r_batch),
    )


def _by_matrices(
    primitive: DotGeneral, lhs: Any, rhs: Any, dimension_numbers: DimensionNumbers
) -> Any:
    """The general case: axes are merged until it is a product of matrices, or a stack of them."""
    out_shape = primitive.abstract_eval(
        get_aval(lhs), get_aval(rhs), dimension_numbers=dimension_numbers
    ).shape
    (l_contract, r_contract), (l_batch, r_batch) = dimension_numbers
    l_free, r_free = free_axes(lhs.ndim, rhs.ndim, dimension_numbers)
    stack = tuple(lhs.shape[i] for i in l_batch)
    m = math.prod(lhs.shape[i] for i in l_free)
    k = math.prod(lhs.shape[i] for i in l_contract)
    n = math.prod(rhs.shape[i] for i in r_free)
    a = lhs.transpose((*l_batch, *l_free, *l_contract)).reshape((*stack, m, k))
    b = rhs.transpose((*r_batch, *r_contract, *r_free)).reshape((*stack, k, n))
    out = np.matmul(a, b) if stack else np.dot(a, b)
    return structural.reshape.impl(out, shape=out_shape)


def _sorted_by(xs: Axes, keys: Axes) -> Axes:
    return tuple(x for _, x in sorted(zip(keys, xs, strict=True)))


def _placed(x: Any, destination: Axes) -> Any:
    """`x` with axis i moved to `destination[i]`."""
    order = tuple(sorted(range(len(destination)), key=destination.__getitem__))
    return x if order == tuple(range(len(order))) else axes.permute(x, permutation=order)


dot_general = DotGeneral("dot_general")

__all__ = ["dot_general"]
