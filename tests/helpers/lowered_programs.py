"""Checks that a compiled function equals the eager one, by the loop program and by machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import functrans as ft
from functrans.compiler.pipeline import lower_to_program
from functrans.loop_ir import HostStep, KernelCall, MatMul, Program
from functrans.printing_loops import run_python
from functrans.runtime.executable import compile_program


class OnHost(ft.Primitive):
    """`np.flip`, as an operation without a native form."""

    def abstract_eval(self, x, *, axis):
        return x

    def impl(self, x, *, axis):
        return np.flip(x, axis)

    def jvp(self, primals, tangents, *, axis):
        return self(*primals, axis=axis), self(*tangents, axis=axis)

    def batch(self, size, args, dims, *, axis):
        return self(args[0], axis=axis + (axis >= dims[0])), dims[0]


on_host = OnHost("on_host")

LOOSE = {"f2": 1e-3, "f4": 1e-5, "c8": 1e-5}


def program_of(f: Callable[..., Any], *args: Any) -> Program:
    """The loop program of `f` at `args`."""
    return lower_to_program(ft.make_jaxpr(f)(*args))


def check_lowering(
    f: Callable[..., Any], *args: Any, native: bool = True, host_steps: int = 0
) -> Program:
    """Compare the loop program of `f` with its eager value; returns the program."""
    closed = ft.make_jaxpr(f)(*args)
    with np.errstate(all="ignore"):
        expected = ft.eval_jaxpr(closed.jaxpr, closed.consts, *args)
    program = lower_to_program(closed)
    assert count(program, HostStep) == host_steps
    runs = [run_python(program, args)]
    if native:
        runs.append(compile_program(program)(args))
    for results in runs:
        for got, want in zip(results, expected, strict=True):
            got, want = np.asarray(got), np.asarray(want)
            assert (got.shape, got.dtype) == (want.shape, want.dtype)
            tolerance = LOOSE.get(want.dtype.str[1:], 1e-9)
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    return program


def count(program: Program, kind: type = KernelCall) -> int:
    """How many steps of a kind a program has."""
    return sum(isinstance(step, kind) for step in program.steps)


def kernels(program: Program) -> int:
    """How many different kernels a program has."""
    return len({step.kernel for step in program.steps if isinstance(step, KernelCall)})


__all__ = [
    "HostStep",
    "KernelCall",
    "MatMul",
    "check_lowering",
    "count",
    "kernels",
    "on_host",
    "program_of",
]
