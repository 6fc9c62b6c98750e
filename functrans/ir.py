"""The jaxpr: a small typed program as plain data.

    { lambda ; a:f64[3]. let b:f64[3] = sin a; c:f64[] = reduce_sum[axes=(0,)] b in (c,) }

A `Jaxpr` has constant and input variables, a list of equations in order, and output atoms. An atom
is a `Var` (assigned once) or a `Literal`. A `ClosedJaxpr` pairs a jaxpr with the values of its
constants. Parameters of an equation are static data; some hold `ClosedJaxpr`s (`jit`).

Nothing here changes after it is built, and everything may be walked by users.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from functrans import dtypes
from functrans.source_info import Source

if TYPE_CHECKING:
    from functrans.core import Primitive


class ShapedArray:
    """What is known of a value while tracing: its shape and dtype."""

    __slots__ = ("_hash", "dtype", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype):
        self.shape = shape
        self.dtype = dtype
        self._hash = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        n = 1
        for extent in self.shape:
            n *= extent
        return n

    def update(self, *, shape: tuple[int, ...] | None = None, dtype: np.dtype | None = None):
        """A copy with another shape or dtype."""
        return ShapedArray(
            self.shape if shape is None else shape, self.dtype if dtype is None else dtype
        )

    def tangent_aval(self) -> ShapedArray:
        """The aval of tangents and cotangents of such a value."""
        if dtypes.is_inexact(self.dtype):
            return self
        return ShapedArray(self.shape, dtypes.float0)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            type(other) is ShapedArray and self.shape == other.shape and self.dtype == other.dtype
        )

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash((self.shape, self.dtype))
        return self._hash

    def __repr__(self) -> str:
        return f"{dtypes.short_name(self.dtype)}[{','.join(map(str, self.shape))}]"


class Var:
    """A variable of a jaxpr: compared by identity, assigned once.

    `name` is a hint from the user's argument names, used when printing asks for it.
    """

    __slots__ = ("aval", "name")

    def __init__(self, aval: ShapedArray, name: str | None = None):
        self.aval = aval
        self.name = name

    def __repr__(self) -> str:
        return f"Var({self.name + ':' if self.name else ''}{self.aval})"


class Literal:
    """A constant operand written in place: a NumPy scalar."""

    __slots__ = ("aval", "val")

    def __init__(self, val: Any, aval: ShapedArray):
        self.val = val
        self.aval = aval

    def __repr__(self) -> str:
        return f"{self.val}:{self.aval}"


Atom = Var | Literal


class JaxprEqn:
    """`outvars = primitive[params] invars`, and the place in the user's file it came from."""

    __slots__ = ("invars", "outvars", "params", "primitive", "source")

    def __init__(
        self,
        invars: Sequence[Atom],
        outvars: Sequence[Var],
        primitive: Primitive,
        params: dict[str, Any],
        source: Source | None = None,
    ):
        self.invars = list(invars)
        self.outvars = list(outvars)
        self.primitive = primitive
        self.params = params
        self.source = source

    @property
    def has_effects(self) -> bool:
        """Whether it must run as often as it is written, also if nobody reads its results."""
        subs = (sub for _, sub in sub_jaxprs(self.params))
        return self.primitive.has_effects or any(sub.has_effects for sub in subs)

    def replace(self, **changes: Any) -> JaxprEqn:
        """A copy with some fields changed."""
        fields = {name: changes.get(name, getattr(self, name)) for name in self.__slots__}
        return JaxprEqn(**fields)

    def __repr__(self) -> str:
        ins = " ".join(repr(a) for a in self.invars)
        return f"{', '.join(map(repr, self.outvars))} = {self.primitive.name} {ins}"


class Jaxpr:
    """A program: `constvars` and `invars` in, `eqns` in order, `outvars` out."""

    __slots__ = ("constvars", "eqns", "invars", "outvars")

    def __init__(
        self,
        constvars: Sequence[Var],
        invars: Sequence[Var],
        outvars: Sequence[Atom],
        eqns: Sequence[JaxprEqn],
    ):
        self.constvars = list(constvars)
        self.invars = list(invars)
        self.outvars = list(outvars)
        self.eqns = list(eqns)

    def replace(self, **changes: Any) -> Jaxpr:
        """A copy with some fields changed."""
        fields = {name: changes.get(name, getattr(self, name)) for name in self.__slots__}
        return Jaxpr(**fields)

    def __str__(self) -> str:
        return _printer(self)

    __repr__ = __str__


class ClosedJaxpr:
    """A jaxpr with the values of its constants. Compared and hashed by identity.

    `derived` is a cache for programs made from this one (its jvp, transpose, machine code...).
    """

    __slots__ = ("__weakref__", "consts", "derived", "jaxpr")

    def __init__(self, jaxpr: Jaxpr, consts: Sequence[Any] = ()):
        self.jaxpr = jaxpr
        self.consts = list(consts)
        self.derived: dict[Any, Any] = {}

    @property
    def eqns(self) -> list[JaxprEqn]:
        return self.jaxpr.eqns

    @property
    def in_avals(self) -> list[ShapedArray]:
        return [v.aval for v in self.jaxpr.invars]

    @property
    def out_avals(self) -> list[ShapedArray]:
        return [v.aval for v in self.jaxpr.outvars]

    @property
    def has_effects(self) -> bool:
        """Whether any of its equations has."""
        known = self.derived.get("has_effects")
        if known is None:
            known = self.derived["has_effects"] = any(e.has_effects for e in self.eqns)
        return known

    def __str__(self) -> str:
        return _printer(self.jaxpr)

    __repr__ = __str__

    def pretty_print(self, *, source_info: bool = False, argument_names: bool = False) -> str:
        """The program as text, with source lines per equation or the user's argument names."""
        return _printer(self.jaxpr, source_info=source_info, argument_names=argument_names)


def _unset_printer(jaxpr: Jaxpr, **options: Any) -> str:
    return f"<jaxpr of {len(jaxpr.eqns)} equations>"


_printer = _unset_printer


def set_printer(printer: Any) -> None:
    """Give jaxprs their text form; called once by `functrans.printing`, which knows how."""
    global _printer
    _printer = printer


def sub_jaxprs(params: dict[str, Any]) -> Iterator[tuple[str, ClosedJaxpr]]:
    """The programs among an equation's parameters, with the parameter's name."""
    for key, value in params.items():
        if isinstance(value, ClosedJaxpr):
            yield key, value
        elif isinstance(value, tuple):
            yield from ((key, v) for v in value if isinstance(v, ClosedJaxpr))


def count_eqns(jaxpr: Jaxpr) -> int:
    """How many equations a program has, those of its sub-programs included."""
    subs = (sub for e in jaxpr.eqns for _, sub in sub_jaxprs(e.params))
    return len(jaxpr.eqns) + sum(count_eqns(sub.jaxpr) for sub in subs)


def var_names() -> Iterator[str]:
    """`a, b, ..., z, ba, bb, ...`: the names of variables in the order they are printed."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    for i in itertools.count():
        name = letters[i % 26]
        while i >= 26:
            i //= 26
            name = letters[i % 26] + name
        yield name
