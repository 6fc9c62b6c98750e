"""The native loop that runs a program: a table of steps over the buffers of one call.

Every native function is `i32 f(ptr buffers, ptr numbers, ptr status)`: a table of pointers to its
buffers, a table of 8-byte numbers, and two words of status for what went wrong. The loop looks up
the buffers of each step, calls it, and leaves when it fails.

    table:   [count, most buffers of a step, step, step, ...]
    step:    [function, words to the next step, buffers, words to the numbers, words to the codes,
              buffer..., number..., code...]
    buffer:  its position among inputs, constants and outputs; or ~offset, in the arena
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from functrans.runtime import threads
from functrans.runtime.codegen import Unit

DONE, FAILED = 0, 1  # what a run returns
STATUS_BYTES = 16  # (check, number for the message)

RUN_STEPS = """
define i32 @{name}(ptr %table, ptr %buffers, ptr %arena, ptr %status) nounwind {{
entry:
  %count = load i64, ptr %table
  %most.at = getelementptr i64, ptr %table, i64 1
  %most = load i64, ptr %most.at
  %given = alloca ptr, i64 %most
  %first = getelementptr i64, ptr %table, i64 2
  %none = icmp eq i64 %count, 0
  br i1 %none, label %done, label %step
step:
  %at = phi ptr [ %first, %entry ], [ %at.next, %fine ]
  %i = phi i64 [ 0, %entry ], [ %i.next, %fine ]
  %function = load ptr, ptr %at
  %n.at = getelementptr i64, ptr %at, i64 2
  %n = load i64, ptr %n.at
  %operands = getelementptr i64, ptr %at, i64 5
  br label %gather
gather:
  %j = phi i64 [ 0, %step ], [ %j.next, %gather ]
  %place.at = getelementptr i64, ptr %operands, i64 %j
  %place = load i64, ptr %place.at
  %in.arena = icmp slt i64 %place, 0
  %offset = xor i64 %place, -1
  %temporary = getelementptr i8, ptr %arena, i64 %offset
  %slot = getelementptr ptr, ptr %buffers, i64 %place
  %slot.safe = select i1 %in.arena, ptr %buffers, ptr %slot
  %named = load ptr, ptr %slot.safe
  %pointer = select i1 %in.arena, ptr %temporary, ptr %named
  %given.at = getelementptr ptr, ptr %given, i64 %j
  store ptr %pointer, ptr %given.at
  %j.next = add i64 %j, 1
  %j.more = icmp ult i64 %j.next, %n
  br i1 %j.more, label %gather, label %call
call:
  %numbers.words.at = getelementptr i64, ptr %at, i64 3
  %numbers.words = load i64, ptr %numbers.words.at
  %numbers = getelementptr i64, ptr %at, i64 %numbers.words
  %result = call i32 %function(ptr %given, ptr %numbers, ptr %status)
  %failed = icmp ne i32 %result, 0
  br i1 %failed, label %fail, label %fine
fine:
  %next.words.at = getelementptr i64, ptr %at, i64 1
  %next.words = load i64, ptr %next.words.at
  %at.next = getelementptr i64, ptr %at, i64 %next.words
  %i.next = add i64 %i, 1
  %i.more = icmp ult i64 %i.next, %count
  br i1 %i.more, label %step, label %done
done:
  ret i32 0
fail:
  %codes.words.at = getelementptr i64, ptr %at, i64 4
  %codes.words = load i64, ptr %codes.words.at
  %wide = zext i32 %result to i64
  %before = add i64 %codes.words, %wide
  %code.word = sub i64 %before, 1
  %code.at = getelementptr i64, ptr %at, i64 %code.word
  %code = load i64, ptr %code.at
  store i64 %code, ptr %status
  ret i32 1
}}"""

_COPY = """
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
define i32 @{name}(ptr %buffers, ptr %numbers, ptr %status) nounwind {{
  %out = load ptr, ptr %buffers
  %from.at = getelementptr ptr, ptr %buffers, i64 1
  %from = load ptr, ptr %from.at
  %nbytes = load i64, ptr %numbers
  call void @llvm.memcpy.p0.p0.i64(ptr %out, ptr %from, i64 %nbytes, i1 false)
  ret i32 0
}}"""


# numbers: [count, then for each: function, its first buffer, words from the start to its numbers]
_TOGETHER = """
define internal void @{name}.piece(ptr %env, i64 %begin, i64 %end) nounwind {{
entry:
  %buffers = load ptr, ptr %env
  %numbers.at = getelementptr ptr, ptr %env, i64 1
  %numbers = load ptr, ptr %numbers.at
  %status.at = getelementptr ptr, ptr %env, i64 2
  %status = load ptr, ptr %status.at
  br label %step
step:
  %i = phi i64 [ %begin, %entry ], [ %next, %step ]
  %three = mul i64 %i, 3
  %record = getelementptr i64, ptr %numbers, i64 %three
  %function.at = getelementptr i64, ptr %record, i64 1
  %function = load ptr, ptr %function.at
  %first.at = getelementptr i64, ptr %record, i64 2
  %first = load i64, ptr %first.at
  %own.at = getelementptr i64, ptr %record, i64 3
  %own = load i64, ptr %own.at
  %own.buffers = getelementptr ptr, ptr %buffers, i64 %first
  %own.numbers = getelementptr i64, ptr %numbers, i64 %own
  %result = call i32 %function(ptr %own.buffers, ptr %own.numbers, ptr %status)
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %end
  br i1 %more, label %step, label %done
done:
  ret void
}}
define i32 @{name}(ptr %buffers, ptr %numbers, ptr %status) nounwind {{
entry:
  %env = alloca [3 x ptr]
  store ptr %buffers, ptr %env
  %numbers.at = getelementptr ptr, ptr %env, i64 1
  store ptr %numbers, ptr %numbers.at
  %status.at = getelementptr ptr, ptr %env, i64 2
  store ptr %status, ptr %status.at
  %count = load i64, ptr %numbers
  call void @ft_shared(ptr @{name}.piece, ptr %env, i64 %count, i64 1)
  ret i32 0
}}"""


# numbers: [tiles, count of steps, most buffers of a step, words to each record of the first tiles,
#           words to each record of the last tile]
# record:  [function, first buffer, count of buffers, advance..., number...]
_TILED = """
define internal void @{name}.piece(ptr %env, i64 %begin, i64 %end) nounwind {{
entry:
  %buffers = load ptr, ptr %env
  %numbers.at = getelementptr ptr, ptr %env, i64 1
  %numbers = load ptr, ptr %numbers.at
  %status.at = getelementptr ptr, ptr %env, i64 2
  %status = load ptr, ptr %status.at
  %tiles = load i64, ptr %numbers
  %last = sub i64 %tiles, 1
  %count.at = getelementptr i64, ptr %numbers, i64 1
  %count = load i64, ptr %count.at
  %most.at = getelementptr i64, ptr %numbers, i64 2
  %most = load i64, ptr %most.at
  %given = alloca ptr, i64 %most
  %words = getelementptr i64, ptr %numbers, i64 3
  br label %tile
tile:
  %t = phi i64 [ %begin, %entry ], [ %t.next, %tile.done ]
  %is.last = icmp eq i64 %t, %last
  %skipped = select i1 %is.last, i64 %count, i64 0
  %own.words = getelementptr i64, ptr %words, i64 %skipped
  br label %step
step:
  %i = phi i64 [ 0, %tile ], [ %i.next, %call ]
  %record.words.at = getelementptr i64, ptr %own.words, i64 %i
  %record.words = load i64, ptr %record.words.at
  %record = getelementptr i64, ptr %numbers, i64 %record.words
  %function = load ptr, ptr %record
  %first.at = getelementptr i64, ptr %record, i64 1
  %first = load i64, ptr %first.at
  %n.at = getelementptr i64, ptr %record, i64 2
  %n = load i64, ptr %n.at
  %own.buffers = getelementptr ptr, ptr %buffers, i64 %first
  %advances = getelementptr i64, ptr %record, i64 3
  br label %gather
gather:
  %j = phi i64 [ 0, %step ], [ %j.next, %gather ]
  %buffer.at = getelementptr ptr, ptr %own.buffers, i64 %j
  %buffer = load ptr, ptr %buffer.at
  %advance.at = getelementptr i64, ptr %advances, i64 %j
  %advance = load i64, ptr %advance.at
  %far = mul i64 %advance, %t
  %place = getelementptr i8, ptr %buffer, i64 %far
  %given.at = getelementptr ptr, ptr %given, i64 %j
  store ptr %place, ptr %given.at
  %j.next = add i64 %j, 1
  %j.more = icmp ult i64 %j.next, %n
  br i1 %j.more, label %gather, label %call
call:
  %own.numbers = getelementptr i64, ptr %advances, i64 %n
  %result = call i32 %function(ptr %given, ptr %own.numbers, ptr %status)
  %i.next = add i64 %i, 1
  %i.more = icmp ult i64 %i.next, %count
  br i1 %i.more, label %step, label %tile.done
tile.done:
  %t.next = add i64 %t, 1
  %t.more = icmp ult i64 %t.next, %end
  br i1 %t.more, label %tile, label %done
done:
  ret void
}}
define i32 @{name}(ptr %buffers, ptr %numbers, ptr %status) nounwind {{
entry:
  %env = alloca [3 x ptr]
  store ptr %buffers, ptr %env
  %numbers.at = getelementptr ptr, ptr %env, i64 1
  store ptr %numbers, ptr %numbers.at
  %status.at = getelementptr ptr, ptr %env, i64 2
  store ptr %status, ptr %status.at
  %tiles = load i64, ptr %numbers
  call void @ft_shared(ptr @{name}.piece, ptr %env, i64 %tiles, i64 1)
  ret i32 0
}}"""


def _unit(text: str) -> Unit:
    # Passes would take 10 ms, most of it to make a vector loop of %gather that nobody wants.
    return Unit(text, lambda name: [text.format(name=name)], runs_passes=False)


RUN = _unit(RUN_STEPS)
COPY = _unit(_COPY)
TOGETHER, TILED = (
    Unit(
        text,
        lambda name, text=text: [threads.POOL, threads.SHARED, text.format(name=name)],
        runs_passes=False,
    )
    for text in (_TOGETHER, _TILED)
)


@dataclass(frozen=True)
class Record:
    """A step with everything in place: an address, places of buffers, numbers, check codes."""

    function: int
    buffers: Sequence[int]
    numbers: Sequence[np.generic | int]
    codes: Sequence[int]


class Table(np.ndarray):
    """The words that `RUN` reads. `keep` holds what they point to."""

    keep: Any


def table(records: Sequence[Record], keep: Any = None) -> Table:
    """The table of some steps."""
    words = [len(records), max((len(r.buffers) for r in records), default=0)]
    for r in records:
        to_numbers = 5 + len(r.buffers)
        to_codes = to_numbers + len(r.numbers)
        size = to_codes + len(r.codes)
        words += [r.function, size, len(r.buffers), to_numbers, to_codes, *r.buffers]
        words += [*map(word, r.numbers), *r.codes]
    result = np.array(words, np.int64).view(Table)
    result.keep = keep
    return result


def numbers_of_together(records: Sequence[Record]) -> tuple[np.generic | int, ...]:
    """What `TOGETHER` is given to run steps at the same time, on the buffers of all in order."""
    heads: list[int] = [len(records)]
    numbers: list[np.generic | int] = []
    first = 0
    for r in records:
        heads += [r.function, first, 1 + 3 * len(records) + len(numbers)]
        first += len(r.buffers)
        numbers += r.numbers
    return (*heads, *numbers)


def numbers_of_tiled(
    tiles: int, records: Sequence[Record], advances: Sequence[Sequence[int]]
) -> tuple[np.generic | int, ...]:
    """What `TILED` is given: `records` are the steps of a tile, and then those of the last tile."""
    count = len(advances)
    words: list[int] = []
    rest: list[np.generic | int] = []
    first = 0
    for i, r in enumerate(records):
        first = 0 if i == count else first
        words.append(3 + len(records) + len(rest))
        rest += [r.function, first, len(r.buffers), *advances[i % count], *r.numbers]
        first += len(r.buffers)
    return (tiles, count, max(len(r.buffers) for r in records), *words, *rest)


def word(number: np.generic | int) -> int:
    """The 8 bytes in which a number is passed, as an integer."""
    if isinstance(number, int):
        return number
    return int.from_bytes(number.tobytes().ljust(8, b"\0"), "little", signed=True)
