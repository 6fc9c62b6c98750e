"""Long programs: no recursion, and time in proportion to their length."""

from __future__ import annotations

import time

import numpy as np
import pytest

import functrans as ft

LONG, SHORT = 20_000, 2_000  # linear is 10 times as long, quadratic 100


def chain(length):
    def f(x):
        for _ in range(length // 2):
            x = x * 1.0000001
            x = x + 1e-9
        return x

    return f


def doublings(x):
    for _ in range(30):
        x = x + x
    return x


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def check_linear(call):
    """`call(length)` of 10 times the length takes less than 40 times as long."""
    call(100)
    short = min(seconds(lambda: call(SHORT)) for _ in range(2))
    assert seconds(lambda: call(LONG)) < 40 * short + 0.05


def test_a_long_chain_is_traced_and_printed():
    closed = ft.make_jaxpr(chain(LONG))(1.0)
    assert len(closed.jaxpr.eqns) == LONG
    assert str(closed).count("\n") == LONG + 1
    ft.check_jaxpr(closed)


def test_a_long_chain_is_differentiated():
    expected = 1.0000001 ** (LONG // 2)
    np.testing.assert_allclose(ft.grad(chain(LONG))(1.0), expected, rtol=1e-9)
    np.testing.assert_allclose(ft.jvp(chain(LONG), (1.0,), (1.0,))[1], expected, rtol=1e-9)
    np.testing.assert_allclose(ft.vmap(ft.grad(chain(2000)))(np.ones(2)),
                               1.0000001**1000, rtol=1e-9)  # fmt: skip


@pytest.mark.parametrize(
    "call",
    [
        lambda n: ft.make_jaxpr(chain(n))(1.0),
        lambda n: str(ft.make_jaxpr(chain(n))(1.0)),
        lambda n: ft.grad(chain(n))(1.0),
        lambda n: ft.make_jaxpr(ft.grad(chain(n)))(1.0),
        lambda n: ft.jit(ft.grad(chain(n))).lower(1.0).simplified,
    ],
    ids=["trace", "print", "grad", "trace grad", "simplify grad"],
)
def test_time_is_linear_in_the_length(call):
    check_linear(call)


def test_a_long_chain_is_compiled_in_linear_time():
    f = chain(LONG)
    short = seconds(lambda: ft.jit(chain(SHORT))(1.0))
    compiled = ft.jit(f)
    assert seconds(lambda: compiled(1.0)) < 40 * short + 0.05
    np.testing.assert_allclose(compiled(1.0), f(1.0), rtol=1e-9)


@pytest.mark.parametrize("wrap", [lambda f: f, ft.jit], ids=["eager", "jit"])
def test_thirty_doublings(wrap):
    assert wrap(doublings)(1.0) == 2.0**30
    assert wrap(ft.grad(doublings))(1.0) == 2.0**30
    assert wrap(ft.value_and_grad(doublings))(2.0) == (2.0**31, 2.0**30)
    assert wrap(lambda x: ft.jvp(doublings, (x,), (1.0,))[1])(1.0) == 2.0**30
    assert len(ft.make_jaxpr(ft.grad(doublings))(1.0).jaxpr.eqns) < 100
