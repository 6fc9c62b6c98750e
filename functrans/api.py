"""The transformations as users call them: trees in, trees out, messages that name arguments.

Each one flattens its arguments, runs a flat interpreter from `functrans.interpreters` and puts the
results back into trees.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np

from functrans import dtypes, ops
from functrans.arguments import (
    ShapeDtypeStruct,
    abstract,
    check_leaves,
    chosen_names,
    concrete_scalar,
    describe,
    flatten_outputs,
    function_name,
    normalize_argnums,
)
from functrans.checking import check_jaxpr
from functrans.config import switches
from functrans.core import (
    Tracer,
    Zero,
    current,
    current_trace,
    eval_trace,
    get_aval,
    instantiate,
    is_weak,
)
from functrans.interpreters.jvp import jvp_flat
from functrans.interpreters.linearize import LinearTrace, Tape, linearize_flat
from functrans.interpreters.pullbacks import Pullback
from functrans.interpreters.staging import (
    eval_jaxpr,
    trace_to_jaxpr,
    watching_leaks,
)
from functrans.interpreters.transpose import transpose_tape
from functrans.ir import ClosedJaxpr, ShapedArray
from functrans.pytree import tree_flatten, tree_structure, tree_unflatten

P = ParamSpec("P")
R = TypeVar("R")

Argnums = int | Sequence[int]

# ---------------------------------------------------------------------------- programs


def make_jaxpr(
    fun: Callable[..., Any],
    *,
    static_argnums: Argnums = (),
    return_shape: bool = False,
) -> Callable[..., Any]:
    """A function that traces `fun` and returns its jaxpr.

    >>> import numpy as np
    >>> print(make_jaxpr(lambda x: np.sin(x) * 2)(1.0))
    { lambda ; a:f64[]. let
        b:f64[] = sin a
        c:f64[] = mul b 2.0:f64[]
      in (c,) }

    With `return_shape`, returns `(jaxpr, output tree of ShapeDtypeStruct)`.
    """
    static = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)

    @functools.wraps(fun)
    def traced(*args: Any, **kwargs: Any) -> Any:
        fixed = {n % len(args): args[n] for n in static}
        closed, out_tree = _trace(fun, args, kwargs, fixed, "make_jaxpr")
        if not return_shape:
            return closed
        return closed, tree_unflatten(out_tree, [_struct(a) for a in closed.out_avals])

    return traced


def _trace(
    fun: Callable[..., Any], args: Any, kwargs: Any, fixed: dict[int, Any], verb: str
) -> tuple[ClosedJaxpr, Any]:
    what = f"{verb} of {function_name(fun)}"
    positions = [i for i in range(len(args)) if i not in fixed]
    leaves, tree = tree_flatten(([args[i] for i in positions], kwargs))
    names = chosen_names(fun, args, kwargs, positions, list(kwargs))
    concrete = [x for x in leaves if not isinstance(x, ShapeDtypeStruct)]
    if len(concrete) == len(leaves):
        check_leaves(leaves, lambda: names, what)
    out_trees: list[Any] = []

    def flat(*tracers: Any) -> list[Any]:
        moving, traced_kwargs = tree_unflatten(tree, tracers)
        full = dict(zip(positions, moving, strict=True)) | fixed
        outs, structure = flatten_outputs(
            fun(*[full[i] for i in range(len(args))], **traced_kwargs), what
        )
        out_trees.append(structure)
        return outs

    weak = [not isinstance(x, ShapeDtypeStruct) and is_weak(x) for x in leaves]
    closed = trace_to_jaxpr(flat, [abstract(x) for x in leaves], names=names, weak=weak, what=what)
    if switches.check_ir:
        check_jaxpr(closed, what)
    return closed, out_trees[0]


def eval_shape(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The shapes and dtypes of `fun(*args, **kwargs)`, computed without any arithmetic.

    Arguments are arrays or ShapeDtypeStructs; the result has a ShapeDtypeStruct per leaf.
    """
    closed, out_tree = _trace(fun, args, kwargs, {}, "eval_shape")
    return tree_unflatten(out_tree, [_struct(a) for a in closed.out_avals])


def _struct(aval: ShapedArray) -> ShapeDtypeStruct:
    return ShapeDtypeStruct(aval.shape, aval.dtype)


# ---------------------------------------------------------------------------- choosing arguments


class _Chosen:
    """The arguments to differentiate, flat, and the function of just those."""

    def __init__(
        self,
        fun: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        argnums: Argnums | None,
        argnames: str | Sequence[str] | None,
        what: str,
    ):
        self.fun, self.args, self.kwargs, self.what = fun, args, kwargs, what
        wanted = (argnames,) if isinstance(argnames, str) else tuple(argnames or ())
        self.one_name = isinstance(argnames, str)
        for name in wanted:
            if name not in kwargs:
                raise ValueError(
                    f"{what} was asked to differentiate the keyword argument {name!r}, but the "
                    f"call passed {sorted(kwargs) or 'no keyword arguments'}.\n  Pass it as "
                    f"{name}=..., or choose a positional argument by argnums."
                )
        if argnums is None:
            argnums = () if wanted else 0
        self.single = isinstance(argnums, int)
        self.nums = normalize_argnums(argnums, len(args), what)
        self.keys = wanted
        parts = ([args[i] for i in self.nums], {k: kwargs[k] for k in wanted})
        leaves, self.tree = tree_flatten(parts)
        check_leaves(leaves, self.names, what)
        self.weak = [is_weak(x) for x in leaves]
        self.leaves = [concrete_scalar(x) for x in leaves]

    def names(self) -> list[str]:
        return chosen_names(self.fun, self.args, self.kwargs, self.nums, self.keys)

    def call(self, leaves: Sequence[Any]) -> Any:
        """`fun` with the chosen arguments replaced."""
        positional, named = tree_unflatten(self.tree, leaves)
        args = list(self.args)
        for i, value in zip(self.nums, positional, strict=True):
            args[i] = value
        return self.fun(*args, **{**self.kwargs, **named})

    def pack(self, leaves: Sequence[Any]) -> Any:
        """Derivatives in the arrangement that argnums and argnames ask for."""
        positional, named = tree_unflatten(self.tree, leaves)
        first: Any = positional[0] if self.single else tuple(positional)
        if not self.keys:
            return first
        by_name = named[self.keys[0]] if self.one_name else named
        return by_name if not self.nums else (first, by_name)

    def require_inexact(self, *, allow_int: bool = False) -> None:
        """Raise TypeError for integers and booleans, which carry no derivative."""
        if allow_int:
            return
        for i, x in enumerate(self.leaves):
            if self.weak[i] and get_aval(x).dtype.kind in "iu":
                continue
            dtype = get_aval(x).dtype
            if not dtypes.is_inexact(dtype):
                raise TypeError(
                    f"{self.what} needs floating-point arguments, but {self.names()[i]} = "
                    f"{describe(x)} is {get_aval(x)}.\n  Convert it with .astype(float), leave it "
                    "out of argnums, or pass allow_int=True (its gradient is then float0)."
                )

    def ints_as_floats(self) -> None:
        """Python ints are numbers like others where they are differentiated: make them floats."""
        for i, x in enumerate(self.leaves):
            if self.weak[i] and not isinstance(x, Tracer) and x.dtype.kind in "iu":
                self.leaves[i] = np.float64(x)

    def require_complex(self) -> None:
        """Raise TypeError for real arguments where a holomorphic derivative was asked for."""
        for x, name in zip(self.leaves, self.names(), strict=True):
            if get_aval(x).dtype.kind != "c":
                raise TypeError(
                    f"{self.what} with holomorphic=True needs complex arguments, but {name} is "
                    f"{get_aval(x)}.\n  Convert it with .astype(complex), or drop holomorphic=True."
                )


class _Results:
    """What the function of chosen arguments returned, as leaves, and the way back to trees."""

    def __init__(self, chosen: _Chosen, has_aux: bool):
        self.chosen = chosen
        self.has_aux = has_aux
        self.tree: Any = None
        self.aux_tree: Any = None

    def flat(self, *leaves: Any) -> list[Any]:
        """The function on flat arguments: the leaves of its value, then those of aux."""
        out = self.chosen.call(leaves)
        extra: Any = []
        if self.has_aux:
            out, extra = _pair(out, self.chosen.what)
        outs, self.tree = flatten_outputs(out, self.chosen.what)
        aux_leaves, self.aux_tree = tree_flatten(extra)
        return [*outs, *aux_leaves]

    def split(self, outs: Sequence[Any]) -> tuple[list[Any], Any]:
        """The leaves of the value, and aux as a tree."""
        n = self.tree.num_leaves
        return list(outs[:n]), tree_unflatten(self.aux_tree, outs[n:])


# ---------------------------------------------------------------------------- reverse mode


def value_and_grad(
    fun: Callable[P, Any],
    argnums: Argnums | None = None,
    argnames: str | Sequence[str] | None = None,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
) -> Callable[P, Any]:
    """A function that returns `(fun(...), gradient)`.

    `argnums` (an int or a tuple; default 0) and `argnames` choose the arguments. The gradient has
    the structure, shapes and dtypes of the chosen argument; a tuple of them where `argnums` is a
    tuple; a dict by name where `argnames` is a tuple; `(positional, by name)` where both are given.
    With `has_aux`, `fun` returns `(value, aux)`, and so does the value here. For complex arguments
    the convention is JAX's: the gradient of `abs(z)**2` is `2 * conj(z)`.

    >>> value_and_grad(lambda x, y: x * y, argnums=(0, 1))(2.0, 3.0)
    (np.float64(6.0), (np.float64(3.0), np.float64(2.0)))

    Raises TypeError for a result that is not one real number, and for integer arguments (unless
    `allow_int`). Python ints count as floats.
    """
    what = f"grad of {function_name(fun)}"

    @functools.wraps(fun)
    def value_and_gradient(*args: P.args, **kwargs: P.kwargs) -> Any:
        chosen = _Chosen(fun, args, kwargs, argnums, argnames, what)
        chosen.require_inexact(allow_int=allow_int)
        chosen.ints_as_floats()
        if holomorphic:
            chosen.require_complex()
        aux: list[Any] = []

        def flat(*leaves: Any) -> list[Any]:
            out = chosen.call(leaves)
            if has_aux:
                out, extra = _pair(out, what)
                aux_leaves, aux_tree = tree_flatten(extra)
                aux.append(aux_tree)
                return [out, *aux_leaves]
            return [out]

        outs, tape = linearize_flat(
            _checked_scalar(flat, what, holomorphic),
            chosen.leaves,
            chosen.weak,
            keep_sources=current_trace() is not eval_trace,
        )
        tape.outs = tape.outs[:1]
        ct = np.ones((), get_aval(outs[0]).dtype)[()]
        cts = transpose_tape(tape, [ct])
        pairs = zip(cts, chosen.leaves, strict=True)
        gradient = chosen.pack(_all_owned([_gradient(c, np.shape(x)) for c, x in pairs]))
        if has_aux:
            return (outs[0], tree_unflatten(aux[0], outs[1:])), gradient
        return outs[0], gradient

    return value_and_gradient


def _pair(out: Any, what: str) -> tuple[Any, Any]:
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(
            f"{what} with has_aux=True needs the function to return (value, aux), got "
            f"{type(out).__name__}{f' of length {len(out)}' if isinstance(out, tuple) else ''}."
        )
    return out


def _checked_scalar(
    flat: Callable[..., list[Any]], what: str, holomorphic: bool
) -> Callable[..., list[Any]]:
    def checked(*leaves: Any) -> list[Any]:
        outs = flat(*leaves)
        _require_scalar(outs[0], what, holomorphic)
        return outs

    return checked


def _require_scalar(out: Any, what: str, holomorphic: bool) -> None:
    try:
        aval = get_aval(out)
    except TypeError:
        raise TypeError(
            f"{what} needs the function to return one number, got {type(out).__name__}: {out!r}."
            + ("\n  For (value, aux) pass has_aux=True." if isinstance(out, tuple) else "")
            + ("\n  The function has no return statement?" if out is None else "")
        ) from None
    if aval.shape:
        raise TypeError(
            f"{what} needs the function to return one number, got an array {aval}.\n  Reduce it "
            "(np.sum, np.mean), or use jacrev/jacfwd for the Jacobian, vjp for a chosen cotangent."
        )
    if aval.dtype.kind == "c" and not holomorphic:
        raise TypeError(
            f"{what} needs a real result, got {aval}.\n  Take .real, or abs()**2; for a "
            "holomorphic function pass holomorphic=True."
        )
    if aval.dtype.kind not in "fc":
        raise TypeError(
            f"{what} needs a floating-point result, got {aval}, which has no derivative.\n  "
            "Comparisons, argmax, rounding to integers and the like end differentiation."
        )


def _gradient(ct: Any, shape: tuple[int, ...]) -> Any:
    """The array of a cotangent; None stands for an input of this shape that carries no tangent."""
    return np.zeros(shape, dtypes.float0) if ct is None else instantiate(ct)


def _all_owned(values: Sequence[Any], given: Sequence[Any] = ()) -> list[Any]:
    """Results that a caller may write to: none is another, a view, or one of the arrays `given`."""
    taken = {id(x) for x in given}
    out = []
    for y in map(_owned, values):
        fresh = y.copy() if type(y) is np.ndarray and id(y) in taken else y
        taken.add(id(fresh))
        out.append(fresh)
    return out


def _owned(y: Any) -> Any:
    """`y` as a fresh array where it is a view of something, a NumPy scalar where it is 0-d."""
    if type(y) is np.ndarray:
        if y.ndim == 0:
            return y[()]
        return y.copy() if y.base is not None or not y.flags.writeable else y
    return y


def grad(
    fun: Callable[P, Any],
    argnums: Argnums | None = None,
    argnames: str | Sequence[str] | None = None,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
) -> Callable[P, Any]:
    """The gradient of a function that returns one number; see `value_and_grad` for the rest.

    >>> import numpy as np
    >>> grad(lambda x: np.sum(np.sin(x)))(np.zeros(3))
    array([1., 1., 1.])

    With `has_aux` it returns `(gradient, aux)`.
    """
    both = value_and_grad(fun, argnums, argnames, has_aux, holomorphic, allow_int)

    @functools.wraps(fun)
    def gradient(*args: P.args, **kwargs: P.kwargs) -> Any:
        value, g = both(*args, **kwargs)
        return (g, value[1]) if has_aux else g

    return gradient


def vjp(fun: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """`(fun(*primals), pullback)`; the pullback maps an output cotangent to one per primal.

    The pullback may be called many times. What it keeps is its own: changing an input array
    afterwards does not change it. It is a pytree of that, which transformed functions may return.
    With `has_aux`: `(value, pullback, aux)`.

    >>> import numpy as np
    >>> y, pullback = vjp(np.sin, 0.0)
    >>> pullback(2.0)
    (np.float64(2.0),)
    """
    what = f"vjp of {function_name(fun)}"
    outs, out_tree, tape, in_tree, leaves, aux = _linearized(fun, primals, has_aux, what)
    tape.protect()

    def run(tape: Tape, ct: Any) -> Any:
        cts = _matching(ct, out_tree, outs_avals, f"the cotangent for the pullback of {what}")
        in_cts = transpose_tape(tape, cts)
        grads = [_gradient(c, a.shape) for c, a in zip(in_cts, in_avals, strict=True)]
        return tree_unflatten(in_tree, _all_owned(grads, cts))

    outs_avals = [get_aval(y) for y in outs]
    in_avals = [get_aval(x) for x in leaves]
    del leaves
    value = tree_unflatten(out_tree, outs)
    pullback = Pullback(run, tape)
    return (value, pullback, aux) if has_aux else (value, pullback)


def _linearized(
    fun: Callable[..., Any], primals: Sequence[Any], has_aux: bool, what: str
) -> tuple[list[Any], Any, Tape, Any, list[Any], Any]:
    chosen = _Chosen(fun, primals, {}, tuple(range(len(primals))), None, what)
    results = _Results(chosen, has_aux)
    outs, tape = linearize_flat(results.flat, chosen.leaves, chosen.weak)
    outs, aux = results.split(outs)
    tape.outs = tape.outs[: len(outs)]
    in_tree = tree_structure(tuple(primals))
    return outs, results.tree, tape, in_tree, chosen.leaves, aux


def _matching(tree: Any, treedef: Any, avals: Sequence[ShapedArray], what: str) -> list[Any]:
    """The leaves of a tangent or cotangent, checked against what it belongs to."""
    leaves, given = tree_flatten(tree)
    if given != treedef:
        raise TypeError(f"{what} has the structure {given}, it needs {treedef}.")
    out = []
    for x, aval in zip(leaves, avals, strict=True):
        expected = aval.tangent_aval()
        if expected.dtype == dtypes.float0:
            if get_aval(x) != expected:
                raise TypeError(
                    f"{what} has a leaf {describe(x)} for a value of type {aval}, which carries no "
                    "derivative.\n  Make that value floating-point (3.0, x.astype(float)), or pass "
                    f"np.zeros({aval.shape}, functrans.float0)."
                )
            out.append(Zero(expected))
            continue
        actual = get_aval(x)
        weak = is_weak(x) and np.can_cast(actual.dtype, expected.dtype, "same_kind")
        if actual != expected and not (weak and actual.shape == expected.shape):
            raise TypeError(
                f"{what} has a leaf {describe(x)} of type {actual}, it needs {expected}."
            )
        if isinstance(x, Tracer):
            out.append(x if actual == expected else ops.convert_element_type(x, dtype=aval.dtype))
        else:
            out.append(np.asarray(x, expected.dtype)[()] if weak else x)
    return out


# ---------------------------------------------------------------------------- forward mode


def jvp(
    fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False
) -> Any:
    """`(fun(*primals), directional derivative along tangents)`; `aux` last with `has_aux`.

    >>> import numpy as np
    >>> jvp(np.sin, (0.0,), (1.0,))
    (np.float64(0.0), np.float64(1.0))
    """
    what = f"jvp of {function_name(fun)}"
    if not isinstance(primals, tuple | list) or not isinstance(tangents, tuple | list):
        raise TypeError(
            f"{what} takes tuples of primals and tangents, got {type(primals).__name__} and "
            f"{type(tangents).__name__}: write jvp(f, (x,), (t,))."
        )
    if len(primals) != len(tangents):
        raise TypeError(f"{what} got {len(primals)} primals and {len(tangents)} tangents.")
    chosen = _Chosen(fun, primals, {}, tuple(range(len(primals))), None, what)
    avals = [get_aval(x) for x in chosen.leaves]
    tree = tree_structure(tuple(primals))
    flat_tangents = _matching(tuple(tangents), tree, avals, f"the tangents for {what}")
    results = _Results(chosen, has_aux)
    outs, out_tangents = jvp_flat(results.flat, chosen.leaves, flat_tangents, chosen.weak)
    outs, aux = results.split(outs)
    value = tree_unflatten(results.tree, outs)
    dense = [instantiate(t) for t in out_tangents[: len(outs)]]
    tangent = tree_unflatten(results.tree, _all_owned(dense, flat_tangents))
    return (value, tangent, aux) if has_aux else (value, tangent)


def linearize(fun: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """`(fun(*primals), f_jvp)`: the tangent map at a point, computed once and called often.

    `f_jvp(*tangents)` has the structure of the output; `f_jvp.jaxpr` is its program. With
    `has_aux`: `(value, f_jvp, aux)`.
    """
    what = f"linearize of {function_name(fun)}"
    outs, out_tree, tape, in_tree, leaves, aux = _linearized(fun, primals, has_aux, what)
    tape.protect()
    closed = tape.to_jaxpr()
    avals = [get_aval(x) for x in leaves]
    del leaves

    def f_jvp(*tangents: Any) -> Any:
        flat = _matching(tuple(tangents), in_tree, avals, f"the tangents for {what}")
        moving = [t for t, v in zip(flat, tape.invars, strict=True) if v is not None]
        results = eval_jaxpr(closed.jaxpr, closed.consts, *moving)
        return tree_unflatten(out_tree, _all_owned(results, [*moving, *closed.consts]))

    f_jvp.jaxpr = closed  # type: ignore[attr-defined]
    value = tree_unflatten(out_tree, outs)
    return (value, f_jvp, aux) if has_aux else (value, f_jvp)


def linear_transpose(fun: Callable[..., Any], *primals: Any) -> Callable[[Any], Any]:
    """The transpose of a linear function; `primals` give the shapes (values are not read).

    Returns a function from a cotangent of the output to a tuple of cotangents of the inputs.
    Raises TypeError where `fun` is not linear.
    """
    what = f"linear_transpose of {function_name(fun)}"
    leaves, in_tree = tree_flatten(tuple(primals))
    avals = [abstract(x) for x in leaves]
    for aval in avals:
        if not dtypes.is_inexact(aval.dtype):
            raise TypeError(f"{what} needs float or complex arguments, got {aval}.")
    linear = LinearTrace(current_trace())
    with watching_leaks(linear), current(linear):
        tracers = [linear.input(a) for a in avals]
        outs, out_tree = flatten_outputs(fun(*tree_unflatten(in_tree, tracers)), what)
        for y in outs:
            if not linear.is_unknown(y) and np.any(y):
                raise TypeError(f"{what}: an output does not depend on the inputs, and is not 0.")
        atoms = [y.var if linear.is_unknown(y) else Zero(get_aval(y)) for y in outs]
        tape = Tape([t.var for t in tracers], linear.eqns, atoms)  # type: ignore[union-attr]
        out_avals = [get_aval(y) for y in outs]
        del tracers, outs

    def transposed(ct: Any) -> Any:
        cts = _matching(ct, out_tree, out_avals, f"the cotangent for {what}")
        results = transpose_tape(tape, cts)
        return tree_unflatten(in_tree, _all_owned([instantiate(c) for c in results], cts))

    return transposed
