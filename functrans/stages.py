"""The stages between a traced function and its machine code, each printable.

`jit(f).trace(x)` is a `Traced`, `.lower()` a `Lowered`, `.compile()` a `Compiled`.
"""

from __future__ import annotations

import functools
from typing import Any

from functrans import pytree
from functrans.checking import check_jaxpr
from functrans.compiler import pipeline
from functrans.config import switches
from functrans.core import get_aval
from functrans.ir import ClosedJaxpr
from functrans.runtime.executable import Executable


def executable_of(
    closed: ClosedJaxpr,
    *,
    name: str = "main",
    host_steps: str = "allow",
    fastmath: bool = False,
    donated: tuple[int, ...] = (),
) -> Executable:
    """The machine code of a program, compiled when it is first wanted."""
    key = ("executable", host_steps, fastmath, donated)
    found = closed.derived.get(key)
    if found is None:
        if switches.check_ir:
            check_jaxpr(closed, "tracing")
        options = {"host_steps": host_steps, "fastmath": fastmath, "donated": donated}
        found = closed.derived[key] = pipeline.compile_closed_jaxpr(closed, name, **options)
    return found


class Traced:
    """A function traced for one signature: `.jaxpr`, and `.lower()`."""

    def __init__(self, jaxpr: ClosedJaxpr, in_tree: Any, out_tree: Any, options: dict[str, Any]):
        self.jaxpr = jaxpr
        self.in_tree = in_tree
        self.out_tree = out_tree
        self.options = options

    def lower(self) -> Lowered:
        """The stages of the compiler for this program."""
        return Lowered(self)


class Lowered:
    """Every stage between a traced function and machine code, each printable.

    `.jaxpr`, `.simplified`, `.loop_program` (Python text that runs), `.llvm`, `.assembly`.
    """

    def __init__(self, traced: Traced):
        self._traced = traced
        self.jaxpr = traced.jaxpr
        self.in_tree = traced.in_tree
        self.out_tree = traced.out_tree

    @functools.cached_property
    def simplified(self) -> ClosedJaxpr:
        """The jaxpr after inlining, algebra, common subexpressions and dead code."""
        return pipeline.simplify(self.jaxpr)

    @functools.cached_property
    def program(self) -> Any:
        """The loop program as data (`functrans.loop_ir.Program`)."""
        return pipeline.lower_to_program(self.jaxpr, **self._traced.options)

    @property
    def loop_program(self) -> str:
        """The loop program as Python text; it runs."""
        return pipeline.program_to_python(self.program)

    @functools.cached_property
    def _executable(self) -> Any:
        return executable_of(self.jaxpr, **self._traced.options)

    @property
    def llvm(self) -> str:
        """The optimized LLVM module."""
        return self._executable.llvm

    @property
    def assembly(self) -> str:
        """The machine code of this CPU, as text."""
        return self._executable.asm

    def as_text(self) -> str:
        """The loop program: the stage that says what will run."""
        return self.loop_program

    def compile(self) -> Compiled:
        """Compile now, and return what runs for exactly this signature."""
        return Compiled(self, self._executable)


class Compiled:
    """A compiled function for one signature; call it with arguments of that signature."""

    def __init__(self, lowered: Lowered, executable: Any):
        self._lowered = lowered
        self._executable = executable

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, tree = pytree.tree_flatten((args, kwargs))
        if tree != self._lowered.in_tree:
            raise TypeError(
                f"compiled for arguments of structure {self._lowered.in_tree}, called with {tree}."
            )
        for i, (x, aval) in enumerate(zip(leaves, self._lowered.jaxpr.in_avals, strict=True)):
            if get_aval(x) != aval:
                raise TypeError(f"compiled for leaf {i} of type {aval}, called with {get_aval(x)}.")
        return pytree.tree_unflatten(self._lowered.out_tree, self._executable(leaves))

    def as_text(self) -> str:
        """The machine code, as text."""
        return self._lowered.assembly
