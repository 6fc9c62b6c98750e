"""Formulas on real numbers, written with Python's operators, as straight-line LLVM functions.

A formula is a Python function of `Real`s: `x * x + 1.0` appends two instructions to the function
that `x` belongs to. There is nothing but arithmetic, comparisons that give a `Truth`, the bits of a
number as an `Int`, and `where`: no branches, so a loop that calls such functions is one basic block
and becomes vector instructions. `fma`, `Pair` and `split` are for results of more than one word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from functrans.compiler.words.scalar_types import float_literal


@dataclass(frozen=True)
class Format:
    """What formulas must know of float32 and float64."""

    bits: int
    mantissa: int  # bits stored
    bias: int
    smallest_normal: float
    type: str
    dtype: type


FORMATS = {
    32: Format(32, 23, 127, 2.0**-126, "float", np.float32),
    64: Format(64, 52, 1023, 2.0**-1022, "double", np.float64),
}


class Code:
    """The instructions of one function.

    `bits` is the format computed in, `result_bits` that of the arguments and the result.
    """

    def __init__(self, bits: int, result_bits: int):
        self.format = FORMATS[bits]
        self.result_bits = result_bits
        self.lines: list[str] = []
        self.needed: list[str] = []  # declarations and functions that this one calls
        self.count = 0

    @property
    def wide(self) -> bool:
        """Whether the result is a float64, which takes longer polynomials."""
        return self.result_bits == 64

    def emit(self, text: str) -> str:
        """Append `name = text`; returns the name."""
        self.count += 1
        name = f"%v{self.count}"
        self.lines.append(f"  {name} = {text}")
        return name

    def needs(self, text: str) -> None:
        """Have a declaration or function beside this one."""
        self.needed.append(text)

    def real(self, value: Real | float) -> Real:
        """A constant, rounded to the format."""
        if isinstance(value, Real):
            return value
        return Real(self, float_literal(float(self.format.dtype(value))))

    def int(self, value: Int | int) -> Int:
        """An integer constant of as many bits as the format."""
        return value if isinstance(value, Int) else Int(self, str(value))

    def function(self, name: str, arguments: Sequence[str], result: Real) -> str:
        """The text of the function `@name` of these arguments."""
        t = FORMATS[self.result_bits].type
        head = ", ".join(f"{t} {x}" for x in arguments)
        value = result.name
        if self.format.bits != self.result_bits:
            value = self.emit(f"fptrunc {self.format.type} {value} to {t}")
        head = f"define internal {t} @{name}({head}) alwaysinline {{"
        return "\n".join([head, *self.lines, f"  ret {t} {value}", "}"])

    def argument(self, name: str) -> Real:
        """An argument, in the format computed in."""
        if self.format.bits == self.result_bits:
            return Real(self, name)
        t = FORMATS[self.result_bits].type
        return Real(self, self.emit(f"fpext {t} {name} to {self.format.type}"))


class Real:
    """A floating-point number of the function being written; NaN compares false."""

    def __init__(self, code: Code, name: str):
        self.code = code
        self.name = name

    def _with(self, instruction: str, other: Real | float, *, swap: bool = False) -> Real:
        a, b = self, self.code.real(other)
        a, b = (b, a) if swap else (a, b)
        text = f"{instruction} {self.code.format.type} {a.name}, {b.name}"
        return Real(self.code, self.code.emit(text))

    def _compare(self, how: str, other: Real | float) -> Truth:
        t, b = self.code.format.type, self.code.real(other)
        return Truth(self.code, self.code.emit(f"fcmp {how} {t} {self.name}, {b.name}"))

    def _intrinsic(self, name: str, *others: Real) -> Real:
        f = self.code.format
        values = ", ".join(f"{f.type} {x.name}" for x in (self, *others))
        text = f"call {f.type} @llvm.{name}.f{f.bits}({values})"
        return Real(self.code, self.code.emit(text))

    def __add__(self, other: Real | float) -> Real:
        return self._with("fadd", other)

    def __radd__(self, other: float) -> Real:
        return self._with("fadd", other, swap=True)

    def __sub__(self, other: Real | float) -> Real:
        return self._with("fsub", other)

    def __rsub__(self, other: float) -> Real:
        return self._with("fsub", other, swap=True)

    def __mul__(self, other: Real | float) -> Real:
        return self._with("fmul", other)

    def __rmul__(self, other: float) -> Real:
        return self._with("fmul", other, swap=True)

    def __truediv__(self, other: Real | float) -> Real:
        return self._with("fdiv", other)

    def __rtruediv__(self, other: float) -> Real:
        return self._with("fdiv", other, swap=True)

    def __neg__(self) -> Real:
        return Real(self.code, self.code.emit(f"fneg {self.code.format.type} {self.name}"))

    def __abs__(self) -> Real:
        return self._intrinsic("fabs")

    def __lt__(self, other: Real | float) -> Truth:
        return self._compare("olt", other)

    def __le__(self, other: Real | float) -> Truth:
        return self._compare("ole", other)

    def __gt__(self, other: Real | float) -> Truth:
        return self._compare("ogt", other)

    def __ge__(self, other: Real | float) -> Truth:
        return self._compare("oge", other)

    def equals(self, other: Real | float) -> Truth:
        """Equality; `==` stays that of Python objects."""
        return self._compare("oeq", other)

    def is_nan(self) -> Truth:
        """Whether this is not a number."""
        return self._compare("uno", self)

    def is_nan_or(self, other: Real) -> Truth:
        """Whether one of the two is not a number."""
        return self._compare("uno", other)

    def sqrt(self) -> Real:
        """The square root."""
        return self._intrinsic("sqrt")

    def floor(self) -> Real:
        """The largest integer not above."""
        return self._intrinsic("floor")

    def rint(self) -> Real:
        """The nearest integer, even in a tie."""
        return self._intrinsic("rint")

    def times_power_of_two(self, k: Int) -> Real:
        """2**k times this, with subnormal results and infinities where they are due."""
        f = self.code.format
        arguments = f"{f.type} {self.name}, i{f.bits} {k.name}"
        text = f"call {f.type} @llvm.ldexp.f{f.bits}.i{f.bits}({arguments})"
        return Real(self.code, self.code.emit(text))

    def with_sign_of(self, other: Real) -> Real:
        """The absolute value with another number's sign."""
        return self._intrinsic("copysign", other)

    def to_bits(self) -> Int:
        """The number's bits."""
        f = self.code.format
        return Int(self.code, self.code.emit(f"bitcast {f.type} {self.name} to i{f.bits}"))


class Int:
    """An integer of as many bits as the format."""

    def __init__(self, code: Code, name: str):
        self.code = code
        self.name = name

    def _with(self, instruction: str, other: Int | int) -> Int:
        t, b = f"i{self.code.format.bits}", self.code.int(other)
        return Int(self.code, self.code.emit(f"{instruction} {t} {self.name}, {b.name}"))

    def __add__(self, other: Int | int) -> Int:
        return self._with("add", other)

    def __sub__(self, other: Int | int) -> Int:
        return self._with("sub", other)

    def __and__(self, other: Int | int) -> Int:
        return self._with("and", other)

    def __xor__(self, other: Int | int) -> Int:
        return self._with("xor", other)

    def __lshift__(self, other: int) -> Int:
        return self._with("shl", other)

    def __rshift__(self, other: int) -> Int:
        return self._with("ashr", other)

    def equals(self, other: int) -> Truth:
        """Equality; `==` stays that of Python objects."""
        t = f"i{self.code.format.bits}"
        return Truth(self.code, self.code.emit(f"icmp eq {t} {self.name}, {other}"))

    def at_most(self, bound: int) -> Int:
        """The smaller of this and a constant."""
        t = f"i{self.code.format.bits}"
        text = f"call {t} @llvm.smin.{t}({t} {self.name}, {t} {bound})"
        return Int(self.code, self.code.emit(text))

    def to_real(self) -> Real:
        """The same number in floating point."""
        f = self.code.format
        return Real(self.code, self.code.emit(f"sitofp i{f.bits} {self.name} to {f.type}"))

    def as_real(self) -> Real:
        """The number that has these bits."""
        f = self.code.format
        return Real(self.code, self.code.emit(f"bitcast i{f.bits} {self.name} to {f.type}"))


class Truth:
    """A condition."""

    def __init__(self, code: Code, name: str):
        self.code = code
        self.name = name

    def __and__(self, other: Truth) -> Truth:
        return Truth(self.code, self.code.emit(f"and i1 {self.name}, {other.name}"))

    def __or__(self, other: Truth) -> Truth:
        return Truth(self.code, self.code.emit(f"or i1 {self.name}, {other.name}"))

    def __xor__(self, other: Truth) -> Truth:
        return Truth(self.code, self.code.emit(f"xor i1 {self.name}, {other.name}"))

    def __invert__(self) -> Truth:
        return Truth(self.code, self.code.emit(f"xor i1 {self.name}, true"))


def where(condition: Truth, a: Real | float, b: Real | float) -> Real:
    """`a` if the condition holds, else `b`."""
    code, t = condition.code, condition.code.format.type
    a, b = code.real(a), code.real(b)
    text = f"select i1 {condition.name}, {t} {a.name}, {t} {b.name}"
    return Real(code, code.emit(text))


def fma(a: Real, b: Real | float, c: Real | float) -> Real:
    """a b + c, rounded once."""
    return a._intrinsic("fma", a.code.real(b), a.code.real(c))


LONG = 21  # coefficients; from here on, half the latency pays for a square


def polynomial(x: Real, coefficients: Sequence[float]) -> Real:
    """The polynomial with these coefficients, highest power first.

    By Horner's rule; long ones by even and odd powers, where these do not cancel.
    """
    if len(coefficients) >= LONG:
        square = x * x
        even, odd = coefficients[-1::-2][::-1], coefficients[-2::-2][::-1]
        return fma(_horner(square, odd), x, _horner(square, even))
    return _horner(x, coefficients)


def _horner(x: Real, coefficients: Sequence[float]) -> Real:
    acc: Real = x.code.real(coefficients[0])
    for c in coefficients[1:]:
        acc = fma(acc, x, c)
    return acc


def rounded(x: Real, factor: float) -> tuple[Real, Int]:
    """The integer next to `factor x`, if that is small, as a number and as an integer."""
    # Adding 1.5 * 2**mantissa rounds to an integer, which is then in the low bits.
    f = x.code.format
    magic = 1.5 * 2.0**f.mantissa
    shifted = fma(x, factor, magic)
    whole = shifted - magic
    offset = int(f.dtype(magic).view(f"i{f.bits // 8}"))
    return whole, shifted.to_bits() - offset


class Pair(NamedTuple):
    """The unrounded sum of a number and a much smaller one."""

    high: Real
    low: Real


def sum_of(a: Real | float, b: Real) -> Pair:
    """a + b without error, for |a| >= |b| or a = 0 (T. J. Dekker, Numer. Math. 18, 1971)."""
    high = b.code.real(a) + b
    return Pair(high, (a - high) + b)


def any_sum_of(a: Real, b: Real) -> Pair:
    """a + b without error (D. E. Knuth, The Art of Computer Programming 2, 4.2.2)."""
    high = a + b
    part = high - a
    return Pair(high, (a - (high - part)) + (b - part))


def product_of(a: Real, b: Real | float) -> Pair:
    """a b without error."""
    high = a * b
    return Pair(high, fma(a, b, -high))


def ratio_of(top: Pair, below: Pair) -> Pair:
    """top / below, with one division."""
    inverse = 1.0 / below.high
    quotient = top.high * inverse
    rest = fma(-quotient, below.high, top.high) + fma(-quotient, below.low, top.low)
    return Pair(quotient, rest * inverse)


def split(value: Fraction, bits: int, count: int) -> list[float]:
    """`count` numbers of a format whose sum is nearest to `value`, largest first."""
    parts = []
    for _ in range(count):
        parts.append(float(FORMATS[bits].dtype(float(value))))
        value -= Fraction(parts[-1])
    return parts
