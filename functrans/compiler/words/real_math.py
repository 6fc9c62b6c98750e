"""What each word means in LLVM on real numbers, integers and booleans: one function per word.

A word gets the body to append to, its operands, their dtype and the dtype of the result, and
returns the name of the result. Arithmetic carries no fast-math flags: every operation rounds as
NumPy's does. Where NumPy defines a value (integer division by zero, the sign of a remainder of
zero, ...), so do these words; the formulas are those of NumPy's npy_math.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from functrans.compiler.words import vector_math
from functrans.compiler.words.conversions import convert
from functrans.compiler.words.scalar_types import Body, literal, llvm_type

Word = Callable[[Body, list[str], np.dtype, np.dtype], str]

PURE = "nounwind willreturn memory(none)"


def call(body: Body, op: str, a: list[str], dtype: np.dtype) -> str:
    """The result of a word, for words made of others."""
    return WORDS[op](body, a, dtype, dtype)


def call_to(body: Body, op: str, a: list[str], dtype: np.dtype, out: np.dtype) -> str:
    """The result of a word whose result has another dtype."""
    return WORDS[op](body, a, dtype, out)


def _libm(name: str) -> Word:
    """A word that is a C function of the same arguments."""

    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        t = llvm_type(d)
        symbol = name if d.itemsize == 8 else name + "f"
        body.need(f"declare {t} @{symbol}({', '.join([t] * len(a))}) {PURE}")
        return body.emit(f"call {t} @{symbol}({', '.join(f'{t} {x}' for x in a)})")

    return word


def _formula(name: str) -> Word:
    """A word that `vector_math` has a formula for."""

    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        bits, t = 8 * d.itemsize, llvm_type(d)
        for text in vector_math.function(name, bits):
            body.need(text)
        return body.emit(f"call {t} @ft_{name}_f{bits}({', '.join(f'{t} {x}' for x in a)})")

    return word


def _arithmetic(integer: str, floating: str) -> Word:
    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        name = {"f": floating, "b": "or" if integer == "add" else "and"}.get(d.kind, integer)
        return body.emit(f"{name} {llvm_type(d)} {a[0]}, {a[1]}")

    return word


def _div(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t = llvm_type(d)
    if d.kind == "f":
        return body.emit(f"fdiv {t} {a[0]}, {a[1]}")
    bad, divisor = _safe_divisor(body, a, d)
    quotient = body.emit(f"{'sdiv' if d.kind == 'i' else 'udiv'} {t} {a[0]}, {divisor}")
    # INT_MIN / -1 wraps to INT_MIN, which is INT_MIN divided by the stand-in divisor 1.
    return body.emit(f"select i1 {bad}, {t} 0, {t} {quotient}")


def _intrinsic(name: str) -> Word:
    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        if d.kind != "f":
            return a[0]
        t = llvm_type(d)
        return body.emit(f"call {t} @llvm.{name}.f{8 * d.itemsize}({t} {a[0]})")

    return word


def _neg(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t = llvm_type(d)
    return body.emit(f"fneg {t} {a[0]}" if d.kind == "f" else f"sub {t} 0, {a[0]}")


def _abs(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    if d.kind == "f":
        return _intrinsic("fabs")(body, a, d, out)
    if d.kind in "bu":
        return a[0]
    t = llvm_type(d)
    return body.emit(f"call {t} @llvm.abs.{t}({t} {a[0]}, i1 false)")


def _sign(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t, zero, one = llvm_type(d), literal(0, d), literal(1, d)
    if d.kind == "u":
        nonzero = body.emit(f"icmp ne {t} {a[0]}, 0")
        return body.emit(f"zext i1 {nonzero} to {t}")
    how = ("fcmp ogt", "fcmp olt") if d.kind == "f" else ("icmp sgt", "icmp slt")
    above = body.emit(f"{how[0]} {t} {a[0]}, {zero}")
    below = body.emit(f"{how[1]} {t} {a[0]}, {zero}")
    # What is neither above nor below is 0 (sign +0, as NumPy) or nan.
    rest = zero
    if d.kind == "f":
        unordered = body.emit(f"fcmp uno {t} {a[0]}, {a[0]}")
        rest = body.emit(f"select i1 {unordered}, {t} {a[0]}, {t} {zero}")
    low = body.emit(f"select i1 {below}, {t} {literal(-1, d)}, {t} {rest}")
    return body.emit(f"select i1 {above}, {t} {one}, {t} {low}")


def _compare(floating: str, signed: str, unsigned: str) -> Word:
    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        how = {"f": f"fcmp {floating}", "i": f"icmp {signed}"}.get(d.kind, f"icmp {unsigned}")
        return body.emit(f"{how} {llvm_type(d)} {a[0]}, {a[1]}")

    return word


def _extremum(name: str, floating: str) -> Word:
    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        t = llvm_type(d)
        if d.kind == "f":
            # Not llvm.maximum: NumPy keeps the first of two equal zeros, as this does.
            wins = body.emit(f"fcmp {floating} {t} {a[0]}, {a[1]}")
            is_nan = body.emit(f"fcmp uno {t} {a[0]}, {a[0]}")
            first = body.emit(f"or i1 {wins}, {is_nan}")
            return body.emit(f"select i1 {first}, {t} {a[0]}, {t} {a[1]}")
        if d.kind == "b":
            return body.emit(f"{'or' if name == 'max' else 'and'} i1 {a[0]}, {a[1]}")
        prefix = "s" if d.kind == "i" else "u"
        return body.emit(f"call {t} @llvm.{prefix}{name}.{t}({t} {a[0]}, {t} {a[1]})")

    return word


def _masked_mul(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    product = call(body, "mul", a, d)
    zero = call(body, "eq", [a[0], literal(0, d)], d)
    t = llvm_type(d)
    return body.emit(f"select i1 {zero}, {t} {literal(0, d)}, {t} {product}")


def _select(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t = llvm_type(d)
    return body.emit(f"select i1 {a[0]}, {t} {a[1]}, {t} {a[2]}")


def _reciprocal(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    return body.emit(f"fdiv {llvm_type(d)} {literal(1, d)}, {a[0]}")


def _rsqrt(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    return _reciprocal(body, [_intrinsic("sqrt")(body, a, d, out)], d, out)


def _safe_divisor(body: Body, a: list[str], d: np.dtype) -> tuple[str, str]:
    """Whether an integer division is not to be done, and a divisor that may be divided by."""
    t = llvm_type(d)
    bad = body.emit(f"icmp eq {t} {a[1]}, 0")
    if d.kind == "i":
        lowest = body.emit(f"icmp eq {t} {a[0]}, {np.iinfo(d).min}")
        minus = body.emit(f"icmp eq {t} {a[1]}, -1")
        overflow = body.emit(f"and i1 {lowest}, {minus}")
        unsafe = body.emit(f"or i1 {bad}, {overflow}")
    else:
        unsafe = bad
    return bad, body.emit(f"select i1 {unsafe}, {t} 1, {t} {a[1]}")


def _float_mod(body: Body, a: list[str], d: np.dtype) -> tuple[str, str, str]:
    """npy_divmod's first half: (C remainder, Python remainder, whether they differ)."""
    t = llvm_type(d)
    r = call(body, "fmod", a, d)
    negative = body.emit(f"fcmp olt {t} {r}, {literal(0, d)}")
    below = body.emit(f"fcmp olt {t} {a[1]}, {literal(0, d)}")
    nonzero = body.emit(f"fcmp une {t} {r}, {literal(0, d)}")
    differ = body.emit(f"and i1 {nonzero}, {body.emit(f'xor i1 {negative}, {below}')}")
    moved = body.emit(f"fadd {t} {r}, {a[1]}")
    value = body.emit(f"select i1 {differ}, {t} {moved}, {t} {r}")
    zero = call(body, "copysign", [literal(0, d), a[1]], d)
    return r, body.emit(f"select i1 {nonzero}, {t} {value}, {t} {zero}"), differ


def _float_floor_divide(body: Body, a: list[str], d: np.dtype) -> str:
    """npy_floor_divide: from the remainder, snapped to the nearest integer."""
    t, zero, one = llvm_type(d), literal(0, d), literal(1, d)
    r, _, differ = _float_mod(body, a, d)
    exact = body.emit(f"fdiv {t} {body.emit(f'fsub {t} {a[0]}, {r}')}, {a[1]}")
    lower = body.emit(f"fsub {t} {exact}, {one}")
    exact = body.emit(f"select i1 {differ}, {t} {lower}, {t} {exact}")
    floored = call(body, "floor", [exact], d)
    gap = body.emit(f"fsub {t} {exact}, {floored}")
    up = body.emit(f"fcmp ogt {t} {gap}, {literal(0.5, d)}")
    above = body.emit(f"fadd {t} {floored}, {one}")
    snapped = body.emit(f"select i1 {up}, {t} {above}, {t} {floored}")
    quotient = body.emit(f"fdiv {t} {a[0]}, {a[1]}")
    signed_zero = call(body, "copysign", [zero, quotient], d)
    is_zero = body.emit(f"fcmp oeq {t} {exact}, {zero}")
    value = body.emit(f"select i1 {is_zero}, {t} {signed_zero}, {t} {snapped}")
    by_zero = body.emit(f"fcmp oeq {t} {a[1]}, {zero}")
    return body.emit(f"select i1 {by_zero}, {t} {quotient}, {t} {value}")


def _is_below(body: Body, t: str, remainder: str, divisor: str) -> str:
    """Whether the floor of a quotient is below what `sdiv` gives, which rounds towards zero."""
    inexact = body.emit(f"icmp ne {t} {remainder}, 0")
    opposite = body.emit(f"icmp slt {t} {body.emit(f'xor {t} {remainder}, {divisor}')}, 0")
    return body.emit(f"and i1 {inexact}, {opposite}")


def _floor_divide(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t = llvm_type(d)
    if d.kind == "f":
        return _float_floor_divide(body, a, d)
    bad, divisor = _safe_divisor(body, a, d)
    if d.kind == "u":
        q = body.emit(f"udiv {t} {a[0]}, {divisor}")
    else:
        q0 = body.emit(f"sdiv {t} {a[0]}, {divisor}")
        lower = _is_below(body, t, body.emit(f"srem {t} {a[0]}, {divisor}"), divisor)
        # INT_MIN // -1 wraps to INT_MIN, which is INT_MIN divided by the stand-in divisor 1.
        q = body.emit(f"sub {t} {q0}, {body.emit(f'zext i1 {lower} to {t}')}")
    return body.emit(f"select i1 {bad}, {t} 0, {t} {q}")


def _mod(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t = llvm_type(d)
    if d.kind == "f":
        return _float_mod(body, a, d)[1]
    bad, divisor = _safe_divisor(body, a, d)
    if d.kind == "u":
        r = body.emit(f"urem {t} {a[0]}, {divisor}")
    else:
        r0 = body.emit(f"srem {t} {a[0]}, {divisor}")
        fix = _is_below(body, t, r0, divisor)
        r = body.emit(f"select i1 {fix}, {t} {body.emit(f'add {t} {r0}, {divisor}')}, {t} {r0}")
    return body.emit(f"select i1 {bad}, {t} 0, {t} {r}")


def _fmod(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    if d.kind == "f":
        return _libm("fmod")(body, a, d, out)
    t = llvm_type(d)
    bad, divisor = _safe_divisor(body, a, d)
    r = body.emit(f"{'srem' if d.kind == 'i' else 'urem'} {t} {a[0]}, {divisor}")
    return body.emit(f"select i1 {bad}, {t} 0, {t} {r}")


def _bitwise(name: str) -> Word:
    return lambda body, a, d, out: body.emit(f"{name} {llvm_type(d)} {a[0]}, {a[1]}")


def _not(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    return body.emit(f"xor {llvm_type(d)} {a[0]}, -1" if d.kind != "b" else f"xor i1 {a[0]}, true")


def _shift_left(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t, wide, amount = _shift_amount(body, a, d)
    moved = body.emit(f"shl {t} {a[0]}, {amount}")
    return body.emit(f"select i1 {wide}, {t} 0, {t} {moved}")


def _shift_right(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t, wide, amount = _shift_amount(body, a, d)
    if d.kind == "i":
        return body.emit(f"ashr {t} {a[0]}, {amount}")
    moved = body.emit(f"lshr {t} {a[0]}, {amount}")
    return body.emit(f"select i1 {wide}, {t} 0, {t} {moved}")


def _shift_amount(body: Body, a: list[str], d: np.dtype) -> tuple[str, str, str]:
    """The type, whether the shift is by all bits or more (or negative), and a legal amount."""
    t, bits = llvm_type(d), 8 * d.itemsize
    wide = body.emit(f"icmp uge {t} {a[1]}, {bits}")
    return t, wide, body.emit(f"select i1 {wide}, {t} {bits - 1}, {t} {a[1]}")


def _classify(kind: str) -> Word:
    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        if d.kind != "f":
            return "true" if kind == "finite" else "false"
        t = llvm_type(d)
        if kind == "nan":
            return body.emit(f"fcmp uno {t} {a[0]}, {a[0]}")
        size = _intrinsic("fabs")(body, a, d, d)
        how = "olt" if kind == "finite" else "oeq"
        return body.emit(f"fcmp {how} {t} {size}, {literal(math.inf, d)}")

    return word


def _signbit(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t, i = llvm_type(d), f"i{8 * d.itemsize}"
    if d.kind in "bu":
        return "false"
    bits = body.emit(f"bitcast {t} {a[0]} to {i}") if d.kind == "f" else a[0]
    return body.emit(f"icmp slt {i} {bits}, 0")


def _population_count(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t = llvm_type(d)
    count = body.emit(f"call {t} @llvm.ctpop.{t}({t} {a[0]})")
    return convert(body, [count], np.dtype(f"u{d.itemsize}"), out)


def _copysign(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t = llvm_type(d)
    return body.emit(f"call {t} @llvm.copysign.f{8 * d.itemsize}({t} {a[0]}, {t} {a[1]})")


def _integer_pow(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    name, t = f"ft_pow_{d.kind}{8 * d.itemsize}", llvm_type(d)
    body.need(_POW_TEXT.format(name=name, t=t))
    return body.emit(f"call {t} @{name}({t} {a[0]}, {t} {a[1]})")


# Binary powers; overflow wraps as in NumPy.
_POW_TEXT = """define internal {t} @{name}({t} %base, {t} %exponent) {{
entry:
  br label %head
head:
  %b = phi {t} [ %base, %entry ], [ %bb, %step ]
  %e = phi {t} [ %exponent, %entry ], [ %ee, %step ]
  %r = phi {t} [ 1, %entry ], [ %rr, %step ]
  %more = icmp ne {t} %e, 0
  br i1 %more, label %step, label %done
step:
  %odd = trunc {t} %e to i1
  %rb = mul {t} %r, %b
  %rr = select i1 %odd, {t} %rb, {t} %r
  %bb = mul {t} %b, %b
  %ee = lshr {t} %e, 1
  br label %head
done:
  ret {t} %r
}}"""


_FLOAT_POW = _formula("pow")


def _pow(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    return _FLOAT_POW(body, a, d, out) if d.kind == "f" else _integer_pow(body, a, d, out)


def _logaddexp(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    """max(x, y) + log1p(exp(-|x - y|)), and equal infinities are themselves (npy_logaddexp)."""
    return _log_of_sum(body, a, d, "exp", math.log(2), 1.0)


def _logaddexp2(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    return _log_of_sum(body, a, d, "exp2", 1.0, 1 / math.log(2))


def _log_of_sum(
    body: Body, a: list[str], d: np.dtype, exp: str, doubled: float, scale: float
) -> str:
    t = llvm_type(d)
    gap = call(body, "abs", [body.emit(f"fsub {t} {a[0]}, {a[1]}")], d)
    small = call(body, exp, [body.emit(f"fneg {t} {gap}")], d)
    tail = call(body, "log1p", [small], d)
    if scale != 1.0:
        tail = body.emit(f"fmul {t} {tail}, {literal(scale, d)}")
    value = body.emit(f"fadd {t} {call(body, 'max', a, d)}, {tail}")
    twice = body.emit(f"fadd {t} {a[0]}, {literal(doubled, d)}")
    equal = body.emit(f"fcmp oeq {t} {a[0]}, {a[1]}")
    return body.emit(f"select i1 {equal}, {t} {twice}, {t} {value}")


def _heaviside(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t, zero = llvm_type(d), literal(0, d)
    above = body.emit(f"fcmp ogt {t} {a[0]}, {zero}")
    step = body.emit(f"select i1 {above}, {t} {literal(1, d)}, {t} {zero}")
    at_zero = body.emit(f"fcmp oeq {t} {a[0]}, {zero}")
    value = body.emit(f"select i1 {at_zero}, {t} {a[1]}, {t} {step}")
    unordered = body.emit(f"fcmp uno {t} {a[0]}, {a[0]}")
    return body.emit(f"select i1 {unordered}, {t} {a[0]}, {t} {value}")


def _copy(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    return a[0]


WORDS: dict[str, Word] = {
    **{word: _libm(word) for word in ("cbrt", "hypot", "nextafter")},
    **{word: _formula(word) for word in vector_math.NAMES},
    "logaddexp": _logaddexp,
    "logaddexp2": _logaddexp2,
    "heaviside": _heaviside,
    "add": _arithmetic("add", "fadd"),
    "sub": _arithmetic("sub", "fsub"),
    "mul": _arithmetic("mul", "fmul"),
    "div": _div,
    "neg": _neg,
    "abs": _abs,
    "sign": _sign,
    "floor": _intrinsic("floor"),
    "ceil": _intrinsic("ceil"),
    "trunc": _intrinsic("trunc"),
    "round": _intrinsic("rint"),
    "sqrt": _intrinsic("sqrt"),
    "rsqrt": _rsqrt,
    "reciprocal": _reciprocal,
    "max": _extremum("max", "oge"),
    "min": _extremum("min", "ole"),
    "masked_mul": _masked_mul,
    "select": _select,
    "floor_divide": _floor_divide,
    "mod": _mod,
    "fmod": _fmod,
    "pow": _pow,
    "copysign": _copysign,
    "eq": _compare("oeq", "eq", "eq"),
    "ne": _compare("une", "ne", "ne"),
    "lt": _compare("olt", "slt", "ult"),
    "le": _compare("ole", "sle", "ule"),
    "gt": _compare("ogt", "sgt", "ugt"),
    "ge": _compare("oge", "sge", "uge"),
    "and": _bitwise("and"),
    "or": _bitwise("or"),
    "xor": _bitwise("xor"),
    "not": _not,
    "shift_left": _shift_left,
    "shift_right": _shift_right,
    "is_finite": _classify("finite"),
    "isnan": _classify("nan"),
    "isinf": _classify("inf"),
    "signbit": _signbit,
    "population_count": _population_count,
    "convert": convert,
    "copy": _copy,
}
