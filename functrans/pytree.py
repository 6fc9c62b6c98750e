"""Pytrees: nested containers of arrays, flattened to a list of leaves and put back.

Lists, tuples, dicts, namedtuples and None are containers; others are registered. Anything else is
a leaf. Dicts flatten by sorted key where keys can be sorted, and come back in their own order.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple


class SequenceKey(NamedTuple):
    """Position in a list or tuple."""

    idx: int

    def __str__(self) -> str:
        return f"[{self.idx}]"


class DictKey(NamedTuple):
    """Key of a dict."""

    key: Any

    def __str__(self) -> str:
        return f"[{self.key!r}]"


class GetAttrKey(NamedTuple):
    """Attribute of a namedtuple, dataclass or registered class."""

    name: str

    def __str__(self) -> str:
        return f".{self.name}"


class FlattenedIndexKey(NamedTuple):
    """Position among the children of a class registered without keys."""

    key: int

    def __str__(self) -> str:
        return f"[<flat index {self.key}>]"


def keystr(path: Iterable[Any]) -> str:
    """A key path as it is written in Python.

    >>> keystr((DictKey("w"), SequenceKey(0)))
    "['w'][0]"
    """
    return "".join(str(k) for k in path)


class _Node(NamedTuple):
    """How a container type is taken apart: to (children, aux data) and back."""

    flatten: Callable[[Any], tuple[Sequence[Any], Any]]
    unflatten: Callable[[Any, Sequence[Any]], Any]
    keys: Callable[[Any, Any], Sequence[Any]]


class _Keys:
    """The aux data of a dict: its keys, sorted, and in their own order."""

    __slots__ = ("original", "ordered")

    def __init__(self, original: tuple[Any, ...], ordered: tuple[Any, ...]):
        self.original = original
        self.ordered = ordered

    def __eq__(self, other: object) -> bool:
        return type(other) is _Keys and self.ordered == other.ordered

    def __hash__(self) -> int:
        return hash(self.ordered)


@functools.lru_cache(maxsize=4096)
def _sorted_keys(original: tuple[Any, ...]) -> _Keys:
    try:
        return _Keys(original, tuple(sorted(original)))
    except TypeError:
        return _Keys(original, original)


def _flatten_dict(d: dict[Any, Any]) -> tuple[list[Any], _Keys]:
    keys = _sorted_keys(tuple(d))
    return [d[k] for k in keys.ordered], keys


def _unflatten_dict(keys: _Keys, children: Sequence[Any]) -> dict[Any, Any]:
    if keys.original == keys.ordered:
        return dict(zip(keys.ordered, children))
    by_key = dict(zip(keys.ordered, children))
    return {k: by_key[k] for k in keys.original}


def _positions(aux: Any, children: Sequence[Any]) -> list[Any]:
    return [SequenceKey(i) for i in range(len(children))]


_registry: dict[type, _Node] = {
    list: _Node(lambda x: (x, None), lambda _, c: list(c), _positions),
    tuple: _Node(lambda x: (x, None), lambda _, c: tuple(c), _positions),
    dict: _Node(_flatten_dict, _unflatten_dict, lambda a, _: [DictKey(k) for k in a.ordered]),
    type(None): _Node(lambda _: ((), None), lambda _, __: None, lambda _, __: ()),
    collections.OrderedDict: _Node(
        lambda d: (list(d.values()), tuple(d)),
        lambda a, c: collections.OrderedDict(zip(a, c)),
        lambda a, _: [DictKey(k) for k in a],
    ),
    collections.defaultdict: _Node(
        lambda d: (_flatten_dict(d)[0], (d.default_factory, _flatten_dict(d)[1])),
        lambda a, c: collections.defaultdict(a[0], _unflatten_dict(a[1], c)),
        lambda a, _: [DictKey(k) for k in a[1].ordered],
    ),
}


class PyTreeDef:
    """The structure of a tree. `node_type` is None for a leaf."""

    __slots__ = ("_hash", "aux", "kids", "node_type", "num_leaves")

    def __init__(self, node_type: type | None, aux: Any, kids: tuple[PyTreeDef, ...]):
        self.node_type = node_type
        self.aux = aux
        self.kids = kids
        self.num_leaves = 1 if node_type is None else sum(k.num_leaves for k in kids)
        self._hash: int | None = None

    @property
    def num_nodes(self) -> int:
        return 1 + sum(k.num_nodes for k in self.kids)

    def children(self) -> list[PyTreeDef]:
        """The structures of the children, in order."""
        return list(self.kids)

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        """The tree of this structure with these leaves."""
        if self.node_type is None and type(leaves) is list and len(leaves) == 1:
            return leaves[0]
        leaves = list(leaves)
        if len(leaves) != self.num_leaves:
            raise ValueError(f"{self} has {self.num_leaves} leaves, got {len(leaves)}.")
        return _build(self, iter(leaves))

    def flatten_up_to(self, tree: Any) -> list[Any]:
        """The subtrees of `tree` at the places of this structure's leaves."""
        out: list[Any] = []
        _collect(self, tree, out, ())
        return out

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            type(other) is PyTreeDef
            and self.node_type is other.node_type
            and hash(self) == hash(other)
            and self.aux == other.aux
            and self.kids == other.kids
        )

    def __hash__(self) -> int:
        if self._hash is None:
            try:
                aux = hash(self.aux)
            except TypeError:
                aux = 0
            self._hash = hash((self.node_type, aux, self.kids))
        return self._hash

    def __repr__(self) -> str:
        return f"PyTreeDef({_show(self)})"


_LEAF = PyTreeDef(None, None, ())
_NONE = PyTreeDef(type(None), None, ())


def _show(d: PyTreeDef) -> str:
    inner = [_show(k) for k in d.kids]
    t = d.node_type
    if t is None:
        return "*"
    if t is type(None):
        return "None"
    if t is list:
        return f"[{', '.join(inner)}]"
    if t is tuple:
        return f"({', '.join(inner)}{',' if len(inner) == 1 else ''})"
    if t is dict:
        return "{" + ", ".join(f"{k!r}: {v}" for k, v in zip(d.aux.ordered, inner)) + "}"
    return f"{t.__name__}({', '.join(inner)})"


def _node_of(t: type) -> _Node | None:
    node = _registry.get(t)
    if node is None and issubclass(t, tuple) and hasattr(t, "_fields"):
        return _Node(
            lambda x: (x, None),
            lambda _, c: t(*c),
            lambda _, __: [GetAttrKey(f) for f in t._fields],  # type: ignore[attr-defined]
        )
    return node


def _flatten(x: Any, leaves: list[Any], is_leaf: Callable[[Any], bool] | None) -> PyTreeDef:
    if is_leaf is not None and is_leaf(x):
        leaves.append(x)
        return _LEAF
    t = type(x)
    if t is tuple or t is list:
        return PyTreeDef(t, None, tuple([_flatten(c, leaves, is_leaf) for c in x]))
    if x is None:
        return _NONE
    node = _node_of(t)
    if node is None:
        leaves.append(x)
        return _LEAF
    children, aux = node.flatten(x)
    return PyTreeDef(t, aux, tuple([_flatten(c, leaves, is_leaf) for c in children]))


def tree_flatten(
    tree: Any, is_leaf: Callable[[Any], bool] | None = None
) -> tuple[list[Any], PyTreeDef]:
    """The leaves of a tree, and its structure.

    >>> tree_flatten({"b": 1, "a": [2, None]})
    ([2, 1], PyTreeDef({'a': [*, None], 'b': *}))
    """
    leaves: list[Any] = []
    return leaves, _flatten(tree, leaves, is_leaf)


def _build(d: PyTreeDef, leaves: Any) -> Any:
    t = d.node_type
    if t is None:
        return next(leaves)
    children = [_build(k, leaves) for k in d.kids]
    if t is tuple:
        return tuple(children)
    if t is list:
        return children
    return _node_of(t).unflatten(d.aux, children)  # type: ignore[union-attr]


def tree_unflatten(treedef: PyTreeDef, leaves: Iterable[Any]) -> Any:
    """The tree of a structure with these leaves."""
    return treedef.unflatten(leaves)


def _collect(d: PyTreeDef, tree: Any, out: list[Any], path: tuple[Any, ...]) -> None:
    if d.node_type is None:
        out.append(tree)
        return
    t = type(tree)
    where = keystr(path) or "the root"
    if t is not d.node_type:
        raise ValueError(
            f"the trees differ at {where}: one has {_show(d)}, the other {tree!r} of type "
            f"{t.__name__}. Give both the same containers."
        )
    node = _node_of(t)
    children, aux = node.flatten(tree)  # type: ignore[union-attr]
    if aux != d.aux or len(children) != len(d.kids):
        raise ValueError(
            f"the trees differ at {where}: one has {_show(d)}, the other "
            f"{_show(tree_structure(tree))}. Give both the same keys and lengths."
        )
    keys = node.keys(aux, children)  # type: ignore[union-attr]
    for key, kid, child in zip(keys, d.kids, children, strict=True):
        _collect(kid, child, out, (*path, key))


def tree_leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[Any]:
    """The leaves of a tree."""
    return tree_flatten(tree, is_leaf)[0]


def tree_structure(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> PyTreeDef:
    """The structure of a tree."""
    return tree_flatten(tree, is_leaf)[1]


def tree_map(
    f: Callable[..., Any], tree: Any, *rest: Any, is_leaf: Callable[[Any], bool] | None = None
) -> Any:
    """Apply `f` to each leaf, with the matching subtrees of `rest`.

    >>> tree_map(lambda x, y: x + y, {"a": 1}, {"a": 2})
    {'a': 3}

    Raises ValueError naming the path where the structures differ.
    """
    leaves, treedef = tree_flatten(tree, is_leaf)
    others = [treedef.flatten_up_to(r) for r in rest]
    return treedef.unflatten([f(*xs) for xs in zip(leaves, *others, strict=True)])


def tree_reduce(f: Callable[[Any, Any], Any], tree: Any, *initializer: Any) -> Any:
    """Fold the leaves from the left."""
    return functools.reduce(f, tree_leaves(tree), *initializer)


def tree_all(tree: Any) -> bool:
    """Whether all leaves are true."""
    return all(tree_leaves(tree))


def tree_transpose(outer_treedef: PyTreeDef, inner_treedef: PyTreeDef | None, tree: Any) -> Any:
    """From a tree of trees to a tree of trees with the levels exchanged."""
    rows = outer_treedef.flatten_up_to(tree)
    inner = inner_treedef or tree_structure(rows[0])
    columns = zip(*[inner.flatten_up_to(r) for r in rows], strict=True)
    return inner.unflatten([outer_treedef.unflatten(c) for c in columns])


def _flatten_with_path(
    x: Any, path: tuple[Any, ...], out: list[Any], is_leaf: Callable[[Any], bool] | None
) -> None:
    node = None if is_leaf is not None and is_leaf(x) else _node_of(type(x))
    if node is None:
        out.append((path, x))
        return
    children, aux = node.flatten(x)
    for key, child in zip(node.keys(aux, children), children, strict=True):
        _flatten_with_path(child, (*path, key), out, is_leaf)


def tree_flatten_with_path(
    tree: Any, is_leaf: Callable[[Any], bool] | None = None
) -> tuple[list[tuple[tuple[Any, ...], Any]], PyTreeDef]:
    """Pairs of key path and leaf, and the structure."""
    out: list[tuple[tuple[Any, ...], Any]] = []
    _flatten_with_path(tree, (), out, is_leaf)
    return out, tree_structure(tree, is_leaf)


def tree_leaves_with_path(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[Any]:
    """Pairs of key path and leaf."""
    return tree_flatten_with_path(tree, is_leaf)[0]


def tree_map_with_path(
    f: Callable[..., Any], tree: Any, *rest: Any, is_leaf: Callable[[Any], bool] | None = None
) -> Any:
    """Apply `f(path, leaf, ...)` to each leaf."""
    pairs, treedef = tree_flatten_with_path(tree, is_leaf)
    others = [treedef.flatten_up_to(r) for r in rest]
    return treedef.unflatten([f(p, x, *xs) for (p, x), *xs in zip(pairs, *others, strict=True)])


def broadcast_prefix(
    prefix_tree: Any, full_tree: Any, is_leaf: Callable[[Any], bool] | None = None
) -> list[Any]:
    """Each leaf of a prefix, repeated for every leaf of the subtree it stands for."""
    leaves, treedef = tree_flatten(prefix_tree, is_leaf)
    subtrees = treedef.flatten_up_to(full_tree)
    counts = [tree_structure(s).num_leaves for s in subtrees]
    return [x for x, n in zip(leaves, counts, strict=True) for _ in range(n)]


def all_leaves(values: Iterable[Any], is_leaf: Callable[[Any], bool] | None = None) -> bool:
    """Whether every value is a leaf."""
    return all((is_leaf is not None and is_leaf(x)) or _node_of(type(x)) is None for x in values)


def treedef_is_leaf(treedef: PyTreeDef) -> bool:
    """Whether the structure is a single leaf."""
    return treedef.node_type is None


def treedef_children(treedef: PyTreeDef) -> list[PyTreeDef]:
    """The structures of the children."""
    return treedef.children()


def treedef_tuple(treedefs: Iterable[PyTreeDef]) -> PyTreeDef:
    """The structure of a tuple of trees."""
    return PyTreeDef(tuple, None, tuple(treedefs))


# ---------------------------------------------------------------------------- registration


def _register(cls: type, node: _Node) -> None:
    if cls in _registry:
        raise ValueError(f"{cls.__name__} is already a pytree.")
    _registry[cls] = node


def register_pytree_node(
    nodetype: type,
    flatten_func: Callable[[Any], tuple[Iterable[Any], Hashable]],
    unflatten_func: Callable[[Any, Iterable[Any]], Any],
) -> None:
    """Make a class a container: `flatten_func(x) -> (children, aux)`, and back.

    `aux` must be hashable. Raises ValueError for a class that is one already.
    """

    def flatten(x: Any) -> tuple[list[Any], Any]:
        children, aux = flatten_func(x)
        return list(children), aux

    keys = lambda _, children: [FlattenedIndexKey(i) for i in range(len(children))]  # noqa: E731
    _register(nodetype, _Node(flatten, lambda a, c: unflatten_func(a, tuple(c)), keys))


def register_pytree_with_keys(
    nodetype: type,
    flatten_with_keys: Callable[[Any], tuple[Iterable[tuple[Any, Any]], Hashable]],
    unflatten_func: Callable[[Any, Iterable[Any]], Any],
) -> None:
    """Like `register_pytree_node`, with children given as (key, child)."""
    keys_of: dict[Any, list[Any]] = {}

    def flatten(x: Any) -> tuple[list[Any], Any]:
        pairs, aux = flatten_with_keys(x)
        pairs = list(pairs)
        keys_of[aux] = [k for k, _ in pairs]
        return [c for _, c in pairs], aux

    _register(
        nodetype, _Node(flatten, lambda a, c: unflatten_func(a, tuple(c)), lambda a, _: keys_of[a])
    )


def register_pytree_node_class(cls: type) -> type:
    """Class decorator: uses the methods `tree_flatten` and classmethod `tree_unflatten`."""
    register_pytree_node(cls, lambda x: x.tree_flatten(), cls.tree_unflatten)  # type: ignore[attr-defined]
    return cls


def register_dataclass(
    nodetype: type | None = None,
    data_fields: Sequence[str] | None = None,
    meta_fields: Sequence[str] | None = None,
) -> Any:
    """Make a dataclass a container; usable as a decorator.

    `meta_fields`, and fields with `metadata={"static": True}`, belong to the structure and must be
    hashable; the others are children. Raises TypeError for a class that is not a dataclass.
    """
    if nodetype is None:
        return functools.partial(
            register_dataclass, data_fields=data_fields, meta_fields=meta_fields
        )
    if not dataclasses.is_dataclass(nodetype):
        raise TypeError(f"register_dataclass needs a dataclass, got {nodetype!r}.")
    fields = [f for f in dataclasses.fields(nodetype) if f.init]
    meta = (
        tuple(meta_fields)
        if meta_fields is not None
        else tuple(f.name for f in fields if f.metadata.get("static"))
    )
    data = (
        tuple(data_fields)
        if data_fields is not None
        else tuple(f.name for f in fields if f.name not in meta)
    )
    missing = {f.name for f in fields} ^ {*data, *meta}
    if missing:
        raise ValueError(
            f"data_fields and meta_fields of {nodetype.__name__} must name each field once: "
            f"{sorted(missing)}."
        )

    def unflatten(aux: Any, children: Sequence[Any]) -> Any:
        return nodetype(**dict(zip(data, children)), **dict(zip(meta, aux)))

    _register(
        nodetype,
        _Node(
            lambda x: ([getattr(x, f) for f in data], tuple(getattr(x, f) for f in meta)),
            unflatten,
            lambda _, __: [GetAttrKey(f) for f in data],
        ),
    )
    return nodetype


def register_static(cls: type) -> type:
    """Class decorator: instances are containers of no leaves, compared by value."""
    _register(cls, _Node(lambda x: ((), x), lambda x, _: x, lambda _, __: ()))
    return cls


class Partial(functools.partial):
    """`functools.partial` as a pytree: its arguments are children, its function is structure."""


register_pytree_node(
    Partial, lambda p: ((p.args, p.keywords), p.func), lambda f, c: Partial(f, *c[0], **c[1])
)
