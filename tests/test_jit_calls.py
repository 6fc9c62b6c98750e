"""What a jitted function takes, returns, remembers and prints."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans.printing_loops import run_python
from tests.helpers.lowered_programs import on_host


class Labelled(np.ndarray):
    """A subclass of ndarray."""


def inputs() -> dict[str, np.ndarray]:
    base = np.arange(24.0).reshape(4, 6)
    locked = base.copy()
    locked.flags.writeable = False
    misaligned = np.zeros(24 * 8 + 1, np.uint8)[1:].view("f8").reshape(4, 6)
    misaligned[...] = base
    return {
        "contiguous": base, "fortran": np.asfortranarray(base), "strided": base[::2, ::-1],
        "read-only": locked, "byte-swapped": base.astype(">f8"), "0-d": np.array(3.0),
        "subclass": base.view(Labelled), "misaligned": misaligned, "empty": base[:0],
        "broadcast": np.broadcast_to(np.arange(3.0), (2, 3)), "transposed": base.T,
        "int": np.arange(6)[::-2], "bool": (base > 5)[:, ::3], "f4": base.astype("f4")[1:, 1:],
        "longlong": np.arange(4, dtype=np.longlong),
    }  # fmt: skip


@pytest.mark.parametrize("name", inputs())
def test_every_memory_layout_is_read_and_outputs_are_fresh(name: str) -> None:
    x = inputs()[name]
    before = np.array(x)
    f = ft.jit(lambda x: (x, x * 2, fnp.transpose(x), x, fnp.reshape(x, -1)))
    outs = f(x)
    for got, want in zip(outs, (x, x * 2, x.T, x, np.reshape(x, -1)), strict=True):
        np.testing.assert_array_equal(got, np.asarray(want))
        assert got.dtype == np.asarray(want).dtype.newbyteorder("=")
    arrays = [o for o in outs if isinstance(o, np.ndarray)]
    for i, a in enumerate(arrays):
        assert type(a) is np.ndarray
        assert a.flags.writeable
        assert not any(np.shares_memory(a, b) for b in [x, *arrays[:i]])
        a[...] = 0
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(f(x)[0], before)


def test_layouts_take_turns_in_one_jitted_function() -> None:
    f = ft.jit(lambda x: x.sum(axis=1) + x[:, 0])
    x = np.arange(12.0).reshape(4, 3)
    for y in (x, np.asfortranarray(x), x.astype(">f8"), x[::-1], x.view(Labelled), x):
        np.testing.assert_array_equal(f(y), np.asarray(y).sum(axis=1) + np.asarray(y)[:, 0])


def test_constant_and_literal_outputs_are_fresh() -> None:
    table = np.arange(3.0)
    f = ft.jit(lambda x: (table, 2.5, fnp.zeros(3), 1 + 2j, True, np.float32(2), table))
    first, second = f(1.0), f(1.0)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
        if isinstance(a, np.ndarray):
            assert not np.shares_memory(a, b)
    first[0][:] = 9
    first[2][:] = 9
    np.testing.assert_array_equal(table, [0, 1, 2])
    np.testing.assert_array_equal(f(1.0)[0], [0, 1, 2])
    np.testing.assert_array_equal(f(1.0)[2], 0)
    assert not np.shares_memory(second[0], second[6])
    assert [np.asarray(y).dtype.char for y in second] == list("dddD?fd")


def test_arrays_closed_over_are_read_at_each_call() -> None:
    w = np.ones((3, 3))
    f = ft.jit(lambda x: w @ x + w[0])
    x = np.arange(3.0)
    np.testing.assert_array_equal(f(x), [4, 4, 4])
    w[0] = 2
    np.testing.assert_array_equal(f(x), w @ x + w[0])
    g = ft.jit(ft.grad(lambda x: (w.T[::2] @ x).sum()))
    np.testing.assert_array_equal(g(x), w.T[::2].sum(axis=0))
    w *= 5
    np.testing.assert_array_equal(g(x), w.T[::2].sum(axis=0))


def test_static_arguments() -> None:
    seen: list[Any] = []

    def f(x: Any, n: Any, *, mode: Any = "a") -> Any:
        seen.append((n, mode))
        return x * 2 if mode == "a" else fnp.sum(x) + len(np.atleast_1d(n))

    g = ft.jit(f, static_argnums=1, static_argnames="mode")
    x = np.ones(3)
    g(x, 2)
    g(x, 2)
    assert len(seen) == 1
    assert g(x, 2, mode="b") == 4
    g(x, np.array([1, 2]), mode="b")
    g(x, np.array([1, 2]), mode="b")
    assert len(seen) == 3
    assert g(x, np.array([1, 3]), mode="b") == 5
    assert len(seen) == 4


def test_methods_decorators_and_nesting() -> None:
    class Model:
        scale = 3.0

        @ft.jit
        def double(self, x: Any) -> Any:
            return x * 2

    ft.tree_util.register_pytree_node(Model, lambda m: ((), None), lambda aux, children: Model())
    assert Model().double(4.0) == 8

    @ft.jit(static_argnames=("n",))
    def power(x: Any, n: int) -> Any:
        return x**n

    outer = ft.jit(lambda x: power(x, n=3) + power(x, n=2))
    np.testing.assert_allclose(outer(np.array([2.0, 3.0])), [12, 36])
    np.testing.assert_allclose(ft.grad(lambda x: outer(x).sum())(np.array([2.0])), [16])
    np.testing.assert_allclose(ft.vmap(outer)(np.ones((2, 3))), 2)


@pytest.mark.parametrize(
    "f",
    [lambda x: fnp.tanh(x) @ x.T, lambda x: x.sum(0) / x.max(), lambda x: on_host(x, axis=0)],
)
def test_the_stages_are_text_and_the_loop_program_runs(f: Any) -> None:
    x = np.linspace(0, 1, 12).reshape(3, 4)
    lowered = ft.jit(f).trace(x).lower()
    for stage in (str(lowered.jaxpr), str(lowered.simplified), lowered.loop_program, lowered.llvm,
                  lowered.assembly, lowered.as_text(), lowered.compile().as_text()):  # fmt: skip
        assert isinstance(stage, str)
        assert stage
    np.testing.assert_allclose(lowered.compile()(x), f(x), rtol=1e-14)
    np.testing.assert_allclose(run_python(lowered.program, [x])[0], f(x), rtol=1e-14)
    with pytest.raises(TypeError, match="compiled for"):
        lowered.compile()(x[1:])


def test_host_steps_can_be_refused() -> None:
    f = lambda x: on_host(x, axis=0)  # noqa: E731
    np.testing.assert_array_equal(ft.jit(f)(np.array([2.0, 1.0])), [1, 2])
    with pytest.raises(TypeError, match="host_steps"):
        ft.jit(f, host_steps="error")(np.array([2.0, 1.0]))
    ft.jit(lambda x: fnp.exp(x) @ x, host_steps="error")(np.ones(3))


def test_threads_call_one_function_at_once() -> None:
    f = ft.jit(lambda x: (fnp.exp(x) @ fnp.sin(x).T).sum(axis=0) + on_host(x[0], axis=0)[-1])
    xs = [np.full((40, 40), 0.01 * i) for i in range(4)]
    want = [(np.exp(x) @ np.sin(x).T).sum(axis=0) + x[0, 0] for x in xs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(60):
            if not np.allclose(f(xs[i]), want[i], rtol=1e-12):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_disable_jit_runs_the_function_itself() -> None:
    calls: list[int] = []

    def f(x: Any) -> Any:
        calls.append(1)
        return x + 1

    g = ft.jit(f)
    with ft.disable_jit():
        assert g(1.0) == 2
        assert g(1.0) == 2
    assert len(calls) == 2


def test_an_error_in_the_function_leaves_it_usable() -> None:
    f = ft.jit(lambda x, i: x[i] * 2)
    x = np.arange(3.0)
    for _ in range(3):
        with pytest.raises(IndexError):
            f(x, 3)
        assert f(x, 2) == 4
    with pytest.raises(TypeError):
        ft.jit(lambda x: float(x))(1.0)
    with pytest.raises(TypeError):
        f("text", 1)
