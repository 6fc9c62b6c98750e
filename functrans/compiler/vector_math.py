"""exp, log, tanh and friends as straight-line LLVM, which the loop vectorizer takes whole.

Each function is branch-free, special values are selected at the end, and `alwaysinline`, so a loop
that calls some is one basic block. Errors are below 2 ulps (logistic 2.2, erf_inv 4). Arguments are
reduced as by Cody and Waite; the polynomials are Taylor series where the reduced interval is short
enough, else those of fdlibm (log) and Cephes (tanh), cited at the constants.
"""

from __future__ import annotations

import math

import numpy as np

from functrans.compiler.scalar_types import float_literal


def single(value: float) -> float:
    """`value` rounded to f32, so that it is a legal `float` literal."""
    return float(np.float32(value))


class _Body:
    """Lines of one LLVM function, in one floating type."""

    def __init__(self, bits: int):
        self.bits = bits
        self.type = "double" if bits == 64 else "float"
        self.int = f"i{bits}"
        self.suffix = f"f{bits}"
        self.lines: list[str] = []
        self.count = 0

    def emit(self, text: str) -> str:
        self.count += 1
        name = f"%v{self.count}"
        self.lines.append(f"  {name} = {text}")
        return name

    def num(self, value: float) -> str:
        return float_literal(value if self.bits == 64 else single(value))

    def op(self, name: str, a: str, b: str) -> str:
        return self.emit(f"{name} {self.type} {a}, {b}")

    def fma(self, a: str, b: str, c: str) -> str:
        t = self.type
        return self.emit(f"call {t} @llvm.fma.{self.suffix}({t} {a}, {t} {b}, {t} {c})")

    def fabs(self, a: str) -> str:
        return self.emit(f"call {self.type} @llvm.fabs.{self.suffix}({self.type} {a})")

    def cmp(self, how: str, a: str, b: str) -> str:
        return self.emit(f"fcmp {how} {self.type} {a}, {b}")

    def select(self, c: str, a: str, b: str) -> str:
        return self.emit(f"select i1 {c}, {self.type} {a}, {self.type} {b}")

    def horner(self, x: str, coefficients: list[float]) -> str:
        """The polynomial with these coefficients, highest power first."""
        acc = self.num(coefficients[0])
        for c in coefficients[1:]:
            acc = self.fma(acc, x, self.num(c))
        return acc

    def reduce(self, x: str) -> tuple[str, str, str]:
        """x = k ln2 + r with |r| <= ln2 / 2: (k as float, k as integer, r)."""
        # Adding 1.5 * 2**(mantissa bits) rounds to an integer, found in the low bits.
        magic = 6755399441055744.0 if self.bits == 64 else 12582912.0
        bits = 0x4338000000000000 if self.bits == 64 else 0x4B400000
        high, low = (
            (6.93147180369123816490e-01, 1.90821492927058770002e-10)
            if self.bits == 64
            else (0.693359375, -2.12194440e-4)
        )
        t = self.fma(x, self.num(1 / math.log(2)), self.num(magic))
        k = self.op("fsub", t, self.num(magic))
        as_int = self.emit(f"bitcast {self.type} {t} to {self.int}")
        ki = self.emit(f"sub {self.int} {as_int}, {bits}")
        r = self.fma(k, self.num(-high), x)
        return k, ki, self.fma(k, self.num(-low), r)

    def power_of_two(self, k: str) -> str:
        """2**k for an integer k whose result is a normal number."""
        bias, shift = (1023, 52) if self.bits == 64 else (127, 23)
        biased = self.emit(f"add {self.int} {k}, {bias}")
        shifted = self.emit(f"shl {self.int} {biased}, {shift}")
        return self.emit(f"bitcast {self.int} {shifted} to {self.type}")

    def finish(self, name: str, result: str) -> str:
        t = self.type
        head = f"define internal {t} @ft_{name}_{self.suffix}({t} %x) alwaysinline {{"
        return "\n".join([head, *self.lines, f"  ret {t} {result}", "}"])


def _taylor(bits: int) -> list[float]:
    # The first term left out, 0.3466**n / n! at most, is below 2**-54 (f64) and 2**-27 (f32).
    return [1 / math.factorial(n) for n in range(13 if bits == 64 else 8, 0, -1)]


def _clamped(b: _Body, x: str) -> str:
    high, low = (711.0, -746.0) if b.bits == 64 else (89.5, -104.5)
    x = b.select(b.cmp("ogt", x, b.num(high)), b.num(high), x)
    return b.select(b.cmp("olt", x, b.num(low)), b.num(low), x)


def _exp(b: _Body, x: str) -> str:
    _, k, r = b.reduce(_clamped(b, x))
    series = b.fma(b.horner(r, _taylor(b.bits)), r, b.num(1.0))
    # Two factors, so that subnormal results and the largest finite ones come out right.
    half = b.emit(f"ashr {b.int} {k}, 1")
    rest = b.emit(f"sub {b.int} {k}, {half}")
    scaled = b.op("fmul", series, b.power_of_two(half))
    return b.op("fmul", scaled, b.power_of_two(rest))


def _expm1(b: _Body, x: str) -> str:
    _, k, r = b.reduce(_clamped(b, x))
    # exp(r) - 1 = r + r**2 (1/2 + r/6 + ...), then 2**k (p + 1) - 1 = 2**k p + (2**k - 1).
    series = b.horner(r, _taylor(b.bits)[:-1])
    p = b.fma(b.op("fmul", r, r), series, r)
    scale = b.power_of_two(k)
    value = b.fma(scale, p, b.op("fsub", scale, b.num(1.0)))
    top, bottom = (709.0, -50.0) if b.bits == 64 else (88.0, -25.0)
    value = b.select(b.cmp("ogt", x, b.num(top)), _exp(b, x), value)
    value = b.select(b.cmp("olt", x, b.num(bottom)), b.num(-1.0), value)
    return b.select(b.cmp("oeq", x, b.num(0.0)), x, value)


# fdlibm e_log.c and e_logf.c (Sun Microsystems): log(1 + f) with s = f / (2 + f).
_LOG64 = [
    1.479819860511658591e-01, 1.531383769920937332e-01, 1.818357216161805012e-01,
    2.222219843214978396e-01, 2.857142874366239149e-01, 3.999999999940941908e-01,
    6.666666666666735130e-01,
]  # fmt: skip
_LOG32 = [0.24279078841, 0.28498786688, 0.40000972152, 0.66666662693]


def _log(b: _Body, x: str) -> str:
    wide = b.bits == 64
    mantissa = 52 if wide else 23
    tiny, lift = (2.2250738585072014e-308, 54) if wide else (1.1754943508222875e-38, 25)
    is_tiny = b.cmp("olt", x, b.num(tiny))
    y = b.select(is_tiny, b.op("fmul", x, b.num(2.0**lift)), x)
    bits = b.emit(f"bitcast {b.type} {y} to {b.int}")
    # The offset makes the exponent that of a mantissa in [sqrt(1/2), sqrt(2)).
    root = np.sqrt(0.5)
    offset = int(root.view(np.int64)) if wide else int(np.float32(root).view(np.int32))
    shifted = b.emit(f"sub {b.int} {bits}, {offset}")
    k = b.emit(f"ashr {b.int} {shifted}, {mantissa}")
    scale = b.emit(f"shl {b.int} {k}, {mantissa}")
    m = b.emit(f"bitcast {b.int} {b.emit(f'sub {b.int} {bits}, {scale}')} to {b.type}")
    f = b.op("fsub", m, b.num(1.0))
    kf = b.emit(f"sitofp {b.int} {k} to {b.type}")
    kf = b.select(is_tiny, b.op("fsub", kf, b.num(float(lift))), kf)
    s = b.op("fdiv", f, b.op("fadd", f, b.num(2.0)))
    z = b.op("fmul", s, s)
    series = b.op("fmul", b.horner(z, _LOG64 if wide else _LOG32), z)
    half = b.op("fmul", b.op("fmul", f, f), b.num(0.5))
    high, low = (
        (6.93147180369123816490e-01, 1.90821492927058770002e-10)
        if wide
        else (6.9313812256e-01, 9.0580006145e-06)
    )
    tail = b.fma(s, b.op("fadd", half, series), b.op("fmul", kf, b.num(low)))
    value = b.op("fsub", b.op("fmul", kf, b.num(high)), b.op("fsub", b.op("fsub", half, tail), f))
    value = b.select(b.cmp("oeq", x, b.num(0.0)), b.num(-math.inf), value)
    value = b.select(b.cmp("olt", x, b.num(0.0)), b.num(math.nan), value)
    value = b.select(b.cmp("oeq", x, b.num(math.inf)), x, value)
    return b.select(b.cmp("uno", x, x), x, value)


def _log1p(b: _Body, x: str) -> str:
    # log(1 + x) = log(u) + (x - (u - 1)) / u for u = 1 + x rounded.
    u = b.op("fadd", x, b.num(1.0))
    lost = b.op("fsub", x, b.op("fsub", u, b.num(1.0)))
    logarithm = _log(b, u)
    value = b.op("fadd", logarithm, b.op("fdiv", lost, u))
    plain = b.emit(f"or i1 {b.cmp('oeq', u, b.num(0.0))}, {b.cmp('oeq', x, b.num(math.inf))}")
    value = b.select(plain, logarithm, value)
    return b.select(b.cmp("oeq", x, b.num(0.0)), x, value)


# Cephes tanh.c and tanhf.c (Moshier): x + x z P(z) / Q(z) for |x| < 0.625, z = x**2.
_TANH_P = [-9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3]
_TANH_Q = [1.0, 1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3]
_TANH32 = [
    -5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1,
]  # fmt: skip


def _tanh(b: _Body, x: str) -> str:
    size = b.fabs(x)
    z = b.op("fmul", x, x)
    if b.bits == 64:
        ratio = b.op("fdiv", b.horner(z, _TANH_P), b.horner(z, _TANH_Q))
    else:
        ratio = b.horner(z, _TANH32)
    small = b.fma(b.op("fmul", z, ratio), x, x)
    doubled = b.op("fadd", size, size)
    above = b.op("fadd", _exp(b, doubled), b.num(1.0))
    large = b.op("fsub", b.num(1.0), b.op("fdiv", b.num(2.0), above))
    t = b.type
    size = b.select(b.cmp("olt", size, b.num(0.625)), small, large)
    value = b.emit(f"call {t} @llvm.copysign.{b.suffix}({t} {size}, {t} {x})")
    return b.select(b.cmp("uno", x, x), x, value)


def _logistic(b: _Body, x: str) -> str:
    # exp only sees -|x|, which cannot overflow.
    e = _exp(b, b.emit(f"fneg {b.type} {b.fabs(x)}"))
    top = b.select(b.cmp("olt", x, b.num(0.0)), e, b.num(1.0))
    value = b.op("fdiv", top, b.op("fadd", e, b.num(1.0)))
    return b.select(b.cmp("uno", x, x), x, value)


# M. J. Wichura, Algorithm AS 241 (PPND16), Applied Statistics 37(3), 1988: the normal quantile, of
# which erf_inv(x) = quantile((x + 1) / 2) / sqrt(2), so that q = x / 2. Highest power first.
_CENTRAL = (
    [2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
     4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
     1.3314166789178437745e2, 3.3871328727963666080],
    [5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4,
     2.1213794301586595867e4, 5.3941960214247511077e3, 6.8718700749205790830e2,
     4.2313330701600911252e1, 1.0],
)  # fmt: skip
_MIDDLE = (
    [7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
     1.27045825245236838258, 3.64784832476320460504, 5.76949722146069140550,
     4.63033784615654529590, 1.42343711074968357734],
    [1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
     1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940,
     2.05319162663775882187, 1.0],
)  # fmt: skip
_TAIL = (
    [2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3,
     2.65321895265761230930e-2, 2.96560571828504891230e-1, 1.78482653991729133580,
     5.46378491116411436990, 6.65790464350110377720],
    [2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5,
     7.86869131145613259100e-4, 1.48753612908506148525e-2, 1.36929880922735805310e-1,
     5.99832206555887937690e-1, 1.0],
)  # fmt: skip


def _erf_inv(b: _Body, x: str) -> str:
    size = b.fabs(x)
    q = b.op("fmul", size, b.num(0.5))
    in_centre = b.cmp("ole", q, b.num(0.425))
    # p = (1 - |x|) / 2 is exact where it matters; r = sqrt(-log p) is at most 6.1 below |x| = 1.
    p = b.fma(size, b.num(-0.5), b.num(0.5))
    minus_log = b.emit(f"fneg {b.type} {_log(b, p)}")
    root = b.emit(f"call {b.type} @llvm.sqrt.{b.suffix}({b.type} {minus_log})")
    in_middle = b.cmp("ole", root, b.num(5.0))
    square = b.fma(b.emit(f"fneg {b.type} {q}"), q, b.num(0.180625))
    near, far = b.op("fsub", root, b.num(1.6)), b.op("fsub", root, b.num(5.0))
    r = b.select(in_centre, square, b.select(in_middle, near, far))
    pick = (in_centre, in_middle)
    ratio = b.op("fdiv", _chosen(b, pick, r, 0), _chosen(b, pick, r, 1))
    value = b.op("fmul", b.select(in_centre, b.op("fmul", q, ratio), ratio), b.num(math.sqrt(0.5)))
    value = b.select(b.cmp("oeq", size, b.num(1.0)), b.num(math.inf), value)
    value = b.select(b.cmp("ogt", size, b.num(1.0)), b.num(math.nan), value)
    t = b.type
    value = b.emit(f"call {t} @llvm.copysign.{b.suffix}({t} {value}, {t} {x})")
    return b.select(b.cmp("uno", x, x), x, value)


def _chosen(b: _Body, pick: tuple[str, str], x: str, part: int) -> str:
    """The polynomial whose coefficients are those of the region that `x` was made for."""
    acc = ""
    for row in zip(_CENTRAL[part], _MIDDLE[part], _TAIL[part], strict=True):
        centre, middle, tail = map(b.num, row)
        c = b.select(pick[0], centre, b.select(pick[1], middle, tail))
        acc = b.fma(acc, x, c) if acc else c
    return acc


_FORMULAS = {
    "erf_inv": _erf_inv,
    "exp": _exp,
    "expm1": _expm1,
    "log": _log,
    "log1p": _log1p,
    "tanh": _tanh,
    "logistic": _logistic,
}
NAMES = frozenset(_FORMULAS)
ONLY_F64 = frozenset(("erf_inv",))  # f32 is computed in f64: the polynomials are made for that


def function(name: str, bits: int) -> str:
    """The text of the LLVM function `@ft_<name>_f<bits>`."""
    body = _Body(bits)
    return body.finish(name, _FORMULAS[name](body, "%x"))
