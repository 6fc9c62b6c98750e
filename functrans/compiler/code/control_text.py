"""Loops and branches as native routines: they run the tables of programs again and again.

A routine is given the buffers of a step, and numbers: counts and sizes, and then for each program
[the loop that runs a table (`runtime/machine`), the number of its first check, its table, how many
constants it has, where they are]. It fills in a list of pointers in the order of the program's
inputs, constants and outputs, and runs it.

A carry is read from one array and written to another, in turn, so that the last iteration writes
to the result. Where a program works in place, both are the result.
"""

from __future__ import annotations

import functools

from functrans.compiler.code.routine_text import Routine
from functrans.runtime import codegen
from functrans.runtime.codegen import Unit

_ARGUMENTS = "ptr %buffers, ptr %numbers, ptr %status"
_BLOCK = 4  # words of a program before its constants


class _Text(Routine):
    """A routine that runs programs."""

    def __init__(self, name: str):
        super().__init__(f"ft_entry_{name}", _ARGUMENTS)

    def number(self, at: str | int) -> str:
        return self.load("i64", "%numbers", str(at))

    def add(self, *terms: str) -> str:
        total = terms[0]
        for term in terms[1:]:
            total = self.emit(f"add i64 {total}, {term}")
        return total

    def pointers(self, count: str) -> str:
        return self.emit(f"alloca ptr, i64 {count}")

    def move(self, to: str, at: str, source: str, begin: str, count: str) -> None:
        """`to[at : at + count] = source[begin : begin + count]`, pointers."""
        with self.loop(count) as i:
            value = self.load("ptr", source, self.add(begin, i))
            self.store("ptr", value, to, self.add(at, i))

    def slices(
        self, to: str, at: str, source: str, begin: str, count: str, strides: str, place: str
    ) -> None:
        """`to[at + i] = source[begin + i] + place * strides[i]` bytes."""
        with self.loop(count) as i:
            whole = self.load("ptr", source, self.add(begin, i))
            offset = self.emit(f"mul i64 {place}, {self.number(self.add(strides, i))}")
            self.store("ptr", self.at("i8", whole, offset), to, self.add(at, i))

    def constants(self, given: str, at: str, block: str) -> str:
        """Put the constants of a program into its list; gives their number."""
        count = self.number(self.add(block, "3"))
        self.move(given, at, "%numbers", self.add(block, str(_BLOCK)), count)
        return count

    def run(self, block: str, given: str, arena: str) -> None:
        """Run a program; a check that fails leaves the routine."""
        function = self.load("ptr", "%numbers", block)
        table = self.load("ptr", "%numbers", self.add(block, "2"))
        code = self.emit(f"call i32 {function}(ptr {table}, ptr {given}, ptr {arena}, ptr %status)")
        with self.when(self.emit(f"icmp ne i32 {code}, 0")):
            check = self.add(self.load("i64", "%status", "0"), self.number(self.add(block, "1")))
            result = self.emit(f"trunc i64 {self.add(check, '1')} to i32")
            self.do(f"ret i32 {result}")
            self.start(self.fresh_label("unreached"))


def _scan() -> str:
    f = _Text("scan")
    length, reverse, nk, nc, nx, ny = (f.number(i) for i in range(6))
    pinned, sizes = "6", f.add("6", nc)
    x_strides = f.add(sizes, nc)
    y_strides = f.add(x_strides, nx)
    block = f.add(y_strides, ny)
    xs = f.add(nk, nc)
    out = f.add(xs, nx)
    ys = f.add(out, nc)
    temp = f.add(ys, ny)
    arena = f.load("ptr", "%buffers", f.add(temp, nc))
    given = f.pointers(f.add(out, f.number(f.add(block, "3")), nc, ny))
    f.move(given, "0", "%buffers", "0", nk)
    written = f.add(out, f.constants(given, out, block))
    last = f.emit(f"sub i64 {length}, 1")
    with f.loop(nc) as j:
        in_place = f.emit(f"icmp ne i64 {f.number(f.add(pinned, j))}, 0")
        none = f.emit(f"icmp eq i64 {length}, 0")
        with f.when(f.emit(f"or i1 {in_place}, {none}")):
            to, source = (f.load("ptr", "%buffers", f.add(k, j)) for k in (out, nk))
            f.copy(to, source, f.number(f.add(sizes, j)))
            f.store("ptr", to, given, f.add(nk, j))
            f.store("ptr", to, given, f.add(written, j))
    with f.loop(length) as i:
        left = f.emit(f"sub i64 {last}, {i}")
        is_even = f.emit(f"icmp eq i64 {f.emit(f'and i64 {left}, 1')}, 0")
        is_first = f.emit(f"icmp eq i64 {i}, 0")
        with f.loop(nc) as j, f.when(f.emit(f"icmp eq i64 {f.number(f.add(pinned, j))}, 0")):
            first, even, odd = (f.load("ptr", "%buffers", f.add(k, j)) for k in (nk, out, temp))
            f.store(
                "ptr", f.emit(f"select i1 {is_even}, ptr {even}, ptr {odd}"), given,
                f.add(written, j),
            )  # fmt: skip
            before = f.emit(f"select i1 {is_even}, ptr {odd}, ptr {even}")
            before = f.emit(f"select i1 {is_first}, ptr {first}, ptr {before}")
            f.store("ptr", before, given, f.add(nk, j))
        backwards = f.emit(f"icmp ne i64 {reverse}, 0")
        place = f.emit(f"select i1 {backwards}, i64 {left}, i64 {i}")
        f.slices(given, xs, "%buffers", xs, nx, x_strides, place)
        f.slices(given, f.add(written, nc), "%buffers", ys, ny, y_strides, place)
        f.run(block, given, arena)
    f.do("ret i32 0")
    return f.text()


def _while() -> str:
    f = _Text("while")
    nc, nb, n = (f.number(i) for i in range(3))
    pinned, sizes = "3", f.add("3", n)
    test = f.add(sizes, n)
    body = f.add(test, str(_BLOCK), f.number(f.add(test, "3")))
    first = f.add(nc, nb)
    out = f.add(first, n)
    temp = f.add(out, n)
    flag = f.load("ptr", "%buffers", f.add(temp, n))
    arena = f.load("ptr", "%buffers", f.add(temp, n, "1"))
    test_given = f.pointers(f.add(nc, n, f.number(f.add(test, "3")), "1"))
    body_given = f.pointers(f.add(nb, n, f.number(f.add(body, "3")), n))
    f.move(test_given, "0", "%buffers", "0", nc)
    f.move(body_given, "0", "%buffers", nc, nb)
    carry_end = f.add(nc, n)
    f.store("ptr", flag, test_given, f.add(carry_end, f.constants(test_given, carry_end, test)))
    carry_end = f.add(nb, n)
    written = f.add(carry_end, f.constants(body_given, carry_end, body))
    with f.loop(n) as j:
        source, to = (f.load("ptr", "%buffers", f.add(k, j)) for k in (first, out))
        in_place = f.emit(f"icmp ne i64 {f.number(f.add(pinned, j))}, 0")
        with f.when(in_place):
            f.copy(to, source, f.number(f.add(sizes, j)))
        place = f.emit(f"select i1 {in_place}, ptr {to}, ptr {source}")
        f.store("ptr", place, test_given, f.add(nc, j))
        f.store("ptr", place, body_given, f.add(nb, j))
        f.store("ptr", to, body_given, f.add(written, j))
    odd = f.variable("i1", "false")  # whether the next iteration writes to the other array
    go, inside, end = (f.fresh_label(x) for x in ("test", "iterate", "ended"))
    f.do(f"br label %{go}")
    f.start(go)
    f.run(test, test_given, arena)
    more = f.emit(f"icmp ne i8 {f.emit(f'load i8, ptr {flag}')}, 0")
    f.do(f"br i1 {more}, label %{inside}, label %{end}")
    f.start(inside)
    f.run(body, body_given, arena)
    is_odd = f.emit(f"xor i1 {odd.get()}, true")
    odd.set(is_odd)
    with f.loop(n) as j, f.when(f.emit(f"icmp eq i64 {f.number(f.add(pinned, j))}, 0")):
        now = f.load("ptr", body_given, f.add(written, j))
        f.store("ptr", now, test_given, f.add(nc, j))
        f.store("ptr", now, body_given, f.add(nb, j))
        even, other = (f.load("ptr", "%buffers", f.add(k, j)) for k in (out, temp))
        following = f.emit(f"select i1 {is_odd}, ptr {other}, ptr {even}")
        f.store("ptr", following, body_given, f.add(written, j))
    f.do(f"br label %{go}")
    f.start(end)
    with f.loop(n) as j:
        now, to = f.load("ptr", test_given, f.add(nc, j)), f.load("ptr", "%buffers", f.add(out, j))
        with f.when(f.emit(f"icmp ne ptr {now}, {to}")):
            f.copy(to, now, f.number(f.add(sizes, j)))
    f.do("ret i32 0")
    return f.text()


def _cond() -> str:
    f = _Text("cond")
    operands, outs = (f.number(i) for i in (0, 1))
    index = f.emit(f"load i64, ptr {f.load('ptr', '%buffers', '0')}")
    block = f.variable("i64", "2")
    with f.loop(index):
        constants = f.number(f.add(block.get(), "3"))
        block.set(f.add(block.get(), str(_BLOCK), constants))
    chosen = block.get()
    results = f.add(operands, "1")
    arena = f.load("ptr", "%buffers", f.add(results, outs))
    given = f.pointers(f.add(operands, f.number(f.add(chosen, "3")), outs))
    f.move(given, "0", "%buffers", "1", operands)
    written = f.add(operands, f.constants(given, operands, chosen))
    f.move(given, written, "%buffers", results, outs)
    f.run(chosen, given, arena)
    f.do("ret i32 0")
    return f.text()


_TEXTS = {"scan": _scan, "while": _while, "cond": _cond}


@functools.cache
def unit(name: str) -> Unit:
    """The routine of "scan", "while" or "cond"."""
    return codegen.routine(name, _TEXTS[name](), runs_passes=False)
