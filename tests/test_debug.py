"""functrans.debug and debug_nans: looking inside of traced and compiled code."""

from __future__ import annotations

import builtins
import doctest
from pathlib import Path

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans.errors import CheckError

X = np.array([1.0, 2.0, 4.0])
PAGE = Path(__file__).parents[1] / "docs" / "debugging.md"


def printed(capsys):
    return capsys.readouterr().out.splitlines()


# ---------------------------------------------------------------------------- print


@pytest.mark.parametrize("transform", [lambda f: f, ft.jit], ids=["eager", "jit"])
def test_print_formats_values_as_python_does(transform, capsys):
    given = {"x": 1.25, "n": 7, "a": X, "tree": {"flag": True, "z": 1 + 2j}}
    formats = [
        "{x:.1f} {n:>4d} {a} {{}}",
        "{tree[flag]} {tree[z]!r:>20} {a[1]} {a.shape} {n:{n}d}",
        "{} {a} {word!s:*^9}",
        "nothing",
    ]

    def f(x, n, a, tree):
        ft.debug.print(formats[0], x=x, n=n, a=a)
        ft.debug.print(formats[1], tree=tree, a=a, n=n)
        ft.debug.print(formats[2], None, a=2 * a, word="word")
        ft.debug.print(formats[3])

    transform(f)(**given)
    arrays = ft.tree.map(lambda x: np.asarray(x)[()], given)
    assert printed(capsys) == [
        formats[0].format(**arrays), formats[1].format(**arrays),
        formats[2].format(None, a=2 * X, word="word"), "nothing",
    ]  # fmt: skip


def test_print_comes_in_the_order_of_the_program(capsys):
    @ft.jit
    def inner(x):
        ft.debug.print("inner {}", x)
        return x * 2

    @ft.jit
    def f(x):
        ft.debug.print("first {}", x)
        y = inner(x)
        ft.debug.print("second {}", y)
        ft.debug.print("second {}", y)
        ft.debug.print("last")
        return x

    for _ in range(3):
        f(1.0)
        assert printed(capsys) == ["first 1.0", "inner 1.0", "second 2.0", "second 2.0", "last"]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    "transform",
    [
        ft.vmap, lambda f: ft.jit(ft.vmap(f)), lambda f: ft.vmap(ft.jit(f)),
        lambda f: ft.vmap(ft.grad(f)), lambda f: ft.jit(ft.vmap(ft.grad(ft.jit(f)))),
    ],
)  # fmt: skip
def test_print_under_vmap_prints_each_example(transform, ordered, capsys):
    def f(x):
        ft.debug.print("{} {}", x, 0, ordered=ordered)
        ft.debug.print("shared")
        return x * x

    transform(f)(X)
    assert printed(capsys) == ["1.0 0", "2.0 0", "4.0 0", "shared"]


@pytest.mark.parametrize(
    "transform",
    [
        ft.grad, lambda f: ft.grad(ft.jit(f)), lambda f: ft.jit(ft.grad(f)),
        lambda f: ft.grad(ft.grad(f)), lambda f: lambda x: ft.jvp(f, (x,), (1.0,)),
    ],
)  # fmt: skip
def test_print_under_derivatives_prints_values_once(transform, capsys):
    def f(x):
        ft.debug.print("{}", x)
        return x**3

    transform(f)(2.0)
    assert printed(capsys) == ["2.0"]


def test_a_pullback_prints_nothing(capsys):
    def f(x):
        ft.debug.print("{}", x)
        return x * x

    _, pullback = ft.vjp(ft.jit(f), 3.0)
    assert printed(capsys) == ["3.0"]
    assert pullback(1.0) == (6.0,)
    assert printed(capsys) == []


@pytest.mark.parametrize("fmt", ["x = 1.0", "{a}", "{}"])
def test_print_refuses_arguments_without_a_place(fmt):
    with pytest.raises((ValueError, KeyError)) as caught:
        ft.jit(lambda x: ft.debug.print(fmt, x, x))(1.0)
    assert "not in an f-string" in caught.value.__notes__[0]


def test_print_refuses_what_is_no_format():
    with pytest.raises(IndexError):
        ft.debug.print("{} {}", 1)
    with pytest.raises(TypeError, match=r"debug.print takes a format string first, got 1.0"):
        ft.debug.print(1.0)


# ---------------------------------------------------------------------------- callback, breakpoint


def test_callback_gets_values_and_other_objects_as_they_are():
    seen = []
    marker = object()

    def note(x, *, tree, label):
        seen.append((x, tree, label))
        return "ignored"

    @ft.jit
    def f(x):
        assert ft.debug.callback(note, x, tree=[x + 1, marker], label="text") is None

    f(1.0)
    assert seen == [(1.0, [2.0, marker], "text")]
    with pytest.raises(TypeError, match=r"debug.callback takes a function, got 3"):
        ft.debug.callback(3)


def test_breakpoint_is_a_prompt_that_knows_local_variables(monkeypatch, capsys):
    lines = iter(["print('x is', x)", "print('y is', tree['y'], np.sum(tree['y']))"])

    def next_line(prompt=""):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(builtins, "input", next_line)

    @ft.jit
    def f(x):
        tree = {"y": x * np.ones(2)}
        word = "not an array"
        ft.debug.breakpoint()
        return len(word) * tree["y"]

    np.testing.assert_array_equal(f(2.0), [24.0, 24.0])
    out, err = capsys.readouterr()
    assert out.splitlines() == ["x is 2.0", "y is [2. 2.] 4.0"]
    assert "debug.breakpoint at" in err
    assert "test_debug.py" in err
    assert "x, tree" in err


# ---------------------------------------------------------------------------- check


def log_of_positive(x):
    ft.debug.check(x > 0, "x must be positive, got {x:.1f}", x=x)
    return np.sum(np.log(x))


@pytest.mark.parametrize(
    "transform", [lambda f: f, ft.jit, ft.grad, lambda f: ft.jit(ft.grad(ft.jit(f)))]
)
def test_check_raises_with_values_and_the_line(transform):
    f = transform(log_of_positive)
    f(2.0)
    with pytest.raises(CheckError, match=r"^x must be positive, got -1.0\n") as caught:
        f(-1.0)
    assert "debug.check at" in caught.value.__notes__[0]
    assert "test_debug.py" in caught.value.__notes__[0]
    assert "(log_of_positive)" in caught.value.__notes__[0]
    f(2.0)


def test_check_under_vmap_names_the_example():
    f = ft.jit(ft.vmap(log_of_positive))
    f(X)
    with pytest.raises(CheckError, match=r"got -2.0") as caught:
        f(np.array([1.0, -2.0, -3.0]))
    assert "for example 1 of 3 under vmap" in caught.value.__notes__


def test_check_of_an_array_needs_all_of_it():
    f = ft.jit(lambda x: ft.debug.check(x > 0, "got {}", x))
    f(X)
    with pytest.raises(CheckError, match=r"got \[-1"):
        f(-X)


def test_check_refuses_what_is_not_a_claim():
    with pytest.raises(TypeError, match=r"takes a bool .* got 1.0"):
        ft.debug.check(1.0, "wrong")
    with pytest.raises(ValueError, match="no place"):
        ft.debug.check(True, "wrong", 3)
    with pytest.raises(TypeError, match=r"\(debug.check\) at .*test_debug.py"):
        ft.jit(log_of_positive, host_steps="error")(1.0)


# ---------------------------------------------------------------------------- debug_nans


def sum_of_sines(x):
    return np.sum(np.sin(x))


def roots(x):
    return np.sum(fnp.sqrt(x) * 2)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: f, ft.jit, ft.grad, lambda f: ft.jit(ft.grad(f)), lambda f: ft.grad(ft.jit(f)),
        lambda f: ft.jit(ft.jit(f)), lambda f: lambda x: ft.vmap(f)(x[None]),
        lambda f: lambda x: ft.vmap(ft.jit(f))(x[None]),
    ],
)  # fmt: skip
def test_debug_nans_names_the_operation_and_the_line(transform):
    f = transform(lambda x: roots(fnp.negative(x)))
    with ft.debug_nans():
        f(-X)
        with pytest.raises(FloatingPointError, match=r"^sqrt made nan: .*debug.py.*roots"):
            f(np.where(X > 1, X, -1))
        with ft.debug_nans(False), np.errstate(invalid="ignore"):
            assert np.all(np.isnan(np.ravel(f(X))[:1]))


def scanned_logs(x):
    return ft.lax.scan(lambda c, y: (c + fnp.log(1 - y), c), x, np.arange(3.0))[0]


def repeated_logs(x):
    return ft.lax.while_loop(lambda c: c < 9.0, lambda c: fnp.log(-c), x)


def chosen_log(x):
    return ft.lax.cond(x > 0, lambda: fnp.log(-x), lambda: x)


def printed_logs(x):
    return ft.lax.scan(lambda c, y: (ft.debug.print("{}", c) or fnp.log(c), c), x, X)[0]


@pytest.mark.parametrize("f", [scanned_logs, repeated_logs, chosen_log, printed_logs])
@pytest.mark.parametrize(
    "transform",
    [lambda f: f, ft.jit, lambda f: lambda x: ft.jit(ft.vmap(f))(np.full(2, x))],
    ids=["eager", "jit", "vmap"],
)
def test_debug_nans_looks_into_loops_and_branches(f, transform):
    call = transform(f)
    with ft.debug_nans(), pytest.raises(FloatingPointError, match=r"^log made nan: .*debug.py.*>"):
        call(2.0)


def test_debug_nans_shows_what_the_operands_were():
    with ft.debug_nans():
        with pytest.raises(FloatingPointError, match=r"2 of 3 .* index \(1,\).*\(f64\[3\] in \[-4"):
            ft.jit(np.log)(np.array([1.0, -2.0, -4.0]))
        with pytest.raises(FloatingPointError, match=r"\(0.0, 0.0\)"):
            ft.jit(lambda x: x / x)(0.0)


def test_debug_nans_looks_at_backward_passes():
    def f(x):
        return np.sqrt(x * x)

    with ft.debug_nans(), pytest.raises(FloatingPointError, match="mul made nan") as caught:
        ft.grad(f)(0.0)
    assert any("transposing mul" in note for note in caught.value.__notes__)


def test_debug_nans_lets_nan_through_that_was_there():
    x = np.array([1.0, np.nan])

    def f(x):
        return np.sum(np.where(x > 0, x, np.nan)) * 2

    with ft.debug_nans():
        for call in (f, ft.jit(f), fnp.sum, ft.vmap(ft.jit(fnp.sin)), ft.grad(sum_of_sines)):
            assert np.isnan(call(x)).any()


def test_debug_nans_raises_for_numpy_itself():
    with ft.debug_nans(), pytest.raises(FloatingPointError, match="invalid value"):
        np.log(np.array(-1.0))


def test_debug_nans_keeps_results_and_ends_with_its_block():
    f = ft.jit(lambda x, n: {"y": np.sin(x) + n, "same": x})
    expected = f(X, 2)
    for enable in (True, False):
        with ft.debug_nans(enable):
            got = f(X, 2)
        np.testing.assert_array_equal(got["y"], expected["y"])
        np.testing.assert_array_equal(got["same"], X)
    assert np.isnan(ft.jit(np.log)(-1.0))


def test_debug_nans_runs_effects_once(capsys):
    @ft.jit
    def f(x):
        ft.debug.print("before {}", x)
        y = np.log(x)
        ft.debug.print("after {}", y)
        return y, x

    with ft.debug_nans():
        y, same = f(np.ones(2))
        assert printed(capsys) == ["before [1. 1.]", "after [0. 0.]"]
        with pytest.raises(FloatingPointError, match="log made nan"):
            f(np.array([-1.0, 1.0]))
        assert printed(capsys) == ["before [-1.  1.]"]
    same[...] = 0
    np.testing.assert_array_equal(y, np.zeros(2))


# ---------------------------------------------------------------------------- the page


def test_what_the_page_shows_is_true():
    text = PAGE.read_text(encoding="utf-8").replace("```python", "").replace("```", "")
    test = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test).failed == 0
    assert runner.tries > 5
