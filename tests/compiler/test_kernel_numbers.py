"""What depends on a shape is a number; what only looks so computes the same all the same."""

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp

LITERALS = [
    128.0, 128, -128.0, 1 / 128, -1 / 100, 65.0, 70000, 2**40, 2.0**60, 1e300, 1e-310, 5e-324, -0.0,
    np.nan, np.inf, np.float32(128), np.float32(1e-40), np.int32(128),
]  # fmt: skip


@pytest.mark.parametrize("literal", LITERALS, ids=repr)
@pytest.mark.parametrize("dtype", ["f8", "f4", "i8"])
def test_literals_may_coincide_with_extents(literal, dtype):
    def f(x):
        return x * literal, x + literal, fnp.sum(x) * literal, fnp.where(x == literal, literal, x)

    compiled = ft.jit(f)
    for n in (128, 100, 129, 64, 65):
        x = np.arange(n).astype(dtype)
        with np.errstate(all="ignore"):
            found, want = compiled(x), f(x)
        for got, wanted in zip(found, want, strict=True):
            assert np.asarray(got).dtype == np.asarray(wanted).dtype
            np.testing.assert_allclose(got, wanted, rtol=1e-6 if dtype == "f4" else 1e-14)
            assert (np.signbit(got) == np.signbit(wanted))[wanted == 0].all()


def test_extents_that_coincide_once_need_not_do_so_again():
    def f(x):
        m, n = x.shape
        rows = fnp.arange(m)[:, None] * n
        return x / m + n, fnp.sum(x, axis=0) / m, x * float(m * n), rows + x, fnp.mean(x, axis=1)

    compiled = ft.jit(f)
    shapes = [(100, 100), (100, 200), (200, 100), (128, 128), (66, 65), (65, 66), (9, 100),
              (100, 9), (8, 70), (9, 70), (70, 8), (64, 64), (64, 65), (65, 64)]  # fmt: skip
    for shape in [*shapes, *reversed(shapes)]:
        x = np.random.default_rng(0).normal(size=shape)
        for got, wanted in zip(compiled(x), f(x), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
