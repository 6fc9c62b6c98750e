"""Long scans in segments, of which reverse mode keeps the carry they begin with.

A scan of n steps keeps something of each for the way back. Cut into segments of m steps, each a
checkpoint, it keeps n / m carries, and what m steps keep, of one segment at a time; every step is
computed once more. With m = sqrt(n) that is 2 sqrt(n) instead of n; with segments of segments,
(k + 1) n^(1/(k+1)) for k levels, each of which computes every step once more (Griewank and Walther,
"Evaluating Derivatives", 2008, section 12.1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from functrans import ops, pytree
from functrans.checkpoint import checkpoint
from functrans.core import get_aval
from functrans.ops.structural import slice_axis

Scan = Callable[..., tuple[Any, Any]]


def scan_in_segments(
    scan: Scan,
    f: Callable[..., Any],
    init: Any,
    xs: Any,
    *,
    length: int,
    reverse: bool,
    levels: int,
) -> tuple[Any, Any]:
    """`scan(f, init, xs)` in segments; `levels` is how often segments are cut again."""
    size = max(1, round(length ** (levels / (levels + 1))))
    count = length // size
    options: dict[str, Any] = {"reverse": reverse, "checkpoint": levels - 1}

    @checkpoint
    def segment(carry: Any, rows: Any) -> tuple[Any, Any]:
        return scan(f, carry, rows, length=size, **options)

    # The rows that fill no segment are the last ones that the loop comes to.
    whole, rest = (length - count * size, length), (0, length - count * size)
    if not reverse:
        whole, rest = (0, count * size), (count * size, length)
    rows = pytree.tree_map(lambda x: _cut(x, *whole, count), xs)
    carry, ys = scan(segment, init, rows, length=count, reverse=reverse)
    ys = pytree.tree_map(_joined, ys)
    if rest[0] == rest[1]:
        return carry, ys
    rows = pytree.tree_map(lambda x: slice_axis(x, 0, *rest), xs)
    carry, others = scan(f, carry, rows, length=rest[1] - rest[0], **options)
    first, second = (others, ys) if reverse else (ys, others)
    return carry, pytree.tree_map(lambda a, b: ops.concatenate(a, b, dimension=0), first, second)


def _cut(x: Any, begin: int, end: int, count: int) -> Any:
    part = slice_axis(x, 0, begin, end)
    shape = get_aval(part).shape
    return ops.reshape(part, shape=(count, shape[0] // count, *shape[1:]))


def _joined(y: Any) -> Any:
    shape = get_aval(y).shape
    return ops.reshape(y, shape=(shape[0] * shape[1], *shape[2:]))
