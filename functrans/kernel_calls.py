"""A call of a Numba kernel as an equation, with derivative and batching rules of the user's own.

A call is one equation, `numba_call`. Compiled, it is a native step: the kernel's machine code is
called by pointer, Python is not involved. `vmap` calls the kernel once per lane, from native code:
the equation carries the sizes of its loops over lanes and says which operands have their axes.
Derivatives are the user's. `defjvp` is run as it stands; with `defvjp` the tangents are a second
equation, `numba_tangent`, which cannot be evaluated, only transposed: that calls the user's
`bwd` with the residuals. Rules of a call with loops over lanes run under `vmap` once more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.arguments import concrete_scalar, describe, flatten_outputs
from functrans.core import Linear, Primitive, Zero, get_aval, instantiate, is_array
from functrans.errors import MissingRule
from functrans.interpreters.batching import batch_flat, move_to
from functrans.ir import ShapedArray
from functrans.pytree import tree_flatten, tree_unflatten
from functrans.runtime import numba_kernels

Loops = tuple[
    tuple[int, tuple[bool, ...]], ...
]  # (size, which operands have its axis), outer first
WORK_PER_ELEMENT = 20  # a guess; it decides whether a call is worth giving up Python's lock


@dataclass(eq=False)
class Rules:
    """What the user gave for a kernel; see `NumbaKernel` for the signatures."""

    jvp: Callable[..., Any] | None = None
    fwd: Callable[..., Any] | None = None
    bwd: Callable[..., Any] | None = None
    batch: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Call:
    """What is called: the kernel, its derivative rules, its outputs, and values fixed in it."""

    kernel: Any
    rules: Rules | None
    outs: tuple[ShapedArray, ...]
    out_tree: Any
    static: tuple[tuple[str, type, Any], ...]

    @property
    def name(self) -> str:
        """How the kernel is called in messages."""
        return self.kernel.__name__

    @property
    def keywords(self) -> dict[str, Any]:
        """The static values as keyword arguments."""
        return {name: value for name, _, value in self.static}

    def __repr__(self) -> str:
        return self.name


class NumbaCall(Primitive):
    """Call a kernel. Parameters: `call`, and `loops` over lanes, whose axes come first."""

    multiple_results = True

    def abstract_eval(self, *avals: ShapedArray, call: Call, loops: Loops) -> list[ShapedArray]:  # type: ignore[override]
        return [with_lanes(aval, loops) for aval in call.outs]

    def impl(self, *args: Any, call: Call, loops: Loops) -> list[Any]:  # type: ignore[override]
        arrays = [plain_array(x) for x in args]
        avals = self.abstract_eval(call=call, loops=loops)
        outs = [np.empty(aval.shape, aval.dtype) for aval in avals]
        if loops:
            routine, numbers = _routine(call, loops, arrays)
            routine.run([*arrays, *outs], numbers)
        else:
            readonly = numba_kernels.takes_readonly(call.kernel)
            given = [_kernel_input(x, readonly) for x in arrays]
            call.kernel(*given, *outs, **call.keywords)
        return [out if out.shape else out[()] for out in outs]

    def lower(self, b: Any, *operands: Any, call: Call, loops: Loops) -> list[Any]:
        """A native step."""
        routine, numbers = _routine(call, loops, operands)
        avals = self.abstract_eval(call=call, loops=loops)
        return b.native(
            f"{self.name} {call.name}",
            routine.provide,
            lambda *arrays: self.impl(*arrays, call=call, loops=loops),
            operands,
            [(aval.shape, aval.dtype) for aval in avals],
            numbers=numbers,
            failures=[(numba_kernels.raised, "{}")],
            work=WORK_PER_ELEMENT * sum(x.size for x in (*operands, *avals)),
        )

    def batch(self, size: int, args: Any, dims: Any, *, call: Call, loops: Loops) -> Any:  # type: ignore[override]
        flags = tuple(d is not None for d in dims)
        moved = [
            x if d is None else move_to(x, d, 0, size) for x, d in zip(args, dims, strict=True)
        ]
        rule = call.rules.batch if call.rules is not None else None
        if rule is None or loops:
            outs = self(*moved, call=call, loops=((size, flags), *loops))
            return outs, [0] * len(outs)
        outs, batched = rule(size, list(flags), *moved, **call.keywords)
        what = f"the vmap rule of {call.name}"
        outs, tree = flatten_outputs(outs, what)
        batched = tree_flatten(batched)[0]
        lanes = ((size, flags),)
        expected = [
            with_lanes(aval, lanes) if b else aval
            for aval, b in zip(call.outs, batched, strict=True)
        ]
        return _matching(outs, tree, expected, call.out_tree, what), [
            0 if b else None for b in batched
        ]

    def jvp(self, primals: Any, tangents: Any, *, call: Call, loops: Loops) -> Any:  # type: ignore[override]
        rules = call.rules
        if rules is not None and rules.jvp is not None:
            dense = [instantiate(t) for t in tangents]
            doubled = tuple((size, flags + flags) for size, flags in loops)
            outs = _over_lanes(functools.partial(_jvp_of, call), doubled, [*primals, *dense])
            moving = outs[len(call.outs) :]
        elif rules is not None and rules.fwd is not None:
            outs, moving = self._jvp_by_vjp(primals, tangents, call, loops)
        else:
            raise MissingRule(
                f"numba_call of {call.name} has no derivative.\n  Declare the kernel with "
                "functrans.numba_kernel and give it one, by its defjvp or defvjp; or keep it out "
                "of differentiation with functrans.lax.stop_gradient."
            )
        outs, found = outs[: len(call.outs)], iter(moving)
        return outs, [
            next(found) if _is_inexact(aval) else Zero(get_aval(y).tangent_aval())
            for aval, y in zip(call.outs, outs, strict=True)
        ]

    def _jvp_by_vjp(self, primals: Any, tangents: Any, call: Call, loops: Loops) -> Any:
        trees: list[Any] = []
        outs = _over_lanes(functools.partial(_fwd_of, call, trees), loops, primals)
        backward = Backward(call, trees[0], tuple(_lane_avals(primals, loops)), loops)
        residuals = outs[len(call.outs) :]
        moving = [instantiate(tangents[i]) for i in backward.moving]
        return outs, numba_tangent(*residuals, *moving, backward=backward)

    def transpose(self, ct: Any, *args: Any, call: Call, **_: Any) -> Any:  # type: ignore[override]
        raise MissingRule(
            f"numba_call of {call.name} is applied to a tangent, in a rule given to defjvp, so "
            "that reverse mode would have to run the kernel backwards.\n  Give the differentiated "
            "kernel a defvjp instead, or write the tangent with NumPy functions."
        )


numba_call_primitive = NumbaCall("numba_call")


@dataclass(frozen=True)
class Backward:
    """The tangent map of a kernel with `defvjp`: only its transpose, the rule `bwd`, is known.

    Its operands are the residuals, all with the axes of all loops, and the inexact tangents.
    """

    call: Call
    residual_tree: Any
    in_avals: tuple[ShapedArray, ...]
    loops: Loops

    @property
    def moving(self) -> list[int]:
        """Which inputs of the kernel carry a tangent."""
        return [i for i, a in enumerate(self.in_avals) if _is_inexact(a)]

    def __repr__(self) -> str:
        return self.call.name


class NumbaTangent(Primitive):
    """The tangents of a kernel's outputs. Parameter: `backward`."""

    multiple_results = True

    def abstract_eval(self, *avals: ShapedArray, backward: Backward) -> list[ShapedArray]:  # type: ignore[override]
        outs = [with_lanes(aval, backward.loops) for aval in backward.call.outs]
        return [aval for aval in outs if _is_inexact(aval)]

    def impl(self, *args: Any, backward: Backward) -> Any:  # type: ignore[override]
        name = backward.call.name
        raise MissingRule(
            f"{name} has a derivative for reverse mode alone (defvjp), and was differentiated "
            "forwards (jvp, jacfwd, hessian).\n  Give the kernel a defjvp instead, which serves "
            "both modes, or use grad, vjp or jacrev."
        )

    def lower(self, b: Any, *operands: Any, backward: Backward) -> Any:
        """Refused: see `impl`."""
        self.impl(backward=backward)

    def batch(self, size: int, args: Any, dims: Any, *, backward: Backward) -> Any:  # type: ignore[override]
        n = len(args) - len(backward.moving)
        residuals = [move_to(x, d, 0, size) for x, d in zip(args[:n], dims[:n], strict=True)]
        tangents = [
            x if d is None else move_to(x, d, 0, size)
            for x, d in zip(args[n:], dims[n:], strict=True)
        ]
        flags = [False] * len(backward.in_avals)
        for i, d in zip(backward.moving, dims[n:], strict=True):
            flags[i] = d is not None
        loops = ((size, tuple(flags)), *backward.loops)
        more = Backward(backward.call, backward.residual_tree, backward.in_avals, loops)
        outs = self(*residuals, *tangents, backward=more)
        return outs, [0] * len(outs)

    def transpose(self, ct: Any, *args: Any, backward: Backward) -> Any:  # type: ignore[override]
        count = len(args) - len(backward.moving)
        given = iter(ct)
        wide = [with_lanes(aval, backward.loops) for aval in backward.call.outs]
        cts = [
            instantiate(next(given) if _is_inexact(aval) else Zero(aval.tangent_aval()))
            for aval in wide
        ]
        operands = [*args[:count], *cts]
        everywhere = tuple((size, (True,) * len(operands)) for size, _ in backward.loops)
        pullback = functools.partial(_bwd_of, backward, count)
        in_cts = _over_lanes(pullback, everywhere, operands)
        summed = []
        for i, in_ct in zip(backward.moving, in_cts, strict=True):
            shared = tuple(k for k, (_, flags) in enumerate(backward.loops) if not flags[i])
            summed.append(ops.reduce_sum(in_ct, axes=shared) if shared else in_ct)
        return [None] * count + [
            x if type(linear) is Linear else None
            for x, linear in zip(summed, args[count:], strict=True)
        ]


numba_tangent = NumbaTangent("numba_tangent")


# ---------------------------------------------------------------------------- the user's rules


def _jvp_of(call: Call, *flat: Any) -> list[Any]:
    """`defjvp`'s rule on the operands of one lane: outputs, then their tangents (or zeros)."""
    assert call.rules is not None
    n, what = len(flat) // 2, f"the defjvp rule of {call.name}"
    both = call.rules.jvp(flat[:n], flat[n:], **call.keywords)  # type: ignore[misc]
    outs, dots = _pair(both, what, "(outputs, tangents of the outputs)")
    primals, tree = flatten_outputs(outs, what)
    tangents, dot_tree = flatten_outputs(dots, what)
    primals = _matching(primals, tree, call.outs, call.out_tree, what)
    # Outputs of integers carry no tangent, whatever the rule gives for them.
    expected = [a if _is_inexact(a) else None for a in call.outs]
    return [*primals, *_matching(tangents, dot_tree, expected, call.out_tree, what)]


def _fwd_of(call: Call, structure: list[Any], *args: Any) -> list[Any]:
    """`defvjp`'s forward rule on the operands of one lane: outputs, then the residuals' leaves."""
    assert call.rules is not None
    what = f"the forward rule (defvjp) of {call.name}"
    both = call.rules.fwd(*args, **call.keywords)  # type: ignore[misc]
    outs, residuals = _pair(both, what, "(outputs, residuals)")
    primals, tree = flatten_outputs(outs, what)
    leaves, residual_tree = flatten_outputs(residuals, what)
    structure.append(residual_tree)
    return [
        *_matching(primals, tree, call.outs, call.out_tree, what),
        *map(concrete_scalar, leaves),
    ]


def _bwd_of(backward: Backward, count: int, *flat: Any) -> list[Any]:
    """`defvjp`'s backward rule on one lane: the cotangents of inputs that carry one."""
    call = backward.call
    assert call.rules is not None
    residuals = tree_unflatten(backward.residual_tree, flat[:count])
    cts = tree_unflatten(call.out_tree, flat[count:])
    result = call.rules.bwd(residuals, cts, **call.keywords)  # type: ignore[misc]
    what, n = f"the backward rule (defvjp) of {call.name}", len(backward.in_avals)
    if not isinstance(result, tuple | list) or len(result) != n:
        raise TypeError(
            f"{what} must return a tuple with a cotangent for each of the {n} inputs (None for "
            f"zero), got {brief(result)}."
        )
    chosen = [(result[i], backward.in_avals[i]) for i in backward.moving]
    return [np.zeros(a.shape, a.dtype) if x is None else _match(x, a, what) for x, a in chosen]


def _pair(both: Any, what: str, wanted: str) -> tuple[Any, Any]:
    if not isinstance(both, tuple) or len(both) != 2:
        raise TypeError(f"{what} must return a pair, {wanted}, got {brief(both)}.")
    return both


def _matching(
    values: Sequence[Any], tree: Any, avals: Sequence[Any], expected_tree: Any, what: str
) -> list[Any]:
    """The values that have an aval, checked against it."""
    if tree != expected_tree:
        raise TypeError(f"{what} returned the structure {tree}, the kernel's is {expected_tree}.")
    pairs = zip(values, avals, strict=True)
    return [_match(x, a, what) for x, a in pairs if a is not None]


def _match(x: Any, aval: ShapedArray, what: str) -> Any:
    x = concrete_scalar(x)
    if not is_array(x) or get_aval(x) != aval:
        raise TypeError(f"{what} returned {brief(x)}, where {aval} is needed.")
    return x


def brief(x: Any) -> str:
    """`x` for a message about what it should have been."""
    if isinstance(x, tuple | list):
        return f"a {type(x).__name__} of length {len(x)}"
    return describe(x) if is_array(x) else f"{x!r} of type {type(x).__name__}"


# ---------------------------------------------------------------------------- loops over lanes


def _over_lanes(fun: Callable[..., list[Any]], loops: Loops, args: Sequence[Any]) -> list[Any]:
    """`fun` of one lane, under a vmap per loop; results have the axes of all of them in front."""
    if not loops:
        return fun(*args)
    (size, flags), *rest = loops
    inner = functools.partial(_over_lanes_of, fun, tuple(rest))
    outs, dims = batch_flat(inner, args, [0 if f else None for f in flags], size)
    return [move_to(y, d, 0, size) for y, d in zip(outs, dims, strict=True)]


def _over_lanes_of(fun: Callable[..., list[Any]], loops: Loops, *args: Any) -> list[Any]:
    return _over_lanes(fun, loops, args)


def with_lanes(aval: ShapedArray, loops: Loops) -> ShapedArray:
    """What all lanes have together of what one lane has."""
    return aval.update(shape=(*(size for size, _ in loops), *aval.shape)) if loops else aval


def _lane_avals(operands: Sequence[Any], loops: Loops) -> list[ShapedArray]:
    """The operands as one lane has them."""
    counts = [sum(flags[i] for _, flags in loops) for i in range(len(operands))]
    avals = [get_aval(x) for x in operands]
    return [a.update(shape=a.shape[n:]) for a, n in zip(avals, counts, strict=True)]


def _is_inexact(aval: ShapedArray) -> bool:
    return dtypes.is_inexact(aval.dtype)


def _routine(call: Call, loops: Loops, operands: Sequence[Any]) -> tuple[Any, list[int]]:
    """The native routine of a call, and the numbers it is given."""
    flags = [(*f, *(True,) * len(call.outs)) for _, f in loops]
    counts = [sum(f[i] for f in flags) for i in range(len(operands))]
    shapes = [x.shape[n:] for x, n in zip(operands, counts, strict=True)]
    inputs = [
        numba_kernels.Operand(np.dtype(x.dtype.char), len(shape), False)
        for x, shape in zip(operands, shapes, strict=True)
    ]
    outputs = [numba_kernels.Operand(a.dtype, a.ndim, True) for a in call.outs]
    routine = numba_kernels.routine(call.kernel, (*inputs, *outputs), call.static, len(loops))
    sizes = [size for size, _ in loops]
    return routine, routine.numbers(sizes, flags, [*shapes, *(a.shape for a in call.outs)])


def plain_array(x: Any) -> np.ndarray:
    """`x` as an aligned C-contiguous array of native byte order."""
    array = np.asarray(x)
    return np.require(array, array.dtype.newbyteorder("="), ("C", "A")).reshape(array.shape)


def _kernel_input(x: np.ndarray, readonly: bool) -> Any:
    """An input as Numba sees it in compiled programs too: numbers, and arrays not to write to."""
    if x.ndim == 0:
        return x[()]
    if readonly:
        x = x.view()
        x.flags.writeable = False
        return x
    return x if x.flags.writeable else x.copy()
