"""A call of a function with rules of its own, as an operation: `custom_call`.

While nothing is staged the equation holds Python functions, so that the function and its rules may
look at values. Under `jit` the function becomes a program; the rules are run when a transformation
asks for them. Compiled code has the program in place of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from functrans import dtypes
from functrans.core import Primitive, Tracer, Zero, current, current_trace, get_aval
from functrans.core import instantiate as dense
from functrans.custom_rules.lanes import Lanes
from functrans.custom_rules.linear_maps import LinearMap, linear_call_primitive, transposed
from functrans.errors import MissingRule, UnexpectedTracerError
from functrans.interpreters.batching import BatchTrace, move_to
from functrans.interpreters.jvp import jvp_flat
from functrans.interpreters.linearize import LinearTrace
from functrans.interpreters.staging import (
    JaxprTrace,
    hoist_consts,
    jaxpr_as_fun,
    trace_to_jaxpr,
)
from functrans.ir import ClosedJaxpr, ShapedArray

Moving = tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class Call:
    """What is called, and its rules, all on flat lists; tangents and cotangents may be `Zero`.

    `run(*operands) -> outs`; `jvp(operands, tangents) -> (outs, tangents)`; `vjp(operands, moving)
    -> (outs, residuals, pull)` with `pull(residuals, cts) -> a cotangent per operand`;
    `batch(size, batched, *operands) -> (outs, batched)`, axes in front.
    """

    name: str
    run: Callable[..., list[Any]]
    jvp: Callable[..., Any] | None = None
    vjp: Callable[..., Any] | None = None
    batch: Callable[..., Any] | None = None
    weak: tuple[bool, ...] = ()
    # Whether derivatives come from rules, so that without one there is none.
    needs_rule: bool = True

    def __repr__(self) -> str:
        rules = {"jvp": self.jvp, "vjp": self.vjp, "vmap": self.batch}
        kinds = "+".join(kind for kind, rule in rules.items() if rule is not None)
        return f"{self.name}:{kinds or 'no rules'}"


class CustomCall(Primitive):
    """Call a function by its own rules. Parameters: `call`; `jaxpr`, once it is staged."""

    multiple_results = True

    def __call__(self, *args: Any, call: Call, jaxpr: ClosedJaxpr | None = None) -> list[Any]:
        # A `vmap` and a program being staged are met here, not by rules, since the function may
        # close over their values.
        trace = current_trace()
        with _explaining_leaks(call):
            if isinstance(trace, BatchTrace):
                return _over_batch(trace, args, call, jaxpr)
            if jaxpr is None and isinstance(trace, JaxprTrace):
                return _stage(trace, args, call)
            params = {"call": call} if jaxpr is None else {"call": call, "jaxpr": jaxpr}
            return trace.process(self, args, params)

    def abstract_eval(self, *avals: ShapedArray, call: Call, jaxpr: ClosedJaxpr) -> Any:  # type: ignore[override]
        return jaxpr.out_avals

    def callee(self, *avals: ShapedArray, call: Call, jaxpr: ClosedJaxpr) -> ClosedJaxpr:
        """The program, for compiled code: nothing is left to differentiate there."""
        return jaxpr

    def impl(self, *args: Any, call: Call, jaxpr: ClosedJaxpr | None = None) -> list[Any]:  # type: ignore[override]
        return call.run(*args)

    def partial_eval(self, trace: LinearTrace, args: Any, params: dict[str, Any]) -> Any:  # type: ignore[override]
        """A call on tangents: what the function does with them is what is recorded."""
        return params["call"].run(*args)

    def jvp(
        self, primals: Any, tangents: Any, *, call: Call, jaxpr: ClosedJaxpr | None = None
    ) -> Any:  # type: ignore[override]
        if call.jvp is None and call.vjp is None:
            return _jvp_of_batchable(primals, tangents, call)
        # Where tangents are recorded, they may be asked for backwards.
        recorded = isinstance(current_trace(), LinearTrace | JaxprTrace)
        if call.vjp is None or (call.jvp is not None and not recorded):
            return call.jvp(primals, tangents)  # type: ignore[misc]
        return _jvp_by_vjp(primals, tangents, call)


custom_call = CustomCall("custom_call")


@contextmanager
def _explaining_leaks(call: Call) -> Iterator[None]:
    try:
        yield
    except UnexpectedTracerError as error:
        note = (
            f"{call.name} has rules of its own: neither it nor its rules may close over a value "
            "that is being differentiated, nor the rules over an argument of a jitted function "
            "that has ended. Pass such values as arguments (functrans.closure_convert does it)."
        )
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise


# ---------------------------------------------------------------------------- differentiation


def _jvp_by_vjp(primals: Any, tangents: Any, call: Call) -> Any:
    """Outputs by the forward rule; tangents as a linear call, which the backward rule transposes.

    Evaluated, that linear call is the rule for forward mode, or the backward rule transposed.
    """
    assert call.vjp is not None
    moving = tuple(type(t) is not Zero for t in tangents)
    outs, residuals, pull_all = call.vjp(primals, moving)
    avals = [get_aval(y).tangent_aval() for y in outs]
    inexact = [a.dtype != dtypes.float0 for a in avals]
    ct_avals = [a for a, smooth in zip(avals, inexact, strict=True) if smooth]
    kept = list(primals) if call.jvp is not None else []
    count, known_count = len(residuals), len(residuals) + len(kept)

    def pull(known: Sequence[Any], cts: Sequence[Any]) -> list[Any]:
        given = iter(cts)
        full = [next(given) if s else Zero(a) for a, s in zip(avals, inexact, strict=True)]
        with _explaining_leaks(call):
            found = pull_all(known[:count], full)
        return [c for c, m in zip(found, moving, strict=True) if m]

    def push(*args: Any) -> list[Any]:
        known, xs = args[:known_count], args[known_count:]
        if call.jvp is None:
            return transposed(pull, known, xs, ct_avals, f"the backward rule of {call.name}")
        dots = _tangents(call, known[count:], xs, moving)
        return [d for d, smooth in zip(dots, inexact, strict=True) if smooth]

    name = f"tangents of {call.name}"
    linear_map = LinearMap(name, push, pull, known_count, ct_avals)
    given = [t for t in tangents if type(t) is not Zero]
    dots = iter(linear_call_primitive(*residuals, *kept, *given, linear_map=linear_map))
    return outs, [next(dots) if s else Zero(a) for a, s in zip(avals, inexact, strict=True)]


def _tangents(call: Call, primals: Sequence[Any], given: Sequence[Any], moving: Moving) -> Any:
    """The dense tangents of the outputs, by the rule for forward mode."""
    assert call.jvp is not None
    return [dense(t) for t in call.jvp(primals, _spread(primals, given, moving))[1]]


def _jvp_of_batchable(primals: Any, tangents: Any, call: Call) -> Any:
    """The derivative of a function whose only rule is for `vmap`, with the rule's as its rule."""
    if call.needs_rule:
        raise MissingRule(
            f"{call.name} is to be differentiated by rules of its own and has none.\n  Give it "
            f"one: {call.name}.defjvp(rule) for both modes, or {call.name}.defvjp(fwd, bwd)."
        )
    doubled = _Doubled(call, tuple(type(t) is not Zero for t in tangents))
    batch = doubled.batch if call.batch is not None else None
    derived = Call(f"jvp of {call.name}", doubled.run, batch=batch, needs_rule=False)
    given = [t for t in tangents if type(t) is not Zero]
    results = custom_call(*primals, *given, call=derived)
    n = len(doubled.out_moving)
    outs, dots = results[:n], iter(results[n:])
    pairs = zip(outs, doubled.out_moving, strict=True)
    return outs, [next(dots) if m else Zero(get_aval(y).tangent_aval()) for y, m in pairs]


class _Doubled:
    """A function of operands and those tangents that move, to outputs and their tangents."""

    def __init__(self, call: Call, moving: Moving):
        self.call = call
        self.moving = moving
        self.out_moving: list[bool] = []

    def run(self, *args: Any) -> list[Any]:
        return self._both(self.call.run, args)

    def _both(self, f: Callable[..., list[Any]], args: Sequence[Any]) -> list[Any]:
        n = len(self.moving)
        outs, dots = jvp_flat(f, args[:n], _spread(args[:n], args[n:], self.moving))
        self.out_moving = [get_aval(y).tangent_aval().dtype != dtypes.float0 for y in outs]
        return [*outs, *[dense(t) for t, m in zip(dots, self.out_moving, strict=True) if m]]

    def batch(self, size: int, batched: Sequence[bool], *args: Any) -> Any:
        """The derivative of the rule for `vmap`."""
        where = [i for i, m in enumerate(self.moving) if m]
        # A value and its tangent have the axis together.
        on = list(batched[: len(self.moving)])
        for i, b in zip(where, batched[len(on) :], strict=True):
            on[i] = on[i] or b
        wanted = [*on, *[on[i] for i in where]]
        full = [
            move_to(x, None, 0, size) if w and not b else x
            for x, b, w in zip(args, batched, wanted, strict=True)
        ]
        flags: list[bool] = []

        def rule(*xs: Any) -> list[Any]:
            outs, flags[:] = self.call.batch(size, on, *xs)  # type: ignore[misc]
            return outs

        outs = self._both(rule, full)
        moved = [f for f, m in zip(flags, self.out_moving, strict=True) if m]
        return outs, [*flags, *moved]


def _spread(primals: Sequence[Any], given: Sequence[Any], moving: Moving) -> list[Any]:
    """A tangent per primal from those that are given."""
    rest = iter(given)
    pairs = zip(primals, moving, strict=True)
    return [next(rest) if m else Zero(get_aval(x).tangent_aval()) for x, m in pairs]


# ---------------------------------------------------------------------------- staging


def _stage(trace: JaxprTrace, args: Sequence[Any], call: Call) -> list[Any]:
    """An equation with the function's program; traced values it closes over become operands."""
    weak = call.weak or (False,) * len(args)
    closed = trace_to_jaxpr(call.run, [get_aval(x) for x in args], weak=weak, what=call.name)
    closed, hoisted = hoist_consts(closed, lambda c: isinstance(c, Tracer))
    params = {"call": _staged(call, closed, len(hoisted)), "jaxpr": closed}
    return trace.process(custom_call, [*hoisted, *args], params)


def _staged(call: Call, closed: ClosedJaxpr, n: int) -> Call:
    """The call of a program whose first `n` operands the function closed over."""
    run = jaxpr_as_fun(closed)

    def refuse(moving: Sequence[bool]) -> None:
        if any(moving[:n]):
            raise UnexpectedTracerError(
                f"{call.name} closes over a value of type {closed.in_avals[moving.index(True)]} "
                "that is being differentiated."
            )

    def jvp(primals: Any, tangents: Any) -> Any:
        refuse([type(t) is not Zero for t in tangents])
        return call.jvp(primals[n:], tangents[n:])  # type: ignore[misc]

    def vjp(operands: Any, moving: Moving) -> Any:
        refuse(moving)
        outs, residuals, pull = call.vjp(operands[n:], moving[n:])  # type: ignore[misc]
        zeros = [Zero(a.tangent_aval()) for a in closed.in_avals[:n]]
        return outs, residuals, lambda known, cts: [*zeros, *pull(known, cts)]

    def batch(size: int, batched: Sequence[bool], *operands: Any) -> Any:
        if not any(batched[:n]):
            return call.batch(size, batched[n:], *operands[n:])  # type: ignore[misc]
        # The rule cannot know of what was closed over and now has the axis.
        lanes = Lanes(size, None, [0 if b else None for b in batched])
        outs = lanes.settled(lanes.over(run, operands, lanes.dims))
        return outs, [lanes.per_lane] * len(outs)

    return Call(
        call.name,
        run,
        call.jvp and jvp,
        call.vjp and vjp,
        call.batch and batch,
        needs_rule=call.needs_rule,
    )


# ---------------------------------------------------------------------------- batching


def _over_batch(
    trace: BatchTrace, args: Sequence[Any], call: Call, jaxpr: ClosedJaxpr | None
) -> list[Any]:
    """The call under a `vmap`: a call of the batched function in the trace below."""
    pairs = [trace.split(x) for x in args]
    values, dims = [x for x, _ in pairs], [d for _, d in pairs]
    if jaxpr is not None and trace.axis_name is None and all(d is None for d in dims):
        # A program closes over nothing that is batched.
        with current(trace.parent):
            return custom_call(*values, call=call, jaxpr=jaxpr)
    lanes = Lanes(trace.size, trace.axis_name, dims, trace)
    batched = _batched(call, lanes)
    with current(trace.parent):
        if batched.jvp is None and batched.vjp is None and not batched.needs_rule:
            outs = batched.run(*values)
        else:
            outs = custom_call(*values, call=batched)
    return [trace.tracer(y, lanes.out_dim) for y in outs]


def _batched(call: Call, lanes: Lanes) -> Call:
    """The call over a batch; the rules run over the batch, or are the user's for `vmap`."""
    by_rule = call.batch is not None and any(d is not None for d in lanes.dims)

    def run(*operands: Any) -> list[Any]:
        if not by_rule:
            return lanes.settled(lanes.over(call.run, operands, lanes.dims))
        batched = [d is not None for d in lanes.dims]
        pairs = zip(operands, lanes.dims, strict=True)
        moved = [x if d is None else move_to(x, d, 0, lanes.size) for x, d in pairs]
        outs, flags = call.batch(lanes.size, batched, *moved)  # type: ignore[misc]
        return lanes.settled((outs, [0 if f else None for f in flags]))

    return Call(
        call.name,
        run,
        call.jvp and _batched_jvp(call, lanes),
        call.vjp and _batched_vjp(call, lanes),
        needs_rule=call.needs_rule,
    )


def _batched_jvp(call: Call, lanes: Lanes) -> Callable[..., Any]:
    n = len(lanes.dims)

    def jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        zeros: list[Zero | None] = []

        def flat(xs: Sequence[Any]) -> list[Any]:
            outs, dots = call.jvp(xs[:n], xs[n:])  # type: ignore[misc]
            zeros.extend(t if type(t) is Zero else None for t in dots)
            return [*outs, *[t for t in dots if type(t) is not Zero]]

        f, given, dims = lanes.dense_part(flat, [*primals, *tangents], [*lanes.dims] * 2)
        results = lanes.settled(lanes.over(f, given, dims))
        outs, moved = results[: len(zeros)], iter(results[len(zeros) :])
        return outs, [
            next(moved) if zero is None else lanes.whole_zero(zero, lanes.out_dim) for zero in zeros
        ]

    return jvp


def _batched_vjp(call: Call, lanes: Lanes) -> Callable[..., Any]:
    def vjp(operands: Sequence[Any], moving: Moving) -> Any:
        parts: list[Any] = []

        def flat(*xs: Any) -> list[Any]:
            outs, residuals, pull = call.vjp(xs, moving)  # type: ignore[misc]
            parts.extend([len(outs), pull])
            return [*outs, *residuals]

        results, dims = lanes.over(flat, operands, lanes.dims)
        count, pull = parts
        outs = lanes.settled((results[:count], dims[:count]))
        residual_dims = dims[count:]

        def pull_batch(residuals: Sequence[Any], cts: Sequence[Any]) -> list[Any]:
            return lanes.pull(pull, residual_dims, lanes.dims, residuals, cts)

        return outs, results[count:], pull_batch

    return vjp
