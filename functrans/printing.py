"""Jaxprs as text, in JAX's notation.

    { lambda ; a:f64[3]. let b:f64[3] = sin a in (b,) }

Variables are named in the order they appear; constants and inputs may take the names of the user's
arguments, and each equation may show the line it came from. Programs inside parameters are printed
indented, with names of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from functrans import dtypes, ir
from functrans.ir import Atom, ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var


def jaxpr_to_text(
    jaxpr: Jaxpr, *, source_info: bool = False, argument_names: bool = False, indent: int = 0
) -> str:
    """The text of a jaxpr; one line for a short program of at most one equation."""
    return _Printer(jaxpr, source_info, argument_names).program(indent)


class _Printer:
    def __init__(self, jaxpr: Jaxpr, source_info: bool, argument_names: bool):
        self.jaxpr = jaxpr
        self.source_info = source_info
        self.argument_names = argument_names
        self.fresh = ir.var_names()
        self.names: dict[Var, str] = {}
        self.taken: set[str] = set()

    def name(self, var: Var) -> str:
        if var not in self.names:
            self.names[var] = self._hinted(var) or self._fresh()
            self.taken.add(self.names[var])
        return self.names[var]

    def _hinted(self, var: Var) -> str | None:
        hint = var.name if self.argument_names else None
        return hint if hint and hint not in self.taken else None

    def _fresh(self) -> str:
        return next(n for n in self.fresh if n not in self.taken)

    def binder(self, var: Var) -> str:
        return f"{self.name(var)}:{var.aval}"

    def atom(self, a: Atom) -> str:
        if type(a) is Literal:
            return f"{literal_text(a.val)}:{a.aval}"
        return self.name(a)  # type: ignore[arg-type]

    def binders(self, vs: Iterable[Var]) -> str:
        return " ".join(self.binder(v) for v in vs)

    def program(self, indent: int) -> str:
        jaxpr = self.jaxpr
        consts, ins = self.binders(jaxpr.constvars), self.binders(jaxpr.invars)
        head = f"{{ lambda {consts} ; {ins}. let" if consts else f"{{ lambda ; {ins}. let"
        pad = " " * (indent + 4)
        lines = [pad + self.eqn(e, indent + 4) for e in jaxpr.eqns]
        outs = [self.atom(a) for a in jaxpr.outvars]
        tail = f"in ({', '.join(outs)}{',' if len(outs) == 1 else ''}) }}"
        if not lines:
            return f"{head} {tail}"
        return "\n".join([head, *lines, " " * (indent + 2) + tail])

    def eqn(self, eqn: JaxprEqn, indent: int) -> str:
        ins = " ".join(self.atom(a) for a in eqn.invars)
        params = "".join(
            f"\n{' ' * (indent + 2)}{k}={self.param(v, indent + 2)}" if _is_program(v) else ""
            for k, v in eqn.params.items()
        )
        flat = " ".join(f"{k}={self.param(v, 0)}" for k, v in eqn.params.items()
                        if not _is_program(v))  # fmt: skip
        if params:
            inside = f"[{(' ' + flat) if flat else ''}{params}\n{' ' * indent}]"
        else:
            inside = f"[{flat}]" if flat else ""
        outs = self.binders(eqn.outvars)
        result = f"{outs} = " if outs else ""
        text = f"{result}{eqn.primitive.name}{inside} {ins}".rstrip()
        return f"{text}  # {eqn.source}" if self.source_info and eqn.source else text

    def param(self, value: Any, indent: int) -> str:
        if isinstance(value, ClosedJaxpr):
            printer = _Printer(value.jaxpr, self.source_info, self.argument_names)
            return printer.program(indent)
        if isinstance(value, np.dtype):
            return dtypes.short_name(value)
        if isinstance(value, tuple):
            inner = ",".join(self.param(v, indent) for v in value)
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        return str(value)


def _is_program(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr) or (
        isinstance(value, tuple) and any(isinstance(v, ClosedJaxpr) for v in value)
    )


def literal_text(value: Any) -> str:
    """A number as Python writes it."""
    return repr(value.item() if isinstance(value, np.generic) else value)


ir.set_printer(jaxpr_to_text)
