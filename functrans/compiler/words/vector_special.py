"""The error functions and the logarithm of the gamma function as straight-line formulas.

Each is a polynomial in a variable that makes its range short, times the exponential or plus the
logarithm that it behaves as. Those are fits by `mpmath.chebyfit`, with the call at the numbers.
"""

from __future__ import annotations

import math
from fractions import Fraction

from functrans.compiler.words.vector_builder import (
    Pair,
    Real,
    Truth,
    fma,
    polynomial,
    product_of,
    split,
    sum_of,
    where,
)
from functrans.compiler.words.vector_exponentials import exp, exp_pair, exp_within, log, scaled

# erf x = x + x P(x**2) for |x| <= 1:
# mpmath.chebyfit(lambda z: erf(sqrt(z)) / sqrt(z) - 1, [0, 1], n).
_ERF64: list[float] = [
    -7.795898827002142e-10, 1.3720064546777686e-08, -1.6208483801871705e-07,
    1.6447424703317362e-06, -1.492473690741966e-05, 0.00012055294904839707, -0.0008548325975389692,
    0.0052239776071164225, -0.02686617064323777, 0.11283791670945006, -0.3761263890318354,
    0.12837916709551256,
]  # fmt: skip
_ERF32: list[float] = [
    7.87587506269e-05, -0.000801686428717, 0.00518908742343, -0.0268542120106, 0.112835947152,
    -0.376126266667, 0.128379165848,
]  # fmt: skip
# erf x = 1 - exp(-x**2) P(x - 1.5) for 1 <= x <= 6 (4 in float32): mpmath.qr_solve for the least
# squares of (P(x - 1.5) - exp(x**2) erfc(x)) exp(-x**2) at 120 Chebyshev points, with 60 digits.
_ERF_TAIL64: list[float] = [
    1.129161226964584e-12, -2.6738923383725672e-11, 2.952697312242172e-10, -2.0634230834076797e-09,
    1.0590193070850792e-08, -4.452527386341774e-08, 1.674783346939366e-07, -5.972352651446306e-07,
    2.067917253653731e-06, -6.974934522980372e-06, 2.286389179054993e-05, -7.265880720704945e-05,
    0.00022331002385345917, -0.0006619301001913031, 0.0018861348691044278, -0.0051459575441862755,
    0.013377340953526266, -0.032930905299730445, 0.07615103985546409, -0.16362291773255816,
    0.3215854164543176,
]  # fmt: skip
_ERF_TAIL32: list[float] = [
    0.000102789498801, -0.000620316495602, 0.00195763153399, -0.00518361916031, 0.0133608668779,
    -0.0329247450056, 0.0761526376662, -0.163623090028, 0.321585392752,
]  # fmt: skip
# erfc x = exp(-x**2) P(t) / (x + 3) with t = (x - 8) / (x + 3) for 0 <= x <= 28, after
# M. M. Shepherd and J. G. Laframboise (Math. Comp. 36(153), 1981); t = 0 is where both ends of the
# range lose as little. With 60 digits and x = (8 + 3 t) / (1 - t),
# mpmath.chebyfit(lambda t: (x + 3) * exp(x * x) * erfc(x), [-8 / 3, 20 / 31], n).
_ERFC64: list[float] = [
    1.7379434275912056e-16, 1.5542061624205571e-15, -2.1837323149549774e-14,
    -4.4928142860315426e-13, -3.1774812228072692e-12, -1.0192230029778735e-11,
    -6.126638702346947e-12, 3.370704418827286e-11, -8.15334665881438e-11, -4.4141224687578326e-10,
    2.1626700390875905e-09, 3.388140646468786e-09, -4.72865878183117e-08, 7.009009451100927e-08,
    7.58656317679069e-07, -4.7887826503822805e-06, 4.6858478826268035e-06, 0.00010969741207383784,
    -0.0010020315291699466, 0.005548270095160973, -0.023865451717402224, 0.086322212943121,
    -0.27276062544185514, 0.7698368282096902,
]  # fmt: skip
_ERFC64_REST = -2.909924946716489e-17  # of the constant, which is rounded above
_ERFC32: list[float] = [
    -4.91698188915e-09, -1.95705654337e-08, 2.61647490185e-07, 1.13905581618e-06,
    -4.54505224721e-06, 4.50502270725e-06, 0.000109395977539, -0.00100206819851, 0.00554836345535,
    -0.0238654290981, 0.086322202948, -0.272760627103, 0.769836828411,
]  # fmt: skip


def erf(x: Real) -> Real:
    """The error function: for |x| > 1, 1 - erfc |x|, of which few bits are wanted."""
    wide, size, z = x.code.wide, abs(x), x * x
    small = fma(x, polynomial(z, _ERF64 if wide else _ERF32), x)
    end = 6.0 if wide else 4.0
    size = where(size > end, end, size)
    shape = polynomial(size - 1.5, _ERF_TAIL64 if wide else _ERF_TAIL32)
    large = fma(exp_within(-(size * size)), -shape, 1.0)
    return where(size < 1.0, small, large).with_sign_of(x)


def erfc(x: Real) -> Real:
    """1 - erf x."""
    size = abs(x)
    size = where(size > 28.0, 28.0, size)
    square = product_of(size, size)
    if x.code.wide:
        value = _erfc_of(size, square)
    else:
        inverse = 1.0 / (size + 3.0)
        value = exp(-square.high) * inverse * polynomial((size - 8.0) * inverse, _ERFC32)
    return where(x < 0.0, 2.0 - value, value)


def _erfc_of(x: Real, square: Pair) -> Real:
    """erfc for x >= 0, with the remainder of each division."""
    k, e = exp_pair(-square.high, -square.low)
    above, top = sum_of(3.0, x), sum_of(-8.0, x)
    inverse = 1.0 / above.high
    t = top.high * inverse
    t_rest = fma(-t, above.high, top.high) + fma(-t, above.low, top.low)
    *others, constant = _ERFC64
    product = product_of(t, polynomial(t, others))
    shape = sum_of(constant, product.high)
    slope = (1.0 - t) * (1.0 - t) * -0.146  # of P, to a tenth where it is large
    low = (shape.low + product.low) + _ERFC64_REST
    shape = Pair(shape.high, fma(t_rest * inverse, slope, low))
    quotient = shape.high * inverse
    rest = fma(-quotient, above.high, shape.high) + fma(-quotient, above.low, shape.low)
    low = fma(e.high, rest * inverse, e.low * quotient)
    return scaled(fma(e.high, quotient, low), k)


# lgamma(2 + t) = t P(t) for -3/4 <= t <= 1/4:
# mpmath.chebyfit(lambda t: loggamma(2 + t) / t, [-3 / 4, 1 / 4], n).
_GAMMA64: list[float] = [
    -1.6044377570086032e-06, -4.26061546309226e-06, -6.334682357678563e-06,
    -2.9319487133682415e-06, -2.962851659214937e-06, 4.756832151956973e-06, -9.14431907947439e-06,
    2.0543270775287198e-05, -4.494714412866334e-05, 9.945133566265946e-05, -0.00022315432015126017,
    0.0005096698363569456, -0.0011927539052699776, 0.0028905103236680067, -0.007385551028992811,
    0.02058080842785459, -0.06735230105319545, 0.32246703342411304, 0.42278433509846713,
]  # fmt: skip
_GAMMA32: list[float] = [
    0.000395561507464, 0.000117517022162, 0.000630824088836, -0.00120973474188, 0.00287360137567,
    -0.00738651227967, 0.0205814518372, -0.0673522563912, 0.322467026587, 0.422784334926,
]  # fmt: skip
# lgamma x = (x - 1/2) log x - x + log(2 pi) / 2 + P(w) / x with w = 1 / x**2 for x >= 4:
# mpmath.chebyfit(lambda w: x * (loggamma(x) - ...), [0, 1 / 16], n) with x = 1 / sqrt(w).
_STIRLING64: list[float] = [
    0.03686739114470535, -0.018529842349409912, 0.005842830219816523, -0.0018988790775843355,
    0.0008413741438815142, -0.0005952337085914222, 0.0007936507676291937, -0.0027777777777176055,
    0.08333333333333331,
]  # fmt: skip
_STIRLING32: list[float] = [
    -0.000506698334475, 0.000790374884264, -0.00277773769654, 0.0833333332554,
]  # fmt: skip
# sin(pi d) = d (pi + z P(z)) with z = d**2 for |d| <= 1/2:
# mpmath.chebyfit(lambda z: (sin(pi * sqrt(z)) / sqrt(z) - pi) / z, [0, 1 / 4], n).
_SINPI64: list[float] = [
    -2.2349456072698055e-08, 7.949258149042043e-07, -2.1915282920601852e-05, 0.0004663027953897944,
    -0.007370430944816937, 0.08214588661108463, -0.599264529320791, 2.5501640398773455,
    -5.16771278004997,
]  # fmt: skip
_SINPI32: list[float] = [
    -0.00708448877896, 0.0820837177629, -0.599258993734, 2.5501638671, -5.16771277919,
]  # fmt: skip


def _lgamma_positive(x: Real) -> Real:
    """lgamma for x >= 0: by Stirling's series, or at a point of [1.25, 2.25] and the recurrence."""
    wide, n = x.code.wide, (x + 0.25).rint()
    less = x - 1.0
    shifted = where(n < 3.0, 1.0, where(n < 4.0, less, less * (x - 2.0)))
    shifted = where(n < 2.0, where(n < 1.0, x * (x + 1.0), x), shifted)
    large = x >= 4.0
    logarithm = log(where(large, x, shifted))
    t = x - n
    small = t * polynomial(t, _GAMMA64 if wide else _GAMMA32)
    small = small + where(n < 2.0, -logarithm, logarithm)
    inverse = 1.0 / x
    series = polynomial(inverse * inverse, _STIRLING64 if wide else _STIRLING32)
    rest = fma(series, inverse, math.log(2 * math.pi) / 2 - 0.5)
    return where(large, fma(x - 0.5, logarithm - 1.0, rest), small)


def lgamma(x: Real) -> Real:
    """log |Gamma(x)|; for x < 0, log(pi / |x sin(pi x)|) - log Gamma(-x).

    Between its zeros at negative x, the error is 4 units in the last place of the larger of these.
    """
    size = abs(x)
    positive = _lgamma_positive(size)
    d = size - size.rint()
    z = d * d
    sine = abs(d) * fma(z, polynomial(z, _SINPI64 if x.code.wide else _SINPI32), math.pi)
    reflected = log(math.pi / (size * sine)) - positive
    value = where((x < 0.0) & (size > 2.0**-60), reflected, positive)
    return where(d.equals(0.0) & (x <= 0.0) | size.equals(math.inf), math.inf, value)


# digamma(1.5 + t) = (1.5 + t - root) P(t) for |t| <= 1/2, with the positive root:
# mpmath.chebyfit(lambda t: psi(0, 1.5 + t) / (1.5 + t - root), [-1 / 2, 1 / 2], n).
_ROOT = Fraction("1.461632144968362341262659542325721328468196204")
_DIGAMMA64: list[float] = [
    -0.00017312261802727394, 0.00025968482126430747, -0.00015148586836773365,
    0.0002272331660987376, -0.0004821990530566789, 0.0007233266279287554, -0.0010376374098418604,
    0.0015566317474486838, -0.002345267632540769, 0.003519006401502276, -0.005279964873257405,
    0.007926944646403797, -0.011908218001568644, 0.0179072524394512, -0.02697579675613825,
    0.04076083381242074, -0.061922133273064534, 0.0949887244549412, -0.14840492305390887,
    0.2405424842407742, -0.4236274212814605, 0.9510558760318328,
]  # fmt: skip
_DIGAMMA32: list[float] = [
    0.0109025886726, -0.0163736202553, 0.0171149889997, -0.0257868836313, 0.0408500267408,
    -0.0620559803861, 0.0949846850749, -0.148398861388, 0.240542535015, -0.423627497475,
    0.951055876032,
]  # fmt: skip
# digamma x = log x - 1 / (2 x) - w P(w) with w = 1 / x**2 for x >= 4:
# mpmath.chebyfit(lambda w: (log(x) - 1 / (2 * x) - psi(0, x)) / w, [0, 1 / 16], n), w = x**-2.
_PSI_TAIL64: list[float] = [
    -2.7632461441771197, 1.317667749896685, -0.3487583555569305, 0.07978585893797804,
    -0.021004729764303443, 0.007574376314502456, -0.00416665393289541, 0.003968253907681641,
    -0.00833333333322018, 0.0833333333333333,
]  # fmt: skip
_PSI_TAIL32: list[float] = [
    0.00520644459746, -0.00405065563789, 0.00396578820926, -0.0083333144884, 0.0833333333099,
]  # fmt: skip
# pi cot(pi d) = 1 / d - d P(d**2) for |d| <= 1/2:
# mpmath.chebyfit(lambda z: (1 / sqrt(z) - pi * cot(pi * sqrt(z))) / sqrt(z), [0, 1 / 4], n).
_COT64: list[float] = [
    16.0104415553501, -14.00913635189951, 11.319882534156067, -1.3837148002891513,
    2.8304597027964618, 1.8569869062340112, 2.0175482780709193, 1.9984989923885619,
    2.000216397061563, 2.0004882445092558, 2.0019892571205644, 2.008154710650887,
    2.0346861239837795, 2.1646464674222266, 3.289868133696453,
]  # fmt: skip
_COT32: list[float] = [
    6.06501561248, 0.000118695611134, 2.46438955143, 1.94467672107, 2.01192155364, 2.0345661027,
    2.1646479106, 3.28986813087,
]  # fmt: skip


def _digamma_positive(x: Real) -> Real:
    """digamma for x >= 0: by its asymptotic series, or at a point of [1, 2] and the recurrence."""
    wide, less = x.code.wide, x - 1.0
    large = x >= 4.0
    first, second, third = x < 1.0, x <= 2.0, x <= 3.0
    top = where(third, 1.0, fma(x, 2.0, -3.0))
    top = where(second, where(first, -1.0, 0.0), top)
    below = where(third, less, less * (x - 2.0))
    below = where(second, where(first, x, 1.0), below)
    ratio = where(large, 1.0, top) / where(large, x, below)
    t = x - where(second, where(first, 0.5, 1.5), where(third, 2.5, 3.5))
    root, root_low = split(_ROOT - Fraction(3, 2), x.code.format.bits, 2)
    shape = polynomial(t, _DIGAMMA64 if wide else _DIGAMMA32)
    small = fma((t - root) - root_low, shape, ratio)
    series = polynomial(ratio * ratio, _PSI_TAIL64 if wide else _PSI_TAIL32)
    return where(large, log(x) - ratio * fma(ratio, series, 0.5), small)


def digamma(x: Real) -> Real:
    """The derivative of lgamma; for x < 0, digamma(1 - x) - pi cot(pi x).

    Near its zeros at negative x, the error is 4 units in the last place of the larger of these.
    """
    negative = x < 0.0
    positive = _digamma_positive(where(negative, 1.0 - x, x))
    d = x - x.rint()
    cot = 1.0 / d - d * polynomial(d * d, _COT64 if x.code.wide else _COT32)
    reflected = where(d.equals(0.0), math.nan, positive - cot)
    return where(negative, reflected, positive)


# erf_inv x = x + x P(u) / Q(u) with u = 0.85**2 - x**2 >= 0; for u < 0, with p = (1 - |x|) / 2
# and s = sqrt(-log p) as M. J. Wichura (AS 241, Applied Statistics 37(3), 1988), it is s - 0.375 +
# P(s - 1.6) / Q(s - 1.6). These interpolate at the Chebyshev points, solved with 60 digits.
_CENTRE_TOP64: list[float] = [
    -0.08147717560312288, -2.421828535335844, -18.02594239310764, -52.301901891542634,
    -68.99586784437064, -40.982560645175774, -6.396429504846823, 3.7893738774117347,
    1.7092805191599654, 0.19753231156709133,
]  # fmt: skip
_CENTRE_BELOW64: list[float] = [
    0.09407040939547513, 3.6223989748303365, 35.79017683423445, 144.7209041473258,
    290.84687748826445, 319.7560068460914, 200.28507368091604, 70.98563264072445,
    13.20798431235725, 1.0,
]  # fmt: skip
_TAIL_TOP64: list[float] = [
    3.756152992204583e-08, 4.586577403010458e-06, 0.00015306932786653734, 0.0020765826557197363,
    0.013427276017079152, 0.04222849438905003, 0.04336118053690133, -0.09842693405044584,
    -0.2997642107919479, -0.21847796639631206,
]  # fmt: skip
_TAIL_BELOW64: list[float] = [
    1.0060931602882131e-07, 1.3176907288419657e-05, 0.0005020983719504962, 0.008397232100802033,
    0.0742541054340003, 0.38332277029886214, 1.2027795040456037, 2.2582588282793314,
    2.3220872014717675, 1.0,
]  # fmt: skip
_CENTRE_TOP32: list[float] = [
    -0.368159882199, -2.94039344367, -4.5585301299, -1.36911192606, 0.541117230908, 0.197532311513,
]  # fmt: skip
_CENTRE_BELOW32: list[float] = [
    0.46615548322, 5.95021430985, 17.3790656839, 17.9348056752, 7.29420090283, 1.0,
]  # fmt: skip
_TAIL_TOP32: list[float] = [
    0.000248238169029, 0.00699820481644, 0.0416518009009, 0.0421421109798, -0.141561784983,
    -0.218477966395,
]  # fmt: skip
_TAIL_BELOW32: list[float] = [
    0.000672598090371, 0.0238173865602, 0.234218444287, 0.9269294517, 1.59797561927, 1.0,
]  # fmt: skip


def erf_inv(x: Real) -> Real:
    """The inverse of erf."""
    size, wide = abs(x), x.code.wide
    in_centre = size <= 0.85
    w = -log(fma(size, -0.5, 0.5))
    s = w.sqrt()
    variable = where(in_centre, fma(-x, x, 0.7225), s - 1.6)
    centre_top, tail_top = (_CENTRE_TOP64, _TAIL_TOP64) if wide else (_CENTRE_TOP32, _TAIL_TOP32)
    top = _chosen(in_centre, variable, centre_top, tail_top)
    centre, tail = (_CENTRE_BELOW64, _TAIL_BELOW64) if wide else (_CENTRE_BELOW32, _TAIL_BELOW32)
    below = _chosen(in_centre, variable, centre, tail)
    # The root's remainder over 2 s is added to the ratio, for one division.
    doubled = where(in_centre, 1.0, s + s)
    ratio = fma(top, doubled, where(in_centre, 0.0, fma(-s, s, w)) * below) / (below * doubled)
    value = where(in_centre, fma(size, ratio, size), s + (ratio - 0.375))
    value = where(size.equals(1.0), math.inf, value)
    value = where(size > 1.0, math.nan, value)
    return where(x.is_nan(), x, value.with_sign_of(x))


def _chosen(condition: Truth, x: Real, first: list[float], second: list[float]) -> Real:
    """The polynomial with the first coefficients where the condition holds, else the second."""
    acc = where(condition, first[0], second[0])
    for a, b in zip(first[1:], second[1:], strict=True):
        acc = fma(acc, x, a if a == b else where(condition, a, b))
    return acc
