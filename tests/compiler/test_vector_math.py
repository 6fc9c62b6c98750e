"""Accuracy in units in the last place, against a wider type; behaviour at special values."""

import numpy as np
import pytest
import scipy.special

from functrans.compiler import vector_math
from functrans.runtime.executable import compile_program
from tests.helpers.small_programs import elementwise

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
WIDER = {F32: np.float64, F64: np.longdouble}
BOUND = {"logistic": 2.2}  # ulps; 2 for the others


def run(name, x):
    return compile_program(elementwise(name, [x.dtype], x.dtype, len(x)))([x])[0]


def logistic(x):
    return 1 / (1 + np.exp(-x))


def truth(name, x):
    if name == "erf_inv":
        return np.copysign(scipy.special.erfinv(x), x)  # SciPy's loses the sign of zero
    with np.errstate(all="ignore"):
        return logistic(x) if name == "logistic" else getattr(np, name)(x)


def points(name, dtype):
    """Ordinary, tiny and extreme arguments, and those near the zeros of the function."""
    rng = np.random.default_rng(0)
    n = 20_000
    info = np.finfo(dtype)
    tiny = np.exp(rng.uniform(np.log(info.tiny) + 1, 0, n)) * rng.choice([-1, 1], n)
    low, high = np.log(info.tiny), np.log(info.max)
    wide = rng.uniform(low, high, n) * 0.999
    if name == "log":
        groups = [np.abs(tiny), np.exp(wide), 1 + tiny, 1 + rng.normal(size=n) * 1e-3]
        x = np.abs(np.concatenate(groups))
    elif name == "log1p":
        x = np.concatenate([tiny * 0.999, np.exp(np.abs(wide)), -1 + np.exp(rng.uniform(-9, 0, n))])
    elif name in ("sin", "cos"):
        x = np.concatenate([tiny, rng.normal(size=n) * 3, rng.uniform(-1e4, 1e4, n)])
    else:
        x = np.concatenate([tiny, wide, rng.normal(size=n), rng.uniform(-2, 2, n)])
    return x.astype(dtype)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is double here")
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("name", sorted(vector_math.NAMES - {"erf_inv"}))
def test_error_is_about_two_ulps_at_most(name, dtype):
    x = points(name, dtype)
    exact = truth(name, x.astype(WIDER[dtype]))
    normal = np.abs(exact) >= np.finfo(dtype).tiny
    got, exact, x = run(name, x)[normal], exact[normal], x[normal]
    ulps = np.abs(got - exact) / np.spacing(np.abs(exact).astype(dtype))
    worst = np.argmax(ulps)
    assert ulps[worst] < BOUND.get(name, 2.0), (
        f"{name}({x[worst]!r}) = {got[worst]!r}, not {exact[worst]!r}"
    )


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("name", sorted(vector_math.NAMES))
def test_special_values_are_numpys(name, dtype):
    info = np.finfo(dtype)
    sub = info.smallest_subnormal
    values = [0.0, -0.0, np.inf, -np.inf, np.nan, info.max, -info.max, sub, -sub, 1.0, -1.0]
    values += [info.tiny, -info.tiny, 1000 * sub]
    if dtype == F32:
        values += [88.7, 88.8, -87.4, -103.9, -104.1]
    else:
        values += [709.78, 709.79, -708.5, -745.1, -745.2]
    x = np.array(values, dtype)
    got, want = run(name, x), truth(name, x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want, rtol=4 * info.eps, atol=4 * sub)
    zero = want == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]))


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("name", sorted(vector_math.NAMES))
def test_loop_becomes_vector_instructions(name, dtype):
    text = compile_program(elementwise(name, [dtype], dtype, 1000)).llvm
    element = "float" if dtype == F32 else "double"
    assert any(f"<{width} x {element}>" in text for width in (4, 8, 16))


@pytest.mark.parametrize(("dtype", "bound"), [(F32, 1.0), (F64, 8.0)], ids=str)
def test_inverse_of_erf_is_scipys(dtype, bound):
    rng = np.random.default_rng(0)
    edge = np.exp(rng.uniform(np.log(np.finfo(dtype).eps) + 1, 0, 5000))
    x = np.concatenate([rng.uniform(-1, 1, 20_000), 1 - edge, edge - 1, edge, edge**8])
    x = x.astype(dtype)
    exact = scipy.special.erfinv(x.astype(F64))
    inside = (np.abs(exact) >= np.finfo(dtype).tiny) & np.isfinite(exact)
    got, exact = run("erf_inv", x)[inside], exact[inside]
    ulps = np.abs(got - exact) / np.spacing(np.abs(exact).astype(dtype))
    assert ulps.max() < bound
