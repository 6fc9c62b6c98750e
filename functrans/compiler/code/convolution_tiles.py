"""How a convolution is cut into tiles that fit the registers, and which taps each tile reads.

A tile is a block of the result: some of the batch, neighbours along the last spatial axis, and
whole vectors of out features. All taps of the window are added up in registers. Along the last
axis it is known beforehand which taps of a tile fall into the padding or between dilated elements:
these are left out. Tiles that read alike, but for where they begin, are a loop.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import gcd

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis: extents of lhs, window and result, and how they move along each other."""

    space: int
    window: int
    places: int
    stride: int
    low: int
    lhs_dilation: int
    rhs_dilation: int

    def numerator(self, place: int, tap: int) -> int:
        """Where a tap falls, counted in the dilated lhs."""
        return place * self.stride + tap * self.rhs_dilation - self.low

    @property
    def is_inside(self) -> bool:
        """Whether every tap falls on an element."""
        return self.lhs_dilation == 1 and self.has_inside(0, self.places)

    def has_inside(self, place: int, width: int) -> bool:
        """Whether no tap of these places falls into the padding."""
        last = self.numerator(place + width - 1, self.window - 1)
        return self.numerator(place, 0) >= 0 and last <= (self.space - 1) * self.lhs_dilation


@dataclass(frozen=True, slots=True)
class Plan:
    """A convolution over memory: extents of one group, and distances in elements.

    `lhs_at` is for (group, batch, feature, *spatial), `rhs_at` for (group, out feature, in feature,
    *spatial), `out_at` for (group, batch, *spatial); out features are neighbours in the result.

    `lanes` says what vectors run over: "outputs", which are neighbours in rhs; "groups", which are
    so in lhs too (a depthwise convolution: its groups are given as outputs of one group); "inputs",
    which are neighbours in lhs and rhs. With `by_input`, which suits gradients of weights, the in
    features are the outermost loop.
    """

    dtype: np.dtype
    groups: int
    batch: int
    inputs: int
    outputs: int
    axes: tuple[Axis, ...]
    lhs_at: Shape
    rhs_at: Shape
    out_at: Shape
    lanes: str
    by_input: bool

    @property
    def name(self) -> str:
        """A name that says everything."""
        axes = [
            (a.space, a.window, a.places, a.stride, a.low, a.lhs_dilation, a.rhs_dilation)
            for a in self.axes
        ]
        extents = (self.groups, self.batch, self.inputs, self.outputs)
        last = (self.lanes, int(self.by_input))
        rows = [extents, *axes, self.lhs_at, self.rhs_at, self.out_at, last]
        words = ["_".join(map(str, row)).replace("-", "n") for row in rows]
        return "__".join(["convolution", self.dtype.str[1:], *words])


@dataclass(frozen=True, slots=True)
class Taps:
    """`count` taps from `first` on, `step` apart, that fall on elements for the same places.

    `elements` has (place in the tile, element of lhs at the first tap, from where the tile begins);
    from tap to tap the element moves by `element_step`.
    """

    first: int
    step: int
    count: int
    elements: tuple[tuple[int, int], ...]
    element_step: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """`count` tiles of `width` places, the first at `place`, which begin at `begin` in lhs.

    From tile to tile this moves on by `begin_step`.
    """

    place: int
    width: int
    count: int
    taps: tuple[Taps, ...]
    begin: int
    begin_step: int


def taps_of(axis: Axis, place: int, width: int, begin: int) -> tuple[Taps, ...]:
    """The taps of the tile that begins at `place`, by where they fall between dilated elements."""
    period = axis.lhs_dilation // gcd(axis.lhs_dilation, axis.rhs_dilation)
    element_step = period * axis.rhs_dilation // axis.lhs_dilation
    found = []
    for first in range(min(period, axis.window)):
        count = -(-(axis.window - first) // period)
        spans = {}
        for j in range(width):
            i, rest = divmod(axis.numerator(place + j, first), axis.lhs_dilation)
            if not rest:  # elements i, i + element_step, ... are read: those within lhs
                span = [-(i // element_step), -((i - axis.space) // element_step)]
                spans[j] = i, *(min(max(n, 0), count) for n in span)
        ends = sorted({n for _, *span in spans.values() for n in span})
        for start, end in itertools.pairwise(ends):
            elements = tuple(
                (j, i + start * element_step - begin)
                for j, (i, low, high) in spans.items()
                if low <= start and end <= high
            )
            if elements:
                taps = Taps(first + start * period, period, end - start, elements, element_step)
                found.append(taps)
    return tuple(found)


def tiles_of(axis: Axis, capacity: int) -> list[Tiles]:
    """The places along the last axis, in tiles of at most `capacity` of them."""
    out: list[Tiles] = []
    width = _width(axis, capacity)
    is_periodic = width * axis.stride % axis.lhs_dilation == 0
    was_inside = False
    for place in range(0, axis.places, width):
        n = min(width, axis.places - place)
        begin = place * axis.stride // axis.lhs_dilation
        before = out[-1] if out else None
        inside = is_periodic and n == width and axis.has_inside(place, n)
        alike = before and inside and was_inside
        taps = before.taps if before and alike else taps_of(axis, place, n, begin)
        was_inside = inside
        if before and (before.width, before.taps) == (n, taps):
            moved = begin - before.begin
            if before.count == 1 or moved == before.count * before.begin_step:
                step = before.begin_step if before.count > 1 else moved
                out[-1] = Tiles(before.place, n, before.count + 1, taps, before.begin, step)
                continue
        out.append(Tiles(place, n, 1, taps, begin, 0))
    return out


def _width(axis: Axis, capacity: int) -> int:
    """Tiles of about equal width, that see the dilated elements at equal places if possible."""
    count = -(-axis.places // capacity)
    width = -(-axis.places // count)
    period = axis.lhs_dilation // gcd(axis.lhs_dilation, axis.stride)
    rounded = -(-width // period) * period
    return rounded if rounded <= capacity else max(width // period * period, 1)


def text_size(tiles: list[Tiles]) -> int:
    """About how many products are written out for these tiles."""
    return sum(len(taps.elements) for tile in tiles for taps in tile.taps)


@dataclass(frozen=True, slots=True)
class Lanes:
    """`count` blocks of `size` out features from `first` on, in vectors of `widths`.

    `steps` says how many out features on a vector begins, `used` how many of its lanes are used.
    """

    first: int
    count: int
    size: int
    widths: Shape
    used: Shape

    @property
    def steps(self) -> Shape:
        return tuple(itertools.accumulate(self.used[:-1], initial=0))


def lanes_of(outputs: int, lanes: int, most: int) -> list[Lanes]:
    """Out features in blocks of up to `most` vectors of up to `lanes` features, about equal."""
    vectors = -(-outputs // lanes)
    per_block = -(-vectors // -(-vectors // most))
    size = per_block * lanes
    whole, rest = divmod(outputs, size)
    out = [Lanes(0, whole, size, (lanes,) * per_block, (lanes,) * per_block)] if whole else []
    if rest:
        full, last = divmod(rest, lanes)
        used = (lanes,) * full + ((last,) if last else ())
        widths = tuple(1 << (n - 1).bit_length() for n in used)
        out.append(Lanes(whole * size, 1, rest, widths, used))
    return out


def blocks_of(extent: int, size: int) -> list[tuple[int, int, int]]:
    """(first, count, size) of about equal blocks of at most `size`."""
    size = -(-extent // -(-extent // size))
    whole, rest = divmod(extent, size)
    blocks = [(0, whole, size), (whole * size, 1, rest)]
    return [b for b in blocks if b[1] and b[2]]


def distances(shape: Shape) -> Shape:
    """The distances in elements of neighbours along each axis of a C-contiguous array."""
    return tuple(itertools.accumulate(shape[:0:-1], lambda a, b: a * b, initial=1))[::-1]


__all__ = ["Axis", "Lanes", "Plan", "Taps", "Tiles", "blocks_of", "distances", "lanes_of",
           "tiles_of"]  # fmt: skip
