"""The short ways to call a compiled function, one per signature.

A native entry checks types, dtypes and shapes of its inputs itself. So a call with nothing but
arrays and numbers as arguments is a call of the entry. For other signatures Python source is
written that takes the containers apart, checks that they are those of the signature, calls the
entry, and builds the containers of the result. For `step(params, x)` with two weights:

    def call(a0, a1):
        try:
            if type(a0) is not dict or len(a0) != 2: return NotImplemented
            v0 = a0['b']
            v1 = a0['w']
        except (KeyError, ValueError): return NotImplemented
        outs = native(v0, v1, a1)
        if outs is NotImplemented: return outs
        y0, y1, y2 = outs
        return (y0, {'b': y1, 'w': y2})

Both return NotImplemented, having done nothing, for arguments of another signature, or that must
be copied first.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from functrans import dtypes, pytree
from functrans.pytree import PyTreeDef
from functrans.runtime.executable import Executable
from functrans.static_arguments import Static

_MOST_LEAVES = 4000  # beyond, compiling the source takes longer than it saves
_DEEPEST = 50  # Python's parser takes 100 to 200 nested parentheses
_PLAIN = frozenset({bool, int, float, complex, str, bytes, types.NoneType})


def short_way(
    executable: Executable, leaves: Sequence[Any], tree: PyTreeDef, static: Static, outs: PyTreeDef
) -> Callable[..., Any] | None:
    """A function of the arguments that led to `leaves`; None where the general way must do.

    `tree` is the structure of the traced arguments, (args, kwargs); `outs` that of the result.
    """
    kinds = [_kind(x) for x in leaves]
    statics = (*static.by_position.values(), *static.by_name.values())
    if not executable.is_native or None in kinds or any(not _can_be_told(x) for x in statics):
        return None
    if any(t.num_leaves > _MOST_LEAVES or _depth(t) > _DEEPEST for t in (tree, outs)):
        return None
    if outs.num_leaves == 1:
        results = "single"
    else:
        results = "list" if outs.node_type is list and _is_flat(outs) else "tuple"
    native = executable.entry(kinds, results=results)  # type: ignore[arg-type]
    args, kwargs = tree.kids
    if not statics and not kwargs.kids and _is_flat(args) and _is_result(outs):
        return native
    writer = _Writer(native)
    writer.arguments(args, kwargs, static)
    writer.result(outs)
    return writer.function()


def _kind(x: Any) -> str | None:
    """What the native entry must tell apart: a Python number is not a 0-d array."""
    if type(x) in dtypes.PYTHON_SCALARS:
        return "weak"
    return "strong" if isinstance(x, np.ndarray | np.generic) else None


def _depth(d: PyTreeDef) -> int:
    return 1 + max((_depth(k) for k in d.kids), default=0)


def _is_flat(d: PyTreeDef) -> bool:
    return all(k.node_type is None for k in d.kids)


def _is_result(d: PyTreeDef) -> bool:
    """Whether a native entry returns just this: an array, or a tuple or list of two or more."""
    return d.node_type is None or (
        d.node_type in (tuple, list) and _is_flat(d) and d.num_leaves != 1
    )


def _can_be_told(x: Any) -> bool:
    """Whether source can tell a static argument from others; arrays are compared by content."""
    return not isinstance(x, np.ndarray)


class _Writer:
    """Writes the source of a call path."""

    def __init__(self, native: Callable[..., Any]):
        self.names: dict[str, Any] = {"native": native}
        self.head = ""
        self.checks: list[str] = []
        self.tail: list[str] = []
        self.leaves: list[str] = []
        self._variables = 0

    def function(self) -> Callable[..., Any]:
        lines = [self.head]
        if self.checks:
            lines += ["    try:", *(f"        {line}" for line in self.checks)]
            # A list that another thread shortens is a ValueError.
            lines += ["    except (KeyError, ValueError): return NotImplemented"]
        source = "\n".join([*lines, *(f"    {line}" for line in self.tail)])
        exec(compile(source, "<call path>", "exec"), self.names)
        # Taken out of its own globals, it needs no garbage collector to die.
        function = self.names.pop("call")
        function.__doc__ = source
        return function

    def _fresh(self, count: int) -> list[str]:
        first = self._variables
        self._variables += count
        return [f"v{i}" for i in range(first, first + count)]

    def _constant(self, value: Any) -> str:
        if type(value) in (str, int, bool, types.NoneType):
            return repr(value)
        for known in (dict, list, tuple):
            if value is known:
                return known.__name__
        name = f"{value.__name__ if isinstance(value, type) else 'k'}_{len(self.names)}"
        self.names[name] = value
        return name

    def _refuse_if(self, condition: str) -> None:
        self.checks.append(f"if {condition}: return NotImplemented")

    # ------------------------------------------------------------------ arguments

    def arguments(self, args: PyTreeDef, kwargs: PyTreeDef, static: Static) -> None:
        """Take apart the arguments: leaves in order, static ones compared."""
        count = len(args.kids) + len(static.by_position)
        names = [f"a{i}" for i in range(count)]
        keywords = len(kwargs.kids) + len(static.by_name)
        self.head = f"def call({', '.join([*names, '**kwargs'] if keywords else names)}):"
        for i, value in static.by_position.items():
            self._compare(names[i], value)
        traced = [name for i, name in enumerate(names) if i not in static.by_position]
        for name, kid in zip(traced, args.kids, strict=True):
            self._take(name, kid)
        if keywords:
            self._refuse_if(f"len(kwargs) != {keywords}")
            for key, value in static.by_name.items():
                self._compare(f"kwargs[{key!r}]", value)
            for key, kid in zip(kwargs.aux.ordered, kwargs.kids, strict=True):
                (name,) = self._fresh(1)
                self.checks.append(f"{name} = kwargs[{key!r}]")
                self._take(name, kid)

    def _compare(self, x: str, value: Any) -> None:
        constant = self._constant(value)
        if type(value) in _PLAIN:
            kind = self._constant(type(value))
            self._refuse_if(f"type({x}) is not {kind} or {x} != {constant}")
        else:
            # Equal ones of another identity take the general way.
            self._refuse_if(f"{x} is not {constant} or hash({x}) != {hash(value)}")

    def _take(self, x: str, d: PyTreeDef) -> None:
        """Check that the variable `x` has the structure `d`, and name its leaves."""
        t, count = d.node_type, len(d.kids)
        if t is None:
            self.leaves.append(x)
            return
        if t is types.NoneType:
            self._refuse_if(f"{x} is not None")
            return
        node = pytree.node_of(t)
        kids = self._fresh(count)
        targets = "".join(f"{kid}, " for kid in kids)
        kind = f"type({x}) is not {self._constant(t)}"
        assert node is not None
        if t is dict:
            self._take_dict(x, d, kids)
        elif node.is_sequence:
            self._refuse_if(f"{kind} or len({x}) != {count}")
            if kids:
                self.checks.append(f"{targets}= {x}")
        elif node.fields is not None:
            data, meta = node.fields
            aux = "".join(f"{x}.{f}, " for f in meta)
            wrong = f" or not ({aux}) == {self._constant(d.aux)}" if meta else ""
            self._refuse_if(kind + wrong)
            self.checks += [f"{kid} = {x}.{f}" for kid, f in zip(kids, data, strict=True)]
        else:
            children, aux = self._fresh(2)
            self._refuse_if(kind)
            self.checks.append(f"{children}, {aux} = {self._constant(node.flatten)}({x})")
            wrong = f"not {aux} == {self._constant(d.aux)}"
            self._refuse_if(f"{wrong} or len({children}) != {count}")
            if kids:
                self.checks.append(f"{targets}= {children}")
        for kid, inner in zip(kids, d.kids, strict=True):
            self._take(kid, inner)

    def _take_dict(self, x: str, d: PyTreeDef, kids: Sequence[str]) -> None:
        keys = d.aux.ordered
        self._refuse_if(f"type({x}) is not dict or len({x}) != {len(keys)}")
        if not pytree.is_sortable(keys):
            # Their order is part of the structure.
            self._refuse_if(f"tuple({x}) != {self._constant(keys)}")
        for kid, key in zip(kids, keys, strict=True):
            self.checks.append(f"{kid} = {x}[{self._constant(key)}]")

    # ------------------------------------------------------------------ result

    def result(self, outs: PyTreeDef) -> None:
        """Call the native entry and build the result."""
        call = f"native({', '.join(self.leaves)})"
        if _is_result(outs):
            self.tail = [f"return {call}"]
            return
        leaves = [f"y{i}" for i in range(outs.num_leaves)]
        if len(leaves) == 1:
            self.tail = [f"y0 = {call}", "if y0 is NotImplemented: return y0"]
        else:
            self.tail = [f"outs = {call}", "if outs is NotImplemented: return outs"]
            if leaves:
                self.tail.append(f"{', '.join(leaves)} = outs")
        self.tail.append(f"return {self._built(outs, iter(leaves))}")

    def _built(self, d: PyTreeDef, leaves: Iterator[str]) -> str:
        t = d.node_type
        if t is None:
            return next(leaves)
        if t is types.NoneType:
            return "None"
        kids = [self._built(k, leaves) for k in d.kids]
        listed = ", ".join(kids)
        if t is tuple:
            return f"({listed}{',' if len(kids) == 1 else ''})"
        if t is list:
            return f"[{listed}]"
        if t is dict:
            by_key = dict(zip(d.aux.ordered, kids, strict=True))
            return f"{{{', '.join(f'{self._constant(k)}: {by_key[k]}' for k in d.aux.original)}}}"
        node = pytree.node_of(t)
        assert node is not None
        if node.is_sequence:
            return f"{self._constant(t)}({listed})"
        if node.fields is not None:
            values = [*kids, *map(self._constant, d.aux)]
            named = zip((*node.fields[0], *node.fields[1]), values, strict=True)
            return f"{self._constant(t)}({', '.join(f'{f}={v}' for f, v in named)})"
        return f"{self._constant(node.unflatten)}({self._constant(d.aux)}, [{listed}])"
