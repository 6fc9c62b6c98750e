"""The short ways to call a compiled function: which calls take them, and that none is mistaken."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import sys
import threading
import tracemalloc
import weakref
from collections import OrderedDict, defaultdict
from typing import Any, NamedTuple

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans import config


class Pair(NamedTuple):
    left: Any
    right: Any


@ft.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    w: Any
    b: Any
    name: str = dataclasses.field(default="layer", metadata={"static": True})


@ft.tree_util.register_pytree_node_class
class Box:
    def __init__(self, content: Any, label: Any):
        self.content, self.label = content, label

    def tree_flatten(self) -> Any:
        return (self.content,), self.label

    @classmethod
    def tree_unflatten(cls, label: Any, children: Any) -> Box:
        return cls(children[0], label)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and (self.content, self.label) == (other.content, other.label)

    __hash__ = None  # type: ignore[assignment]


class Labelled(np.ndarray):
    """A subclass of ndarray."""


class SubDict(dict):
    """A subclass of dict: a leaf, which no function takes."""


def counting(f: Any, **options: Any) -> tuple[Any, list[int]]:
    """A jitted function, and a list that grows with every trace."""
    traces: list[int] = []

    def traced(*args: Any, **kwargs: Any) -> Any:
        traces.append(1)
        return f(*args, **kwargs)

    return ft.jit(traced, **options), traces


def warm(f: Any, *args: Any, **kwargs: Any) -> Any:
    """Call until the short way is taken."""
    for _ in range(3):
        result = f(*args, **kwargs)
    assert f.__call__ is f._programs.dispatcher.function
    return result


def plain(tree: Any) -> Any:
    """Leaves as lists, and the structure, so that trees compare."""
    leaves, structure = ft.tree_util.tree_flatten(tree)
    return [np.asarray(x).tolist() for x in leaves], structure


ARRAY = np.arange(3.0)
TREES = {
    "leaf": 2.0, "array": ARRAY, "none": None, "dict": {"b": 1.0, "a": ARRAY}, "empty": {},
    "list": [1.0, [ARRAY]], "tuple": ((1.0,), ()), "namedtuple": Pair(1.0, {"x": ARRAY}),
    "dataclass": Layer(ARRAY, 2.0, "first"), "custom": Box([ARRAY], "label"),
    "ordered": OrderedDict(b=1.0, a=2.0), "default": defaultdict(list, a=1.0),
    "keys": {1: 1.0, "a": 2.0, (1, 2): 3.0}, "ints": {3: 1.0, -1: ARRAY}, "one": [ARRAY],
    "partial": ft.tree_util.Partial(np.add, 1.0), "int": 3, "bool": True, "complex": 1j,
    "scalar": np.float32(2), "deep": [[[[[[{"a": (Pair(1.0, None),)}]]]]]],
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_every_tree_is_taken_apart_and_put_together(name: str) -> None:
    tree = TREES[name]
    double = lambda t: ft.tree_util.tree_map(lambda x: x * 2, t)  # noqa: E731
    f, traces = counting(lambda t: double(t))
    want = plain(double(tree))
    for _ in range(5):
        result = f(tree)
        assert type(result) is (type(tree) if name not in SCALARS else SCALARS[name])
        assert plain(result) == want
    for _ in range(4):
        assert plain(f(t=tree)) == want
    assert len(traces) == 2


SCALARS = {
    "leaf": np.float64, "int": np.int64, "bool": np.int64, "complex": np.complex128,
}  # fmt: skip


def test_a_call_of_arrays_and_numbers_runs_no_python() -> None:
    f, _ = counting(lambda x, y: (x + y, x * y))
    assert [type(r) for r in warm(f, ARRAY, 2.0)] == [np.ndarray, np.ndarray]
    calls: list[str] = []
    sys.setprofile(lambda frame, event, arg: calls.append(event))
    f(ARRAY, 2.0)
    sys.setprofile(None)
    assert "call" not in calls


def test_another_signature_is_never_mistaken() -> None:
    f, traces = counting(lambda x: x + np.float32(1))
    kinds: list[Any] = [
        1.0, 1, True, 1j, np.float64(1), np.float32(1), np.int64(1), np.int32(1), np.bool(True),
        np.float32([1]), np.float64([1]), np.ones(2), np.ones((1, 2)), np.ones((2, 1)),
        np.ones(2, int), np.ones(2, bool), np.ones(2, complex), np.ones(0), np.ones((0, 2)),
    ]  # fmt: skip
    for _ in range(6):
        for x in kinds:
            want = x + np.float32(1)
            got = f(x)
            assert (got.dtype, got.shape, type(got)) == (want.dtype, want.shape, type(want)), x
            np.testing.assert_array_equal(got, want)
    assert len(traces) == len(kinds)


@pytest.mark.parametrize("weak", [1.5, 2, True, 1j])
def test_a_python_number_is_not_an_array_of_its_dtype(weak: Any) -> None:
    f, traces = counting(lambda x, y: x * y)
    strong = np.asarray(weak)
    y = np.ones(2, np.float32)
    for _ in range(4):
        for x in (weak, strong, strong[()]):
            got, want = f(x, y), x * y
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)
    assert len(traces) == 2


def test_other_layouts_and_subclasses_are_copied_not_retraced() -> None:
    f, traces = counting(lambda x, y: (x * 2 + y, x.T))
    x = np.arange(12.0).reshape(3, 4)
    misaligned = np.zeros(97, np.uint8)[1:].view("f8").reshape(3, 4)
    misaligned[...] = x
    locked = x.copy()
    locked.flags.writeable = False
    warm(f, x, 1.0)
    wide = np.zeros((3, 8))
    wide[:, ::2] = x
    layouts = [x, np.asfortranarray(x), wide[:, ::2], x[::-1][::-1], misaligned, locked,
               x.view(Labelled), np.asfortranarray(x).view(Labelled), x.astype(">f8")]  # fmt: skip
    for _ in range(4):
        for y in layouts:
            before = y.copy()
            double, transposed = f(y, 1.0)
            np.testing.assert_array_equal(double, x * 2 + 1)
            np.testing.assert_array_equal(transposed, x.T)
            assert (type(double), double.dtype) == (np.ndarray, np.dtype(float))
            assert double.flags.c_contiguous
            assert double.flags.writeable
            np.testing.assert_array_equal(y, before)
    assert len(traces) == 1
    stretched = np.broadcast_to(np.arange(4.0), (3, 4))
    np.testing.assert_array_equal(f(stretched, 1.0)[0], stretched * 2 + 1)
    assert len(traces) == 1


def test_an_array_of_an_unpickled_dtype_takes_the_short_way() -> None:
    dtype = np.dtype([("x", float)])["x"].newbyteorder(">").newbyteorder("<")
    x = np.arange(3.0).astype(dtype)
    assert x.dtype == np.dtype(float)
    f, traces = counting(lambda x: x + 1)
    warm(f, np.arange(3.0))
    np.testing.assert_array_equal(f(x), [1, 2, 3])
    assert len(traces) == 1


def test_results_of_no_dimensions_are_numpy_scalars() -> None:
    f = ft.jit(lambda x: (x.sum(), x.sum() > 1, {"n": x.max(), "i": x.argmax()}, 1j * x[0]))
    for _ in range(4):
        total, large, inner, number = f(np.array([1.0, 2.0]))
        kinds = [type(r) for r in (total, large, inner["n"], inner["i"], number)]
        assert kinds == [np.float64, np.bool, np.float64, np.int64, np.complex128]
        assert (total, inner["n"], inner["i"], number) == (3, 2, 1, 1j)
        assert large is np.True_


def test_integers_beyond_64_bits_are_refused() -> None:
    f = ft.jit(lambda n: n + 1)
    assert warm(f, 41) == 42
    assert f(-(2**63)) == -(2**63) + 1
    with pytest.raises(OverflowError):
        f(2**63)
    assert f(41) == 42


# ---------------------------------------------------------------------------- containers


def test_dicts_are_told_by_their_keys_not_their_order() -> None:
    f, traces = counting(lambda d: d["b"] - d.get("a", 0.0))
    assert warm(f, {"a": 1.0, "b": 3.0}) == 2
    assert f({"b": 3.0, "a": 1.0}) == 2
    assert len(traces) == 1
    d = {"b": 3.0, "a": 1.0}
    del d["a"]
    assert f(d) == 3
    d["c"] = 7.0
    assert f(d) == 3
    d["a"] = 2.0
    assert f(d) == 1
    assert len(traces) == 4
    with pytest.raises(KeyError):
        f({"a": 1.0, "c": 2.0})
    assert f({"a": 1.0, "b": 3.0}) == 2
    for wrong in (SubDict(a=1.0, b=3.0), {"a": 1.0, "b": "text"}, "text"):
        with pytest.raises(TypeError):
            f(wrong)


def test_keys_that_cannot_be_sorted_are_told_by_their_order() -> None:
    f, traces = counting(lambda d: next(iter(d.values())) * 2)
    assert warm(f, {1: 1.0, "a": 2.0}) == 2
    assert f({"a": 2.0, 1: 1.0}) == 4
    assert f({1: 1.0, "a": 2.0}) == 2
    assert len(traces) == 2


def test_other_containers_and_lengths_are_other_signatures() -> None:
    f, traces = counting(lambda t: sum(ft.tree_util.tree_leaves(t), 0.0))
    x = 1.0
    trees: list[Any] = [
        (x, x), [x, x], Pair(x, x), {"a": x, "b": x}, (x,), (x, x, x), [x, (x,)], (x, None),
        (x, {}), Layer(x, x), Layer(x, x, "other"), Layer(x, None), Box((x, x), 1), Box((x, x), 2),
        [], None, OrderedDict(a=x, b=x), OrderedDict(b=x, a=x), defaultdict(int, a=x, b=x),
    ]  # fmt: skip
    for _ in range(5):
        for tree in trees:
            assert f(tree) == len(ft.tree_util.tree_leaves(tree))
    assert len(traces) == len(trees)


def test_an_argument_where_a_container_was_and_back() -> None:
    f, traces = counting(lambda t, n=None: t["a"] if n is None else t["a"] + n)
    t = {"a": ARRAY}
    warm(f, t)
    np.testing.assert_array_equal(f(t, None), ARRAY)
    np.testing.assert_array_equal(f(t, 1.0), ARRAY + 1)
    np.testing.assert_array_equal(f(t, n=1.0), ARRAY + 1)
    np.testing.assert_array_equal(f(n=1.0, t=t), ARRAY + 1)
    np.testing.assert_array_equal(f(t), ARRAY)
    assert len(traces) == 5
    with pytest.raises(TypeError):
        f()
    with pytest.raises(TypeError):
        f(t, 1.0, 2.0)
    with pytest.raises(TypeError):
        f(t, m=1.0)


def test_results_share_nothing_between_calls() -> None:
    f = ft.jit(lambda t: {"x": t["x"] + 1, "l": [t["x"]], "box": Box(t["x"], "b"), "n": None})
    t = {"x": np.ones(3)}
    warm(f, t)
    first, second = f(t), f(t)
    first["l"].append(1)
    first["l"][0][:] = 9
    first["x"][:] = 9
    np.testing.assert_array_equal(second["l"], [np.ones(3)])
    np.testing.assert_array_equal(second["x"], 2)
    np.testing.assert_array_equal(t["x"], 1)


def test_static_arguments_choose_the_program() -> None:
    f, _ = counting(
        lambda x, n, *, mode="a", k=0: x * len(n) + (1 if mode == "a" else 2) + k,
        static_argnums=1,
        static_argnames=("mode",),
    )
    cases: list[tuple[Any, dict[str, Any], float]] = [
        ((1.0, (1, 2)), {}, 3), ((1.0, (1, 2, 3)), {}, 4), ((1.0, "abc"), {"mode": "b"}, 5),
        ((1.0, (1, 2)), {"mode": "a"}, 3), ((1.0, "ab"), {"mode": "b", "k": 10.0}, 14),
    ]  # fmt: skip
    for _ in range(4):
        for args, kwargs, want in cases:
            assert f(*args, **kwargs) == want
            assert f(args[0], type(args[1])(list(args[1])) if args[1] != "abc" else "abc", **kwargs)
    power, _ = counting(lambda x, n: x**n, static_argnums=1)
    for _ in range(4):
        assert type(power(np.int64(2), 2)) is np.int64
        assert type(power(np.int64(2), 2.0)) is np.float64
        assert power(np.int64(2), True) == 2
    content, seen = counting(lambda x, a: x + a.sum(), static_argnums=1)
    a = np.ones(2)
    for _ in range(3):
        assert content(1.0, a) == 3
    a[:] = 5
    assert content(1.0, a) == 11
    assert len(seen) == 2
    with pytest.raises(ValueError, match="hashable"):
        power(1.0, [1])


def test_a_static_argument_whose_value_changes_is_another() -> None:
    class Setting:
        value = 1

        def __hash__(self) -> int:
            return hash(self.value)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Setting) and self.value == other.value

    setting = Setting()
    f = ft.jit(lambda x, s: x * s.value, static_argnums=1)
    assert warm(f, 2.0, setting) == 2
    setting.value = 5
    assert f(2.0, setting) == 10


def test_methods_take_short_ways() -> None:
    class Model:
        def __init__(self, scale: float):
            self.scale = scale

        @ft.jit
        def times(self, x: Any) -> Any:
            """Scale x."""
            return x * self.scale

    model = Model(3.0)
    for _ in range(5):
        assert model.times(2.0) == 6
    model.scale = 4.0
    for _ in range(5):
        assert model.times(2.0) == 8
        assert Model(1.0).times(2.0) == 2
    assert model.times.__doc__ == "Scale x."
    assert model.times.__name__ == "times"


# ---------------------------------------------------------------------------- context


def test_transformations_and_named_axes_see_the_call() -> None:
    f = ft.jit(lambda x: np.sin(x) * 2)
    warm(f, 1.0)
    warm(f, ARRAY)
    assert ft.grad(f)(1.0) == pytest.approx(2 * np.cos(1.0))
    np.testing.assert_allclose(ft.vmap(f)(ARRAY), 2 * np.sin(ARRAY))
    assert "jit" in str(ft.make_jaxpr(lambda x: f(x) + f(1.0))(2.0))
    constant = ft.make_jaxpr(lambda x: x + f(1.0))(2.0)
    assert "jit" in str(constant)
    g = ft.jit(lambda x: ft.lax.psum(x, "i"))
    for _ in range(4):
        np.testing.assert_array_equal(ft.vmap(g, axis_name="i")(ARRAY), [3, 3, 3])
    with pytest.raises(NameError):
        g(1.0)
    assert not config.unusual
    assert f(1.0) == 2 * np.sin(1.0)


def test_switches_hold_for_warm_functions() -> None:
    f, traces = counting(lambda x: x + 1)
    warm(f, 1.0)
    with ft.disable_jit():
        assert type(f(1.0)) is float
    assert len(traces) == 2
    assert type(f(1.0)) is np.float64
    assert len(traces) == 2
    with pytest.raises(ZeroDivisionError), ft.disable_jit(), ft.checking_leaks():
        raise ZeroDivisionError
    assert not config.unusual


def test_a_switch_of_one_thread_does_not_reach_another() -> None:
    f, traces = counting(lambda x: x + 1)
    warm(f, 1.0)
    entered, done, kinds = threading.Event(), threading.Event(), []

    def other() -> None:
        entered.wait()
        kinds.extend(type(f(1.0)) for _ in range(3))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with ft.disable_jit():
        entered.set()
        done.wait()
        assert type(f(1.0)) is float
    thread.join()
    assert kinds == [np.float64] * 3
    assert len(traces) == 2


def test_a_leaked_tracer_is_refused_by_a_warm_function() -> None:
    kept: list[Any] = []
    ft.jit(lambda x: kept.append(x) or x)(1.0)
    f = ft.jit(lambda x: x + 1)
    warm(f, 1.0)
    with pytest.raises(ft.errors.UnexpectedTracerError):
        f(kept[0])


def test_arrays_closed_over_are_read_at_each_short_call() -> None:
    w, v = np.ones(3), np.ones((3, 2))[:, 0]
    f = ft.jit(lambda x: {"y": x * w + v})
    warm(f, ARRAY)
    w[:] = 2
    v[:] = 5
    np.testing.assert_array_equal(f(ARRAY)["y"], ARRAY * 2 + 5)


def test_an_index_error_leaves_the_short_way_usable() -> None:
    f, traces = counting(lambda t, i: {"x": t[0][i] * 2, "y": t[0] + 1})
    t = [np.arange(3.0)]
    warm(f, t, 2)
    for _ in range(20):
        with pytest.raises(IndexError, match="index 3 is out of bounds for axis 0 with size 3"):
            f(t, 3)
        with pytest.raises(IndexError, match="index -4"):
            f(t, -4)
        assert f(t, -1)["x"] == 4
    assert len(traces) == 1


@ft.jit
def at_module_level(x: Any) -> Any:
    return x + 1


def increment(x: Any, n: int) -> Any:
    return x + n


def test_functions_are_copied_and_pickled_like_functions() -> None:
    warm(at_module_level, 1.0)
    other = ft.jit(increment, static_argnums=1)
    warm(other, 1.0, 1)
    assert copy.copy(at_module_level) is at_module_level
    assert copy.deepcopy([at_module_level])[0] is at_module_level
    assert pickle.loads(pickle.dumps(at_module_level)) is at_module_level
    for made in (copy.copy(other), copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        assert made(1.0, 2) == 3


def test_a_jitted_function_of_a_jitted_function() -> None:
    inner = ft.jit(lambda x: x + 1)
    outer = ft.jit(inner)
    assert warm(outer, 1.0) == 2
    assert warm(inner, 1.0) == 2
    assert outer._programs is not inner._programs


def test_a_cleared_cache_traces_again() -> None:
    f, traces = counting(lambda x: x + 1)
    warm(f, 1.0)
    f.clear_cache()
    warm(f, 1.0)
    assert len(traces) == 2


# ---------------------------------------------------------------------------- many


def test_a_thousand_signatures_take_turns() -> None:
    f, traces = counting(lambda x, t: t["k"] if x.shape[0] > 40 else x * 2)
    xs = [np.ones(n) for n in range(1, 41)]
    for _ in range(25):
        for n, x in enumerate(xs, 1):
            got = f(x, {"k": 1})
            assert got.shape == (n,)
            assert got[0] == 2
    assert len(traces) == 40
    assert len(f._programs.dispatcher.ways()) == 8


def test_threads_call_with_different_signatures_at_once() -> None:
    f = ft.jit(lambda t, x: {"s": (fnp.exp(t["w"]) @ fnp.sin(x)).sum(), "n": x * 2})
    cases = [({"w": np.full((n, n), 0.01 * n)}, np.full((n, n), 0.5)) for n in range(20, 32)]
    want = [(np.exp(t["w"]) @ np.sin(x)).sum() for t, x in cases]
    wrong: list[Any] = []

    def work(start: int) -> None:
        for k in range(240):
            i = (start + k // 7 + k) % len(cases)
            result = f(*cases[i])
            if not np.isclose(result["s"], want[i], rtol=1e-12) or result["n"][0, 0] != 1:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong


def test_calls_neither_leak_nor_lose_references() -> None:
    f = ft.jit(lambda t, x, i: {"a": t["a"] + x, "b": [t["b"][i], x.T], "c": t["b"] > 0})
    t = {"a": np.ones((2, 3)), "b": np.ones(3)}
    x = np.ones((2, 3))
    strided = np.ones((3, 2)).T
    objects = [t, t["a"], t["b"], x, strided, np.dtype(float), np.dtype(bool), NotImplemented]

    def calls(n: int) -> None:
        for _ in range(n):
            f(t, x, 1)
            f(t, strided, 1)
            with pytest.raises(IndexError):
                f(t, x, 7)

    calls(10)
    gc.collect()
    counts = [sys.getrefcount(o) for o in objects]
    tracemalloc.start()
    calls(10)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    calls(2_000)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert [sys.getrefcount(o) for o in objects] == counts
    assert grown < 20_000


def test_a_hundred_thousand_calls_hold_no_memory() -> None:
    f = ft.jit(lambda x, y: (x + y, x.sum()))
    warm(f, ARRAY, 2.0)
    tracemalloc.start()
    f(ARRAY, 2.0)
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(100_000):
        f(ARRAY, 2.0)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 20_000


def test_a_dropped_function_gives_back_its_memory() -> None:
    def made() -> Any:
        f = ft.jit(lambda x: fnp.exp(fnp.exp(x) @ x) @ x + (x @ x).sum(axis=0))
        warm_ones = np.ones((300, 300))
        for _ in range(3):
            f(warm_ones)
        return weakref.ref(f._programs), weakref.ref(f)

    refs = made()
    gc.collect()
    assert [r() for r in refs] == [None, None]
    made()
    gc.collect()
    tracemalloc.start()
    made()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 300 * 300 * 8 * 3
