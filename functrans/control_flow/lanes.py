"""Programs for a batch in which some lanes do not count.

Where a choice or the end of a loop differs along a `vmap`, all lanes compute and the results are
selected. A lane that does not count must not raise: `while i < n: s += x[i]` has ended for it, and
its index is n. Nor may it keep a loop going that would not end for it. In a guarded program, which
is told whether it counts, its indices are 0 then, and its loops end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from functrans import ops
from functrans.core import get_aval
from functrans.interpreters.staging import eval_jaxpr, trace_to_jaxpr
from functrans.ir import ClosedJaxpr, JaxprEqn, Literal, ShapedArray, Var

_INDEXED = {"gather": 1, "scatter": 2}  # and how many operands are before the indices
_FLAG = ShapedArray((), np.dtype(bool))


def needs_guard(closed: ClosedJaxpr) -> bool:
    """Whether an index of the program may be out of range, or a loop without end."""
    if "needs_guard" not in closed.derived:
        closed.derived["needs_guard"] = any(map(_eqn_needs_guard, closed.eqns))
    return closed.derived["needs_guard"]


def _eqn_needs_guard(eqn: JaxprEqn) -> bool:
    if eqn.primitive.name in _INDEXED:
        return eqn.params.get("mode", "error") == "error"
    if eqn.primitive.name == "while":
        return True
    values = [v if type(v) is tuple else (v,) for v in eqn.params.values()]
    return any(isinstance(x, ClosedJaxpr) and needs_guard(x) for v in values for x in v)


def guarded(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The program of (whether it counts, inputs)."""
    if "guarded" not in closed.derived:

        def run(counts: Any, *args: Any) -> list[Any]:
            env: dict[Var, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
            env.update(zip(closed.jaxpr.invars, args, strict=True))

            def value(a: Any) -> Any:
                return a.val if type(a) is Literal else env[a]

            for eqn in closed.eqns:
                out = _equation(eqn, counts, [value(a) for a in eqn.invars])
                outs = out if eqn.primitive.multiple_results else [out]
                env.update(zip(eqn.outvars, outs, strict=True))
            return [value(a) for a in closed.jaxpr.outvars]

        avals = [_FLAG, *closed.in_avals]
        closed.derived["guarded"] = trace_to_jaxpr(run, avals, what="a lane")
    return closed.derived["guarded"]


def _equation(eqn: JaxprEqn, counts: Any, args: list[Any]) -> Any:
    primitive, params = eqn.primitive, dict(eqn.params)
    if not _eqn_needs_guard(eqn):
        return primitive(*args, **params)
    if primitive.name in _INDEXED:
        n = _INDEXED[primitive.name]
        return primitive(*args[:n], *(_or_zero(counts, i) for i in args[n:]), **params)
    if primitive.name == "cond":
        params["branches"] = tuple(map(guarded, params["branches"]))
        return primitive(args[0], counts, *args[1:], **params)
    if primitive.name == "while":
        n = params["cond_nconsts"]
        args = [counts, *args[:n], counts, *args[n:]]
        params["cond_jaxpr"] = _guarded_test(params["cond_jaxpr"])
        params["body_jaxpr"] = guarded(params["body_jaxpr"])
        for part in ("cond_nconsts", "body_nconsts"):
            params[part] += 1
        return primitive(*args, **params)
    if primitive.name in ("scan", "jit"):
        params["jaxpr"] = guarded(params["jaxpr"])
        if primitive.name == "scan":
            params["num_consts"] += 1
        return primitive(counts, *args, **params)
    return primitive(*args, **params)


def _guarded_test(test: ClosedJaxpr) -> ClosedJaxpr:
    """The condition, and that the lane counts; "unguarded" leads back to the condition."""
    if "guarded test" not in test.derived:
        inner = guarded(test)

        def run(counts: Any, *args: Any) -> list[Any]:
            return [ops.and_(counts, eval_jaxpr(inner.jaxpr, inner.consts, counts, *args)[0])]

        program = trace_to_jaxpr(run, inner.in_avals, what="a lane")
        program.derived["unguarded"] = test
        test.derived["guarded test"] = program
    return test.derived["guarded test"]


def _or_zero(counts: Any, index: Any) -> Any:
    aval = get_aval(index)
    if aval.shape:
        counts = ops.broadcast_in_dim(counts, shape=aval.shape, broadcast_dimensions=())
    return ops.select(counts, index, np.zeros(aval.shape, aval.dtype)[()])
