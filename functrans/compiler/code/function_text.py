"""The text of one LLVM function while it is written."""

from __future__ import annotations

# What fastmath allows on the user's own operations: not nnan nor ninf, so that isnan still works.
_FAST_FLAGS = "reassoc nsz arcp contract afn"
_FAST = ("fadd ", "fsub ", "fmul ", "fdiv ")


class FunctionBody:
    """Instructions of one function, with fresh names and labels, and the parts it needs."""

    def __init__(self, *, fastmath: bool = False) -> None:
        self.parts: dict[str, None] = {}
        self.fastmath = fastmath
        self.lines: list[str] = []
        self.count = 0
        self.label = "entry"

    def need(self, declaration: str) -> None:
        """Make sure the module has this declaration or function."""
        self.parts[declaration] = None

    def emit(self, text: str) -> str:
        """Append `name = text`; returns the name."""
        self.count += 1
        name = f"%t{self.count}"
        if self.fastmath and text.startswith(_FAST):
            text = f"{text[:4]} {_FAST_FLAGS}{text[4:]}"
        self.lines.append(f"  {name} = {text}")
        return name

    def do(self, text: str) -> None:
        """Append an instruction without a result."""
        self.lines.append(f"  {text}")

    def fresh_label(self, hint: str) -> str:
        """A new block label."""
        self.count += 1
        return f"{hint}{self.count}"

    def start(self, label: str) -> None:
        """Begin a block."""
        self.lines.append(f"{label}:")
        self.label = label
