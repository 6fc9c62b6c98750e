"""What the native entry reads of a program, and how its LLVM text reads it; see `entry`."""

from __future__ import annotations

# A record: its words, in order. Names that end in `_at` are offsets in a block.
WORDS = (
    "run", "table", "release_gil", "results", "inputs", "consts", "outputs", "input_specs",
    "const_data", "output_specs", "block_bytes", "objects_at", "scratch_at", "arena_at",
    "status_at", "free", "fail", "refresh", "memory",
)  # fmt: skip
# The spec of an input: dtype, NumPy scalar type, Python type, NUMBER_*, ndim, address of the shape.
INPUT_WORDS = 6
# The spec of an output: dtype, ndim, address of the shape. A 0-d output is a NumPy scalar.
OUTPUT_WORDS = 3
# Where the value of a Python number is: behind its header, or to be asked for.
NUMBER_AS_STORED, NUMBER_FROM_INT, NUMBER_FROM_BOOL = 0, 1, 2
SINGLE, TUPLE, LIST = 0, 1, 2  # what is returned: the only output itself, or a container
# A block: next in the free list, the array that owns the memory, a list of copied inputs or null,
# then the table of buffers.
BLOCK_HEADER = 24
ALIGNMENT = 64  # of a block and its arena: a cache line, and the widest vector


def word(name: str, kind: str = "i64") -> str:
    """Text that reads a word of %record into the variable of its name."""
    return read(f"%{name}", kind, "%record", 8 * WORDS.index(name))


def read(variable: str, kind: str, base: str, offset: int) -> str:
    """Text that reads what lies `offset` bytes behind the pointer `base` into a variable."""
    return (
        f"  {variable}.at = getelementptr i8, ptr {base}, i64 {offset}\n"
        f"  {variable} = load {kind}, ptr {variable}.at"
    )


def declared(text: str) -> str:
    """Declarations of C functions, one a line."""
    return "\n".join(f"declare {line.strip()}" for line in text.strip().splitlines())
