"""The compiler, in order: what happens to a jaxpr until it is machine code.

    simplify        inline calls, algebra, common subexpressions, dead code  (jaxpr -> jaxpr)
    to_nodes        each equation by its rule: what one element is           (jaxpr -> nodes)
    fuse            which nodes share loops, which are stored                (nodes -> groups)
    assemble        kernels, products, host steps over buffers              (groups -> loop program)
    in_place        results in the memory of operands not needed any more   (loop program -> same)
    tiled           products and what is done with their rows, tile by tile  (loop program -> same)
    schedule        which independent steps run together                     (loop program -> same)
    plan_memory     a place in one arena for every temporary                 (loop program -> same)
    compile_program LLVM text, optimized by LLVM                             (loop program -> code)

Each stage can be printed: see `functrans.jit.Lowered`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from functrans.checking import check_jaxpr
from functrans.compiler.jaxprs.simplify import simplify
from functrans.compiler.loops.assembly import assemble, bind_outputs, reachable
from functrans.compiler.loops.fusion import fuse
from functrans.compiler.lowering.control_flow_rules import RULES
from functrans.compiler.lowering.lowering import to_nodes
from functrans.compiler.planning.in_place import in_place
from functrans.compiler.planning.memory import plan_memory
from functrans.compiler.planning.schedule import schedule
from functrans.compiler.planning.tiling import tiled
from functrans.config import switches
from functrans.ir import ClosedJaxpr
from functrans.loop_ir import Program
from functrans.printing_loops import program_to_python
from functrans.runtime.executable import Executable, compile_program

__all__ = ["compile_closed_jaxpr", "lower_to_program", "program_to_python", "simplify"]


def lower_to_program(
    closed: ClosedJaxpr,
    name: str = "main",
    *,
    host_steps: str = "allow",
    fastmath: bool = False,
    donated: Sequence[int] | Mapping[int, int] = (),
) -> Program:
    """The loop program of a jaxpr. `host_steps="error"` refuses what has no native form.

    `donated` are positions of inputs that may be written over; a mapping says by which output.
    """
    simplified = simplify(closed)
    if switches.check_ir:
        check_jaxpr(simplified, "simplify")

    def subprogram(inner: ClosedJaxpr, in_place: Mapping[int, int]) -> Program:
        options = {"host_steps": host_steps, "fastmath": fastmath}
        return lower_to_program(inner, "body", donated=in_place, **options)

    lowered = to_nodes(simplified, RULES, host_steps, subprogram)
    owners, copies = bind_outputs(lowered)
    program = reachable(lowered, [*owners, *(node for _, node in copies), *lowered.effects])
    groups = fuse(program)
    assembled = assemble(lowered, groups, owners, copies, name, fastmath=fastmath)
    return plan_memory(schedule(tiled(in_place(assembled, donated))))


def compile_closed_jaxpr(closed: ClosedJaxpr, name: str = "main", **options: Any) -> Executable:
    """Machine code for a jaxpr: call it with one value per input."""
    return compile_program(lower_to_program(closed, name, **options))
