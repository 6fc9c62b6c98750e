"""LLVM text of one native routine, with loops and conditions as `with` blocks.

Indices are Python integers where they are known, else names of `i64` values; sums of them fold as
far as they are known. Variables that loops carry are `local`s, which LLVM keeps in registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

Index = int | str


class LoopText:
    """The lines of a function that is given a table of buffers."""

    def __init__(self) -> None:
        self._locals: list[str] = []
        self._lines: list[str] = []
        self._label = "entry"
        self._count = 0

    def _fresh(self) -> int:
        self._count += 1
        return self._count

    def emit(self, text: str) -> str:
        """Append `name = text`; returns the name."""
        name = f"%t{self._fresh()}"
        self._lines.append(f"  {name} = {text}")
        return name

    def do(self, text: str) -> None:
        """Append an instruction without a result."""
        self._lines.append(f"  {text}")

    def local(self, t: str) -> str:
        """The place of a variable of type `t`."""
        name = f"%v{self._fresh()}"
        self._locals.append(f"  {name} = alloca {t}")
        return name

    def buffer(self, position: int) -> str:
        """The pointer that is at `position` in the table of buffers."""
        return self.emit(f"load ptr, ptr {self.at('ptr', '%buffers', position)}")

    def _start(self, label: str) -> None:
        self._lines.append(f"{label}:")
        self._label = label

    @contextmanager
    def loop(self, end: Index, begin: Index = 0) -> Iterator[Index]:
        """`for i in range(begin, end)`, which has iterations; a loop of one is none."""
        if (begin, end) == (0, 1):
            yield 0
            return
        i, before = self._fresh(), self._label
        self.do(f"br label %loop{i}")
        self._start(f"loop{i}")
        at = len(self._lines)
        yield f"%i{i}"
        following = self.emit(f"add nuw nsw i64 %i{i}, 1")
        phi = f"  %i{i} = phi i64 [ {begin}, %{before} ], [ {following}, %{self._label} ]"
        self._lines.insert(at, phi)
        more = self.emit(f"icmp ult i64 {following}, {end}")
        self.do(f"br i1 {more}, label %loop{i}, label %done{i}")
        self._start(f"done{i}")

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """`if condition`."""
        i = self._fresh()
        self.do(f"br i1 {condition}, label %then{i}, label %rest{i}")
        self._start(f"then{i}")
        yield
        self.do(f"br label %rest{i}")
        self._start(f"rest{i}")

    def total(self, *terms: tuple[Index, int], plus: int = 0) -> Index:
        """`plus + sum(index * factor)`."""
        known, found = plus, None
        for index, factor in terms:
            if isinstance(index, int):
                known += index * factor
            elif factor:
                term = index if factor == 1 else self.emit(f"mul nsw i64 {index}, {factor}")
                found = term if found is None else self.emit(f"add nsw i64 {found}, {term}")
        if found is None:
            return known
        return self.emit(f"add nsw i64 {found}, {known}") if known else found

    def at(self, t: str, base: str, offset: Index) -> str:
        """The pointer `offset` elements of type `t` behind `base`."""
        return base if offset == 0 else self.emit(f"getelementptr {t}, ptr {base}, i64 {offset}")

    def least(self, a: Index, b: Index) -> Index:
        """The smaller one."""
        if isinstance(a, int) and isinstance(b, int):
            return min(a, b)
        return self.emit(f"call i64 @llvm.umin.i64(i64 {a}, i64 {b})")

    def function(self, name: str) -> str:
        """The whole text, as `i32 f(ptr buffers, ptr numbers, ptr status)`."""
        head = f"define i32 @ft_entry_{name}(ptr %buffers, ptr %numbers, ptr %status)"
        return self._text(f"{head} nounwind", "ret i32 0")

    def piece(self, name: str) -> str:
        """The whole text, as `void f(ptr buffers, i64 begin, i64 end)`, which threads share."""
        head = f"define internal void @piece_{name}(ptr %buffers, i64 %begin, i64 %end)"
        return self._text(f"{head} noinline nounwind", "ret void")

    def _text(self, head: str, end: str) -> str:
        head = f'{head} "prefer-vector-width"="512" {{'
        return "\n".join([head, "entry:", *self._locals, *self._lines, f"  {end}", "}"])


__all__ = ["Index", "LoopText"]
