"""Accuracy in units in the last place, against mpmath; special values; vector instructions."""

import mpmath
import numpy as np
import pytest
import scipy.special

from functrans.compiler.words import vector_math
from functrans.runtime import symbols
from functrans.runtime.executable import compile_program
from tests.helpers.small_programs import elementwise

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
BOUND = {"pow": 4, "lgamma": 4, "digamma": 4}  # ulps; 2 for the others
OF_TWO = frozenset(("pow", "atan2"))
NAMES = sorted(vector_math.NAMES)
N = 60  # points of each kind

MPMATH = {
    "arcsin": mpmath.asin, "arccos": mpmath.acos, "arctan": mpmath.atan, "arcsinh": mpmath.asinh,
    "arccosh": mpmath.acosh, "arctanh": mpmath.atanh, "erf_inv": mpmath.erfinv, "pow": mpmath.power,
    "log2": lambda x: mpmath.log(x, 2), "log1p": mpmath.log1p, "exp2": lambda x: mpmath.mpf(2) ** x,
    "logistic": lambda x: 1 / (1 + mpmath.exp(-x)), "digamma": lambda x: mpmath.psi(0, x),
    "erfc": lambda x: mpmath.erfc(min(x, 100)), "lgamma": lambda x: mpmath.re(mpmath.loggamma(x)),
}  # fmt: skip
NUMPY = {
    **{name: getattr(scipy.special, name) for name in ("erf", "erfc")},
    "erf_inv": lambda x: np.copysign(scipy.special.erfinv(x), x),  # SciPy's loses the sign of zero
    "lgamma": lambda x: np.where(np.isinf(x), np.abs(x), scipy.special.gammaln(x)),  # as C does
    "digamma": scipy.special.psi, "pow": np.power,
    "logistic": lambda x: np.exp(np.minimum(x, 0)) / (1 + np.exp(-abs(x))),
    "atan2": np.arctan2,
}  # fmt: skip


def run(name, *args):
    dtype = args[0].dtype
    return compile_program(elementwise(name, [dtype] * len(args), dtype, len(args[0])))(args)[0]


def numpys(name, *args):
    with np.errstate(all="ignore"):
        return NUMPY.get(name, getattr(np, name, None))(*args)


def logarithmic(rng, low, high, signs=(-1, 1)):
    """Numbers between 2**low and 2**high, with each exponent as likely as any other."""
    return np.exp2(rng.uniform(low, high, N)) * rng.choice(signs, N)


def everywhere(rng, dtype):
    """Every size of number, the neighbourhoods of small integers and halves, and ordinary ones."""
    info = np.finfo(dtype)
    near = np.rint(rng.uniform(-8, 8, N)) / 2 + logarithmic(rng, -info.nmant, -4)
    lowest = info.minexp - info.nmant
    parts = [logarithmic(rng, lowest, info.maxexp * 0.999), near, rng.normal(size=N) * 3]
    return np.concatenate([*parts, rng.uniform(-1, 1, N), rng.uniform(-30, 30, N)])


def angles(rng, dtype):
    """Near multiples of pi / 2, and where three words of pi are not enough."""
    near = np.rint(logarithmic(rng, 0, 30)) * np.pi / 2
    hard = [1e22, 1e300, 2.0**40, 2.0**20, np.nextafter(2.0**40, 0), np.nextafter(2.0**20, 0)]
    huge = logarithmic(rng, 15, np.finfo(dtype).maxexp - 1)
    return np.concatenate([near, near + 1e-4, np.minimum(hard, np.finfo(dtype).max), huge])


def more(name, rng, dtype):
    """Points where this function is likely to be wrong."""
    info = np.finfo(dtype)
    edge = 1.5 * info.maxexp * np.log(2)
    if name in ("sin", "cos", "tan"):
        return angles(rng, dtype)
    if name in ("exp", "exp2", "expm1", "sinh", "cosh", "logistic"):
        return rng.uniform(-edge, edge, 4 * N)
    if name in ("arcsin", "arccos", "arctanh", "erf_inv"):
        near = 1 - logarithmic(rng, -info.nmant, 0, [1])
        return np.concatenate([rng.uniform(-1, 1, 4 * N), near, -near])
    if name in ("log1p", "arccosh"):
        return np.concatenate([logarithmic(rng, -info.nmant, 0) - 1, rng.uniform(1, 10, 4 * N)])
    if name in ("lgamma", "digamma"):
        roots = [1.4616321449683623, 1 + 1e-6, 2 + 1e-6]
        return np.concatenate([rng.uniform(0, 6, 4 * N), rng.uniform(1.2, 1.5, N), roots])
    return rng.uniform(-10, 30, 4 * N)


def points(name, dtype):
    """Arguments with finite results."""
    rng = np.random.default_rng(0)
    x = np.concatenate([everywhere(rng, dtype), more(name, rng, dtype)])
    args = [x]
    if name == "atan2":
        args = [x, rng.permutation(x) * logarithmic(rng, -3, 3)[0]]
    if name == "pow":
        size, info = np.abs(x) + (x == 0), np.finfo(dtype)
        with np.errstate(divide="ignore"):
            args = [size, rng.uniform(info.minexp, info.maxexp, len(x)) / np.log2(size)]
    with np.errstate(over="ignore"):
        args = [a.astype(dtype) for a in args]
    fine = np.isfinite(numpys(name, *args)) & np.all(np.isfinite(args), axis=0)
    if name in ("lgamma", "digamma"):
        fine &= args[0] > 0
    return [a[fine] for a in args]


def exact(name, *args):
    """The true value of each, rounded to 50 digits (300 where angles are reduced)."""
    function = MPMATH.get(name) or getattr(mpmath, name)
    with mpmath.workdps(350 if name in ("sin", "cos", "tan") else 50):
        return [
            function(*(mpmath.mpf(float(v)) for v in point)) for point in zip(*args, strict=True)
        ]


def errors(got, truth, dtype):
    """The errors in ulps of the true value."""
    info = np.finfo(dtype)
    ulps = []
    for value, true in zip(got, truth, strict=True):
        exponent = mpmath.frexp(true)[1] - 1 if true else info.minexp
        ulp = mpmath.mpf(2) ** (max(exponent, info.minexp) - info.nmant)
        ulps.append(float(abs(mpmath.mpf(float(value)) - true) / ulp))
    return np.array(ulps)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_error_is_at_most_two_ulps(name, dtype):
    args = points(name, dtype)
    assert len(args[0]) > 3 * N
    got, truth = run(name, *args), exact(name, *args)
    ulps = errors(got, truth, dtype)
    i = np.argmax(ulps)
    shown = f"{name}({', '.join(repr(a[i]) for a in args)}) = {got[i]!r}, not {truth[i]}"
    assert ulps[i] <= BOUND.get(name, 2), shown


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("name", ["lgamma", "digamma"])
def test_error_of_gamma_at_negative_numbers_is_bounded_by_its_parts(name, dtype):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-30, 0, 100), -0.5 - np.arange(10), [-2.4570247382208]])
    x = np.concatenate([x, -logarithmic(rng, -100, 10, [1])]).astype(dtype)
    x = x[x != np.rint(x)]
    truth = exact(name, x)
    parts = exact(name, np.abs(x) if name == "lgamma" else 1 - x)
    off = [abs(float(a) - t) for a, t in zip(run(name, x), truth, strict=True)]
    eps = np.finfo(dtype).eps
    for error, t, part in zip(off, truth, parts, strict=True):
        assert error <= 4 * eps * (1 + abs(t) + abs(part))


def special_values(dtype):
    info = np.finfo(dtype)
    sub = info.smallest_subnormal
    values = [
        0.0,
        np.inf,
        np.nan,
        info.max,
        sub,
        info.tiny,
        1000 * sub,
        1.0,
        0.5,
        2.0,
        3.0,
        1.5,
        2.5,
    ]
    values += [
        np.nextafter(dtype.type(1), dtype.type(2)),
        np.nextafter(dtype.type(1), dtype.type(0)),
    ]
    if dtype == F32:
        values += [88.7, 88.8, 87.4, 103.9, 104.1, 89.4, 89.5, 128.0, 149.0, 150.0, 10.05]
    else:
        values += [709.78, 709.79, 708.5, 745.1, 745.2, 710.475, 710.476, 1024.0, 1074.0, 1075.0]
    return np.array([*values, *(-v for v in values)], dtype)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_special_values_are_numpys(name, dtype):
    x = special_values(dtype)
    args = [z.ravel() for z in np.meshgrid(x, x)] if name in OF_TWO else [x]
    info, rtol = np.finfo(dtype), 8 * np.finfo(dtype).eps
    if name in ("lgamma", "digamma"):  # SciPy's is wrong beside poles and zeros
        rtol, args = (
            1e-5,
            [x[~((np.abs(x) < 1000 * info.tiny) & (x != 0) | (abs(abs(x) - 1) < 1e-6))]],
        )
    got, want = run(name, *args), numpys(name, *args)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want, rtol=rtol, atol=4 * info.smallest_subnormal)
    zero = want == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]))


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_loop_becomes_instructions_on_whole_registers(name, dtype):
    text = compile_program(elementwise(name, [dtype] * (1 + (name in OF_TWO)), dtype, 1000)).llvm
    element = "float" if dtype == F32 and name not in vector_math.IN_F64 else "double"
    lanes = symbols.vector_bytes() // (4 if element == "float" else 8)
    kernel = text[text.index(".loops(") :]
    assert f"<{lanes} x {element}> @llvm.fma" in kernel
