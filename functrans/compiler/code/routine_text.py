"""C functions as LLVM text, written with Python's blocks.

    f = Routine("f", "ptr %x, i64 %n")
    total = f.variable("i64", "0")
    with f.loop("%n") as i:
        total.set(f.emit(f"add i64 {total.get()}, {f.load('i64', '%x', i)}"))

Variables are places on the stack, of which LLVM's passes make registers. What loops count and carry
is in registers as it stands, and invariants are where they are written: a routine whose variables
change seldom compiles without passes, in a third of the time, to loops as quick.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from functrans.compiler.code.function_text import FunctionBody

Place = str


class Variable:
    """A scalar that can be set."""

    def __init__(self, routine: Routine, t: str, value: str):
        self._routine, self._type = routine, t
        self.place = routine.array(t, 1)
        self.set(value)

    def get(self) -> str:
        """Its value now."""
        return self._routine.emit(f"load {self._type}, ptr {self.place}")

    def set(self, value: str) -> None:
        """Give it another value."""
        self._routine.do(f"store {self._type} {value}, ptr {self.place}")


class Carried:
    """A scalar that each iteration of one loop sets for the next."""

    def __init__(self, t: str, first: str, name: str):
        self._type, self._first, self._name, self._next = t, first, name, name

    def get(self) -> str:
        """Its value in this iteration."""
        return self._name

    def set(self, value: str) -> None:
        """Give it another value for the next."""
        self._next = value

    def phi(self, before: str, label: str) -> str:
        """The instruction at the head of the loop that `label` ends."""
        incoming = f"[ {self._first}, %{before} ], [ {self._next}, %{label} ]"
        return f"  {self._name} = phi {self._type} {incoming}"


class Routine(FunctionBody):
    """The body of a function under construction."""

    def __init__(
        self,
        name: str,
        params: str,
        result: str = "i32",
        linkage: str = "",
        attributes: str = "nounwind",
    ):
        super().__init__()
        self._head = f"define {linkage} {result} @{name}({params}) {attributes} {{"
        self._stack: list[str] = []

    def text(self) -> str:
        """The function, and what it needs."""
        return "\n".join([*self.parts, self.function()])

    def function(self) -> str:
        """The function alone."""
        return "\n".join([self._head, "entry:", *self._stack, *self.lines, "}"])

    def variable(self, t: str, value: str) -> Variable:
        """A variable of an LLVM type."""
        return Variable(self, t, value)

    def carried(self, t: str, first: str) -> Carried:
        """A scalar for a loop to carry."""
        return Carried(t, first, f"%{self.fresh_label('c')}")

    def array(self, t: str, count: int) -> Place:
        """An array on the stack, uninitialized."""
        name = f"%{self.fresh_label('a')}"
        self._stack.append(f"  {name} = alloca {t}, i64 {count}")
        return name

    def at(self, t: str, pointer: str, index: str) -> Place:
        """The place of an element."""
        return self.emit(f"getelementptr inbounds {t}, ptr {pointer}, i64 {index}")

    def load(self, t: str, pointer: str, index: str) -> str:
        """An element."""
        return self.emit(f"load {t}, ptr {self.at(t, pointer, index)}")

    def store(self, t: str, value: str, pointer: str, index: str) -> None:
        """Write an element."""
        self.do(f"store {t} {value}, ptr {self.at(t, pointer, index)}")

    def copy(self, to: str, source: str, nbytes: str) -> None:
        """Copy memory."""
        self.do(f"call void @llvm.memcpy.p0.p0.i64(ptr {to}, ptr {source}, i64 {nbytes}, i1 false)")

    def clear(self, pointer: str, nbytes: str) -> None:
        """Make bytes zero."""
        self.do(f"call void @llvm.memset.p0.i64(ptr {pointer}, i8 0, i64 {nbytes}, i1 false)")

    @contextmanager
    def loop(self, stop: str, start: str = "0", *carries: Carried) -> Iterator[str]:
        """`for i in range(start, stop)`, with the name of i."""
        body, done = self.fresh_label("body"), self.fresh_label("done")
        before, count = self.label, self.carried("i64", start)
        some = self.emit(f"icmp slt i64 {start}, {stop}")
        self.do(f"br i1 {some}, label %{body}, label %{done}")
        self.start(body)
        at = len(self.lines)
        yield count.get()
        following = self.emit(f"add nuw nsw i64 {count.get()}, 1")
        count.set(following)
        self.lines[at:at] = [c.phi(before, self.label) for c in (count, *carries)]
        more = self.emit(f"icmp slt i64 {following}, {stop}")
        self.do(f"br i1 {more}, label %{body}, label %{done}")
        self.start(done)

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """`if condition:`."""
        then, done = self.fresh_label("then"), self.fresh_label("done")
        self.do(f"br i1 {condition}, label %{then}, label %{done}")
        self.start(then)
        yield
        self.do(f"br label %{done}")
        self.start(done)
