"""Flattening and rebuilding of trees: laws by property, structure text and errors by example."""

import collections
import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functrans import tree, tree_util
from functrans.pytree import (
    DictKey,
    FlattenedIndexKey,
    GetAttrKey,
    Partial,
    SequenceKey,
    all_leaves,
    broadcast_prefix,
    build_tree,
    flatten_one_level,
    keystr,
    prefix_errors,
    register_dataclass,
    register_pytree_node,
    register_pytree_node_class,
    register_pytree_with_keys,
    register_static,
    tree_all,
    tree_flatten,
    tree_flatten_with_path,
    tree_leaves,
    tree_map,
    tree_map_with_path,
    tree_reduce,
    tree_structure,
    tree_transpose,
    tree_unflatten,
    treedef_children,
    treedef_is_leaf,
    treedef_tuple,
)

Point = collections.namedtuple("Point", ["x", "y"])


@register_dataclass
@dataclasses.dataclass
class Layer:
    w: object
    name: str = dataclasses.field(default="l", metadata={"static": True})


keys = st.text("abcd", max_size=2)
trees = st.recursive(
    st.integers() | st.none(),
    lambda kids: st.one_of(
        st.lists(kids, max_size=3),
        st.lists(kids, max_size=3).map(tuple),
        st.dictionaries(keys, kids, max_size=3),
        st.dictionaries(keys, kids, max_size=3).map(collections.OrderedDict),
        st.builds(Point, kids, kids),
        st.builds(Layer, kids, keys),
    ),
    max_leaves=12,
)
law = settings(deadline=None, max_examples=60)


@law
@given(trees)
def test_unflatten_undoes_flatten(t):
    leaves, treedef = tree_flatten(t)
    back = tree_unflatten(treedef, leaves)
    assert back == t
    assert repr(back) == repr(t)
    assert treedef.num_leaves == len(leaves)
    assert treedef.num_leaves == sum(k.num_leaves for k in treedef.children()) + (
        treedef_is_leaf(treedef)
    )


@law
@given(trees)
def test_map_of_identity_is_identity(t):
    assert tree_map(lambda x: x, t) == t


@law
@given(trees)
def test_paths_are_in_leaf_order_and_structure_is_that_of_flatten(t):
    pairs, treedef = tree_flatten_with_path(t)
    assert ([x for _, x in pairs], treedef) == tree_flatten(t)
    assert len({keystr(p) for p, _ in pairs}) == len(pairs)


@law
@given(st.dictionaries(keys, trees, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_dict_order_does_not_change_structure_but_is_kept(d: dict, rng: random.Random):
    names = list(d)
    rng.shuffle(names)
    shuffled = {k: d[k] for k in names}
    assert tree_structure(d) == tree_structure(shuffled)
    assert hash(tree_structure(d)) == hash(tree_structure(shuffled))
    assert tree_leaves(d) == tree_leaves(shuffled)
    assert list(tree_map(lambda x: x, shuffled)) == names


@law
@given(trees)
def test_tree_is_prefix_of_itself(t):
    assert broadcast_prefix(t, t) == tree_leaves(t)
    assert prefix_errors(t, t) == []
    assert tree_structure(t).flatten_up_to(t) == tree_leaves(t)


@pytest.mark.parametrize(
    ("t", "text"),
    [
        (1, "*"),
        (None, "None"),
        ((1,), "(*,)"),
        ([], "[]"),
        ({"b": [1, 2], "a": 1}, "{'a': *, 'b': [*, *]}"),
        (Point(1, (2,)), "CustomNode(namedtuple[Point], [*, (*,)])"),
        (collections.OrderedDict(b=1, a=2), "CustomNode(OrderedDict[('b', 'a')], [*, *])"),
        (
            collections.defaultdict(list, b=1),
            "CustomNode(defaultdict[(<class 'list'>, ('b',))], [*])",
        ),
        (Layer(1, "n"), "CustomNode(Layer[('n',)], [*])"),
    ],
)
def test_structure_prints_as_the_tree_with_stars(t, text):
    assert repr(tree_structure(t)) == f"PyTreeDef({text})"


def test_equal_keys_of_other_type_stay_what_they_are():
    tree_map(lambda x: x, {1: "a"})
    assert repr(tree_map(lambda x: x, {True: "a"})) == "{True: 'a'}"


def test_keys_that_cannot_be_sorted_keep_insertion_order():
    t = {1: "x", "a": "y"}
    assert tree_leaves(t) == ["x", "y"]
    assert tree_map(lambda x: x, t) == t


def test_defaultdict_keeps_factory():
    t = collections.defaultdict(list, b=1, a=2)
    back = tree_map(lambda x: -x, t)
    assert (back, back.default_factory) == ({"b": -1, "a": -2}, list)


def test_registered_classes_round_trip_and_name_children():
    class Plain:
        def __init__(self, a):
            self.a = a

    class Keyed(Plain):
        pass

    assert all_leaves([Plain(1)])  # seen as a leaf first; registration must still take
    register_pytree_node(Plain, lambda p: ((p.a,), None), lambda _, c: Plain(*c))
    register_pytree_with_keys(
        Keyed, lambda p: (((GetAttrKey("a"), p.a),), None), lambda _, c: Keyed(*c)
    )
    assert not all_leaves([Plain(1)])
    assert tree_map(lambda x: x + 1, Plain(1)).a == 2
    paths = [p for p, _ in tree_flatten_with_path([Plain(1), Keyed(2)])[0]]
    assert paths == [(SequenceKey(0), FlattenedIndexKey(0)), (SequenceKey(1), GetAttrKey("a"))]
    assert keystr(paths[1]) == "[1].a"
    with pytest.raises(ValueError, match="Plain is already a pytree"):
        register_pytree_node(Plain, lambda p: ((), None), lambda _, c: Plain(0))


def test_class_decorators_register():
    @register_pytree_node_class
    class Pair:
        def __init__(self, a, b):
            self.a, self.b = a, b

        def tree_flatten(self):
            return (self.a, self.b), None

        @classmethod
        def tree_unflatten(cls, aux, children):
            return cls(*children)

    @register_static
    @dataclasses.dataclass(frozen=True)
    class Mode:
        n: int

    assert tree_leaves([Pair(1, 2), Mode(3)]) == [1, 2]
    assert tree_structure(Mode(3)) == tree_structure(Mode(3)) != tree_structure(Mode(4))


def test_register_dataclass_refuses_other_classes_and_unnamed_fields():
    with pytest.raises(TypeError, match="needs a dataclass"):
        register_dataclass(int)
    other = dataclasses.make_dataclass("Other", ["a", "b"])
    with pytest.raises(ValueError, match=r"Other must name each field once: \['b'\]"):
        register_dataclass(other, data_fields=["a"], meta_fields=[])


def test_partial_is_a_callable_tree():
    p = tree_map(lambda x: x * 10, Partial(pow, 2))
    assert p(2) == 400


def test_reduce_all_transpose_broadcast():
    assert tree_reduce(lambda a, b: a - b, [1, (2, 3)]) == -4
    assert tree_all({"a": True, "b": [1]})
    assert tree_transpose(tree_structure((0, 0)), None, ([1, 2], [3, 4])) == [(1, 3), (2, 4)]
    assert tree.broadcast((1, None), ([0, 0], None)) == ([1, 1], None)
    assert broadcast_prefix((0, None), ([1, 2], 3), is_leaf=lambda x: x is None) == [0, 0, None]
    with pytest.raises(ValueError, match="no leaves to take inner_treedef from"):
        tree_transpose(tree_structure(()), None, ())


def test_one_level_comes_apart_and_back():
    t = {"b": (1, 2), "a": [3]}
    children, _ = flatten_one_level(t)
    assert children == [[3], (1, 2)]
    assert build_tree(tree_structure(t), children) == t
    assert treedef_tuple(treedef_children(tree_structure([0, [0]]))) == tree_structure((0, [0]))
    with pytest.raises(ValueError, match="int is a leaf"):
        flatten_one_level(1)
    with pytest.raises(ValueError, match="has 2 children, got 1"):
        build_tree(tree_structure(t), [1])


def test_map_with_path_gives_path_and_rest():
    out = tree_map_with_path(lambda p, x, y: (keystr(p), x + y), {"a": [1]}, {"a": [2]})
    assert out == {"a": [("['a'][0]", 3)]}
    assert tree_util.tree_leaves_with_path({"a": 1}) == [((DictKey("a"),), 1)]


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ({"p": [1]}, {"p": (1,)}, r"differ at \['p'\]: .* list \[\*\], .* tuple \(\*,\)\. Give"),
        ([[1, 2]], [[1]], r"at \[0\]: .* Give both the same length: 2 or 1"),
        ({"a": 1}, {"b": 1}, r"at the root: .* same keys"),
        ({"a": 1, "c": 1}, {"a": 1}, r"Only one of them has 'c': give both the same keys"),
        (
            [Layer(1, "m")],
            [Layer(1, "n")],
            r"at \[0\]: .*CustomNode\(Layer\[\('m',\)\].* static fields",
        ),
        (Point(1, None), Point(1, 2), r"at \.y: one has NoneType None, the other a leaf of type i"),
    ],
)
def test_mismatch_names_path_both_sides_and_remedy(a, b, message):
    with pytest.raises(ValueError, match=message):
        tree_map(lambda x, y: x, a, b)
    (error,) = prefix_errors(a, b)
    assert str(error("in_axes")).startswith("in_axes is not a prefix of its tree at ")


def test_prefix_errors_finds_every_place():
    assert len(prefix_errors([(1,), {"a": 1}, 2], [[1], {"b": 1}, (5, 6)])) == 2


def test_wrong_number_of_leaves_is_said():
    with pytest.raises(ValueError, match=r"PyTreeDef\(\[\*, \*\]\) has 2 leaves, got 1\. Pass"):
        tree_unflatten(tree_structure([1, 2]), [1])


def test_too_deep_a_tree_is_a_clear_error():
    deep = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested deeper than Python's recursion limit"):
        tree_flatten(deep)
