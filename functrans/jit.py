"""`jit`: trace once per signature, compile, call.

The signature of a call is the structure of its arguments with the shape, dtype and weakness of
every leaf, the static arguments by value, and the named axes in scope. `jit` is also a primitive
whose parameter is the traced program, so that every transformation of a jitted function is a
jitted function: each rule here turns one program into another and binds `jit` again.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar, overload

import numpy as np

from functrans import core, dtypes, pytree
from functrans.arguments import (
    abstract,
    check_leaves,
    chosen_names,
    flatten_outputs,
    function_name,
)
from functrans.call_path import short_way
from functrans.config import switches, unusual
from functrans.core import Linear, Primitive, Tracer, Zero, eval_trace
from functrans.interpreters.batching import batch_jaxpr, move_to
from functrans.interpreters.jvp import jvp_jaxpr
from functrans.interpreters.linearize import LinearTrace, partial_eval_jaxpr, run_split
from functrans.interpreters.staging import hoist_consts, trace_to_jaxpr
from functrans.interpreters.transpose import transpose_jaxpr
from functrans.ir import ClosedJaxpr, ShapedArray
from functrans.runtime.dispatcher import Dispatcher
from functrans.runtime.executable import Executable
from functrans.stages import Lowered, Traced, executable_of
from functrans.static_arguments import (
    NONE_STATIC,
    NOWHERE,
    Places,
    Static,
    complete_places,
    donated_leaves,
)

P = ParamSpec("P")
R = TypeVar("R")

# ---------------------------------------------------------------------------- the primitive


class JitPrimitive(Primitive):
    """Call a traced program: `jaxpr`, a ClosedJaxpr. Other parameters are options of `jit`."""

    multiple_results = True

    def abstract_eval(self, *avals: ShapedArray, jaxpr: ClosedJaxpr, **_: Any) -> list[ShapedArray]:  # type: ignore[override]
        return jaxpr.out_avals

    def impl(self, *args: Any, jaxpr: ClosedJaxpr, **options: Any) -> list[Any]:  # type: ignore[override]
        return executable_of(jaxpr, **options)(args)

    def jvp(self, primals: Any, tangents: Any, *, jaxpr: ClosedJaxpr, **options: Any) -> Any:  # type: ignore[override]
        moving = tuple(type(t) is not Zero for t in tangents)
        both, out_moving = jvp_jaxpr(jaxpr, moving)
        given = [t for t in tangents if type(t) is not Zero]
        results = self(*primals, *given, jaxpr=both, **options)
        n = len(out_moving)
        rest = iter(results[n:])
        out_tangents = [
            next(rest) if m else Zero(a.tangent_aval())
            for m, a in zip(out_moving, jaxpr.out_avals, strict=True)
        ]
        return results[:n], out_tangents

    def transpose(self, ct: Any, *args: Any, jaxpr: ClosedJaxpr, **options: Any) -> list[Any]:  # type: ignore[override]
        linear = tuple(type(x) is Linear for x in args)
        given = tuple(type(c) is not Zero for c in ct)
        backward, reached = transpose_jaxpr(jaxpr, linear, given)
        known = [x for x in args if type(x) is not Linear]
        cts = self(*known, *[c for c in ct if type(c) is not Zero], jaxpr=backward, **options)
        found, flags = iter(cts), iter(reached)
        return [
            (next(found) if next(flags) else Zero(x.aval)) if is_linear else None
            for x, is_linear in zip(args, linear, strict=True)
        ]

    def batch(self, size: int, args: Any, dims: Any, *, jaxpr: ClosedJaxpr, **options: Any) -> Any:  # type: ignore[override]
        return self.batch_named(size, args, dims, None, jaxpr=jaxpr, **options)

    def batch_named(
        self, size: int, args: Any, dims: Any, axis_name: Any, *, jaxpr: ClosedJaxpr, **options: Any
    ) -> Any:
        """The rule under a vmap that names its axis: collectives inside refer to it."""
        batched = tuple(d is not None for d in dims)
        program, out_batched = batch_jaxpr(jaxpr, size, batched, axis_name)
        moved = [
            x if d is None else move_to(x, d, 0, size) for x, d in zip(args, dims, strict=True)
        ]
        outs = self(*moved, jaxpr=program, **options)
        return outs, [0 if b else None for b in out_batched]

    def partial_eval(self, trace: LinearTrace, args: Any, params: dict[str, Any]) -> list[Any]:  # type: ignore[override]
        """Run what is known now, record the linear rest."""
        options = {k: v for k, v in params.items() if k != "jaxpr"}
        split = partial_eval_jaxpr(params["jaxpr"], tuple(trace.is_unknown(x) for x in args))
        return run_split(trace, self, args, split, options, options)


jit_primitive = JitPrimitive("jit")


# ---------------------------------------------------------------------------- stages


# ---------------------------------------------------------------------------- the transformation


class Choice(NamedTuple):
    """The options of `jit`: which arguments are static and donated, and how to compile."""

    static: Places = NOWHERE
    donated: Places = NOWHERE
    host_steps: str = "allow"
    fastmath: bool = False


class _Entry:
    """What one signature of a jitted function led to."""

    __slots__ = (
        "calls", "donated", "executable", "hoisted", "jaxpr", "out_tree", "was_shortened", "way"
    )  # fmt: skip

    def __init__(
        self, jaxpr: ClosedJaxpr, out_tree: Any, hoisted: list[Any], donated: tuple[int, ...]
    ):
        self.jaxpr = jaxpr
        self.out_tree = out_tree
        self.donated = donated
        # Tracers of an enclosing transformation that the function closes over.
        self.hoisted = hoisted
        self.executable: Executable | None = None
        self.way: Callable[..., Any] | None = None
        self.was_shortened = False
        self.calls = 0


class _Programs:
    """The programs of a function by signature, and the general way to call them."""

    def __init__(self, fun: Callable[..., Any], choice: Choice):
        self.fun = fun
        self.static_places = choice.static
        self.donated_places = choice.donated
        self.options = {
            "name": function_name(fun), "host_steps": choice.host_steps, "fastmath": choice.fastmath
        }  # fmt: skip
        self.entries: dict[Any, _Entry] = {}
        # Short ways of the signatures that are positional arrays and numbers alone.
        self.flat: dict[Any, Callable[..., Any]] = {}
        self.dispatcher: Dispatcher | None = None
        self.owner: Callable[[], Jitted[..., Any] | None] = lambda: None

    def call(self, /, *args: Any, **kwargs: Any) -> Any:
        """Find the program for these arguments, or trace it, and run it."""
        if switches.jit_disabled:
            return self.fun(*args, **kwargs)
        state = core._state
        is_plain = state.trace is eval_trace and not state.axis_sizes
        if self.flat and is_plain and not kwargs:
            found = self.flat.get(tuple([_leaf_signature(x) for x in args]))
            if found is not None:
                result = found(*args)
                if result is not NotImplemented:
                    self._prefer(found, len(args), False)
                    return result
        static = self.split_static(args, kwargs)
        leaves, tree = pytree.tree_flatten(static.rest(args, kwargs))
        key = (tree, static.key(), state.axis_sizes, *[_signature(x) for x in leaves])
        entry = self.entries.get(key)
        if entry is None:
            entry = self.trace(args, kwargs, static, leaves, tree)
            if not entry.hoisted:
                self.entries[key] = entry
        if state.trace is not eval_trace:
            operands = [*entry.hoisted, *leaves]
            outs = jit_primitive(*operands, jaxpr=entry.jaxpr, **self.options)
            return entry.out_tree.unflatten(outs)
        if entry.executable is None:
            for x in leaves:
                if isinstance(x, Tracer):
                    raise core.leaked(x)
            donated = entry.donated
            entry.executable = executable_of(entry.jaxpr, **self.options, donated=donated)
        result = entry.out_tree.unflatten(entry.executable.call(leaves))
        if is_plain:
            self._shorten(entry, args, kwargs, static, leaves, tree)
        return result

    def _shorten(
        self, entry: _Entry, args: Any, kwargs: Any, static: Static, leaves: list[Any], tree: Any
    ) -> None:
        """Let following calls of this signature take a short way."""
        entry.calls += 1
        if entry.calls >= _CALLS_TO_SHORTEN and not entry.was_shortened and entry.executable:
            entry.was_shortened = True
            entry.way = short_way(entry.executable, leaves, tree, static, entry.out_tree)
            signature = tuple([_leaf_signature(x) for x in args])
            if entry.way and static is NONE_STATIC and not kwargs and None not in signature:
                self.flat[signature] = entry.way
        if entry.way is not None:
            self._prefer(entry.way, len(args), bool(kwargs))

    def _prefer(self, way: Callable[..., Any], positional: int, keywords: bool) -> None:
        """Let calls try this way before the general one."""
        if self.dispatcher is None:
            self.dispatcher = Dispatcher(self.options["name"], self.call, unusual)
            owner = self.owner()
            if owner is not None:
                owner.__call__ = self.dispatcher.function
        self.dispatcher.prefer(way, positional, keywords=keywords)

    def split_static(self, args: Any, kwargs: Any) -> Static:
        """Take the static arguments out of a call."""
        nums, names = self.static_places
        if not nums and not names:
            return NONE_STATIC
        by_position = {n: args[n] for n in nums if n < len(args)}
        return Static(by_position, {k: kwargs[k] for k in names if k in kwargs})

    def trace(self, args: Any, kwargs: Any, static: Static, leaves: list[Any], tree: Any) -> _Entry:
        """Trace the function for arguments of this signature."""
        what = f"jit of {self.options['name']}"
        positions = [i for i in range(len(args)) if i not in static.by_position]
        keys = [k for k in kwargs if k not in static.by_name]

        def names() -> list[str]:
            return chosen_names(self.fun, args, kwargs, positions, keys)

        shaped = [x for x in leaves if not hasattr(x, "shape") or not hasattr(x, "dtype")]
        check_leaves(shaped, names, what)
        avals = [abstract(x) for x in leaves]
        out_tree: list[Any] = []

        def flat(*tracers: Any) -> list[Any]:
            traced_args, traced_kwargs = pytree.tree_unflatten(tree, tracers)
            full = static.merged(traced_args)
            out = self.fun(*full, **traced_kwargs, **static.by_name)
            outs, structure = flatten_outputs(out, what)
            out_tree.append(structure)
            return outs

        weak = [core.is_weak(x) for x in leaves]
        closed = trace_to_jaxpr(flat, avals, names=names(), weak=weak, what=what)
        closed, hoisted = hoist_consts(closed, lambda c: isinstance(c, Tracer))
        donated = donated_leaves(tree, self.donated_places, static)
        return _Entry(closed, out_tree[0], hoisted, donated)

    def clear(self) -> None:
        """Forget all programs."""
        self.entries.clear()
        self.flat.clear()
        if self.dispatcher is not None:
            self.dispatcher.clear()


_CALLS_TO_SHORTEN = 2  # a function called once needs no short way


class Jitted(Generic[P, R]):
    """A jitted function; see `jit`."""

    # `__call__` is a slot: Python calls what an instance has there. In the beginning that is
    # `_Programs.call`, later a dispatcher of machine code, with no Python function on the way.
    if not TYPE_CHECKING:
        __slots__ = ("__call__", "__dict__", "__weakref__")
    else:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def __init__(self, fun: Callable[P, R], choice: Choice):
        functools.update_wrapper(self, fun)
        static = complete_places(fun, *choice.static, "static")
        donated = complete_places(fun, *choice.donated, "donate")
        self._choice = choice._replace(static=static, donated=donated)
        self._programs = _Programs(fun, self._choice)
        self._programs.owner = weakref.ref(self)
        self.__call__ = self._programs.call

    def __reduce__(self) -> Any:
        """Like a function, by its name, and then a copy is the function itself; else made anew."""
        name = getattr(self, "__qualname__", "")
        if getattr(sys.modules.get(self.__module__), name, None) is self:
            return name
        return Jitted, (self._programs.fun, self._choice)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else _BoundMethod(self, instance)

    def trace(self, *args: P.args, **kwargs: P.kwargs) -> Traced:
        """Trace for arguments of this signature (arrays or ShapeDtypeStructs)."""
        programs = self._programs
        static = programs.split_static(args, kwargs)
        static.key()  # refuses what cannot be hashed, as a call would
        leaves, tree = pytree.tree_flatten(static.rest(args, kwargs))
        entry = programs.trace(args, kwargs, static, leaves, tree)
        return Traced(entry.jaxpr, tree, entry.out_tree, programs.options)

    def lower(self, *args: P.args, **kwargs: P.kwargs) -> Lowered:
        """Trace for this signature; gives the stages of the compiler."""
        return self.trace(*args, **kwargs).lower()

    def clear_cache(self) -> None:
        """Forget all traced signatures and their machine code."""
        self._programs.clear()


def _leaf_signature(x: Any) -> Any:
    """The signature of a plain array or number; None for what may be a container."""
    t = type(x)
    if t is np.ndarray:
        return x.shape, x.dtype
    return t if t in _NUMBERS else None


_NUMBERS = frozenset(dtypes.PYTHON_SCALARS) | {np.dtype(code).type for code in "?bhilqBHILQefdFD"}


def _signature(x: Any) -> Any:
    """What the machine code for a leaf depends on."""
    t = type(x)
    if t is np.ndarray:
        return x.shape, x.dtype
    if t in dtypes.PYTHON_SCALARS:
        return t
    if isinstance(x, Tracer):
        return x.aval, x.weak_type
    if isinstance(x, np.generic | np.ndarray):
        return x.shape, x.dtype
    return t


class _BoundMethod:
    """A jitted method of one object. What the object holds is part of the signature."""

    def __init__(self, jitted: Jitted[..., Any], instance: Any):
        self._jitted = jitted
        self._instance = instance

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return self._jitted._programs.fun

    @property
    def __name__(self) -> str:
        return self._jitted.__name__  # type: ignore[attr-defined]

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self._jitted.__doc__

    def _function(self) -> Jitted[..., Any]:
        jitted, instance = self._jitted, self._instance
        if not pytree.all_leaves([instance]):
            return functools.partial(jitted, instance)  # type: ignore[return-value]
        methods = jitted.__dict__.setdefault("_methods", {})
        key = (id(instance), tuple((k, _field_key(v)) for k, v in vars(instance).items()))
        if key not in methods:
            bound = functools.partial(jitted._programs.fun, instance)
            methods[key] = Jitted(bound, jitted._choice._replace(static=NOWHERE, donated=NOWHERE))
            methods[key]._held = list(vars(instance).values())  # keeps the ids in the key unique
        return methods[key]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if switches.jit_disabled:
            return self._jitted._programs.fun(self._instance, *args, **kwargs)
        return self._function()(*args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Traced:
        """Trace for arguments of this signature."""
        return self._function().trace(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """Trace for this signature; gives the stages of the compiler."""
        return self._function().lower(*args, **kwargs)


def _field_key(value: Any) -> Any:
    if type(value) in (bool, int, float, complex, str, type(None)):
        return type(value), value
    return id(value)


@overload
def jit(
    fun: Callable[P, R],
    *,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    donate_argnums: int | Sequence[int] = (),
    donate_argnames: str | Sequence[str] = (),
    host_steps: str = "allow",
    fastmath: bool = False,
) -> Jitted[P, R]: ...


@overload
def jit(
    fun: None = None,
    *,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    donate_argnums: int | Sequence[int] = (),
    donate_argnames: str | Sequence[str] = (),
    host_steps: str = "allow",
    fastmath: bool = False,
) -> Callable[[Callable[P, R]], Jitted[P, R]]: ...


def jit(
    fun: Callable[..., Any] | None = None,
    *,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    donate_argnums: int | Sequence[int] = (),
    donate_argnames: str | Sequence[str] = (),
    host_steps: str = "allow",
    fastmath: bool = False,
) -> Any:
    """Compile `fun` with LLVM; the result is called like `fun` and returns the same values.

    `fun` is traced once per structure, shapes and dtypes of its arguments; then machine code runs.
    Static arguments are seen by `fun` as they are; they are told apart by value (arrays by
    content). Arrays that `fun` closes over are read at every call. `host_steps="error"` refuses
    operations that have no native form instead of running them in Python. `fastmath=True` lets LLVM
    reorder and contract arithmetic, which is faster and no longer rounds as NumPy does; nan and
    infinities stay what they are.

    Arrays in donated arguments may be written over, where a result of the same shape and dtype can
    be computed in their place: that result is then the array that was given. Only writeable,
    contiguous arrays that share no memory with other arguments are; of others a copy is used.

    Usable as a decorator, with or without options. `.lower(*args)` gives every compiler stage.

    >>> import numpy as np
    >>> jit(lambda x: np.sum(np.sin(x) ** 2))(np.zeros(3))
    np.float64(0.0)

    Raises TypeError for arguments that are not arrays, TracerBoolConversionError for an `if` on a
    traced value, ValueError for static arguments that do not exist or cannot be hashed.
    """
    if fun is None:
        return functools.partial(
            jit,
            static_argnums=static_argnums,
            static_argnames=static_argnames,
            donate_argnums=donate_argnums,
            donate_argnames=donate_argnames,
            host_steps=host_steps,
            fastmath=fastmath,
        )
    if not callable(fun):
        raise TypeError(f"jit takes a function, got {fun!r} of type {type(fun).__name__}.")
    if host_steps not in ("allow", "error"):
        raise ValueError(f"host_steps is 'allow' or 'error', got {host_steps!r}.")
    static = _tuple(static_argnums, int), _tuple(static_argnames, str)
    donated = _tuple(donate_argnums, int), _tuple(donate_argnames, str)
    return Jitted(fun, Choice(static, donated, host_steps, fastmath))


def _tuple(x: Any, single: type) -> tuple[Any, ...]:
    return (x,) if isinstance(x, single) else tuple(x)
