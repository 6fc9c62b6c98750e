"""The compiler, in order: what happens to a jaxpr until it is machine code.

    simplify        inline calls, algebra, common subexpressions, dead code   (jaxpr -> jaxpr)
    build_program   expressions into nests, products, host steps              (jaxpr -> loop program)
    arena.plan      a place in the arena for every temporary                  (inside build_program)
    compile_program LLVM text, optimized by LLVM                              (loop program -> code)

Each stage can be printed: see `functrans.jit.Lowered`.
"""

from __future__ import annotations

from functrans import loop_ir
from functrans.checking import check_jaxpr
from functrans.compiler.steps import build_program
from functrans.compiler.simplify import simplify
from functrans.config import switches
from functrans.ir import ClosedJaxpr
from functrans.printing_loops import program_to_python
from functrans.runtime.executable import Executable, compile_program

__all__ = ["compile_closed_jaxpr", "lower_to_program", "program_to_python", "simplify"]


def lower_to_program(
    closed: ClosedJaxpr, name: str = "main", *, host_steps: str = "allow"
) -> loop_ir.Program:
    """The loop program of a jaxpr. `host_steps="error"` refuses what has no native form."""
    simplified = simplify(closed)
    if switches.check_ir:
        check_jaxpr(simplified, "simplify")
    return build_program(simplified, name, host_steps=host_steps)


def compile_closed_jaxpr(
    closed: ClosedJaxpr, *, name: str = "main", host_steps: str = "allow"
) -> Executable:
    """Machine code for a jaxpr: call it with one value per input."""
    program = lower_to_program(closed, name, host_steps=host_steps)
    return compile_program(program)
