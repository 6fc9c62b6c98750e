"""Native sorting: routines that order the rows of an array, and the steps that call them.

- Values are sorted by NumPy's own functions (`runtime/numpy_sorts`), so results are equal bit for
  bit.
- Orders of long rows are found by radix sort: elements become unsigned integers of the same order
  (`_key`), which are moved by one byte after the other, lowest first, together with their
  positions. Each pass keeps the order of equal bytes, so the whole is stable (Knuth, TAOCP 3,
  5.2.5). Those of short rows, and of complex numbers, are NumPy's.
- Threads share the rows. Rows that need scratch memory are cut into chunks by their number and
  extent alone, each with scratch of its own.
- The k largest are kept in a buffer of some more: an element enters it if it is larger than the
  least of the k largest so far; when the buffer is full it is sorted and cut to k.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from functrans.compiler.code.routine_text import Routine
from functrans.compiler.lowering import nodes
from functrans.compiler.lowering.affine import Shape
from functrans.compiler.lowering.lowering import NodeBuilder, NotNative
from functrans.compiler.lowering.nodes import Node
from functrans.compiler.words.scalar_types import memory_type
from functrans.loop_ir import Check
from functrans.ops.sorting import argtop_k
from functrans.runtime import codegen, numpy_sorts, threads
from functrans.runtime.codegen import Unit

RADIX_FROM = 192  # elements in a row from which radix sort beats NumPy's timsort
CHUNKS, CHUNK = 8, 1 << 15  # chunks of rows at most, elements of one at least
_INT64 = np.dtype(np.int64)
_ARGUMENTS = "ptr %buffers, ptr %numbers, ptr %status"
_BYTES = 256  # values of a byte
_COUNTS = f"[{_BYTES} x i32]"


def sort_rows(b: NodeBuilder, x: Node) -> Node:
    """The elements of each row (along the last axis) in ascending order."""
    n = x.shape[-1]
    if n < 2 or not x.size:
        return x
    routine = _numpy_routine("sort", x.dtype)
    return b.native(
        f"sort {x.dtype}{list(x.shape)}",
        routine,
        lambda v: [np.sort(v, axis=-1)],
        [x],
        [(x.shape, x.dtype)],
        numbers=[x.size // n, n, _rows_at_once(x.size // n, n)],
        failures=_SHORT_OF_MEMORY,
        work=x.size * n.bit_length(),
        is_shared=len(_chunks(x.size // n, n)) > 1,
    )[0]


def argsort_rows(b: NodeBuilder, x: Node) -> Node:
    """The order of each row's elements; equal ones keep theirs."""
    n = x.shape[-1]
    rows = x.size // max(n, 1)
    scratch: list[tuple[Shape, np.dtype]] = []
    if x.dtype.kind == "c" or n < RADIX_FROM or n >= 2**31:
        routine = _numpy_routine("argsort", x.dtype)
    else:
        routine = functools.partial(_unit, "argsort", x.dtype)
        scratch = _scratch(n * len(_chunks(rows, n)), x.dtype)
    return b.native(
        f"argsort {x.dtype}{list(x.shape)}",
        routine,
        lambda v: [np.argsort(v, axis=-1, kind="stable"), *map(_unused, scratch)],
        [x],
        [(x.shape, _INT64), *scratch],
        numbers=[rows, n, _rows_at_once(rows, n)],
        failures=_SHORT_OF_MEMORY,
        work=x.size * n.bit_length(),
        is_shared=len(_chunks(rows, n)) > 1,
    )[0]


def top_k_rows(b: NodeBuilder, x: Node, k: int) -> Node:
    """The positions of each row's `k` largest elements; of equal ones the first."""
    n = x.shape[-1]
    if x.dtype.kind == "c" or n >= 2**31:
        raise NotNative(f"top_k of {x.dtype}")
    if not k:
        zero = b.add(nodes.Number((), _INT64, np.int64(0)))
        return b.view(zero, (*x.shape[:-1], 0), lambda _: ())
    # More than k; or all, and then the buffer is not full before the end.
    capacity = min(n, max(4 * k, k + min(1024, max(118, n // 16))))
    rows = x.size // max(n, 1)
    scratch = _scratch(capacity * len(_chunks(rows, n)), x.dtype)
    return b.native(
        f"top_k {x.dtype}{list(x.shape)} k={k}",
        functools.partial(_unit, "top_k", x.dtype),
        lambda v: [argtop_k.impl(v, k=k), *map(_unused, scratch)],
        [x],
        [((*x.shape[:-1], k), _INT64), *scratch],
        numbers=[rows, n, _rows_at_once(rows, n), k, capacity],
        work=8 * x.size,
        is_shared=len(_chunks(rows, n)) > 1,
    )[0]


_SHORT_OF_MEMORY = ((MemoryError, "sorting is short of memory (status {})."),)


def _rows_at_once(rows: int, n: int) -> int:
    """How many rows are a chunk."""
    chunks = max(1, min(CHUNKS, rows, rows * n // CHUNK))
    return max(1, -(-rows // chunks))


def _chunks(rows: int, n: int) -> range:
    return range(0, max(rows, 1), _rows_at_once(rows, n))


def _scratch(n: int, dtype: np.dtype) -> list[tuple[Shape, np.dtype]]:
    """Keys and positions, twice."""
    return [((2 * n,), np.dtype(f"u{dtype.itemsize}")), ((2 * n,), np.dtype(np.int32))]


def _unused(result: tuple[Shape, np.dtype]) -> np.ndarray:
    return np.zeros(*result)


def symbol_letter(dtype: np.dtype) -> str:
    """NumPy's letter of a dtype, but for bool: names in LLVM take no question mark."""
    return "bool" if dtype.kind == "b" else dtype.char


def _unit(name: str, dtype: np.dtype) -> Unit:
    full = f"{name}_{symbol_letter(dtype)}"
    # Passes would double the time to compile, and gain nothing.
    return codegen.routine(full, _TEXTS[name](full, dtype), runs_passes=False)


# ---------------------------------------------------------------------------- NumPy's functions


def _numpy_routine(name: str, dtype: np.dtype) -> Callable[[], Unit]:
    address = numpy_sorts.address(name, dtype)
    if address is None:
        raise NotNative(f"{name} of {dtype} by a NumPy whose functions are elsewhere")

    def unit() -> Unit:
        full = f"numpy_{name}_{symbol_letter(dtype)}"
        codegen.use_symbol(f"ft.{full}", address)
        text = _call_of_numpy(name, full, dtype)
        return codegen.routine(full, text, runs_passes=False)

    return unit


def _call_of_numpy(name: str, full: str, dtype: np.dtype) -> str:
    f = _piece(full)
    argument = "ptr, " if name == "argsort" else ""
    f.need(f"declare i32 @ft.{full}(ptr, {argument}i64, ptr)")
    x, out = (f.load("ptr", "%buffers", str(i)) for i in (0, 1))
    n = f.load("i64", "%numbers", "1")
    t = memory_type(dtype)
    with _rows_of_chunk(f) as row:
        start = f.emit(f"mul i64 {row}, {n}")
        if name == "sort":
            values = f.at(t, out, start)
            f.copy(values, f.at(t, x, start), f.emit(f"mul i64 {n}, {dtype.itemsize}"))
            arguments = f"ptr {values}"
        else:
            order = f.at("i64", out, start)
            with f.loop(n) as i:
                f.store("i64", i, order, i)
            arguments = f"ptr {f.at(t, x, start)}, ptr {order}"
        status = f.emit(f"call i32 @ft.{full}({arguments}, i64 {n}, ptr null)")
        with f.when(f.emit(f"icmp slt i32 {status}, 0")):
            wide = f.emit(f"sext i32 {status} to i64")
            f.do(f"store atomic i64 {wide}, ptr %failed monotonic, align 8")
    return _whole(f, full)


# ---------------------------------------------------------------------------- chunks of rows


def _piece(full: str) -> Routine:
    """What the pool calls: a function of `%chunk`, in which `%failed` is a status that is 0."""
    f = Routine(f"{full}.piece", "ptr %env, i64 %chunk, i64 %end", "void", "internal")
    for i, name in enumerate(("buffers", "numbers")):
        f.do(f"%{name}.at = getelementptr ptr, ptr %env, i64 {i}")
        f.do(f"%{name} = load ptr, ptr %{name}.at")
    f.do("%failed = getelementptr i64, ptr %env, i64 2")
    return f


@contextmanager
def _rows_of_chunk(f: Routine) -> Iterator[str]:
    rows, size = (f.load("i64", "%numbers", str(i)) for i in (0, 2))
    low = f.emit(f"mul i64 %chunk, {size}")
    f.need("declare i64 @llvm.umin.i64(i64, i64)")
    high = f.emit(f"call i64 @llvm.umin.i64(i64 {f.emit(f'mul i64 %end, {size}')}, i64 {rows})")
    with f.loop(high, low) as row:
        yield row


def _whole(piece: Routine, full: str) -> str:
    """The function that shares the chunks."""
    piece.do("ret void")
    f = Routine(f"ft_entry_{full}", _ARGUMENTS, attributes=codegen.COLD)
    for part in (threads.POOL, threads.SHARED):
        f.need(part)
    env = f.array("[3 x i64]", 1)
    f.store("ptr", "%buffers", env, "0")
    f.store("ptr", "%numbers", env, "1")
    f.store("i64", "0", env, "2")
    rows, size = (f.load("i64", "%numbers", str(i)) for i in (0, 2))
    beyond = f.emit(f"sub i64 {f.emit(f'add i64 {rows}, {size}')}, 1")
    chunks = f.emit(f"udiv i64 {beyond}, {size}")
    f.do(f"call void @ft_shared(ptr @{full}.piece, ptr {env}, i64 {chunks}, i64 1)")
    code = f.load("i64", env, "2")
    with f.when(f.emit(f"icmp ne i64 {code}, 0")):
        f.store("i64", code, "%status", "1")
    failed = f.emit(f"icmp ne i64 {code}, 0")
    f.do(f"ret i32 {f.emit(f'zext i1 {failed} to i32')}")
    f.parts |= piece.parts
    return "\n".join([*f.parts, piece.function(), f.function()])


# ---------------------------------------------------------------------------- radix sort


def _key(f: Routine, bits: str, dtype: np.dtype) -> str:
    """The bits of an element as an unsigned integer of the same order; nan is above all."""
    width = 8 * dtype.itemsize
    t, sign = f"i{width}", -(1 << (width - 1))
    if dtype.kind in "bu":
        return bits
    if dtype.kind == "i":
        return f.emit(f"xor {t} {bits}, {sign}")
    exponents = {2: 5, 4: 8, 8: 11}[dtype.itemsize]
    infinity = ((1 << exponents) - 1) << (width - 1 - exponents)
    size = f.emit(f"and {t} {bits}, {(1 << (width - 1)) - 1}")
    zero = f.emit(f"icmp eq {t} {size}, 0")
    nan = f.emit(f"icmp ugt {t} {size}, {infinity}")
    bits = f.emit(f"select i1 {zero}, {t} 0, {t} {bits}")  # -0.0 equals 0.0
    # Of negative numbers the larger is the one with the smaller bits: all of them are turned.
    mask = f.emit(f"or {t} {f.emit(f'ashr {t} {bits}, {width - 1}')}, {sign}")
    return f.emit(f"select i1 {nan}, {t} -1, {t} {f.emit(f'xor {t} {bits}, {mask}')}")


def _radix_text(width: int) -> str:
    """`void ft_radix_<width>(keys, positions, n)`: both, of length 2 n, sorted in the first n."""
    t, passes = f"i{width}", width // 8
    f = Routine(f"ft_radix_{width}", "ptr %keys, ptr %positions, i64 %n", "void", "internal")
    counts = f.array("i32", _BYTES * passes)
    f.clear(counts, str(4 * _BYTES * passes))
    with f.loop("%n") as i:
        key = f.load(t, "%keys", i)
        for p in map(str, range(passes)):
            _one_more(f, f.at(_COUNTS, counts, p), _byte(f, t, key, p))
    ends = f.at(t, "%keys", "%n"), f.at("i32", "%positions", "%n")
    pointers = [f.variable("ptr", place) for place in ("%keys", "%positions", *ends)]
    with f.loop(str(passes)) as p:
        count = f.at(_COUNTS, counts, p)
        # Where all keys have this byte, there is nothing to move.
        same = f.load("i32", count, _byte(f, t, f.load(t, "%keys", "0"), p))
        with f.when(f.emit(f"icmp ne i64 {f.emit(f'zext i32 {same} to i64')}, %n")):
            _radix_pass(f, t, p, count, pointers)
    keys, positions, *_ = (v.get() for v in pointers)
    with f.when(f.emit(f"icmp ne ptr {keys}, %keys")):
        f.copy("%keys", keys, f.emit(f"mul i64 %n, {width // 8}"))
        f.copy("%positions", positions, f.emit("mul i64 %n, 4"))
    f.do("ret void")
    return f.text()


def _byte(f: Routine, t: str, key: str, p: str) -> str:
    """The byte of a key that pass `p` sorts by."""
    wide = key if t == "i64" else f.emit(f"zext {t} {key} to i64")
    moved = f.emit(f"lshr i64 {wide}, {f.emit(f'shl i64 {p}, 3')}")
    return f.emit(f"and i64 {moved}, {_BYTES - 1}")


def _one_more(f: Routine, count: str, byte: str) -> str:
    """Count a byte; gives how many there were."""
    place = f.at("i32", count, byte)
    before = f.emit(f"load i32, ptr {place}")
    f.do(f"store i32 {f.emit(f'add i32 {before}, 1')}, ptr {place}")
    return before


def _radix_pass(f: Routine, t: str, p: str, count: str, pointers: list) -> None:
    """Move keys and positions to where the counts of their bytes say; swap source and target."""
    total = f.carried("i32", "0")
    with f.loop(str(_BYTES), "0", total) as byte:
        here = f.load("i32", count, byte)
        f.store("i32", total.get(), count, byte)
        total.set(f.emit(f"add i32 {total.get()}, {here}"))
    keys, positions, to_keys, to_positions = (v.get() for v in pointers)
    with f.loop("%n") as i:
        key = f.load(t, keys, i)
        place = _one_more(f, count, _byte(f, t, key, p))
        wide = f.emit(f"zext i32 {place} to i64")
        f.store(t, key, to_keys, wide)
        f.store("i32", f.load("i32", positions, i), to_positions, wide)
    for v, place in zip(pointers, (to_keys, to_positions, keys, positions), strict=True):
        v.set(place)


def _argsort_text(full: str, dtype: np.dtype) -> str:
    width = 8 * dtype.itemsize
    t = f"i{width}"
    f = _piece(full)
    f.need(_radix_text(width))
    x, out = (f.load("ptr", "%buffers", str(i)) for i in (0, 1))
    n = f.load("i64", "%numbers", "1")
    keys, positions = _scratch_of_chunk(f, t, n)
    with _rows_of_chunk(f) as row:
        start = f.emit(f"mul i64 {row}, {n}")
        values, order = f.at(t, x, start), f.at("i64", out, start)
        with f.loop(n) as i:
            _enter(f, dtype, (keys, positions), i, _key(f, f.load(t, values, i), dtype), i)
        f.do(f"call void @ft_radix_{width}(ptr {keys}, ptr {positions}, i64 {n})")
        _write_positions(f, positions, order, n)
    return _whole(f, full)


def _scratch_of_chunk(f: Routine, t: str, extent: str) -> tuple[str, str]:
    """Keys and positions, twice `extent` of them; a range of chunks works in those of its first."""
    offset = f.emit(f"mul i64 %chunk, {f.emit(f'shl i64 {extent}, 1')}")
    keys, positions = (f.load("ptr", "%buffers", str(i)) for i in (2, 3))
    return f.at(t, keys, offset), f.at("i32", positions, offset)


def _enter(
    f: Routine, dtype: np.dtype, buffers: tuple[str, str], at: str, key: str, position: str
) -> None:
    f.store(f"i{8 * dtype.itemsize}", key, buffers[0], at)
    f.store("i32", f.emit(f"trunc i64 {position} to i32"), buffers[1], at)


def _write_positions(f: Routine, positions: str, order: str, n: str) -> None:
    with f.loop(n) as i:
        position = f.load("i32", positions, i)
        f.store("i64", f.emit(f"zext i32 {position} to i64"), order, i)


# ---------------------------------------------------------------------------- the k largest


class _Largest:
    """The buffer of what may be among the k largest of a row: falling keys, and positions."""

    def __init__(self, f: Routine, dtype: np.dtype, k: str, capacity: str):
        self.f, self.dtype, self.k, self.capacity = f, dtype, k, capacity
        self.t = f"i{8 * dtype.itemsize}"
        self.keys, self.positions = _scratch_of_chunk(f, self.t, capacity)
        self.last = f.at(self.t, self.keys, f.emit(f"sub i64 {k}, 1"))
        self.held, self.bound = f.variable("i64", "0"), f.variable(self.t, "-1")

    def empty(self) -> None:
        self.held.set("0")
        self.bound.set("-1")

    def key(self, values: str, i: str) -> str:
        bits = self.f.load(self.t, values, i)
        if self.dtype.kind == "i":
            return self.f.emit(f"xor {self.t} {bits}, {np.iinfo(self.dtype).max}")
        return self.f.emit(f"xor {self.t} {_key(self.f, bits, self.dtype)}, -1")

    def scan(self, values: str, n: str) -> None:
        """Let all enter that are larger than the least of the k largest so far."""
        f = self.f
        with f.loop(n) as i:
            key = self.key(values, i)
            # An equal one comes after those that are there.
            with f.when(f.emit(f"icmp ult {self.t} {key}, {self.bound.get()}")):
                with f.when(f.emit(f"icmp eq i64 {self.held.get()}, {self.capacity}")):
                    self.sort()
                    self.bound.set(f.emit(f"load {self.t}, ptr {self.last}"))
                    self.held.set(self.k)
                self.enter(key, i)

    def fill(self, values: str, n: str) -> None:
        """Let the least integers enter, whose key is the first bound, as far as there is room."""
        f = self.f
        is_short = f.emit(f"icmp slt i64 {self.held.get()}, {self.k}")
        with f.loop(f.emit(f"select i1 {is_short}, i64 {n}, i64 0")) as i:
            key = self.key(values, i)
            is_least = f.emit(f"icmp eq {self.t} {key}, -1")
            is_wanted = f.emit(f"icmp slt i64 {self.held.get()}, {self.k}")
            with f.when(f.emit(f"and i1 {is_least}, {is_wanted}")):
                self.enter(key, i)

    def enter(self, key: str, i: str) -> None:
        at = self.held.get()
        _enter(self.f, self.dtype, (self.keys, self.positions), at, key, i)
        self.held.set(self.f.emit(f"add i64 {at}, 1"))

    def sort(self) -> None:
        arguments = f"ptr {self.keys}, ptr {self.positions}, i64 {self.held.get()}"
        self.f.do(f"call void @ft_radix_{self.t[1:]}({arguments})")


def _top_k_text(full: str, dtype: np.dtype) -> str:
    f = _piece(full)
    f.need(_radix_text(8 * dtype.itemsize))
    x, out = (f.load("ptr", "%buffers", str(i)) for i in (0, 1))
    n, k, capacity = (f.load("i64", "%numbers", str(i)) for i in (1, 3, 4))
    largest = _Largest(f, dtype, k, capacity)
    with _rows_of_chunk(f) as row:
        values = f.at(largest.t, x, f.emit(f"mul i64 {row}, {n}"))
        largest.empty()
        largest.scan(values, n)
        if dtype.kind != "f":
            largest.fill(values, n)
        largest.sort()
        order = f.at("i64", out, f.emit(f"mul i64 {row}, {k}"))
        _write_positions(f, largest.positions, order, k)
    return _whole(f, full)


_TEXTS: dict[str, Callable[[str, np.dtype], str]] = {
    "argsort": _argsort_text,
    "top_k": _top_k_text,
}


# ---------------------------------------------------------------------------- binary search


def search_rows(b: NodeBuilder, rows: Node, values: Node, side: str) -> Node:
    """The place of each value in its ascending row, by halving, without branches.

    The extent is known, so the steps are written out: each is a read and a choice.
    """
    n, batch_dims = rows.shape[-1], len(rows.shape) - 1
    zero = b.add(nodes.Number((), _INT64, np.int64(0)))
    place: Node = b.view(zero, values.shape, lambda index: ())
    rows = b.stored(rows)

    def step(place: Node, offset: int, distance: int) -> Node:
        """`place + distance` where the element `offset` on is before the value."""
        at = b.elementwise("add", place, b.number(offset, place)) if offset else place
        element = b.add(
            nodes.Gather(
                values.shape, rows.dtype, rows, (at,), batch_dims, "promise_in_bounds",
                (Check(n, 0, "searchsorted", ""),),
            )
        )  # fmt: skip
        if side == "left":
            found = _less(b, element, values)
        else:
            found = b.elementwise("not", _less(b, values, element))
        further = b.elementwise("add", place, b.number(distance, place))
        return b.elementwise("select", found, further, place)

    while n > 1:
        half = n // 2
        place = step(place, half - 1, half)
        n -= half
    return step(place, 0, 1) if n else place


def _less(b: NodeBuilder, x: Node, y: Node) -> Node:
    """Whether x is before y in the order of sorting: nan is last (npy_sort.h)."""
    if x.dtype.kind == "c":
        (xr, yr), (xi, yi) = ([b.elementwise(w, z) for z in (x, y)] for w in ("real", "imag"))
        equal = b.elementwise("eq", xr, yr)
        nans = b.elementwise("and", *(b.elementwise("isnan", z) for z in (xr, yr)))
        tie = b.elementwise("and", b.elementwise("or", equal, nans), _less(b, xi, yi))
        # A nan in one imaginary part decides where neither real part is one.
        xn, yn = (b.elementwise("isnan", z) for z in (xi, yi))
        ordered = b.elementwise("not", b.elementwise("or", *_nans(b, xr, yr)))
        earlier = b.elementwise("and", b.elementwise("not", xn), yn)
        later = b.elementwise("and", xn, b.elementwise("not", yn))
        by_real = b.elementwise(
            "and", _less(b, xr, yr), b.elementwise("not", b.elementwise("and", later, ordered))
        )
        above = b.elementwise("and", b.elementwise("gt", xr, yr), earlier)
        return b.elementwise("or", b.elementwise("or", by_real, above), tie)
    less = b.elementwise("lt", x, y)
    if x.dtype.kind != "f":
        return less
    x_nan, y_nan = _nans(b, x, y)
    return b.elementwise("or", less, b.elementwise("and", y_nan, b.elementwise("not", x_nan)))


def _nans(b: NodeBuilder, x: Node, y: Node) -> tuple[Node, Node]:
    return b.elementwise("isnan", x), b.elementwise("isnan", y)
