"""`while_loop` and `fori_loop`: loops whose number of iterations is known when they end.

Reverse mode needs the carry of every iteration, and how many there will be is not known. So the
loop of values keeps checkpoints in memory of a fixed size: it fills the slots with every carry, and
when they are full drops every other one and goes on at twice the distance. The way back takes the
checkpoints from the last to the first and runs the iterations from each again, keeping checkpoints
of its own. (Recomputation from checkpoints is Griewank and Walther, "Evaluating Derivatives", 2008,
chapter 12; thinning out when full is what an unknown length asks for.)

A loop of up to `slots` iterations keeps all carries. Beyond, an iteration runs twice more, and
beyond the square of that again. Everything is made of loops like these, so derivatives of
derivatives, `vmap` and `jit` are theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import core, ops, pytree
from functrans.config import switches
from functrans.control_flow.bodies import (
    Body,
    ControlFlow,
    arguments_of,
    fixed_carry,
    reordered,
    run_compiled,
    trace_body,
    what_of,
)
from functrans.control_flow.conditionals import switch
from functrans.control_flow.scans import scan_of
from functrans.core import Primitive, Tracer, Zero, get_aval, instantiate, is_weak
from functrans.interpreters.batching import batch_flat, batch_jaxpr, move_to
from functrans.interpreters.jvp import jvp_flat, jvp_jaxpr
from functrans.interpreters.linearize import LinearTrace, partial_eval_jaxpr
from functrans.interpreters.staging import eval_jaxpr, trace_to_jaxpr
from functrans.interpreters.transpose import transpose_jaxpr
from functrans.ir import ClosedJaxpr, ShapedArray, Var

_INDEX = np.dtype(np.int64)
_NONE, _ONE = np.int64(0), np.int64(1)
SLOTS_BYTES = 4 << 20  # of checkpoints of one loop
LEAST_SLOTS, MOST_SLOTS = 16, 4096
# Between two checkpoints: each stretch begins with new ones, which takes time.
NEAR_BYTES, LEAST_NEAR_SLOTS, MOST_NEAR_SLOTS = 1 << 14, 8, 64

# ---------------------------------------------------------------------------- the primitive


class While(ControlFlow):
    """Operands: consts of the condition, consts of the body, carry."""

    def abstract_eval(  # type: ignore[override]
        self, *avals: ShapedArray, body_jaxpr: ClosedJaxpr, **_: Any
    ) -> list[ShapedArray]:
        return body_jaxpr.out_avals

    def host_impl(self, *args: Any, **params: Any) -> list[Any]:
        test, body, nc, nb = _parts(params)
        test_consts, consts, carry = args[:nc], args[nc : nc + nb], list(args[nc + nb :])
        while run_compiled(test, [*test_consts, *carry])[0]:
            carry = run_compiled(body, [*consts, *carry])
        return carry

    def jvp(self, primals: Any, tangents: Any, **params: Any) -> Any:  # type: ignore[override]
        test, body, nc, nb = _parts(params)
        consts, rest = primals[:nc], primals[nc:]
        tangents = tangents[nc:]
        moving = [type(t) is not Zero for t in tangents]
        while True:
            both, out_moving = jvp_jaxpr(body, tuple(moving), tuple(moving[nb:]))
            if list(out_moving) == moving[nb:]:
                break
            moving[nb:] = out_moving
        given = [instantiate(t) for t, m in zip(tangents, moving, strict=True) if m]
        n, moved_consts = len(moving), sum(moving[:nb])
        order = [*range(nb), *range(n, n + moved_consts), *range(nb, n)]
        order += range(n + moved_consts, n + len(given))
        operands = [[*rest, *given][i] for i in order]
        carry_tangents = [v.aval for v in both.jaxpr.invars[n + moved_consts :]]
        found = self(
            *consts, *operands, cond_jaxpr=_ignoring(test, carry_tangents),
            body_jaxpr=reordered(both, order), cond_nconsts=nc, body_nconsts=nb + moved_consts,
        )  # fmt: skip
        count = len(body.out_avals)
        moved = iter(found[count:])
        return found[:count], [
            next(moved) if m else Zero(a.tangent_aval())
            for m, a in zip(out_moving, body.out_avals, strict=True)
        ]

    def batch_named(self, size: int, args: Any, dims: Any, axis_name: Any, **params: Any) -> Any:  # type: ignore[override]
        test, body, nc, nb = _parts(params)
        batched = [d is not None for d in dims]
        first = nc + nb
        while True:
            carry = batched[first:]
            flags = tuple(batched[nc:first]) + tuple(carry)
            program, out = batch_jaxpr(body, size, flags, axis_name, tuple(carry))
            tests, (by_lane,) = batch_jaxpr(test, size, (*batched[:nc], *carry), axis_name)
            wanted = [True] * len(carry) if by_lane else list(out)
            if wanted == carry:
                break
            batched[first:] = wanted
        moved = [
            move_to(x, d, 0, size) if b else x for x, d, b in zip(args, dims, batched, strict=True)
        ]
        out_dims = [0 if b else None for b in batched[first:]]
        if not by_lane:
            params = {**params, "cond_jaxpr": tests, "body_jaxpr": program}
            return self(*moved, **params), out_dims
        loop = _lanes_loop(tests, program, nc, nb)
        if axis_name is None:  # the compiler may run block by block of lanes instead
            flags = tuple(batched[:nc]), tuple(batched[nc:first])
            loop["body_jaxpr"].derived["lanes"] = test, body, size, *flags
        active = _run(tests, [*moved[:nc], *moved[first:]])[0]
        return self(*moved[:first], active, *moved[first:], **loop)[1:], out_dims

    # ------------------------------------------------------------------ reverse mode

    def partial_eval(self, trace: LinearTrace, args: Any, params: dict[str, Any]) -> list[Any]:  # type: ignore[override]
        """Run the values now, with checkpoints, and record the loop of the tangents."""
        test, body, nc, nb = _parts(params)
        unknown = [trace.is_unknown(x) for x in args]
        if any(unknown[:nc]):
            raise TypeError("while_loop: the condition of a linear loop depends on its input.")
        unknown = unknown[nc:]
        while True:
            split = partial_eval_jaxpr(body, tuple(unknown), wanted=tuple(unknown[nb:]))
            if list(split[2]) == unknown[nb:]:
                break
            unknown[nb:] = split[2]
        known, linear, out_unknown = split
        rest = args[nc:]
        consts = [x for x, u in zip(rest[:nb], unknown[:nb], strict=True) if not u]
        carry = [x for x, u in zip(rest[nb:], unknown[nb:], strict=True) if not u]
        test = _of_known(test, nc, unknown[nb:])
        with core.current(trace.parent):
            values, kept = _run_with_checkpoints(test, known, args[:nc], consts, carry)
        atoms = [trace.atom(x) for x, u in zip(rest, unknown, strict=True) if u]
        operands = [*map(trace.atom, [*kept, *consts]), *atoms]
        linear_params = {
            "known": known, "linear": linear, "num_known": len(carry), "num_consts": len(consts)
        }  # fmt: skip
        tracers = iter(trace.record(while_tangents, operands, linear_params, linear.out_avals))
        knowns = iter(values)
        return [next(tracers) if u else next(knowns) for u in out_unknown]


while_primitive = While("while")


def _parts(params: dict[str, Any]) -> tuple[ClosedJaxpr, ClosedJaxpr, int, int]:
    return (
        params["cond_jaxpr"], params["body_jaxpr"], params["cond_nconsts"], params["body_nconsts"]
    )  # fmt: skip


def _ignoring(cond: ClosedJaxpr, avals: Sequence[ShapedArray]) -> ClosedJaxpr:
    """The condition with more operands behind its own, which it does not read."""
    invars = [*cond.jaxpr.invars, *map(Var, avals)]
    return ClosedJaxpr(cond.jaxpr.replace(invars=invars), cond.consts)


def _of_known(cond: ClosedJaxpr, num_consts: int, unknown: Sequence[bool]) -> ClosedJaxpr:
    """The condition as a program of the known carry: it reads no tangents."""
    invars = cond.jaxpr.invars
    kept = [v for v, u in zip(invars[num_consts:], unknown, strict=True) if not u]
    return ClosedJaxpr(cond.jaxpr.replace(invars=[*invars[:num_consts], *kept]), cond.consts)


def _lanes_loop(test: ClosedJaxpr, body: ClosedJaxpr, nc: int, nb: int) -> dict[str, Any]:
    """The loop of all lanes until the last one ends, over (which go on, carry).

    Lanes that have ended keep their carry.
    """
    rows = ShapedArray(test.out_avals[0].shape, np.dtype(bool))
    carry = test.in_avals[nc:]

    def step(*args: Any) -> list[Any]:
        consts, (active, *carry) = args[: nc + nb], args[nc + nb :]
        new = _run(body, [*consts[nc:], *carry])
        carry = [_where(active, a, b) for a, b in zip(new, carry, strict=True)]
        return [ops.and_(active, _run(test, [*consts[:nc], *carry])[0]), *carry]

    def goes_on(active: Any, *_: Any) -> list[Any]:
        return [ops.reduce_or(active, axes=(0,))]

    consts = [*test.in_avals[:nc], *body.in_avals[:nb]]
    return {
        "cond_jaxpr": trace_to_jaxpr(goes_on, [rows, *carry], what="vmap of while_loop"),
        "body_jaxpr": trace_to_jaxpr(step, [*consts, rows, *carry], what="vmap of while_loop"),
        "cond_nconsts": 0,
        "body_nconsts": nc + nb,
    }


def _run(closed: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    return eval_jaxpr(closed.jaxpr, closed.consts, *args)


def _where(rows: Any, a: Any, b: Any) -> Any:
    shape = get_aval(a).shape
    if len(shape) > 1:
        rows = ops.broadcast_in_dim(rows, shape=shape, broadcast_dimensions=(0,))
    return ops.select(rows, a, b)


# ---------------------------------------------------------------------------- checkpoints


def _slots(carry: Sequence[Any]) -> int:
    """How many carries are kept: a power of two, so that every other one can be dropped."""
    most = max(LEAST_SLOTS, min(MOST_SLOTS, SLOTS_BYTES // max(_nbytes(carry), 1)))
    return 1 << (most.bit_length() - 1)


def _nbytes(carry: Sequence[Any]) -> int:
    return sum(get_aval(x).size * get_aval(x).dtype.itemsize for x in carry)


def _empty(carry: Sequence[Any], count: int) -> list[Any]:
    avals = [get_aval(x) for x in carry]
    return [np.zeros((count, *a.shape), a.dtype) for a in avals]


def _put(stack: Any, x: Any, at: Any) -> Any:
    aval = get_aval(x)
    row = ops.reshape(x, shape=(1, *aval.shape))
    return ops.dynamic_update_slice(stack, row, at, *[np.int64(0)] * len(aval.shape))


def _row(stack: Any, at: Any) -> Any:
    shape = get_aval(stack).shape
    starts = [at, *[np.int64(0)] * (len(shape) - 1)]
    row = ops.dynamic_slice(stack, *starts, slice_sizes=(1, *shape[1:]))
    return ops.reshape(row, shape=shape[1:])


def _thinned(stack: Any) -> Any:
    """Every other row in the first half; what is in the second does not matter."""
    shape = get_aval(stack).shape
    rows = ops.slice(
        stack, start_indices=(0,) * len(shape), limit_indices=shape,
        strides=(2, *(1,) * (len(shape) - 1)),
    )  # fmt: skip
    return ops.concatenate(rows, rows, dimension=0)


def _run_with_checkpoints(
    test: ClosedJaxpr, body: ClosedJaxpr, test_consts: Any, consts: Any, carry: list[Any]
) -> tuple[list[Any], list[Any]]:
    """The carry at the end; and (iterations, distance of checkpoints, slots of each carry)."""
    count, n = _slots(carry), len(carry)

    def goes_on(carry: Any) -> Any:
        return _run(test, [*test_consts, *carry])[0]

    def step(state: Any) -> Any:
        i, carry = state
        return i + _ONE, _run(body, [*consts, *carry])[:n]

    def to_next(state: Any) -> Any:
        i, used, distance, carry, stacks = state
        stacks = [_put(s, x, used) for s, x in zip(stacks, carry, strict=True)]
        end = i + distance
        i, carry = while_loop(lambda s: ops.and_(s[0] < end, goes_on(s[1])), step, (i, carry))
        return i, used + _ONE, distance, carry, stacks

    def fill(state: Any) -> Any:
        return while_loop(lambda s: ops.and_(s[1] < np.int64(count), goes_on(s[3])), to_next, state)

    def thin(state: Any) -> Any:
        i, _, distance, carry, stacks = state
        return i, np.int64(count // 2), distance * np.int64(2), carry, [_thinned(s) for s in stacks]

    state = fill((_NONE, _NONE, _ONE, carry, _empty(carry, count)))
    state = while_loop(lambda s: goes_on(s[3]), lambda s: fill(thin(s)), state)
    i, _, distance, carry, stacks = state
    return carry, [i, distance, *stacks]


# ---------------------------------------------------------------------------- tangents


class WhileTangents(Primitive):
    """The loop of the tangents of a loop that has run.

    Operands: iterations, distance of the checkpoints, slots of each known carry, known consts;
    tangents of consts, tangents of the carry. `known` maps (known consts, known carry) to (known
    carry, residuals), `linear` (residuals, tangents of consts, of the carry) to that of the carry.
    """

    multiple_results = True

    def abstract_eval(self, *avals: ShapedArray, linear: ClosedJaxpr, **_: Any) -> Any:  # type: ignore[override]
        return linear.out_avals

    def impl(self, *args: Any, **params: Any) -> list[Any]:  # type: ignore[override]
        return self._forward(params)(*args)

    def jvp(self, primals: Any, tangents: Any, **params: Any) -> Any:  # type: ignore[override]
        return jvp_flat(self._forward(params), primals, tangents)

    def batch(self, size: int, args: Any, dims: Any, **params: Any) -> Any:
        return self.batch_named(size, args, dims, None, **params)

    def batch_named(self, size: int, args: Any, dims: Any, axis_name: Any, **params: Any) -> Any:
        """The rule under a vmap that names its axis: collectives inside refer to it."""
        return batch_flat(self._forward(params), args, dims, size, axis_name)

    def callee(self, *avals: ShapedArray, **params: Any) -> ClosedJaxpr:
        """What the compiler puts in the place of an equation."""
        key = ("while_tangents", avals, *params.values())
        derived = params["linear"].derived
        if key not in derived:
            derived[key] = trace_to_jaxpr(self._forward(params), avals, what=self.name)
        return derived[key]

    def _forward(self, params: dict[str, Any]) -> Callable[..., list[Any]]:
        known, linear, num_known = params["known"], params["linear"], params["num_known"]

        def run(*args: Any) -> list[Any]:
            loop = _Loop(args, params)

            def step(_: Any, state: Any) -> Any:
                carry, tangents = state
                found = _run(known, [*loop.consts, *carry])
                moved = [*found[num_known:], *loop.linear_consts, *tangents]
                return found[:num_known], _run(linear, moved)

            start = [_row(s, _NONE) for s in loop.stacks], loop.linear_carry
            return _times(loop.iterations, step, start)[1]

        return run

    def transpose(self, ct: Any, *args: Any, **params: Any) -> list[Any]:  # type: ignore[override]
        loop = _Loop(args, params)
        back = _Backward(loop, params)
        sums = [np.zeros(x.shape, x.dtype) for x in loop.linear_consts]
        state = [instantiate(c) for c in ct], sums
        near = np.int64(back.near_slots)
        is_far = ops.convert_element_type(loop.distance > near, dtype=_INDEX)
        is_kept = ops.convert_element_type(loop.distance == _ONE, dtype=_INDEX)
        ways = [back.from_checkpoints, back.all_kept, back.from_far_checkpoints]
        cts, sums = switch(is_kept + is_far * np.int64(2), ways, state)
        return [*[None] * (len(args) - len(sums) - len(cts)), *sums, *cts]


while_tangents = WhileTangents("while_tangents")


class _Loop:
    """The operands of a loop of tangents by their meaning."""

    def __init__(self, args: Sequence[Any], params: dict[str, Any]) -> None:
        n = 2 + params["num_known"]
        self.iterations, self.distance = args[:2]
        self.stacks = list(args[2:n])
        self.consts = list(args[n : n + params["num_consts"]])
        rest = list(args[n + params["num_consts"] :])
        count = len(params["linear"].out_avals)
        self.linear_consts, self.linear_carry = rest[: len(rest) - count], rest[len(rest) - count :]


class _Backward:
    """The way back: states are (cotangents of the carry, sums of those of the consts)."""

    def __init__(self, loop: _Loop, params: dict[str, Any]) -> None:
        self.loop, self.known, self.num_known = loop, params["known"], params["num_known"]
        linear = params["linear"]
        count = len(loop.linear_consts) + len(loop.linear_carry)
        residuals = len(linear.in_avals) - count
        flags = (*(False,) * residuals, *(True,) * count)
        given = (True,) * len(linear.out_avals)
        self.backward, self.reached = transpose_jaxpr(linear, flags, given)
        self.avals = linear.in_avals[residuals:]
        carry = [_row(s, _NONE) for s in loop.stacks]
        fitting = NEAR_BYTES // max(_nbytes(carry), 1)
        most = max(LEAST_NEAR_SLOTS, min(MOST_NEAR_SLOTS, fitting))
        self.near_slots = min(_slots(carry), most)

    def forward(self, carry: Any) -> list[Any]:
        """The carry of the next iteration."""
        return _run(self.known, [*self.loop.consts, *carry])[: self.num_known]

    def step(self, carry: Any, state: Any) -> Any:
        """Back through the iteration that began with `carry`."""
        cts, sums = state
        residuals = _run(self.known, [*self.loop.consts, *carry])[self.num_known :]
        found = iter(_run(self.backward, [*residuals, *cts]))
        pairs = zip(self.avals, self.reached, strict=True)
        new = [next(found) if r else Zero(a) for a, r in pairs]
        sums = [
            s if type(c) is Zero else ops.add(s, c)
            for s, c in zip(sums, new[: len(sums)], strict=True)
        ]
        return [instantiate(c) for c in new[len(sums) :]], sums

    def all_kept(self, state: Any) -> Any:
        """Every iteration has a checkpoint."""
        n, stacks = self.loop.iterations, self.loop.stacks

        def back(k: Any, state: Any) -> Any:
            at = n - _ONE - k
            return self.step([_row(s, at) for s in stacks], state)

        return _times(n, back, state)

    def from_checkpoints(self, state: Any) -> Any:
        """Run again from each checkpoint, keeping every carry."""
        return self._from(self.short_stretch, state)

    def from_far_checkpoints(self, state: Any) -> Any:
        """Run again from each checkpoint, keeping nearer ones."""
        return self._from(self.long_stretch, state)

    def _from(self, stretch: Callable[..., Any], state: Any) -> Any:
        n, distance, stacks = self.loop.iterations, self.loop.distance, self.loop.stacks
        used = _quotient(n, distance)

        def back(k: Any, state: Any) -> Any:
            at = used - _ONE - k
            length = ops.min(distance, n - at * distance)
            return stretch([_row(s, at) for s in stacks], length, state)

        return _times(used, back, state)

    def short_stretch(self, carry: Any, length: Any, state: Any) -> Any:
        """Back through `length` iterations that began with `carry`: there is a slot for each."""

        def put(j: Any, kept: Any) -> Any:
            carry, stacks = kept
            stacks = [_put(s, x, j) for s, x in zip(stacks, carry, strict=True)]
            return self.forward(carry), stacks

        stacks = _times(length, put, (list(carry), _empty(carry, self.near_slots)))[1]

        def back(k: Any, state: Any) -> Any:
            at = length - _ONE - k
            return self.step([_row(s, at) for s in stacks], state)

        return _times(length, back, state)

    def long_stretch(self, carry: Any, length: Any, state: Any) -> Any:
        """The same with slots for some: the others are computed from those each time."""
        count = self.near_slots
        near = _quotient(length, np.int64(count))  # iterations from one near checkpoint on
        used = _quotient(length, near)

        def put(j: Any, kept: Any) -> Any:
            carry, stacks = kept
            stacks = [_put(s, x, j) for s, x in zip(stacks, carry, strict=True)]
            return _times(near, lambda _, c: self.forward(c), carry), stacks

        _, stacks = _times(used, put, (list(carry), _empty(carry, count)))

        def back(k: Any, state: Any) -> Any:
            at = used - _ONE - k
            start = [_row(s, at) for s in stacks]
            rest = ops.min(near, length - at * near)

            def one(r: Any, state: Any) -> Any:
                before = rest - _ONE - r
                return self.step(_times(before, lambda _, c: self.forward(c), start), state)

            return _times(rest, one, state)

        return _times(used, back, state)


def _quotient(a: Any, b: Any) -> Any:
    """`a / b`, rounded up, for positive numbers."""
    return ops.floor_divide(a + b - _ONE, b)


def _times(n: Any, body: Callable[[Any, Any], Any], state: Any) -> Any:
    """`for i in range(n): state = body(i, state)`, for a number known at run time only."""

    def step(s: Any) -> Any:
        return s[0] + _ONE, body(s[0], s[1])

    return while_loop(lambda s: s[0] < n, step, (_NONE, state))[1]


# ---------------------------------------------------------------------------- the functions


def while_loop(
    cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init_val: Any
) -> Any:
    """`while cond_fun(val): val = body_fun(val)`; differentiable in both modes.

    Reverse mode keeps a fixed number of carries and computes the others again (see the module).

    >>> import numpy as np
    >>> while_loop(lambda x: x < 1000, lambda x: 2 * x, 3)
    np.int64(1536)

    Raises TypeError for a condition that is no boolean scalar, and for a carry that comes back with
    another structure, shape or dtype, naming the component.
    """
    return _while_of(cond_fun, body_fun, init_val, owners=((cond_fun,), (body_fun,)))


def _while_of(cond_fun: Any, body_fun: Any, init_val: Any, *, owners: Sequence[Any]) -> Any:
    """`while_loop` of functions that are made of a user's; see `trace_body`."""
    what = what_of("while_loop", body_fun)
    leaves, tree = arguments_of(what, "init_val", init_val)
    if switches.jit_disabled:
        while cond_fun(init_val):
            init_val = body_fun(init_val)
        return init_val
    one = pytree.treedef_tuple([tree])

    def trace(init: list[Any]) -> tuple[Body, Any]:
        avals, weak = [get_aval(x) for x in init], [is_weak(x) for x in init]
        body = trace_body(body_fun, one, avals, weak, what, owner=owners[1])
        return body, body.tree

    body, carry = fixed_carry(what, trace, leaves, tree)
    avals, weak = [get_aval(x) for x in carry], [is_weak(x) for x in carry]
    name = what_of("while_loop", cond_fun)
    test = trace_body(cond_fun, one, avals, weak, name, owner=owners[0])
    outs = test.jaxpr.out_avals
    if len(outs) != 1 or outs[0].shape or outs[0].dtype.kind != "b":
        raise TypeError(
            f"{what_of('while_loop', cond_fun)}: the condition must return a boolean scalar, got "
            f"{', '.join(map(str, outs)) or 'nothing'}.\n  Compare, and reduce with np.all or "
            "np.any."
        )
    found = while_primitive(
        *test.consts, *body.consts, *carry, cond_jaxpr=test.jaxpr, body_jaxpr=body.jaxpr,
        cond_nconsts=len(test.consts), body_nconsts=len(body.consts),
    )  # fmt: skip
    return tree.unflatten(found)


def fori_loop(lower: Any, upper: Any, body_fun: Callable[[Any, Any], Any], init_val: Any) -> Any:
    """`for i in range(lower, upper): val = body_fun(i, val)`; differentiable in both modes.

    The bounds may be traced. Where they are known it is a `scan`.

    >>> import numpy as np
    >>> fori_loop(0, 5, lambda i, total: total + i, 0)
    np.int64(10)
    """
    for name, bound in (("lower", lower), ("upper", upper)):
        aval = get_aval(bound)
        if aval.shape or aval.dtype.kind not in "iu":
            raise TypeError(
                f"fori_loop: the bound {name} must be an integer scalar, got {aval}.\n  Convert "
                "it: np.int64(n), n.astype(int)."
            )
    if switches.jit_disabled and not isinstance(lower, Tracer) and not isinstance(upper, Tracer):
        for i in range(int(lower), int(upper)):
            init_val = body_fun(i, init_val)
        return init_val
    dtype = np.result_type(
        *[get_aval(x).dtype for x in (lower, upper) if not is_weak(x)] or [_INDEX]
    )
    lower, upper = (
        ops.convert_element_type(x, dtype=dtype) if isinstance(x, Tracer) else dtype.type(x)
        for x in (lower, upper)
    )
    one = dtype.type(1)
    if not isinstance(lower, Tracer) and not isinstance(upper, Tracer):
        (_, result), _ = scan_of(
            lambda s, _: ((s[0] + one, body_fun(s[0], s[1])), None), (lower, init_val),
            length=max(int(upper) - int(lower), 0), owner=(body_fun, "fori_loop", dtype),
        )  # fmt: skip
        return result
    return while_loop(
        lambda s: s[0] < upper, lambda s: (s[0] + one, body_fun(s[0], s[1])), (lower, init_val)
    )[1]


__all__ = ["fori_loop", "while_loop", "while_primitive"]
