"""Pytrees: nested containers of arrays, flattened to a list of leaves and put back.

Lists, tuples, dicts, namedtuples and None are containers; others are registered. Anything else is
a leaf. Dicts flatten by sorted key where keys can be sorted, and come back in their own order.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
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


class Node(NamedTuple):
    """How a container type is taken apart: to (children, aux data) and back."""

    flatten: Callable[[Any], tuple[Sequence[Any], Any]]
    unflatten: Callable[[Any, Sequence[Any]], Any]
    keys: Callable[[Any], Sequence[Any]]  # key of each child of this very container
    # Where children and aux data are plain attributes: the names of the two.
    fields: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    is_sequence: bool = False  # iteration gives the children, the class of them the container


class _Keys:
    """The aux data of a dict: its keys, sorted, and in their own order."""

    __slots__ = ("ordered", "original")

    def __init__(self, original: tuple[Any, ...], ordered: tuple[Any, ...]):
        self.original = original
        self.ordered = ordered

    def __eq__(self, other: object) -> bool:
        return type(other) is _Keys and self.ordered == other.ordered

    def __hash__(self) -> int:
        return hash(self.ordered)

    def __repr__(self) -> str:
        return repr(self.ordered)


# Only tuples of plain strings are kept: 1, 1.0 and True are equal but are not the same key.
_known_keys: dict[tuple[Any, ...], _Keys] = {}
_CACHE_LIMIT = 4096  # entries; bounds what programs that make up keys or classes can hold


def is_sortable(keys: tuple[Any, ...]) -> bool:
    """Whether dicts with these keys have one structure, in whatever order they hold them."""
    try:
        sorted(keys)
    except TypeError:
        return False
    return True


def _new_keys(original: tuple[Any, ...]) -> _Keys:
    keys = _Keys(original, tuple(sorted(original)) if is_sortable(original) else original)
    if all(type(k) is str for k in original):
        if len(_known_keys) >= _CACHE_LIMIT:
            _known_keys.clear()
        _known_keys[original] = keys
    return keys


def _flatten_dict(d: dict[Any, Any]) -> tuple[list[Any], _Keys]:
    original = tuple(d)
    keys = _known_keys.get(original) or _new_keys(original)
    return [d[k] for k in keys.ordered], keys


def _unflatten_dict(keys: _Keys, children: Sequence[Any]) -> dict[Any, Any]:
    if keys.original == keys.ordered:
        return dict(zip(keys.ordered, children, strict=True))
    by_key = dict(zip(keys.ordered, children, strict=True))
    return {k: by_key[k] for k in keys.original}


def _positions(x: Sequence[Any]) -> list[Any]:
    return [SequenceKey(i) for i in range(len(x))]


def _dict_keys(d: dict[Any, Any]) -> list[Any]:
    return [DictKey(k) for k in _flatten_dict(d)[1].ordered]


def _flatten_defaultdict(d: collections.defaultdict[Any, Any]) -> tuple[list[Any], Any]:
    children, keys = _flatten_dict(d)
    return children, (d.default_factory, keys)


_registry: dict[type, Node] = {
    list: Node(lambda x: (x, None), lambda _, c: list(c), _positions, is_sequence=True),
    tuple: Node(lambda x: (x, None), lambda _, c: tuple(c), _positions, is_sequence=True),
    dict: Node(_flatten_dict, _unflatten_dict, _dict_keys),
    type(None): Node(lambda _: ((), None), lambda _, __: None, lambda _: ()),
    collections.OrderedDict: Node(
        lambda d: (list(d.values()), tuple(d)),
        lambda a, c: collections.OrderedDict(zip(a, c, strict=True)),
        lambda d: [DictKey(k) for k in d],
    ),
    collections.defaultdict: Node(
        _flatten_defaultdict,
        lambda a, c: collections.defaultdict(a[0], _unflatten_dict(a[1], c)),
        _dict_keys,
    ),
}
# Types seen to be leaves, so that a leaf costs one set lookup.
_leaf_types: set[type] = set()


class PyTreeDef:
    """The structure of a tree. `node_type` is None for a leaf."""

    __slots__ = ("_hash", "aux", "kids", "node_type", "num_leaves")

    def __init__(
        self, node_type: type | None, aux: Any, kids: tuple[PyTreeDef, ...], num_leaves: int
    ):
        self.node_type = node_type
        self.aux = aux
        self.kids = kids
        self.num_leaves = num_leaves
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
            raise ValueError(
                f"{self} has {self.num_leaves} leaves, got {len(leaves)}. Pass the leaves that "
                f"tree_flatten gave for this structure, one for each `*`."
            )
        try:
            return _build(self, iter(leaves))
        except RecursionError as error:
            raise _too_deep() from error

    def flatten_up_to(self, tree: Any) -> list[Any]:
        """The subtrees of `tree` at the places of this structure's leaves."""
        out: list[Any] = []
        if not _collect(self, tree, out):
            raise ValueError("the trees differ" + next(_differences(self, tree, ())))
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


_LEAF = PyTreeDef(None, None, (), 1)
_NONE = PyTreeDef(type(None), None, (), 0)


def _too_deep() -> ValueError:
    return ValueError(
        f"the tree is nested deeper than Python's recursion limit of {sys.getrecursionlimit()} "
        "allows here. Keep long chains as one flat list, or raise sys.setrecursionlimit."
    )


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
        return (
            "{" + ", ".join(f"{k!r}: {v}" for k, v in zip(d.aux.ordered, inner, strict=True)) + "}"
        )
    data = "" if d.aux is None else f"[{d.aux!r}]"
    name = f"namedtuple[{t.__name__}]" if t not in _registry else t.__name__ + data
    return f"CustomNode({name}, [{', '.join(inner)}])"


def node_of(t: type) -> Node | None:
    """How to take a type apart, or None for a leaf; namedtuples need no registration."""
    node = _registry.get(t)
    if node is not None or t in _leaf_types:
        return node
    if issubclass(t, tuple) and hasattr(t, "_fields"):
        fields: tuple[str, ...] = t._fields  # type: ignore[attr-defined]
        return Node(
            lambda x: (x, None),
            lambda _, c: t(*c),
            lambda _: [GetAttrKey(f) for f in fields],
            is_sequence=True,
        )
    if len(_leaf_types) >= _CACHE_LIMIT:
        _leaf_types.clear()
    _leaf_types.add(t)
    return None


def _flatten(x: Any, leaves: list[Any], is_leaf: Callable[[Any], bool] | None) -> PyTreeDef:
    t = type(x)
    if is_leaf is not None and is_leaf(x):
        leaves.append(x)
        return _LEAF
    if x is None:
        return _NONE
    if t is tuple or t is list:
        children, aux = x, None
    else:
        node = node_of(t)
        if node is None:
            leaves.append(x)
            return _LEAF
        children, aux = node.flatten(x)
    before = len(leaves)
    kids = []
    for child in children:
        # The common child, an array, is settled here without a call.
        if is_leaf is None and type(child) in _leaf_types:
            leaves.append(child)
            kids.append(_LEAF)
        else:
            kids.append(_flatten(child, leaves, is_leaf))
    return PyTreeDef(t, aux, tuple(kids), len(leaves) - before)


def tree_flatten(
    tree: Any, is_leaf: Callable[[Any], bool] | None = None
) -> tuple[list[Any], PyTreeDef]:
    """The leaves of a tree, and its structure.

    >>> tree_flatten({"b": 1, "a": [2, None]})
    ([2, 1], PyTreeDef({'a': [*, None], 'b': *}))
    """
    leaves: list[Any] = []
    try:
        return leaves, _flatten(tree, leaves, is_leaf)
    except RecursionError as error:
        raise _too_deep() from error


def flatten_one_level(tree: Any) -> tuple[list[Any], Any]:
    """The children of a container and its aux data, without going further down.

    >>> flatten_one_level((1, [2, 3]))
    ([1, [2, 3]], None)

    Raises ValueError for a leaf.
    """
    node = node_of(type(tree))
    if node is None:
        raise ValueError(f"{type(tree).__name__} is a leaf and has no children.")
    children, aux = node.flatten(tree)
    return list(children), aux


def _build(d: PyTreeDef, leaves: Any) -> Any:
    t = d.node_type
    if t is None:
        return next(leaves)
    children = [next(leaves) if k is _LEAF else _build(k, leaves) for k in d.kids]
    if t is tuple:
        return tuple(children)
    if t is list:
        return children
    return node_of(t).unflatten(d.aux, children)  # type: ignore[union-attr]


def tree_unflatten(treedef: PyTreeDef, leaves: Iterable[Any]) -> Any:
    """The tree of a structure with these leaves."""
    return treedef.unflatten(leaves)


def build_tree(treedef: PyTreeDef, children: Iterable[Any]) -> Any:
    """The tree whose outermost container is that of `treedef`, with whole subtrees as children.

    >>> build_tree(tree_structure([0, (0, 0)]), [1, (2, 3)])
    [1, (2, 3)]
    """
    children = list(children)
    if treedef.node_type is None or len(children) != len(treedef.kids):
        raise ValueError(f"{treedef} has {len(treedef.kids)} children, got {len(children)}.")
    return node_of(treedef.node_type).unflatten(treedef.aux, children)  # type: ignore[union-attr]


def _collect(d: PyTreeDef, tree: Any, out: list[Any]) -> bool:
    """Append the subtrees at the leaves of `d`; False where the structures differ."""
    if d.node_type is None:
        out.append(tree)
        return True
    if type(tree) is not d.node_type:
        return False
    children, aux = node_of(d.node_type).flatten(tree)  # type: ignore[union-attr]
    if aux != d.aux or len(children) != len(d.kids):
        return False
    return all(_collect(kid, child, out) for kid, child in zip(d.kids, children, strict=True))


def _describe(tree: Any) -> str:
    if node_of(type(tree)) is not None:
        text = f"{type(tree).__name__} {_show(tree_structure(tree))}"
    else:
        shape = getattr(tree, "shape", None)
        text = f"a leaf of type {type(tree).__name__}" + (f" and shape {shape}" if shape else "")
    return text if len(text) <= 200 else text[:200] + "..."


def _differences(d: PyTreeDef, tree: Any, path: tuple[Any, ...]) -> Iterator[str]:
    """What to say of each place where `tree` does not have the structure `d` as a prefix."""
    if d.node_type is None:
        return
    at = f" at {keystr(path) or 'the root'}: one has {d.node_type.__name__} {_show(d)}, the other "
    if type(tree) is not d.node_type:
        yield f"{at}{_describe(tree)}. Give both the same type of container."
        return
    node = node_of(d.node_type)
    children, aux = node.flatten(tree)  # type: ignore[union-attr]
    if len(children) != len(d.kids):
        advice = f"Give both the same length: {len(d.kids)} or {len(children)}."
        if d.node_type is dict:
            odd = [k for k in (*d.aux.ordered, *aux.ordered) if (k in d.aux.ordered) != (k in tree)]
            advice = f"Only one of them has {', '.join(map(repr, odd))}: give both the same keys."
        yield f"{at}{_describe(tree)}. {advice}"
    elif aux != d.aux:
        yield f"{at}{_describe(tree)}. Give both the same keys and static fields."
    else:
        keys = node.keys(tree)  # type: ignore[union-attr]
        for key, kid, child in zip(keys, d.kids, children, strict=True):
            yield from _differences(kid, child, (*path, key))


def prefix_errors(
    prefix_tree: Any, full_tree: Any, is_leaf: Callable[[Any], bool] | None = None
) -> list[Callable[[str], ValueError]]:
    """For each place where one tree is no prefix of the other, a function from name to error.

    >>> [error("in_axes") for error in prefix_errors([0, 1], [5])]
    [ValueError('in_axes is not a prefix ... at the root: one has list [*, *], ...')]
    """
    found = _differences(tree_structure(prefix_tree, is_leaf), full_tree, ())

    def error_of(text: str) -> Callable[[str], ValueError]:
        return lambda name: ValueError(f"{name} is not a prefix of its tree{text}")

    return [error_of(text) for text in found]


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
    """From a tree of trees to a tree of trees with the levels exchanged.

    >>> tree_transpose(tree_structure([0, 0]), None, [{"a": 1}, {"a": 2}])
    {'a': [1, 2]}
    """
    rows = outer_treedef.flatten_up_to(tree)
    if inner_treedef is None and not rows:
        raise ValueError(f"{outer_treedef} has no leaves to take inner_treedef from; pass it.")
    inner = inner_treedef or tree_structure(rows[0])
    columns = zip(*[inner.flatten_up_to(r) for r in rows], strict=True)
    return inner.unflatten([outer_treedef.unflatten(c) for c in columns])


def _flatten_with_path(
    x: Any, path: tuple[Any, ...], out: list[Any], is_leaf: Callable[[Any], bool] | None
) -> None:
    node = None if is_leaf is not None and is_leaf(x) else node_of(type(x))
    if node is None:
        out.append((path, x))
        return
    children, _ = node.flatten(x)
    for key, child in zip(node.keys(x), children, strict=True):
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


def tree_broadcast(
    prefix_tree: Any, full_tree: Any, is_leaf: Callable[[Any], bool] | None = None
) -> Any:
    """A tree of the structure of `full_tree` with the leaves of a prefix repeated.

    >>> tree_broadcast([1, 2], [(0, 0), 0])
    [(1, 1), 2]
    """
    return tree_structure(full_tree).unflatten(broadcast_prefix(prefix_tree, full_tree, is_leaf))


def all_leaves(values: Iterable[Any], is_leaf: Callable[[Any], bool] | None = None) -> bool:
    """Whether every value is a leaf."""
    return all((is_leaf is not None and is_leaf(x)) or node_of(type(x)) is None for x in values)


def treedef_is_leaf(treedef: PyTreeDef) -> bool:
    """Whether the structure is a single leaf."""
    return treedef.node_type is None


def treedef_children(treedef: PyTreeDef) -> list[PyTreeDef]:
    """The structures of the children."""
    return treedef.children()


def treedef_tuple(treedefs: Iterable[PyTreeDef]) -> PyTreeDef:
    """The structure of a tuple of trees."""
    kids = tuple(treedefs)
    return PyTreeDef(tuple, None, kids, sum(k.num_leaves for k in kids))


# ---------------------------------------------------------------------------- registration


def _register(cls: type, node: Node) -> None:
    if cls in _registry:
        raise ValueError(f"{cls.__name__} is already a pytree.")
    _registry[cls] = node
    _leaf_types.discard(cls)


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

    def keys(x: Any) -> list[Any]:
        return [FlattenedIndexKey(i) for i in range(len(flatten(x)[0]))]

    _register(nodetype, Node(flatten, lambda a, c: unflatten_func(a, tuple(c)), keys))


def register_pytree_with_keys(
    nodetype: type,
    flatten_with_keys: Callable[[Any], tuple[Iterable[tuple[Any, Any]], Hashable]],
    unflatten_func: Callable[[Any, Iterable[Any]], Any],
) -> None:
    """Like `register_pytree_node`, with children given as (key, child)."""

    def flatten(x: Any) -> tuple[list[Any], Any]:
        pairs, aux = flatten_with_keys(x)
        return [child for _, child in pairs], aux

    def keys(x: Any) -> list[Any]:
        return [key for key, _ in flatten_with_keys(x)[0]]

    _register(nodetype, Node(flatten, lambda a, c: unflatten_func(a, tuple(c)), keys))


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
        return nodetype(
            **dict(zip(data, children, strict=True)), **dict(zip(meta, aux, strict=True))
        )

    _register(
        nodetype,
        Node(
            lambda x: ([getattr(x, f) for f in data], tuple(getattr(x, f) for f in meta)),
            unflatten,
            lambda _: [GetAttrKey(f) for f in data],
            (tuple(data), tuple(meta)),
        ),
    )
    return nodetype


def register_static(cls: type) -> type:
    """Class decorator: instances are containers of no leaves, compared by value."""
    _register(cls, Node(lambda x: ((), x), lambda x, _: x, lambda _: ()))
    return cls


class Partial(functools.partial):
    """`functools.partial` as a pytree: its arguments are children, its function is structure."""


def _partial_of(func: Any, children: Iterable[Any]) -> Partial:
    args, keywords = children
    return Partial(func, *args, **keywords)


register_pytree_node(Partial, lambda p: ((p.args, p.keywords), p.func), _partial_of)
