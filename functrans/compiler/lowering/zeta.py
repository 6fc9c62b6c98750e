"""The Hurwitz zeta function as loops: what the derivatives of digamma are made of."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from functrans.compiler.lowering.lowering import NodeBuilder
from functrans.compiler.lowering.nodes import Node

_BERNOULLI = [
    Fraction(*b) for b in ((1, 6), (-1, 30), (1, 42), (-1, 30), (5, 66), (-691, 2730), (7, 6))
]  # B_2, B_4, ... (DLMF table 24.2.1)
_SHIFT = 10  # the first term left out at x = 10 is below 1e-16 of the first
_F64 = np.dtype(np.float64)


def trigamma(b: NodeBuilder, x: Node) -> Node:
    """zeta(2, x) (DLMF 25.11.12); by reflection for x <= 0 (DLMF 5.15.6), as `impl` has it."""
    w = _Words(b, b.convert(x, _F64))
    positive = w("gt", w.x, w.number(0))
    tail = _zeta(w, w("select", positive, w.x, w("sub", w.number(1), w.x)), 2)
    ratio = w("div", w.number(math.pi), w("sin", w("mul", w.x, w.number(math.pi))))
    reflected = w("sub", w("mul", ratio, ratio), tail)
    return b.convert(w("select", positive, tail, reflected), x.dtype)


def minus_two_zeta3(b: NodeBuilder, x: Node) -> Node:
    """-2 zeta(3, x) for x > 0 (DLMF 25.11.17), nan elsewhere."""
    w = _Words(b, b.convert(x, _F64))
    positive = w("gt", w.x, w.number(0))
    value = w("mul", w.number(-2), _zeta(w, w.x, 3))
    return b.convert(w("select", positive, value, w.number(math.nan)), x.dtype)


class _Words:
    """Elementwise words of a builder, and numbers that go with `x`."""

    def __init__(self, b: NodeBuilder, x: Node):
        self._builder, self.x = b, x

    def __call__(self, op: str, *operands: Node) -> Node:
        return self._builder.elementwise(op, *operands)

    def number(self, value: float) -> Node:
        return self._builder.number(value, self.x)


def _zeta(w: _Words, x: Node, s: int) -> Node:
    """The sum of (x + i)**-s over i >= 0, for x > 0, by Euler and Maclaurin (DLMF 2.10.1)."""
    total = _inverse_power(w, x, s)
    for i in range(1, _SHIFT):
        total = w("add", total, _inverse_power(w, w("add", x, w.number(i)), s))
    end = w("add", x, w.number(_SHIFT))
    inverse = w("reciprocal", end)
    square = w("mul", inverse, inverse)
    series = w.number(0)
    for k, bernoulli in reversed(list(enumerate(_BERNOULLI, 1))):
        factor = bernoulli / math.factorial(2 * k) * math.perm(s + 2 * k - 2, 2 * k - 1)
        series = w("mul", w("add", series, w.number(float(factor))), square)
    # 1 / (s - 1) x**(s - 1) + 1 / 2 x**s + sum of the series / x**(s - 1)
    head = w("add", w.number(1 / (s - 1)), w("mul", w.number(0.5), inverse))
    tail = w("mul", w("add", head, series), _inverse_power(w, end, s - 1))
    return w("add", tail, total)


def _inverse_power(w: _Words, x: Node, n: int) -> Node:
    power = x
    for _ in range(n - 1):
        power = w("mul", power, x)
    return w("reciprocal", power)
