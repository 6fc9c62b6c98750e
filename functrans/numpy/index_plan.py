"""What `x[index]` means, worked out once for reading and for writing.

NumPy's index is a mixture: integers and slices choose by position (*basic*), integer arrays choose
element by element (*advanced*), None adds an axis, a bool mask stands for the integer arrays of its
true places. `plan_index` sorts that out, for the shape at hand, into two steps: a basic one (a
slice of each axis), then one gather over some axes of what is left. It also says where NumPy puts
the axes of the gather: in place of the arrays if they stand side by side, else in front.

Integers known while tracing are checked here and raise NumPy's IndexError; traced ones are
checked by the gather itself.
"""

from __future__ import annotations

import builtins
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from functrans.core import Tracer
from functrans.errors import ConcretizationTypeError
from functrans.numpy.promotion import broadcast_shapes, holds_tracer, operand, stack_nested


@dataclass(frozen=True, slots=True)
class Span:
    """The elements of one axis that a slice takes: `count` from `start`, `step` apart."""

    start: int
    count: int
    step: int


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """How to read or write `x[index]`.

    First `spans`, one per axis of `x`; axes in `dropped` (of extent 1 then) go away. Then `arrays`
    index the axes `array_axes` of what remains. The result has axes `("gathered", i)`,
    `("kept", axis of what remains)` and `("new", 0)`, in the order `layout`.
    """

    spans: tuple[Span, ...]
    dropped: tuple[int, ...]
    array_axes: tuple[int, ...]
    arrays: tuple[Any, ...]
    gathered_shape: tuple[int, ...]
    layout: tuple[tuple[str, int], ...]
    known_in_bounds: bool

    def basic_shape(self) -> tuple[int, ...]:
        """The shape after the first step."""
        return tuple(s.count for i, s in enumerate(self.spans) if i not in self.dropped)

    def result_shape(self) -> tuple[int, ...]:
        """The shape of `x[index]`."""
        basic = self.basic_shape()
        sizes = {"gathered": self.gathered_shape, "kept": basic, "new": (1,)}
        return tuple(sizes[kind][i] for kind, i in self.layout)


_INT = (int, np.integer)


def plan_index(index: Any, shape: tuple[int, ...], *, checked: bool = True) -> IndexPlan:
    """Work out `x[index]` for an `x` of this shape.

    With `checked=False` integers out of range are not an error here: they are left to the gather,
    whose mode decides.
    """
    entries = _expand(_entries(index, shape), shape)
    has_arrays = any(kind == "array" for kind, _ in entries)
    spans, dropped, layout, placed = [], [], [], []
    arrays, array_axes = [], []
    axis = kept = 0
    for position, (kind, entry) in enumerate(entries):
        if kind == "new":
            layout.append(("new", 0))
            continue
        size = shape[axis]
        if kind == "slice":
            spans.append(_span(entry, size))
            layout.append(("kept", kept))
            kept += 1
        elif kind == "int" and checked:
            spans.append(Span(_in_range(entry, axis, size), 1, 1))
            dropped.append(axis)
            if has_arrays:
                placed.append((position, len(layout)))
        else:
            spans.append(Span(0, size, 1))
            arrays.append(_checked(entry, axis, size) if checked else np.asarray(entry)
                          if kind == "int" else entry)  # fmt: skip
            array_axes.append(kept)
            placed.append((position, len(layout)))
            kept += 1
        axis += 1
    gathered = _common_shape(arrays)
    layout = _place(layout, placed, len(gathered))
    known = checked and not any(isinstance(a, Tracer) for a in arrays)
    return IndexPlan(tuple(spans), tuple(dropped), tuple(array_axes), tuple(arrays), gathered,
                     tuple(layout), known)  # fmt: skip


def static_key(index: Any) -> Any:
    """A basic index as a hashable value, or None if it has anything but ints, slices, None, `...`.

    Slices cannot be hashed before Python 3.12, so they become tuples.
    """
    key = []
    for item in index if type(index) is tuple else (index,):
        kind = type(item)
        if kind is slice:
            bounds = (item.start, item.stop, item.step)
            if any(type(b) is not int and b is not None for b in bounds):
                return None
            key.append(bounds)
        elif kind is int or item is None or item is Ellipsis:
            key.append(item)
        else:
            return None
    return tuple(key)


@functools.lru_cache(maxsize=4096)
def static_plan(key: tuple[Any, ...], shape: tuple[int, ...]) -> IndexPlan:
    """`plan_index` of a `static_key`, remembered."""
    index = tuple(slice(*item) if type(item) is tuple else item for item in key)
    return plan_index(index, shape)


def _place(layout: list[Any], placed: list[tuple[int, int]], ndim: int) -> list[Any]:
    if not placed:
        return layout
    positions = [position for position, _ in placed]
    together = positions == list(range(positions[0], positions[0] + len(positions)))
    at = placed[0][1] if together else 0
    return [*layout[:at], *[("gathered", i) for i in range(ndim)], *layout[at:]]


def _common_shape(arrays: list[Any]) -> tuple[int, ...]:
    try:
        return broadcast_shapes(*[a.shape for a in arrays])
    except ValueError:
        shapes = " ".join(str(a.shape).replace(" ", "") for a in arrays)
        raise IndexError(
            f"shape mismatch: indexing arrays could not be broadcast together with shapes {shapes} "
        ) from None


# ---------------------------------------------------------------------------- entries


def _entries(index: Any, shape: tuple[int, ...]) -> list[tuple[str, Any]]:
    items = index if isinstance(index, tuple) else (index,)
    entries: list[tuple[str, Any]] = []
    axis = 0
    for item in items:
        found = _entry(item)
        entries.extend(found)
        if found and found[0][0] == "ellipsis":
            axis = None
        elif axis is not None and isinstance(item, (np.ndarray, list)):
            _check_mask(item, shape, axis)
        if axis is not None:
            axis += builtins.sum(kind != "new" for kind, _ in found)
    return entries


def _check_mask(item: Any, shape: tuple[int, ...], axis: int) -> None:
    mask = np.asarray(item) if not holds_tracer(item) else None
    if mask is None or mask.dtype != bool:
        return
    for i, n in enumerate(mask.shape):
        if axis + i < len(shape) and n != shape[axis + i]:
            raise IndexError(
                f"boolean index did not match indexed array along axis {axis + i}; size of axis is "
                f"{shape[axis + i]} but size of corresponding boolean axis is {n}"
            )


def _entry(item: Any) -> list[tuple[str, Any]]:
    if item is None:
        return [("new", None)]
    if item is Ellipsis:
        return [("ellipsis", None)]
    if isinstance(item, slice):
        return [("slice", item)]
    if isinstance(item, _INT) and not isinstance(item, (bool, np.bool_)):
        return [("int", int(item))]
    if isinstance(item, Tracer):
        return _traced_entry(item)
    if isinstance(item, (list, tuple)) and holds_tracer(item):
        return _traced_entry(stack_nested(item))
    if not isinstance(item, (np.ndarray, list, tuple, bool, np.bool_)) and not hasattr(
        item, "__index__"
    ):
        raise _not_an_index(item)
    array = np.asarray(item)
    if array.size == 0 and not isinstance(item, np.ndarray):
        array = array.astype(np.intp)
    if array.dtype == bool:
        return _mask_entries(array)
    if array.dtype.kind not in "iu":
        raise IndexError("arrays used as indices must be of integer (or boolean) type")
    return (
        [("int", int(array))]
        if not isinstance(item, np.ndarray) and not array.ndim
        else [("array", array)]
    )


def _mask_entries(mask: np.ndarray) -> list[tuple[str, Any]]:
    if mask.ndim == 0:  # adds an axis, of extent 1 or 0
        return [("new", None), ("scalar mask", np.flatnonzero(mask))]
    return [("array", places) for places in np.nonzero(mask)]


def _traced_entry(item: Tracer) -> list[tuple[str, Any]]:
    kind = item.dtype.kind
    if kind in "iu":
        return [("array", item)]
    if kind != "b":
        raise IndexError("arrays used as indices must be of integer (or boolean) type")
    value = item.concrete()
    if value is None:
        raise ConcretizationTypeError(
            f"x[mask] with a traced boolean mask {item.aval}{item.origin()}: the shape of the "
            "result would depend on values.\n  Write functrans.numpy.where(mask, x, other), "
            "np.sum(x, where=mask), or x.at[...] with np.where; or compute the mask outside of "
            "jit/vmap."
        )
    return _entry(np.asarray(value))


def _not_an_index(item: Any) -> IndexError:
    return IndexError(
        "only integers, slices (`:`), ellipsis (`...`), numpy.newaxis (`None`) and integer or "
        f"boolean arrays are valid indices; got {item!r}"
    )


def _expand(entries: list[tuple[str, Any]], shape: tuple[int, ...]) -> list[tuple[str, Any]]:
    """Replace the ellipsis, or what is not said at the end, by full slices."""
    if any(kind == "scalar mask" for kind, _ in entries):
        raise IndexError("a single bool is not an index of a traced array; use x[None] or np.where")
    ellipses = [i for i, (kind, _) in enumerate(entries) if kind == "ellipsis"]
    if len(ellipses) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    used = builtins.sum(kind not in ("new", "ellipsis") for kind, _ in entries)
    if used > len(shape):
        raise IndexError(
            f"too many indices for array: array is {len(shape)}-dimensional, but {used} were "
            "indexed"
        )
    at = ellipses[0] if ellipses else len(entries)
    rest = [("slice", slice(None))] * (len(shape) - used)
    return [*entries[:at], *rest, *entries[at + 1 :]]


def _span(entry: slice, size: int) -> Span:
    for bound in (entry.start, entry.stop, entry.step):
        if isinstance(bound, Tracer) and bound.concrete() is None:
            raise ConcretizationTypeError(
                f"a slice with a traced bound {bound.aval}{bound.origin()} has no known length.\n"
                "  Write functrans.lax.dynamic_slice(x, starts, sizes), or index with "
                "`start + np.arange(n)`."
            )
    start, stop, step = entry.indices(size)
    count = len(range(start, stop, step))
    return Span(start, count, step) if count else Span(0, 0, 1)


def _in_range(i: int, axis: int, size: int) -> int:
    if not -size <= i < size:
        raise IndexError(f"index {i} is out of bounds for axis {axis} with size {size}")
    return i + size if i < 0 else i


def _checked(entry: Any, axis: int, size: int) -> Any:
    """An array of indices: a known one is checked and made non-negative."""
    entry = operand(entry)
    if isinstance(entry, Tracer):
        return entry
    array = np.asarray(entry)
    bad = (array < -size) | (array >= size)
    if bad.any():
        first = array[bad].flat[0]
        raise IndexError(f"index {first} is out of bounds for axis {axis} with size {size}")
    return np.where(array < 0, array + size, array) if array.dtype.kind == "i" else array
