"""`jit`: trace once per signature, compile, call.

The signature of a call is the structure of its arguments with the shape, dtype and weakness of
every leaf, the static arguments by value, and the named axes in scope. `jit` is also a primitive
whose parameter is the traced program, so that every transformation of a jitted function is a
jitted function: each rule here turns one program into another and binds `jit` again.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, overload

import numpy as np

from functrans import core, dtypes, pytree
from functrans.arguments import (
    abstract,
    check_leaves,
    chosen_names,
    flatten_outputs,
    function_name,
)
from functrans.checking import check_jaxpr
from functrans.compiler import pipeline
from functrans.config import switches
from functrans.core import Linear, Primitive, Tracer, Zero, eval_trace, get_aval
from functrans.interpreters.batching import batch_jaxpr, move_to
from functrans.interpreters.jvp import jvp_jaxpr
from functrans.interpreters.linearize import LinearTrace, partial_eval_jaxpr
from functrans.interpreters.staging import trace_to_jaxpr
from functrans.interpreters.transpose import transpose_jaxpr
from functrans.ir import ClosedJaxpr, ShapedArray
from functrans.runtime.executable import Executable

P = ParamSpec("P")
R = TypeVar("R")

# ---------------------------------------------------------------------------- the primitive


class JitPrimitive(Primitive):
    """Call a traced program. Parameters: `jaxpr`, a ClosedJaxpr; `name`; `host_steps`."""

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
        unknown = tuple(trace.is_unknown(x) for x in args)
        known, linear, out_unknown = partial_eval_jaxpr(params["jaxpr"], unknown)
        known_args = [x for x, u in zip(args, unknown, strict=True) if not u]
        with core.current(trace.parent):
            results = self(*known_args, jaxpr=known, **options)
        count = sum(not u for u in out_unknown)
        residuals = [trace.atom(r) for r in results[count:]]
        unknown_atoms = [trace.atom(x) for x, u in zip(args, unknown, strict=True) if u]
        linear_params = {"jaxpr": linear, **options}
        tracers = iter(
            trace.record(self, [*residuals, *unknown_atoms], linear_params, linear.out_avals)
        )
        knowns = iter(results[:count])
        return [next(tracers) if u else next(knowns) for u in out_unknown]


jit_primitive = JitPrimitive("jit")


def executable_of(
    closed: ClosedJaxpr, *, name: str = "main", host_steps: str = "allow"
) -> Executable:
    """The machine code of a program, compiled when it is first wanted."""
    key = ("executable", host_steps)
    found = closed.derived.get(key)
    if found is None:
        if switches.check_ir:
            check_jaxpr(closed, "tracing")
        found = closed.derived[key] = pipeline.compile_closed_jaxpr(
            closed, name=name, host_steps=host_steps
        )
    return found


# ---------------------------------------------------------------------------- stages


class Traced:
    """A function traced for one signature: `.jaxpr`, and `.lower()`."""

    def __init__(self, jaxpr: ClosedJaxpr, in_tree: Any, out_tree: Any, options: dict[str, Any]):
        self.jaxpr = jaxpr
        self.in_tree = in_tree
        self.out_tree = out_tree
        self.options = options

    def lower(self) -> Lowered:
        """The stages of the compiler for this program."""
        return Lowered(self)


class Lowered:
    """Every stage between a traced function and machine code, each printable.

    `.jaxpr`, `.simplified`, `.loop_program` (Python text that runs), `.llvm`, `.assembly`.
    """

    def __init__(self, traced: Traced):
        self._traced = traced
        self.jaxpr = traced.jaxpr
        self.in_tree = traced.in_tree
        self.out_tree = traced.out_tree

    @functools.cached_property
    def simplified(self) -> ClosedJaxpr:
        """The jaxpr after inlining, algebra, common subexpressions and dead code."""
        return pipeline.simplify(self.jaxpr)

    @functools.cached_property
    def program(self) -> Any:
        """The loop program as data (`functrans.loop_ir.Program`)."""
        return pipeline.lower_to_program(self.jaxpr, self._traced.options["name"])

    @property
    def loop_program(self) -> str:
        """The loop program as Python text; it runs."""
        return pipeline.program_to_python(self.program)

    @functools.cached_property
    def _executable(self) -> Any:
        return executable_of(self.jaxpr, **self._traced.options)

    @property
    def llvm(self) -> str:
        """The optimized LLVM module."""
        return self._executable.llvm

    @property
    def assembly(self) -> str:
        """The machine code of this CPU, as text."""
        return self._executable.asm

    def as_text(self) -> str:
        """The loop program: the stage that says what will run."""
        return self.loop_program

    def compile(self) -> Compiled:
        """Compile now, and return what runs for exactly this signature."""
        return Compiled(self, self._executable)


class Compiled:
    """A compiled function for one signature; call it with arguments of that signature."""

    def __init__(self, lowered: Lowered, executable: Any):
        self._lowered = lowered
        self._executable = executable

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, tree = pytree.tree_flatten((args, kwargs))
        if tree != self._lowered.in_tree:
            raise TypeError(
                f"compiled for arguments of structure {self._lowered.in_tree}, called with {tree}."
            )
        for i, (x, aval) in enumerate(zip(leaves, self._lowered.jaxpr.in_avals, strict=True)):
            if get_aval(x) != aval:
                raise TypeError(f"compiled for leaf {i} of type {aval}, called with {get_aval(x)}.")
        return pytree.tree_unflatten(self._lowered.out_tree, self._executable(leaves))

    def as_text(self) -> str:
        """The machine code, as text."""
        return self._lowered.assembly


# ---------------------------------------------------------------------------- the transformation


class _Entry:
    """What one signature of a jitted function led to."""

    __slots__ = ("executable", "hoisted", "jaxpr", "out_tree", "returns_leaf")

    def __init__(self, jaxpr: ClosedJaxpr, out_tree: Any, hoisted: list[Any]):
        self.jaxpr = jaxpr
        self.out_tree = out_tree
        self.hoisted = (
            hoisted  # tracers of an enclosing transformation that the function closes over
        )
        self.executable: Any = None
        self.returns_leaf = pytree.treedef_is_leaf(out_tree)


class Jitted(Generic[P, R]):
    """A jitted function; see `jit`."""

    def __init__(
        self,
        fun: Callable[P, R],
        static_argnums: tuple[int, ...],
        static_argnames: tuple[str, ...],
        host_steps: str,
    ):
        functools.update_wrapper(self, fun)
        self._fun = fun
        self._static_argnums, self._static_argnames = _static_arguments(
            fun, static_argnums, static_argnames
        )
        self._has_static = bool(self._static_argnums or self._static_argnames)
        self._options = {"name": function_name(fun), "host_steps": host_steps}
        self._entries: dict[Any, _Entry] = {}
        self._simple: dict[Any, _Entry] = {}  # calls of positional leaves, by their signatures

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if switches.jit_disabled:
            return self._fun(*args, **kwargs)
        state = core._state
        if not kwargs and not self._has_static and state.trace is eval_trace:
            # The common call of plain arrays and numbers: no tree to take apart.
            simple = tuple([_leaf_signature(x) for x in args])
            found = self._simple.get(simple)
            if found is not None and not state.axis_sizes:
                outs = found.executable(args)
                return outs[0] if found.returns_leaf else found.out_tree.unflatten(outs)
        else:
            simple = None
        static = self._split_static(args, kwargs) if self._has_static else _NONE_STATIC
        leaves, tree = pytree.tree_flatten(static.rest(args, kwargs))
        key = (tree, static.key(), state.axis_sizes, *[_signature(x) for x in leaves])
        entry = self._entries.get(key)
        if entry is None:
            entry = self._trace(args, kwargs, static, leaves, tree)
            if not entry.hoisted:
                self._entries[key] = entry
        if state.trace is eval_trace:
            run = entry.executable
            if run is None:
                for x in leaves:
                    if isinstance(x, Tracer):
                        raise core.leaked(x)
                # Its `call`, not itself: a method less per call.
                run = entry.executable = executable_of(entry.jaxpr, **self._options).call
            if simple is not None and None not in simple and not state.axis_sizes:
                self._simple[simple] = entry
            outs = run(leaves)
        else:
            operands = [*entry.hoisted, *leaves]
            outs = jit_primitive(*operands, jaxpr=entry.jaxpr, **self._options)
        return entry.out_tree.unflatten(outs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else _BoundMethod(self, instance)

    def trace(self, *args: P.args, **kwargs: P.kwargs) -> Traced:
        """Trace for arguments of this signature (arrays or ShapeDtypeStructs)."""
        static = self._split_static(args, kwargs)
        static.key()  # refuses what cannot be hashed, as a call would
        leaves, tree = pytree.tree_flatten(static.rest(args, kwargs))
        entry = self._trace(args, kwargs, static, leaves, tree)
        return Traced(entry.jaxpr, tree, entry.out_tree, self._options)

    def lower(self, *args: P.args, **kwargs: P.kwargs) -> Lowered:
        """Trace for this signature; gives the stages of the compiler."""
        return self.trace(*args, **kwargs).lower()

    def clear_cache(self) -> None:
        """Forget all traced signatures and their machine code."""
        self._entries.clear()
        self._simple.clear()

    def _split_static(self, args: Any, kwargs: Any) -> _Static:
        """Take the static arguments out of a call."""
        by_position = {n: args[n] for n in self._static_argnums if n < len(args)}
        by_name = {k: kwargs[k] for k in self._static_argnames if k in kwargs}
        return _Static(by_position, by_name)

    def _trace(
        self, args: Any, kwargs: Any, static: _Static, leaves: list[Any], tree: Any
    ) -> _Entry:
        what = f"jit of {self._options['name']}"
        positions = [i for i in range(len(args)) if i not in static.by_position]
        keys = [k for k in kwargs if k not in static.by_name]

        def names() -> list[str]:
            return chosen_names(self._fun, args, kwargs, positions, keys)

        shaped = [x for x in leaves if not hasattr(x, "shape") or not hasattr(x, "dtype")]
        check_leaves(shaped, names, what)
        avals = [abstract(x) for x in leaves]
        out_tree: list[Any] = []

        def flat(*tracers: Any) -> list[Any]:
            traced_args, traced_kwargs = pytree.tree_unflatten(tree, tracers)
            full = _merge_static(traced_args, static.by_position)
            fun: Callable[..., Any] = self._fun
            out = fun(*full, **traced_kwargs, **static.by_name)
            outs, structure = flatten_outputs(out, what)
            out_tree.append(structure)
            return outs

        weak = [core.is_weak(x) for x in leaves]
        closed = trace_to_jaxpr(flat, avals, names=names(), weak=weak, what=what)
        closed, hoisted = _hoist_tracers(closed)
        return _Entry(closed, out_tree[0], hoisted)


class _Static:
    """The static arguments of a call."""

    __slots__ = ("by_name", "by_position")

    def __init__(self, by_position: dict[int, Any], by_name: dict[str, Any]):
        self.by_position = by_position
        self.by_name = by_name

    def key(self) -> Any:
        """What tells them from those of other calls."""
        places = (*self.by_position.items(), *sorted(self.by_name.items()))
        return tuple((place, _static_key(value, place)) for place, value in places)

    def rest(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments that are traced."""
        if not self.by_position and not self.by_name:
            return args, kwargs
        dynamic = tuple(x for i, x in enumerate(args) if i not in self.by_position)
        return dynamic, {k: v for k, v in kwargs.items() if k not in self.by_name}


_NONE_STATIC = _Static({}, {})


def _merge_static(args: Sequence[Any], static: dict[int, Any]) -> list[Any]:
    full = list(args)
    for n in sorted(static):
        full.insert(n, static[n])
    return full


def _hoist_tracers(closed: ClosedJaxpr) -> tuple[ClosedJaxpr, list[Any]]:
    """Turn constants that are tracers of an enclosing transformation into arguments."""
    pairs = list(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    traced = [(v, c) for v, c in pairs if isinstance(c, Tracer)]
    if not traced:
        return closed, []
    kept = [(v, c) for v, c in pairs if not isinstance(c, Tracer)]
    jaxpr = closed.jaxpr.replace(
        constvars=[v for v, _ in kept], invars=[*(v for v, _ in traced), *closed.jaxpr.invars]
    )
    return ClosedJaxpr(jaxpr, [c for _, c in kept]), [c for _, c in traced]


def _leaf_signature(x: Any) -> Any:
    """The signature of a plain array or number; None for what may be a container."""
    t = type(x)
    if t is np.ndarray:
        return x.shape, x.dtype
    return t if t in _NUMBERS else None


_NUMBERS = frozenset(dtypes.PYTHON_SCALARS) | {np.dtype(code).type for code in "?bhilqBHILQfdFD"}


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


class _ArrayByContent:
    """A static ndarray argument: equal contents are the same program."""

    def __init__(self, x: np.ndarray):
        self.key = (x.shape, x.dtype.str, x.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ArrayByContent) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _static_key(value: Any, place: int | str) -> Any:
    if isinstance(value, np.ndarray):
        return _ArrayByContent(value)
    try:
        hash(value)
    except TypeError:
        raise ValueError(
            f"the static argument {place!r} = {value!r} of type {type(value).__name__} is not "
            "hashable, so calls cannot be told apart by it.\n  Pass a tuple instead of a list, or "
            "a frozen dataclass."
        ) from None
    return type(value), value


class _BoundMethod:
    """A jitted method of one object. What the object holds is part of the signature."""

    def __init__(self, jitted: Jitted[..., Any], instance: Any):
        self._jitted = jitted
        self._instance = instance
        functools.update_wrapper(self, jitted._fun)

    def _function(self) -> Jitted[..., Any]:
        jitted, instance = self._jitted, self._instance
        if not pytree.all_leaves([instance]):
            return functools.partial(jitted, instance)  # type: ignore[return-value]
        methods = jitted.__dict__.setdefault("_methods", {})
        key = (id(instance), tuple((k, _field_key(v)) for k, v in vars(instance).items()))
        if key not in methods:
            bound = functools.partial(jitted._fun, instance)
            methods[key] = Jitted(bound, (), (), jitted._options["host_steps"])
            methods[key]._held = list(vars(instance).values())  # keeps the ids in the key unique
        return methods[key]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if switches.jit_disabled:
            return self._jitted._fun(self._instance, *args, **kwargs)
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


def _static_arguments(
    fun: Callable[..., Any], argnums: tuple[int, ...], argnames: tuple[str, ...]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Complete positions by names and names by positions, as far as the signature tells."""
    if not argnums and not argnames:
        return (), ()
    try:
        parameters = list(inspect.signature(fun).parameters.values())
    except (ValueError, TypeError):
        return tuple(sorted(argnums)), argnames
    positional = [
        p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    accepts_more = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    nums = {n + len(positional) if n < 0 else n for n in argnums}
    for n in nums:
        if n >= len(positional) and not accepts_more:
            raise ValueError(
                f"jit of {function_name(fun)}: static_argnums has {n}, but the function takes "
                f"{len(positional)} positional argument(s) ({', '.join(positional)})."
            )
    known = {p.name for p in parameters}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in argnames:
        if name not in known and not open_ended:
            raise ValueError(
                f"jit of {function_name(fun)}: static_argnames has {name!r}, which is not a "
                f"parameter ({', '.join(p.name for p in parameters)})."
            )
    names = set(argnames) | {positional[n] for n in nums if n < len(positional)}
    nums |= {i for i, name in enumerate(positional) if name in names}
    return tuple(sorted(nums)), tuple(sorted(names))


@overload
def jit(
    fun: Callable[P, R],
    *,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    host_steps: str = "allow",
) -> Jitted[P, R]: ...


@overload
def jit(
    fun: None = None,
    *,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    host_steps: str = "allow",
) -> Callable[[Callable[P, R]], Jitted[P, R]]: ...


def jit(
    fun: Callable[..., Any] | None = None,
    *,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    host_steps: str = "allow",
) -> Any:
    """Compile `fun` with LLVM; the result is called like `fun` and returns the same values.

    `fun` is traced once per structure, shapes and dtypes of its arguments; then machine code runs.
    Static arguments are seen by `fun` as they are; they are told apart by value (arrays by
    content). Arrays that `fun` closes over are read at every call. `host_steps="error"` refuses
    operations that have no native form instead of running them in Python.

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
            host_steps=host_steps,
        )
    if not callable(fun):
        raise TypeError(f"jit takes a function, got {fun!r} of type {type(fun).__name__}.")
    if host_steps not in ("allow", "error"):
        raise ValueError(f"host_steps is 'allow' or 'error', got {host_steps!r}.")
    nums = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
    names = (static_argnames,) if isinstance(static_argnames, str) else tuple(static_argnames)
    return Jitted(fun, nums, names, host_steps)
