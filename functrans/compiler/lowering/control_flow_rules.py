"""Native loops and branches: steps that run the programs of their bodies, see `code/control_text`.

A carry that the body can compute in the place of its operand stays in one array; the others are
read from one array and written to another, in turn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from functrans.compiler.code import control_text, emission
from functrans.compiler.loops.scalar_loops import scan_kernel, while_kernel
from functrans.compiler.lowering.lowering import NodeBuilder, NotNative
from functrans.compiler.lowering.nodes import Node
from functrans.compiler.lowering.rules import rule
from functrans.compiler.lowering.spectral_rules import RULES
from functrans.ir import ClosedJaxpr, ShapedArray
from functrans.loop_ir import HostStep, Kernel, Loop, Program, single_steps, walk
from functrans.printing_loops import run_python
from functrans.runtime import machine

_BYTES = np.dtype(np.uint8)
Function = Callable[..., list[np.ndarray]]
_WORK = 1 << 6  # of an iteration beside its steps


@rule("scan")
def _scan(b: NodeBuilder, *args: Node, jaxpr: ClosedJaxpr, **params: Any) -> list[Node]:
    nk, nc, length = params["num_consts"], params["num_carry"], params["length"]
    carry, outs = args[nk : nk + nc], jaxpr.out_avals
    ys = [((length, *a.shape), a.dtype) for a in outs[nc:]]
    shapes = [*((x.shape, x.dtype) for x in carry), *ys]
    run = _scan_in_python(_oracle(b, jaxpr), length, nk, nc, ys, reverse=params["reverse"])
    found = scan_kernel(jaxpr, params, RULES)
    if found is not None:
        return _kernel(b, f"scan {length}", found, run, args, shapes, iterations=length)
    program, pinned = _body(b, jaxpr, {nk + j: j for j in range(nc)})
    xs = jaxpr.in_avals[nk + nc :]
    numbers = [length, int(params["reverse"]), nk, nc, len(xs), len(ys), *pinned]
    numbers += [_nbytes(x) for x in (*carry, *xs, *outs[nc:])]
    scratch = _scratch(carry, [program])
    results = b.native(
        f"scan {length}",
        functools.partial(control_text.unit, "scan"),
        _with_scratch(run, scratch),
        args,
        [*shapes, *scratch],
        numbers=numbers,
        work=length * (_work(program) + _WORK),
        programs=[program],
    )
    return results[: nc + len(ys)]


@rule("while")
def _while(
    b: NodeBuilder, *args: Node, cond_jaxpr: ClosedJaxpr, body_jaxpr: ClosedJaxpr, **params: Any
) -> list[Node]:
    nc, nb = params["cond_nconsts"], params["body_nconsts"]
    carry = args[nc + nb :]
    shapes = [(x.shape, x.dtype) for x in carry]
    run = _while_in_python(_oracle(b, cond_jaxpr), _oracle(b, body_jaxpr), nc, nb)
    found = while_kernel(cond_jaxpr, body_jaxpr, params, RULES)
    if found is not None:
        return _kernel(b, "while", found, run, args, shapes, iterations=1 << 6)
    test, _ = _body(b, cond_jaxpr, {})
    body, pinned = _body(b, body_jaxpr, {nb + j: j for j in range(len(carry))})
    numbers = [nc, nb, len(carry), *pinned, *map(_nbytes, carry)]
    *temps, arena = _scratch(carry, [test, body])
    scratch = [*temps, ((1,), np.dtype(bool)), arena]
    results = b.native(
        "while",
        functools.partial(control_text.unit, "while"),
        _with_scratch(run, scratch),
        args,
        [*shapes, *scratch],
        numbers=numbers,
        work=1 << 10,
        programs=[test, body],
    )
    return results[: len(carry)]


@rule("cond")
def _cond(
    b: NodeBuilder, index: Node, *operands: Node, branches: tuple[ClosedJaxpr, ...]
) -> list[Node]:
    programs = [_body(b, branch, {})[0] for branch in branches]
    outs, scratch = branches[0].out_avals, _scratch([], programs)
    results = b.native(
        "cond",
        functools.partial(control_text.unit, "cond"),
        _with_scratch(lambda i, *xs: _oracle(b, branches[int(i)])(*xs), scratch),
        [index, *operands],
        [*((a.shape, a.dtype) for a in outs), *scratch],
        numbers=[len(operands), len(outs)],
        work=max(map(_work, programs)),
        programs=programs,
    )
    return results[: len(outs)]


def _kernel(
    b: NodeBuilder,
    text: str,
    found: tuple[Kernel, tuple[np.generic, ...], list[ShapedArray]],
    run: Function,
    args: Sequence[Node],
    shapes: Sequence[Any],
    *,
    iterations: int,
) -> list[Node]:
    """A loop that is one kernel."""
    kernel, numbers, avals = found
    scratch = [(a.shape, a.dtype) for a in avals]
    results = b.native(
        text,
        functools.partial(emission.kernel_unit, kernel),
        _with_scratch(run, scratch),
        args,
        [*shapes, *scratch],
        numbers=[machine.word(x) for x in numbers],
        work=iterations * sum(1 for _ in walk(kernel.body)),
        is_shared=any(isinstance(s, Loop) and s.is_shared for s in kernel.body),
    )
    return results[: len(shapes)]


def _body(b: NodeBuilder, closed: ClosedJaxpr, carry: dict[int, int]) -> tuple[Program, list[int]]:
    """The program of a body, and for each carry whether it is computed in place."""
    assert b.subprogram is not None
    program = b.subprogram(closed, carry)
    if any(isinstance(step, HostStep) for step in single_steps(program)):
        raise NotNative("a loop or branch with a host step")
    in_place = {i: o for o, i in program.donations}
    # What is handed on as it came needs no copy either.
    same = {
        o for i, o in carry.items()
        if (program.outputs[o].name, program.inputs[i].name) in program.copies
    }  # fmt: skip
    copies = tuple(c for c in program.copies if int(c[0][3:]) not in same)
    pinned = [int(in_place.get(i) == o or o in same) for i, o in carry.items()]
    return replace(program, copies=copies), pinned


def _with_scratch(function: Function, scratch: Sequence[Any]) -> Function:
    return lambda *args: [*function(*args), *(np.zeros(shape, t) for shape, t in scratch)]


def _oracle(b: NodeBuilder, closed: ClosedJaxpr) -> Function:
    """The body as the text of its loop program."""
    subprogram = b.subprogram
    assert subprogram is not None
    program = functools.cache(lambda: subprogram(closed, {}))
    return lambda *args: [np.asarray(y) for y in run_python(program(), args)]


def _scan_in_python(
    body: Function, length: int, nk: int, nc: int, stacks: Sequence[Any], *, reverse: bool
) -> Function:
    def run(*args: np.ndarray) -> list[np.ndarray]:
        consts, carry, xs = args[:nk], list(args[nk : nk + nc]), args[nk + nc :]
        ys = [np.empty(shape, dtype) for shape, dtype in stacks]
        for i in reversed(range(length)) if reverse else range(length):
            found = body(*consts, *carry, *(x[i] for x in xs))
            carry = list(found[:nc])
            for y, row in zip(ys, found[nc:], strict=True):
                y[i] = row
        return [*carry, *ys]

    return run


def _while_in_python(test: Function, body: Function, nc: int, nb: int) -> Function:
    def run(*args: np.ndarray) -> list[np.ndarray]:
        test_consts, consts, carry = args[:nc], args[nc : nc + nb], list(args[nc + nb :])
        while test(*test_consts, *carry)[0]:
            carry = list(body(*consts, *carry))
        return carry

    return run


def _nbytes(x: Any) -> int:
    return int(np.prod(x.shape, dtype=np.int64)) * x.dtype.itemsize


def _scratch(carry: Any, programs: list[Program]) -> list[Any]:
    """The other array of each carry, and memory for temporaries of the programs."""
    arena = max(1, *(p.arena_bytes for p in programs))
    return [*((x.shape, x.dtype) for x in carry), ((arena,), _BYTES)]


def _work(program: Program) -> int:
    return sum(getattr(step, "work", 0) or 1 << 8 for step in program.steps)


__all__ = ["RULES"]
