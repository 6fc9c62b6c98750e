"""What each word means in LLVM on complex numbers.

The formulas are those of NumPy's funcs.inc.src and loops.c.src. Division is Smith's algorithm
(R. L. Smith, CACM 5(8), 1962), with a reciprocal as in NumPy.
Transcendental functions are those of the C library in double precision: a `double complex` is
passed and returned in two floating registers on the machines named below.
"""

from __future__ import annotations

import math
import platform
import sys

import numpy as np

from functrans.compiler.words import real_math
from functrans.compiler.words.real_math import PURE, Word
from functrans.compiler.words.scalar_types import Body, literal, llvm_type, part_dtype

_F64 = np.dtype(np.float64)
_BOOL = np.dtype(bool)

# System V x86-64 and AAPCS64 pass `double complex` as LLVM passes {double, double}.
_HAS_C_ABI = sys.platform != "win32" and platform.machine() in ("x86_64", "aarch64", "arm64")

_LIBM = {
    "arcsin": "casin", "arccos": "cacos", "arctan": "catan", "arcsinh": "casinh",
    "arccosh": "cacosh", "arctanh": "catanh",
    **{name: f"c{name}" for name in "exp log sin cos tan sinh cosh tanh sqrt".split()},
}  # fmt: skip


def parts(body: Body, z: str, dtype: np.dtype) -> tuple[str, str]:
    """The real and imaginary part of an operand."""
    t = llvm_type(dtype)
    return body.emit(f"extractvalue {t} {z}, 0"), body.emit(f"extractvalue {t} {z}, 1")


def pack(body: Body, re: str, im: str, dtype: np.dtype) -> str:
    """The complex number of two parts."""
    t, part = llvm_type(dtype), llvm_type(part_dtype(dtype))
    half = body.emit(f"insertvalue {t} poison, {part} {re}, 0")
    return body.emit(f"insertvalue {t} {half}, {part} {im}, 1")


class _Parts:
    """Arithmetic on parts, as it is written."""

    def __init__(self, body: Body, dtype: np.dtype):
        self.body = body
        self.dtype = part_dtype(dtype)

    def __call__(self, op: str, *a: str) -> str:
        return real_math.call(self.body, op, list(a), self.dtype)

    def select(self, p: str, x: str, y: str) -> str:
        t = llvm_type(self.dtype)
        return self.body.emit(f"select i1 {p}, {t} {x}, {t} {y}")

    def number(self, value: float) -> str:
        return literal(value, self.dtype)


def _by_parts(op: str) -> Word:
    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        f = _Parts(body, d)
        split = [parts(body, z, d) for z in a]
        return pack(body, f(op, *(re for re, _ in split)), f(op, *(im for _, im in split)), d)

    return word


def _mul(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    f, (ar, ai), (br, bi) = _Parts(body, d), parts(body, a[0], d), parts(body, a[1], d)
    re = f("sub", f("mul", ar, br), f("mul", ai, bi))
    return pack(body, re, f("add", f("mul", ar, bi), f("mul", ai, br)), d)


def _div(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    f, (ar, ai), (br, bi) = _Parts(body, d), parts(body, a[0], d), parts(body, a[1], d)
    wide = f("ge", f("abs", br), f("abs", bi))
    # The smaller part of b is divided by the larger; for a smaller real part, a is turned by i.
    large, small = f.select(wide, br, bi), f.select(wide, bi, br)
    x, y = f.select(wide, ar, ai), f.select(wide, ai, ar)
    ratio = f("div", small, large)
    scale = f("div", f.number(1), f("add", large, f("mul", small, ratio)))
    re = f("mul", f("add", x, f("mul", y, ratio)), scale)
    straight, turned = f("sub", y, f("mul", x, ratio)), f("sub", f("mul", x, ratio), y)
    im = f("mul", f.select(wide, straight, turned), scale)
    # Division by zero: each part by |0|.
    zero = body.emit(f"and i1 {f('eq', br, f.number(0))}, {f('eq', bi, f.number(0))}")
    by_zero = [f("div", part, f("abs", br)) for part in (ar, ai)]
    return pack(body, f.select(zero, by_zero[0], re), f.select(zero, by_zero[1], im), d)


def _reciprocal(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    f, (re, im) = _Parts(body, d), parts(body, a[0], d)
    wide = f("le", f("abs", im), f("abs", re))
    large, small = f.select(wide, re, im), f.select(wide, im, re)
    ratio = f("div", small, large)
    below = f("add", large, f("mul", small, ratio))
    one, share = f("div", f.number(1), below), f("div", ratio, below)
    return pack(body, f.select(wide, one, share), f("neg", f.select(wide, share, one)), d)


def _abs(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    return _Parts(body, d)("hypot", *parts(body, a[0], d))


def _sign(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    """z / |z|; of an infinity in one part only, the unit of that part; of 0, 0 (npy_csign)."""
    f, (re, im) = _Parts(body, d), parts(body, a[0], d)
    size = f("hypot", re, im)
    zero = f("eq", size, f.number(0))
    infinite = [f("isinf", x) for x in (re, im)]
    neither = body.emit(f"xor i1 {body.emit(f'or i1 {infinite[0]}, {infinite[1]}')}, true")
    one = body.emit(f"xor i1 {infinite[0]}, {infinite[1]}")
    units = []
    for x, is_infinite in zip((re, im), infinite, strict=True):
        unit = f.select(is_infinite, f("copysign", f.number(1), x), f.number(0))
        at_infinity = f.select(one, unit, f.number(np.nan))
        finite = f.select(zero, f.number(0), f("div", x, size))
        units.append(f.select(neither, finite, at_infinity))
    return pack(body, units[0], units[1], d)


def _equality(op: str, join: str) -> Word:
    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        f = _Parts(body, d)
        split = [parts(body, z, d) for z in a]
        same = [f(op, *(pair[i] for pair in split)) for i in (0, 1)]
        return body.emit(f"{join} i1 {same[0]}, {same[1]}")

    return word


def _select(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    f, (xr, xi), (yr, yi) = _Parts(body, d), parts(body, a[1], d), parts(body, a[2], d)
    return pack(body, f.select(a[0], xr, yr), f.select(a[0], xi, yi), d)


def _masked_mul(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    zero = literal(np.complex128(0), d)
    is_zero = WORDS["eq"](body, [a[0], zero], d, _BOOL)
    return _select(body, [is_zero, zero, _mul(body, a, d, d)], d, d)


def _convert(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    if d.kind == "c" and out.kind == "b":
        return WORDS["ne"](body, [a[0], literal(np.complex128(0), d)], d, out)
    convert = real_math.WORDS["convert"]
    if d.kind != "c":
        part = part_dtype(out)
        return pack(body, convert(body, a, d, part), literal(0, part), out)
    re, im = parts(body, a[0], d)
    if out.kind != "c":
        return convert(body, [re], part_dtype(d), out)
    both = [convert(body, [x], part_dtype(d), part_dtype(out)) for x in (re, im)]
    return pack(body, both[0], both[1], out)


def _libm(name: str) -> Word:
    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        convert, part = real_math.WORDS["convert"], part_dtype(d)
        body.need(
            f"declare {{double, double}} @{name}({', '.join(['double'] * 2 * len(a))}) {PURE}"
        )
        wide = [convert(body, [x], part, _F64) for z in a for x in parts(body, z, d)]
        call = f"call {{double, double}} @{name}({', '.join(f'double {x}' for x in wide)})"
        re, im = parts(body, body.emit(call), np.dtype(np.complex128))
        return pack(body, *(convert(body, [x], _F64, part) for x in (re, im)), d)  # type: ignore[misc]

    return word


def _order(op: str) -> Word:
    """Lexicographic: by the real parts, where they are equal by the imaginary ones."""

    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        f, (xr, xi), (yr, yi) = _Parts(body, d), parts(body, a[0], d), parts(body, a[1], d)
        tie = body.emit(f"and i1 {f('eq', xr, yr)}, {f(op, xi, yi)}")
        numbers = body.emit(f"fcmp ord {llvm_type(f.dtype)} {xi}, {yi}")
        by_real = body.emit(f"and i1 {f({'le': 'lt', 'ge': 'gt'}.get(op, op), xr, yr)}, {numbers}")
        return body.emit(f"or i1 {by_real}, {tie}")

    return word


def _extremum(not_worse: str) -> Word:
    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        nan = WORDS["isnan"](body, [a[0]], d, _BOOL)
        first = body.emit(f"or i1 {nan}, {WORDS[not_worse](body, a, d, _BOOL)}")
        return _select(body, [first, *a], d, d)

    return word


def _exp2(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    return WORDS["exp"](body, [_scaled(body, a[0], d, math.log(2))], d, out)


def _scaled(body: Body, z: str, d: np.dtype, factor: float) -> str:
    f = _Parts(body, d)
    return pack(body, *(f("mul", x, f.number(factor)) for x in parts(body, z, d)), d)  # type: ignore[misc]


def _log_to(base: float) -> Word:
    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        return _scaled(body, WORDS["log"](body, a, d, out), d, 1 / math.log(base))

    return word


def _expm1(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    f, (re, im) = _Parts(body, d), parts(body, a[0], d)
    half = f("sin", f("mul", im, f.number(0.5)))
    real = f("mul", f("expm1", re), f("cos", im))
    real = f("sub", real, f("mul", f("mul", f.number(2), half), half))
    return pack(body, real, f("mul", f("exp", re), f("sin", im)), d)


def _log1p(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    f, (re, im) = _Parts(body, d), parts(body, a[0], d)
    moved = f("add", re, f.number(1))
    return pack(body, f("log", f("hypot", moved, im)), f("atan2", im, moved), d)


def _rsqrt(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    one = literal(np.complex128(1), d)
    return _div(body, [one, WORDS["sqrt"](body, a, d, out)], d, out)


def _logistic(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    one = literal(np.complex128(1), d)
    power = WORDS["exp"](body, [WORDS["neg"](body, a, d, out)], d, out)
    return _div(body, [one, WORDS["add"](body, [one, power], d, out)], d, out)


def _pow(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    """nc_pow: whole exponents below 100 by products, others by the C library; 0 by cases."""
    f, (br, bi), t = _Parts(body, d), parts(body, a[1], d), llvm_type(d)
    size = f("abs", br)
    small = body.emit(f"and i1 {f('eq', bi, f.number(0))}, {f('lt', size, f.number(100))}")
    whole = body.emit(f"and i1 {small}, {f('eq', f('trunc', br), br)}")
    part = llvm_type(f.dtype)
    count = body.emit(f"fptosi {part} {f.select(whole, size, f.number(0))} to i64")
    body.need(_WHOLE_POWER.replace("$", part))
    product = body.emit(f"call {t} @ft_whole_power_{part}({t} {a[0]}, i64 {count})")
    one, zero = literal(np.complex128(1), d), literal(np.complex128(0), d)
    inverse = _div(body, [one, product], d, d)
    product = _select(body, [f("lt", br, f.number(0)), inverse, product], d, d)
    value = _select(body, [whole, product, _libm("cpow")(body, a, d, d)], d, d)
    undefined = literal(np.complex128(complex(np.nan, np.nan)), d)
    of_zero = _select(body, [f("gt", br, f.number(0)), zero, undefined], d, d)
    value = _select(body, [WORDS["eq"](body, [a[0], zero], d, _BOOL), of_zero, value], d, d)
    return _select(body, [WORDS["eq"](body, [a[1], zero], d, _BOOL), one, value], d, d)


# Binary powers, from the lowest bit; the first factor is taken as it is.
_WHOLE_POWER = """define internal {$, $} @ft_whole_power_$({$, $} %base, i64 %n) {
entry:
  %none = icmp eq i64 %n, 0
  br i1 %none, label %done, label %head
head:
  %b = phi {$, $} [ %base, %entry ], [ %bb, %step ]
  %e = phi i64 [ %n, %entry ], [ %ee, %step ]
  %r = phi {$, $} [ {$ 1.0, $ 0.0}, %entry ], [ %rr, %step ]
  %first = phi i1 [ true, %entry ], [ %still, %step ]
  %odd = trunc i64 %e to i1
  %product = call {$, $} @ft_complex_product_$({$, $} %r, {$, $} %b)
  %taken = select i1 %first, {$, $} %b, {$, $} %product
  %rr = select i1 %odd, {$, $} %taken, {$, $} %r
  %even = xor i1 %odd, true
  %still = and i1 %first, %even
  %ee = lshr i64 %e, 1
  %more = icmp ne i64 %ee, 0
  br i1 %more, label %step, label %done
step:
  %bb = call {$, $} @ft_complex_product_$({$, $} %b, {$, $} %b)
  br label %head
done:
  %result = phi {$, $} [ {$ 1.0, $ 0.0}, %entry ], [ %rr, %head ]
  ret {$, $} %result
}

define internal {$, $} @ft_complex_product_$({$, $} %x, {$, $} %y) {
  %xr = extractvalue {$, $} %x, 0
  %xi = extractvalue {$, $} %x, 1
  %yr = extractvalue {$, $} %y, 0
  %yi = extractvalue {$, $} %y, 1
  %rr = fmul $ %xr, %yr
  %ii = fmul $ %xi, %yi
  %ri = fmul $ %xr, %yi
  %ir = fmul $ %xi, %yr
  %re = fsub $ %rr, %ii
  %im = fadd $ %ri, %ir
  %half = insertvalue {$, $} poison, $ %re, 0
  %z = insertvalue {$, $} %half, $ %im, 1
  ret {$, $} %z
}"""


def _part(index: int) -> Word:
    return lambda body, a, d, out: parts(body, a[0], d)[index]


def _conj(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    re, im = parts(body, a[0], d)
    return pack(body, re, _Parts(body, d)("neg", im), d)


_ON_LIBM: dict[str, Word] = {
    **{word: _libm(name) for word, name in _LIBM.items()},
    "exp2": _exp2,
    "log2": _log_to(2),
    "log10": _log_to(10),
    "pow": _pow,
    "rsqrt": _rsqrt,
    "logistic": _logistic,
}
WORDS: dict[str, Word] = {
    **(_ON_LIBM if _HAS_C_ABI else {}),
    "expm1": _expm1,
    "log1p": _log1p,
    **{op: _order(op) for op in ("lt", "le", "gt", "ge")},
    "max": _extremum("ge"),
    "min": _extremum("le"),
    "add": _by_parts("add"),
    "sub": _by_parts("sub"),
    "neg": _by_parts("neg"),
    "round": _by_parts("round"),
    "mul": _mul,
    "div": _div,
    "reciprocal": _reciprocal,
    "abs": _abs,
    "sign": _sign,
    "eq": _equality("eq", "and"),
    "ne": _equality("ne", "or"),
    "isnan": _equality("isnan", "or"),
    "isinf": _equality("isinf", "or"),
    "is_finite": _equality("is_finite", "and"),
    "select": _select,
    "masked_mul": _masked_mul,
    "convert": _convert,
    "real": _part(0),
    "imag": _part(1),
    "conj": _conj,
    "complex": lambda body, a, d, out: pack(body, a[0], a[1], out),
    "copy": real_math.WORDS["copy"],
}
