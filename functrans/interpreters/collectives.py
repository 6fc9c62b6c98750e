"""Operations over a named axis of an enclosing `vmap`: psum, pmax, pmin, axis_index.

A collective passes through every trace untouched until it meets the batching trace that binds its
axis name; there it becomes an ordinary reduction, or a row of positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import ops, pytree
from functrans.core import Primitive, Zero, axis_size, get_aval
from functrans.ir import ShapedArray


class Collective(Primitive):
    """A reduction over a named axis; equal on all lanes."""

    def __init__(self, name: str, reduce: Callable[..., Any], repeat: Callable[..., Any]):
        super().__init__(name)
        self.reduce = reduce
        self.repeat = repeat  # what the reduction of `size` equal values is

    def abstract_eval(self, x: ShapedArray, *, axis_name: Any) -> ShapedArray:  # type: ignore[override]
        axis_size(axis_name)
        return x

    def impl(self, x: Any, *, axis_name: Any) -> Any:  # type: ignore[override]
        axis_size(axis_name)
        raise NameError(f"axis name {axis_name!r} is not bound where {self.name} runs.")

    def batch(self, size: int, args: Any, dims: Any, *, axis_name: Any) -> Any:  # type: ignore[override]
        return self(args[0], axis_name=axis_name), dims[0]

    def batch_axis(self, size: int, args: Any, dims: Any, *, axis_name: Any) -> Any:
        """The rule at the vmap that binds the axis."""
        (x,), (dim,) = args, dims
        return (self.repeat(x, size) if dim is None else self.reduce(x, axes=(dim,))), None


class PSum(Collective):
    """Linear, and its own transpose, as in JAX: a sum over lanes of what every lane sends."""

    def jvp(self, primals: Any, tangents: Any, *, axis_name: Any) -> Any:  # type: ignore[override]
        out = self(primals[0], axis_name=axis_name)
        t = tangents[0]
        return out, t if type(t) is Zero else self(t, axis_name=axis_name)

    def transpose(self, ct: Any, x: Any, *, axis_name: Any) -> list[Any]:  # type: ignore[override]
        return [self(ct, axis_name=axis_name)]


class AxisIndex(Primitive):
    """The position of this lane along a named axis."""

    def abstract_eval(self, *, axis_name: Any) -> ShapedArray:  # type: ignore[override]
        axis_size(axis_name)
        return ShapedArray((), np.dtype(np.int64))

    def impl(self, *, axis_name: Any) -> Any:  # type: ignore[override]
        axis_size(axis_name)
        raise NameError(f"axis name {axis_name!r} is not bound where axis_index runs.")

    def batch_axis(self, size: int, args: Any, dims: Any, *, axis_name: Any) -> Any:
        """The rule at the vmap that binds the axis."""
        return ops.iota(dtype=np.dtype(np.int64), shape=(size,), dimension=0), 0


psum_primitive = PSum("psum", ops.reduce_sum, lambda x, n: x * n)
pmax_primitive = Collective("pmax", ops.reduce_max, lambda x, n: x)
pmin_primitive = Collective("pmin", ops.reduce_min, lambda x, n: x)
axis_index_primitive = AxisIndex("axis_index")


def _over_leaves(primitive: Primitive, tree: Any, axis_name: Any) -> Any:
    names: Sequence[Any] = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    for name in names:
        axis_size(name)
        tree = pytree.tree_map(lambda x, name=name: primitive(x, axis_name=name), tree)
    return tree


def psum(x: Any, axis_name: Any) -> Any:
    """Sum over a named axis of an enclosing vmap, leaf by leaf; `axis_name` may be a tuple.

    Raises NameError where no enclosing vmap binds the name.
    """
    return _over_leaves(psum_primitive, x, axis_name)


def pmean(x: Any, axis_name: Any) -> Any:
    """Mean over a named axis of an enclosing vmap."""
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    count = int(np.prod([axis_size(n) for n in names]))
    return pytree.tree_map(lambda s: s / _number_like(s, count), psum(x, axis_name))


def _number_like(x: Any, n: int) -> Any:
    dtype = get_aval(x).dtype
    return dtype.type(n) if dtype.kind in "fc" else float(n)


def pmax(x: Any, axis_name: Any) -> Any:
    """Maximum over a named axis of an enclosing vmap."""
    return _over_leaves(pmax_primitive, x, axis_name)


def pmin(x: Any, axis_name: Any) -> Any:
    """Minimum over a named axis of an enclosing vmap."""
    return _over_leaves(pmin_primitive, x, axis_name)


def axis_index(axis_name: Any) -> Any:
    """This lane's position along a named axis of an enclosing vmap: int64 scalar."""
    axis_size(axis_name)
    return axis_index_primitive(axis_name=axis_name)
