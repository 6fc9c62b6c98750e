"""C functions as LLVM text, written with Python's blocks.

    f = Routine("f", "ptr %x, i64 %n")
    total = f.variable("i64", "0")
    with f.loop("%n") as i:
        total.set(f.emit(f"add i64 {total.get()}, {f.load('i64', '%x', i)}"))

Variables are places on the stack; LLVM makes registers of them.
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


class Routine(FunctionBody):
    """The body of a function under construction."""

    def __init__(self, name: str, params: str, result: str = "i32", linkage: str = ""):
        super().__init__()
        self._head = f"define {linkage} {result} @{name}({params}) nounwind {{"
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

    @contextmanager
    def loop(self, stop: str, start: str = "0") -> Iterator[str]:
        """`for i in range(start, stop)`, with the name of i."""
        i = self.variable("i64", start)
        head, body, done = (self.fresh_label(s) for s in ("head", "body", "done"))
        self.do(f"br label %{head}")
        self.start(head)
        now = i.get()
        more = self.emit(f"icmp slt i64 {now}, {stop}")
        self.do(f"br i1 {more}, label %{body}, label %{done}")
        self.start(body)
        yield now
        i.set(self.emit(f"add nuw nsw i64 {now}, 1"))
        self.do(f"br label %{head}")
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
