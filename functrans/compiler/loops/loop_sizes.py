"""Which loops are large: threads may share those, and their sums are pairwise.

Code for that takes as long to compile as the loop it is around. So it is written only for loops
that are large when the kernel is made; a kernel of another size class is another kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from functrans.loop_ir import ArgUpdate, Init, Let, Loop, Stmt, StoreReduce, Update, walk

# Statements from which sharing pays: about 20 us of work, against 1 us to share it.
ENOUGH = 1 << 17
BLOCK = 1024  # elements that are summed in the lanes of vectors, 16 or so each
SPAN_OF_ROWS = 64  # iterations, of a loop around others, with sums of their own
_COSTLY = 8  # statements that a function call counts for
_CHEAP = frozenset(
    """add sub mul div neg abs max min select convert copy and or xor not eq ne lt le gt ge sqrt
    floor ceil trunc round masked_mul real imag complex conj shift_left shift_right""".split()
)


def marked(body: tuple[Stmt, ...], *, is_outermost: bool = True) -> tuple[Stmt, ...]:
    """The statements with their large loops marked as such. Extents are known."""
    out = []
    for s in body:
        if isinstance(s, Loop):
            inner = marked(s.body, is_outermost=False)
            is_shared = is_outermost and _is_shareable(s)
            s = replace(s, body=inner, is_shared=is_shared, is_pairwise=_is_long_sum(s))
        out.append(s)
    return tuple(out)


def _is_shareable(loop: Loop) -> bool:
    """Whether a loop has enough to do, or too many sums, and its iterations may run in any order.

    Sums in memory grow with loop variables alone, so that the last place is known.
    """
    has_sums = not is_innermost(loop) and bool(updated(loop))
    is_large = work((loop,)) > ENOUGH // 8 or (has_sums and loop.extent > SPAN_OF_ROWS)
    if not is_large or loop.kind not in ("map", "reduce", "sums"):
        return False
    if any(isinstance(s, ArgUpdate) for s in walk(loop.body)):
        return False
    loops = extents(loop)
    terms = (term for s in summed(loop) for term in s.index[0].terms)
    return all(name in loops and c > 0 for name, c in terms)


def _is_long_sum(loop: Loop) -> bool:
    """Whether a loop is an innermost one that adds up many elements."""
    if loop.kind == "serial":  # a running sum: every iteration reads it
        return False
    sums = (s for s in loop.body if isinstance(s, Update) and s.op == "add")
    return is_innermost(loop) and loop.extent > BLOCK and any(sums)


def is_innermost(loop: Loop) -> bool:
    """Whether a loop has no loops inside."""
    return not any(isinstance(s, Loop) for s in loop.body)


def updated(loop: Loop) -> dict[str, str]:
    """The accumulators from outside that a loop updates, and how."""
    own = {s.name for s in walk(loop.body) if isinstance(s, Init)}
    updates = (s for s in walk(loop.body) if isinstance(s, Update))
    return {s.name: s.op for s in updates if s.name not in own}


def summed(loop: Loop) -> list[StoreReduce]:
    """The sums in memory that all iterations of a loop add to."""
    stores = (s for s in walk(loop.body) if isinstance(s, StoreReduce))
    return [s for s in stores if loop.var not in dict(s.index[0].terms)]


def extents(loop: Loop) -> dict[str, Any]:
    """The extent of a loop and of those inside, by variable."""
    return {s.var: s.extent for s in walk((loop,)) if isinstance(s, Loop)}


def cost(s: Stmt) -> int:
    """How many cheap statements one counts for."""
    return _COSTLY if isinstance(s, Let) and s.op not in _CHEAP else 1


def work(body: tuple[Stmt, ...], numbers: Mapping[str, Any] | None = None) -> int:
    """About how many statements are executed. `numbers` has extents that are given at run time."""
    total = 0
    for s in body:
        if isinstance(s, Loop):
            extent = s.extent if numbers is None else numbers.get(str(s.extent), s.extent)
            total += int(extent) * work(s.body, numbers)
        else:
            total += cost(s)
    return total
