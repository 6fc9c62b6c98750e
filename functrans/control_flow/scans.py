"""`scan`: a loop over the leading axis of arrays, with a carry.

Its program maps (consts, carry, a slice of each `xs`) to (carry, a slice of each `ys`). In reverse
mode the values an iteration keeps for the way back are stacked like `ys`; those that are the same
in every iteration are kept once. The way back is a scan in the other direction.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import core, ops, pytree
from functrans.arguments import leaf_names
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
from functrans.control_flow.segments import scan_in_segments
from functrans.core import Linear, Zero, get_aval, instantiate, is_weak
from functrans.interpreters.batching import batch_jaxpr, move_to
from functrans.interpreters.jvp import jvp_jaxpr
from functrans.interpreters.linearize import LinearTrace, partial_eval_jaxpr
from functrans.interpreters.staging import eval_jaxpr, trace_to_jaxpr
from functrans.interpreters.transpose import transpose_jaxpr
from functrans.ir import ClosedJaxpr, ShapedArray, Var

# ---------------------------------------------------------------------------- the primitive


class Scan(ControlFlow):
    """Parameters: `jaxpr`, how many of its inputs are consts and carry, `length`, `reverse`."""

    def abstract_eval(  # type: ignore[override]
        self, *avals: ShapedArray, jaxpr: ClosedJaxpr, length: int, num_carry: int, **_: Any
    ) -> list[ShapedArray]:
        outs = jaxpr.out_avals
        return [*outs[:num_carry], *(_stacked(a, length) for a in outs[num_carry:])]

    def host_impl(self, *args: Any, jaxpr: ClosedJaxpr, **params: Any) -> list[Any]:  # type: ignore[override]
        nk, nc, length = params["num_consts"], params["num_carry"], params["length"]
        consts, carry, xs = args[:nk], list(args[nk : nk + nc]), args[nk + nc :]
        ys = [np.empty((length, *a.shape), a.dtype) for a in jaxpr.out_avals[nc:]]
        for i in reversed(range(length)) if params["reverse"] else range(length):
            found = run_compiled(jaxpr, [*consts, *carry, *(x[i] for x in xs)])
            carry = found[:nc]
            for y, row in zip(ys, found[nc:], strict=True):
                y[i] = row
        return [*carry, *ys]

    def jvp(self, primals: Any, tangents: Any, *, jaxpr: ClosedJaxpr, **params: Any) -> Any:  # type: ignore[override]
        nk, nc = params["num_consts"], params["num_carry"]
        moving = [type(t) is not Zero for t in tangents]
        num_ys = len(jaxpr.out_avals) - nc
        while True:
            wanted = (*moving[nk : nk + nc], *(False,) * num_ys)
            both, out_moving = jvp_jaxpr(jaxpr, tuple(moving), wanted)
            if list(out_moving[:nc]) == moving[nk : nk + nc]:
                break
            moving[nk : nk + nc] = out_moving[:nc]
        # Inputs of `both` are all primals, then the moving tangents; outputs likewise.
        n, places = len(moving), itertools.count(len(moving))
        at = [next(places) if m else None for m in moving]
        inputs = _by_kind(range(n), at, nk, nc)
        outs, places = len(out_moving), itertools.count(len(out_moving))
        out_at = [next(places) if m else None for m in out_moving]
        outputs = _by_kind(range(outs), out_at, 0, nc)
        given = [instantiate(t) if m else None for t, m in zip(tangents, moving, strict=True)]
        operands = _by_kind(primals, given, nk, nc)
        counts = {"num_consts": nk + sum(moving[:nk]), "num_carry": nc + sum(out_moving[:nc])}
        found = self(*operands, jaxpr=reordered(both, inputs, outputs), **{**params, **counts})
        result = dict(zip(outputs, found, strict=True))
        out_tangents = [
            result[t] if t is not None else Zero(get_aval(result[i]).tangent_aval())
            for i, t in enumerate(out_at)
        ]
        return [result[i] for i in range(outs)], out_tangents

    def batch_named(  # type: ignore[override]
        self, size: int, args: Any, dims: Any, axis_name: Any, *, jaxpr: ClosedJaxpr, **params: Any
    ) -> Any:
        nk, nc = params["num_consts"], params["num_carry"]
        batched = [d is not None for d in dims]
        num_ys = len(jaxpr.out_avals) - nc
        while True:
            wanted = (*batched[nk : nk + nc], *(False,) * num_ys)
            program, out_batched = batch_jaxpr(jaxpr, size, tuple(batched), axis_name, wanted)
            if list(out_batched[:nc]) == batched[nk : nk + nc]:
                break
            batched[nk : nk + nc] = out_batched[:nc]
        if axis_name is None:  # the compiler may run lane by lane instead
            program.derived["lanes"] = jaxpr, size, tuple(batched), out_batched
        moved = []
        for i, (x, d) in enumerate(zip(args, dims, strict=True)):
            to = 0 if i < nk + nc else 1  # behind the axis that the loop runs over
            moved.append(move_to(x, d, to, size) if batched[i] else x)
        outs = self(*moved, jaxpr=program, **params)
        out_dims = [(0 if i < nc else 1) if b else None for i, b in enumerate(out_batched)]
        return outs, out_dims

    # ------------------------------------------------------------------ reverse mode

    def partial_eval(self, trace: LinearTrace, args: Any, params: dict[str, Any]) -> list[Any]:  # type: ignore[override]
        """Run what is known now, record the linear rest, whose residuals are stacked."""
        jaxpr, nk, nc = params["jaxpr"], params["num_consts"], params["num_carry"]
        unknown = [trace.is_unknown(x) for x in args]
        num_ys = len(jaxpr.out_avals) - nc
        while True:
            wanted = (*unknown[nk : nk + nc], *(False,) * num_ys)
            known, linear, out_unknown = partial_eval_jaxpr(jaxpr, tuple(unknown), wanted=wanted)
            if list(out_unknown[:nc]) == unknown[nk : nk + nc]:
                break
            unknown[nk : nk + nc] = out_unknown[:nc]
        split = _Split(known, linear, unknown, out_unknown, nk, nc)
        known_args = [x for x, u in zip(args, unknown, strict=True) if not u]
        with core.current(trace.parent):
            found = self(*known_args, **{**params, **split.known_params()})
        kept = found[: split.num_known]
        once, stacked = split.residuals(known_args, found[split.num_known :])
        atoms = [trace.atom(x) for x, u in zip(args, unknown, strict=True) if u]
        nku, ncu = sum(unknown[:nk]), sum(unknown[nk : nk + nc])
        operands = [
            *map(trace.atom, once), *atoms[: nku + ncu],
            *map(trace.atom, stacked), *atoms[nku + ncu :],
        ]  # fmt: skip
        linear_params = {**params, **split.linear_params(nku, ncu)}
        avals = self.abstract_eval(**linear_params)
        tracers = iter(trace.record(self, operands, linear_params, avals))
        knowns = iter(kept)
        return [next(tracers) if u else next(knowns) for u in out_unknown]

    def transpose(self, ct: Any, *args: Any, jaxpr: ClosedJaxpr, **params: Any) -> list[Any]:  # type: ignore[override]
        """The scan in the other direction: cotangents of consts add up, those of carry go along."""
        nk, nc = params["num_consts"], params["num_carry"]
        # A carry that begins with a known tangent, zeros say, is linear from there on.
        linear = tuple(type(x) is Linear or nk <= i < nk + nc for i, x in enumerate(args))
        ct_carry = [instantiate(c) for c in ct[:nc]]
        given = (*(True,) * nc, *(type(c) is not Zero for c in ct[nc:]))
        ct_ys = [c for c in ct[nc:] if type(c) is not Zero]
        body = _transposed(jaxpr, linear, given, nk, nc)
        known = [x for x, is_linear in zip(args, linear, strict=True) if not is_linear]
        num_known_consts = sum(not b for b in linear[:nk])
        sums = [np.zeros(x.shape, x.dtype) for x in args[:nk] if type(x) is Linear]
        operands = [
            *known[:num_known_consts], *sums, *ct_carry, *known[num_known_consts:], *ct_ys
        ]  # fmt: skip
        counts = {"num_consts": num_known_consts, "num_carry": len(sums) + nc}
        reverse = not params["reverse"]
        found = self(*operands, **{**params, **counts, "jaxpr": body, "reverse": reverse})
        cts = iter(found)
        return [next(cts) if is_linear else None for is_linear in linear]


scan_primitive = Scan("scan")


def _stacked(a: ShapedArray, length: int) -> ShapedArray:
    return a.update(shape=(length, *a.shape))


def _by_kind(values: Any, moving: Sequence[Any], nk: int, nc: int) -> list[Any]:
    """Values and their moving tangents: consts with theirs, then carry, then xs with theirs."""
    values, out = list(values), []
    for begin, end in ((0, nk), (nk, nk + nc), (nk + nc, len(values))):
        out += values[begin:end]
        out += [m for m in moving[begin:end] if m is not None]
    return out


class _Split:
    """The known and the linear part of a body, and where residuals come from.

    A residual that is an input of the known part needs no stack: a const is given once, a slice of
    xs is given by the xs.
    """

    def __init__(
        self, known: ClosedJaxpr, linear: ClosedJaxpr, unknown: Sequence[bool],
        out_unknown: Sequence[bool], nk: int, nc: int,
    ):  # fmt: skip
        self.known, self.linear = known, linear
        self.num_consts = sum(not u for u in unknown[:nk])
        self.num_carry = sum(not u for u in unknown[nk : nk + nc])
        self.num_known = sum(not u for u in out_unknown)
        invars = known.jaxpr.invars
        places = {v: i for i, v in enumerate(invars)}
        self.sources: list[int | None] = []  # of each residual: the known input, or a stack
        for atom in known.jaxpr.outvars[self.num_known :]:
            at = places.get(atom) if type(atom) is Var else None
            is_carry = at is not None and self.num_consts <= at < self.num_consts + self.num_carry
            self.sources.append(None if is_carry else at)

    def known_params(self) -> dict[str, Any]:
        outs = [*range(self.num_known)]
        outs += [self.num_known + i for i, s in enumerate(self.sources) if s is None]
        jaxpr = reordered(self.known, range(len(self.known.jaxpr.invars)), outs)
        return {"jaxpr": jaxpr, "num_consts": self.num_consts, "num_carry": self.num_carry}

    def residuals(self, known_args: Sequence[Any], stacks: Sequence[Any]) -> tuple[list, list]:
        """Those that are the same in every iteration, and those that are stacked."""
        rest = iter(stacks)
        once, stacked = [], []
        for s in self.sources:
            if s is None:
                stacked.append(next(rest))
            elif s < self.num_consts:
                once.append(known_args[s])
            else:
                stacked.append(known_args[s])
        return once, stacked

    def linear_params(self, num_consts: int, num_carry: int) -> dict[str, Any]:
        """Of the scan over (once, unknown consts, unknown carry, stacked, unknown xs)."""
        count = len(self.sources)
        once = [i for i, s in enumerate(self.sources) if s is not None and s < self.num_consts]
        stacked = [i for i in range(count) if i not in once]
        n = len(self.linear.jaxpr.invars)
        middle = count + num_consts + num_carry
        order = [*once, *range(count, middle), *stacked, *range(middle, n)]
        jaxpr = reordered(self.linear, order)
        return {"jaxpr": jaxpr, "num_consts": len(once) + num_consts, "num_carry": num_carry}


def _transposed(
    closed: ClosedJaxpr, linear: tuple[bool, ...], given: tuple[bool, ...], nk: int, nc: int
) -> ClosedJaxpr:
    """(known consts, sums, ct of carry, known xs, ct of ys) -> (sums, ct of carry, ct of xs)."""
    key = ("transposed scan", linear, given, nk)
    if key in closed.derived:
        return closed.derived[key]
    backward, reached = transpose_jaxpr(closed, linear, given)
    avals = closed.in_avals
    known_consts = [a for a, b in zip(avals[:nk], linear[:nk], strict=True) if not b]
    sums = [a for a, b in zip(avals[:nk], linear[:nk], strict=True) if b]
    rest = list(zip(avals[nk + nc :], linear[nk + nc :], strict=True))
    known_xs = [a for a, b in rest if not b]
    out_avals = closed.out_avals
    ct_ys = [a for a, g in zip(out_avals[nc:], given[nc:], strict=True) if g]

    def run(*args: Any) -> list[Any]:
        values = iter(args)
        groups = [
            list(itertools.islice(values, len(g)))
            for g in (known_consts, sums, out_avals[:nc], known_xs, ct_ys)
        ]
        known_c, totals, ct_carry, known_x, ct_y = groups
        found = iter(
            eval_jaxpr(backward.jaxpr, backward.consts, *known_c, *known_x, *ct_carry, *ct_y)
        )
        linear_avals = [a for a, b in zip(avals, linear, strict=True) if b]
        cts = [next(found) if r else Zero(a) for a, r in zip(linear_avals, reached, strict=True)]
        new = [
            t if type(c) is Zero else ops.add(t, c)
            for t, c in zip(totals, cts[: len(totals)], strict=True)
        ]
        return new + [instantiate(c) for c in cts[len(totals) :]]

    inputs = [*known_consts, *sums, *out_avals[:nc], *known_xs, *ct_ys]
    program = trace_to_jaxpr(run, inputs, what="transpose of scan")
    closed.derived[key] = program
    return program


# ---------------------------------------------------------------------------- the function


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    *,
    checkpoint: int | bool = False,
) -> tuple[Any, Any]:
    """A loop with a carry over slices of `xs`: `carry, y = f(carry, x)`.

    Returns the last carry and the `y`s stacked. `xs` and `y` are pytrees; the leaves of `xs` have
    one leading extent, which is `length` (to be given where `xs` is None). With `reverse` the loop
    begins at the end. `unroll` is accepted as JAX's; the compiler unrolls as it sees fit.

    Reverse mode keeps something of every step. With `checkpoint` it keeps the carry of about
    sqrt(length) steps, and computes the others again; a number k means segments in segments, k
    levels, which keep about k length^(1/(k+1)) carries and compute every step k times again.

    >>> import numpy as np
    >>> scan(lambda total, x: (total + x, total), 0.0, np.arange(4.0))
    (np.float64(6.0), array([0., 0., 1., 3.]))

    Raises TypeError, naming the component, for a carry that comes back with another structure,
    shape or dtype, ValueError for extents that differ.
    """
    return scan_of(
        f, init, xs, length, reverse=reverse, unroll=unroll, checkpoint=checkpoint, owner=(f,)
    )


def scan_of(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    *,
    reverse: bool = False,
    unroll: int | bool = 1,
    checkpoint: int | bool = False,
    owner: Sequence[Any],
) -> tuple[Any, Any]:
    """`scan` of a function that is made of a user's; see `trace_body`."""
    user, kind, *_ = *owner, "scan"
    what = what_of(kind, user)
    init_leaves, init_tree = arguments_of(what, "init", init)
    xs_leaves, xs_tree = arguments_of(what, "xs", xs)
    length = leading_extent(what, xs, xs_leaves, length)
    if checkpoint and length > 1:
        return scan_in_segments(
            scan, f, init, xs, length=length, reverse=bool(reverse), levels=int(checkpoint)
        )
    if switches.jit_disabled:
        return _python_scan(f, init, xs_leaves, xs_tree, length, reverse=reverse)
    slices = [get_aval(x).update(shape=get_aval(x).shape[1:]) for x in xs_leaves]
    tree = pytree.treedef_tuple([init_tree, xs_tree])
    y_tree: list[Any] = []

    def trace(init: list[Any]) -> tuple[Body, Any]:
        avals = [*map(get_aval, init), *slices]
        weak = [*map(is_weak, init), *(False,) * len(slices)]
        body = trace_body(f, tree, avals, weak, what, owner=owner)
        parts = pytree.treedef_children(body.tree)
        if len(parts) != 2 or body.tree != pytree.treedef_tuple(parts):
            raise TypeError(
                f"{what}: the function must return a pair (carry, y), got the structure "
                f"{body.tree}.\n  Return (carry, None) if there is nothing to stack."
            )
        y_tree[:] = [parts[1]]
        return body, parts[0]

    body, carry = fixed_carry(what, trace, init_leaves, init_tree)
    outs = scan_primitive(
        *body.consts, *carry, *xs_leaves, jaxpr=body.jaxpr, length=length,
        reverse=bool(reverse), unroll=int(unroll), num_consts=len(body.consts),
        num_carry=len(carry),
    )  # fmt: skip
    n = len(carry)
    return init_tree.unflatten(outs[:n]), y_tree[0].unflatten(outs[n:])


def leading_extent(what: str, xs: Any, leaves: Sequence[Any], length: int | None) -> int:
    names = leaf_names("xs", xs) if leaves else []
    for name, x in zip(names, leaves, strict=True):
        if not get_aval(x).shape:
            raise ValueError(
                f"{what}: {name} is a number, {x!r}, and has no axis to run over.\n  Close over "
                "it, or give an array with a leading axis."
            )
    extents = {get_aval(x).shape[0] for x in leaves}
    if length is not None:
        extents.add(int(length))
    if len(extents) != 1:
        if not extents:
            raise ValueError(f"{what}: how many iterations? Give xs, or length=n.")
        pairs = [f"{name} {get_aval(x).shape[0]}" for name, x in zip(names, leaves, strict=True)]
        pairs += [] if length is None else [f"length {length}"]
        raise ValueError(f"{what}: the leading extents differ: {', '.join(pairs)}.")
    return extents.pop()


def _python_scan(
    f: Any, carry: Any, leaves: Sequence[Any], tree: Any, length: int, *, reverse: bool
) -> tuple[Any, Any]:
    """The loop in plain Python, where a breakpoint or a print in `f` works."""
    ys = []
    for i in reversed(range(length)) if reverse else range(length):
        carry, y = f(carry, tree.unflatten([x[i] for x in leaves]))
        ys.append(y)
    if not ys:
        raise ValueError("scan without iterations under disable_jit: the type of ys is not known.")
    rows = ys[::-1] if reverse else ys
    return carry, pytree.tree_map(lambda *parts: np.stack(parts), *rows)


__all__ = ["scan", "scan_of", "scan_primitive"]
