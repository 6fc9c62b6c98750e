"""Primitives, traces and tracers: how an operation finds its meaning.

Calling a primitive asks the *current trace* what that means. Normally it is `EvalTrace`, which
runs the primitive's `impl`: NumPy on plain arrays. A transformation makes a trace of its own
current; that trace makes its parent current again before it runs a primitive's rule, so rules are
written with the same primitives, and traces nest. Context picks the interpreter, not data:
a tracer only answers whether it belongs to a given trace ("stackless" tracing, as in
https://docs.jax.dev/en/latest/autodidax2_part1.html).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from functrans import dtypes
from functrans.config import enter_unusual, leave_unusual
from functrans.errors import (
    ConcretizationTypeError,
    MissingRule,
    TracerArrayConversionError,
    TracerBoolConversionError,
    TracerIntegerConversionError,
    UnexpectedTracerError,
)
from functrans.ir import ShapedArray
from functrans.source_info import Source, current_source

# ---------------------------------------------------------------------------- primitives


class Primitive:
    """An operation; its methods are its rules. Instances are functions: `ops.sin(x)`.

    Positional arguments are operands (traced), keyword arguments are parameters (static,
    hashable). A subclass gives:

    - `abstract_eval(*avals, **params) -> aval` (a list of avals with `multiple_results`), which is
      also where bad operands are refused;
    - `impl(*arrays, **params)`: the value, by NumPy;
    - `jvp(primals, tangents, **params) -> (out, out_tangent)`; tangents may be `Zero`, not all are;
    - `transpose(ct, *args, **params) -> cotangents`, one per operand, None for those that are not
      `Linear` placeholders; only primitives that occur in linear programs need it;
    - `batch(size, args, dims, **params) -> (out, out_dim)`; a dim is an int, or None: not batched;
    - `lower(builder, *operands, **params)`: what one element is (see `compiler/lowering/`).
      Without it the operation runs `impl` as a host step, shown as such.
    - `partial_eval(trace, args, params)`: higher-order primitives only;
    - `callee(*avals, **params) -> ClosedJaxpr`: of a call, the program that compiled code has in
      its place.

    `has_effects` marks operations that are there for what they do, not for their results: every
    pass keeps each of them, and their order.
    """

    multiple_results = False
    has_effects = False
    lower: Any = None
    partial_eval: Any = None
    callee: Any = None

    def __init__(self, name: str):
        self.name = name
        self.declared_at = _declaration()

    def __call__(self, *args: Any, **params: Any) -> Any:
        return _state.trace.process(self, args, params)

    def abstract_eval(self, *avals: ShapedArray, **params: Any) -> Any:
        raise self.missing("abstract_eval", "every use of it")

    def impl(self, *args: Any, **params: Any) -> Any:
        raise self.missing("impl", "evaluation")

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
        raise self.missing("jvp", "forward- and reverse-mode differentiation")

    def transpose(self, ct: Any, *args: Any, **params: Any) -> Any:
        raise self.missing("transpose", "reverse-mode differentiation or linear_transpose")

    def batch(self, size: int, args: Sequence[Any], dims: Sequence[Any], **params: Any) -> Any:
        raise self.missing("batch", "vmap")

    def missing(self, rule: str, reason: str) -> MissingRule:
        """The error for a rule that this primitive does not have."""
        return MissingRule(
            f"primitive '{self.name}' has no `{rule}` rule, which {reason} needs.\n"
            f"  It is declared at {self.declared_at}: give it a `{rule}` there, or express the "
            "function that calls it with other operations."
        )

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> str:
        return self.name


def _declaration() -> str:
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name == "__init__":
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "an unknown place"


# ---------------------------------------------------------------------------- symbolic values


class Zero:
    """A tangent or cotangent known to be zero; never materialized unless a value is needed."""

    __slots__ = ("aval",)

    def __init__(self, aval: ShapedArray):
        self.aval = aval

    @property
    def shape(self) -> tuple[int, ...]:
        return self.aval.shape

    @property
    def dtype(self) -> np.dtype:
        return self.aval.dtype

    def __repr__(self) -> str:
        return f"Zero({self.aval})"


class Linear:
    """The placeholder, in a `transpose` rule, of an operand that the program is linear in."""

    __slots__ = ("aval",)

    def __init__(self, aval: ShapedArray):
        self.aval = aval

    @property
    def shape(self) -> tuple[int, ...]:
        return self.aval.shape

    @property
    def dtype(self) -> np.dtype:
        return self.aval.dtype

    def __repr__(self) -> str:
        return f"Linear({self.aval})"


def instantiate(x: Any) -> Any:
    """The array of a `Zero` (float0 as an array of no data); other values as they are."""
    return np.zeros(x.aval.shape, x.aval.dtype) if type(x) is Zero else x


# ---------------------------------------------------------------------------- traces


class Trace:
    """An interpretation of primitives. `parent` is the trace below: the one its rules run in."""

    parent: Trace
    alive = True

    def process(self, primitive: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        raise TypeError(f"{type(self).__name__} has no process method")


class EvalTrace(Trace):
    """The end of every chain of traces: plain NumPy."""

    def process(self, primitive: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        for x in args:
            if isinstance(x, Tracer):
                raise leaked(x)
        return primitive.impl(*args, **params)


eval_trace = EvalTrace()


class _State(threading.local):
    trace: Trace = eval_trace
    axis_sizes: tuple[tuple[Any, int], ...] = ()
    source: Source | None = None


_state = _State()


def current_trace() -> Trace:
    """The trace that gives the next operation its meaning."""
    return _state.trace


@contextmanager
def current(trace: Trace) -> Iterator[None]:
    """Make `trace` current inside the block."""
    before = _state.trace
    _state.trace = trace
    thread = enter_unusual()
    try:
        yield
    finally:
        leave_unusual(thread)
        _state.trace = before


def swap_trace(trace: Trace) -> Trace:
    """Make `trace` current and return the one that was, inside a block of `current`."""
    before = _state.trace
    _state.trace = trace
    return before


def swap_source(source: Source | None) -> Source | None:
    """Let new equations say they come from `source`, as when a jaxpr is replayed."""
    before = _state.source
    _state.source = source
    return before


def eqn_source() -> Source | None:
    """Where the operation being traced comes from: a replayed equation, or the user's frame."""
    return _state.source or current_source()


@contextmanager
def named_axis(name: Any, size: int) -> Iterator[None]:
    """Bind an axis name inside the block (`vmap(..., axis_name=...)`)."""
    before = _state.axis_sizes
    _state.axis_sizes = (*before, (name, size))
    thread = enter_unusual()
    try:
        yield
    finally:
        leave_unusual(thread)
        _state.axis_sizes = before


def axis_environment() -> tuple[tuple[Any, int], ...]:
    """The axis names in scope with their sizes, outermost first."""
    return _state.axis_sizes


def axis_size(name: Any) -> int:
    """The size of a named axis. Raises NameError where no enclosing vmap binds it."""
    for bound, size in reversed(_state.axis_sizes):
        if bound == name:
            return size
    bound_names = [n for n, _ in _state.axis_sizes] or "none"
    raise NameError(
        f"axis name {name!r} is not bound here (bound: {bound_names}). "
        f"Call this inside vmap(..., axis_name={name!r})."
    )


# ---------------------------------------------------------------------------- tracers


_WRITE_INSTEAD = (
    "Writing into an array, `buf = np.zeros(n); buf[i] = x`, cannot be traced: write "
    "`buf = functrans.numpy.at(buf, i).set(x)`, or build the result with np.stack, np.concatenate "
    "or np.where."
)


class Tracer:
    """Stands for an array while a function is traced: it knows its `aval` and its trace.

    `weak_type` marks values that came from Python scalars: they do not widen others (NEP 50).
    Array methods and operators are attached by `functrans.numpy.array_methods`.
    """

    __slots__ = ("__weakref__", "_trace", "aval", "weak_type")
    __array_priority__ = 1000

    _trace: Trace
    aval: ShapedArray
    weak_type: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.aval.shape

    @property
    def dtype(self) -> np.dtype:
        return self.aval.dtype

    @property
    def ndim(self) -> int:
        return len(self.aval.shape)

    @property
    def size(self) -> int:
        return self.aval.size

    @property
    def itemsize(self) -> int:
        return self.aval.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.aval.size * self.aval.dtype.itemsize

    def concrete(self) -> Any:
        """The value, where this kind of tracer has one; else None."""
        return None

    def origin(self) -> str:
        """Where this value comes from, for error messages."""
        return ""

    def __len__(self) -> int:
        if not self.aval.shape:
            raise TypeError("len() of unsized object")
        return self.aval.shape[0]

    def _value_or(self, error: type[Exception], what: str, remedy: str) -> Any:
        value = self.concrete()
        if value is None:
            raise error(
                f"{what} needs the value of a traced array {self.aval}{self.origin()}, "
                f"but only its shape and dtype are known here.\n  {remedy}"
            )
        return value

    def __bool__(self) -> bool:
        remedy = (
            "Instead of `if`/`while` on a traced value use functrans.numpy.where(condition, x, y), "
            "compute outside of jit/vmap, or make the argument static: jit(f, static_argnums=...)."
        )
        return bool(self._value_or(TracerBoolConversionError, "A Python truth test", remedy))

    def __index__(self) -> int:
        remedy = (
            "Shapes, ranges and Python list indices must be known while tracing: take them from "
            "x.shape, or make the argument static: jit(f, static_argnums=...)."
        )
        value = self._value_or(TracerIntegerConversionError, "A Python integer", remedy)
        return np.asarray(value).__index__()

    def __int__(self) -> int:
        remedy = "Use x.astype(int) to stay traced."
        return int(self._value_or(ConcretizationTypeError, "int()", remedy))

    def __float__(self) -> float:
        if self.concrete() is not None:
            raise ConcretizationTypeError(
                f"float() of a traced value {self.aval}{self.origin()} would drop its derivative.\n"
                "  Use it as it is, with NumPy functions (np.sin, not math.sin); or, if no "
                "derivative should flow, float(functrans.lax.stop_gradient(x)).\n"
                f"  {_WRITE_INSTEAD}"
            )
        remedy = (
            "Use x.astype(float), and NumPy functions instead of the math module's.\n"
            f"  {_WRITE_INSTEAD}"
        )
        return self._value_or(ConcretizationTypeError, "float()", remedy)

    def __complex__(self) -> complex:
        return complex(self.__float__())

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TracerArrayConversionError(
            f"A traced value {self.aval}{self.origin()} was handed to code that needs a plain "
            f"NumPy array.\n  {_WRITE_INSTEAD} For np.array([x, y]) write np.stack([x, y])."
        )

    def __hash__(self) -> int:
        raise TypeError(f"unhashable type: a traced array {self.aval}")

    def __repr__(self) -> str:
        value = self.concrete()
        shown = "" if value is None else f" = {value}"
        return f"Traced<{self.aval}{shown}>"

    def __format__(self, spec: str) -> str:
        value = self.concrete()
        return repr(self) if value is None else format(value, spec)

    def __copy__(self) -> Tracer:
        return self

    def __deepcopy__(self, memo: Any) -> Tracer:
        return self


def leaked(tracer: Tracer) -> UnexpectedTracerError:
    """The error for a tracer that outlived its transformation."""
    return UnexpectedTracerError(
        f"A traced value {tracer.aval}{tracer.origin()} was used after the transformation that "
        "made it (jit, grad, vmap, ...) had ended: it leaked through a global, a closure, an "
        "attribute or a mutated argument.\n  Return it from the transformed function instead."
    )


# ---------------------------------------------------------------------------- avals of values

_NUMPY_TYPES = (np.ndarray, np.generic)


def get_aval(x: Any) -> ShapedArray:
    """The aval of a traced value, array, NumPy scalar or Python scalar.

    Raises TypeError for anything else, naming it.
    """
    if isinstance(x, Tracer):
        return x.aval
    if isinstance(x, _NUMPY_TYPES):
        if not dtypes.is_supported(x.dtype) and x.dtype != dtypes.float0:
            raise TypeError(
                f"an array of dtype {x.dtype} is not numeric: bool, integer, float and complex "
                "dtypes of up to 128 bits can be traced."
            )
        dtype = x.dtype if x.dtype.isnative else x.dtype.newbyteorder("=")
        return ShapedArray(x.shape, dtype)
    if type(x) in dtypes.PYTHON_SCALARS:
        return ShapedArray((), dtypes.scalar_dtype(x))
    if isinstance(x, Zero | Linear):
        return x.aval
    raise TypeError(f"{x!r} of type {type(x).__name__} is not an array or a number.")


def is_array(x: Any) -> bool:
    """Whether `x` is a traced value, an array, or a NumPy or Python scalar."""
    return isinstance(x, (Tracer, np.ndarray, np.generic, bool, int, float, complex))


def is_weak(x: Any) -> bool:
    """Whether `x` is a Python scalar, or stands for one."""
    return type(x) in dtypes.PYTHON_SCALARS or (isinstance(x, Tracer) and x.weak_type)


def source_text(source: Source | None) -> str:
    """`source` for an error message."""
    return str(source) if source is not None else "an unknown place"


__all__ = [
    "EvalTrace",
    "Linear",
    "Primitive",
    "Trace",
    "Tracer",
    "Zero",
    "axis_environment",
    "axis_size",
    "current",
    "current_trace",
    "eqn_source",
    "eval_trace",
    "get_aval",
    "instantiate",
    "is_array",
    "is_weak",
    "leaked",
    "named_axis",
    "source_text",
    "swap_source",
    "swap_trace",
]
