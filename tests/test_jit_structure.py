"""Compiled reductions, indexing, rearrangement and products equal eager's, errors included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp

rng = np.random.default_rng(7)
SHAPES = [(), (5,), (3, 4), (2, 3, 4), (0,), (3, 0), (33, 17)]


def outcome(f: Any, *args: Any) -> Any:
    with np.errstate(all="ignore"):
        try:
            out = f(*args)
        except (TypeError, ValueError, IndexError) as error:
            return type(error)
    return tuple(out) if isinstance(out, (tuple, list)) else (out,)


def check(f: Any, *args: Any, rtol: float = 0) -> None:
    want, got = outcome(f, *args), outcome(ft.jit(lambda *a: f(*a)), *args)
    if isinstance(want, type) or isinstance(got, type):
        assert isinstance(want, type), (got, want)
        assert isinstance(got, type), (got, want)
        assert issubclass(got, want) or issubclass(want, got)
        return
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert np.shape(g) == np.shape(w)
        assert np.asarray(g).dtype == np.asarray(w).dtype
        rtol_here = rtol * (1e8 if np.asarray(w).dtype.char in "fF" else 1)
        np.testing.assert_allclose(g, w, rtol=rtol_here, atol=rtol_here)
    inputs = [a for a in args if isinstance(a, np.ndarray)]
    arrays = [g for g in got if isinstance(g, np.ndarray)]
    for i, g in enumerate(arrays):
        assert g.flags.writeable
        assert not any(np.shares_memory(g, o) for o in [*inputs, *arrays[:i]])


def data(shape: tuple[int, ...], code: str) -> np.ndarray:
    x = rng.integers(-5 if code[0] not in "u?" else 0, 6, shape)
    if code == "?":
        return np.asarray(x > 2)
    y = np.asarray(x).astype(code)
    return y * y.dtype.type(1.5 - 0.5j) if code[0] == "c" else y * y.dtype.type(1)


# ---------------------------------------------------------------------------- reductions


@pytest.mark.filterwarnings("ignore:.*empty slice", "ignore:Degrees of", "ignore:invalid value")
@pytest.mark.parametrize("code", ["?", "i1", "i8", "u8", "f4", "f8", "c16"])
@pytest.mark.parametrize(
    "name",
    ["sum", "prod", "max", "min", "any", "all", "mean", "argmax", "argmin", "std", "var", "ptp",
     "count_nonzero", "cumsum", "cumprod", "nansum", "median", "sort", "argsort"],
)  # fmt: skip
def test_reductions(name: str, code: str) -> None:
    f = getattr(fnp, name)
    if name == "ptp" and code == "?":
        return
    for shape in SHAPES:
        x = data(shape, code)
        for axis in (None, 0, -1):
            if axis is not None and x.ndim == 0:
                continue  # NumPy takes axis=0 of a number; tracers do not
            if name in ("sort", "argsort") and x.ndim == 0:
                continue
            options = {"kind": "stable"} if name in ("sort", "argsort") else {}
            with np.errstate(all="ignore"):
                check(lambda x, axis=axis, o=options: f(x, axis=axis, **o), x, rtol=1e-13)


@pytest.mark.filterwarnings("ignore:.*empty slice", "ignore:invalid value", "ignore:Mean of")
@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "any", "all", "mean"])
def test_reductions_options(name: str) -> None:
    f = getattr(fnp, name)
    x = data((3, 4, 5), "f8")
    mask = x > 0
    for axis in [(0, 1), (0, 2), (-1, 0), (0, 1, 2), (), 3, (0, 0)]:
        for keepdims in (False, True):
            check(lambda x, a=axis, k=keepdims: f(x, axis=a, keepdims=k), x, rtol=1e-13)
    for axis in (0, 1, 2, (0, 1), (0, 2)):
        check(lambda x, a=axis: f(x, axis=a), np.ones((9, 0, 0)))
    start = {"initial": -3.0} if name in ("max", "min") else {}
    check(lambda x, m: f(x, axis=1, where=m, **start), x, mask, rtol=1e-13)


@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin", "sum", "prod", "cumsum"])
def test_reductions_of_special_values(name: str) -> None:
    f = getattr(fnp, name)
    x = np.array([[1, np.nan, 3], [np.inf, -np.inf, 2], [-0.0, 0.0, -0.0], [5, 5, 5]])
    for axis in (None, 0, 1):
        check(lambda x, a=axis: f(x, axis=a), x)
        check(lambda x, a=axis: f(x, axis=a), x.astype("f4"))
    check(lambda x: f(x), np.full(70, -np.inf))
    check(lambda x: f(x), np.array([np.iinfo("i8").min, np.iinfo("i8").max, 3]))


# ---------------------------------------------------------------------------- indexing

INDEX_FORMS: list[Any] = [
    0, -1, 3, -4, 2, np.int8(1), slice(None), slice(1, 3), slice(None, None, -1),
    slice(10, 2), slice(-2, None), slice(None, None, 2), (0, 1), (0, ..., 1), (..., 0), ...,
    None, (None, 1, None), (slice(None), 1), (1, slice(0, 2)), [0, 2], [], [0, -1, 2, 0],
    [3], [-4], np.array([[0, 1], [2, 0]]), ([0, 1], [1, 2]), (slice(None), [1, 1]),
    ([0, 1], slice(None), [0, 3]), (0, slice(None), [0, 3]), ([[0], [1]], [0, 2]),
    ([0, 1, 2], [0, 1]), np.array([True, False, True]), (np.array([True, False, True]), 0),
    (0, 0, 0, 0), 1.5, "a", np.array([], int), (slice(None), slice(None), slice(None, 1)),
    np.array([0, 1], np.uint8), (np.array([7]), 0), (0, 9),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(INDEX_FORMS)))
def test_index_forms(number: int) -> None:
    index = INDEX_FORMS[number]
    check(lambda x: x[index], np.arange(60.0).reshape(3, 4, 5))
    check(lambda x: x[index] + 1, np.arange(12, dtype="i4").reshape(3, 4))


@pytest.mark.parametrize("index", [0, 2, -3, 3, -4, 100, [0, 1], [2, -3], [0, 3], [-4], []])
@pytest.mark.parametrize("dtype", ["i8", "i4", "u1", "i1"])
def test_traced_indices(index: Any, dtype: str) -> None:
    if dtype == "u1" and np.min(index, initial=0) < 0:
        return
    x, i = np.arange(12.0).reshape(3, 4), np.array(index, dtype)
    check(lambda x, i: x[i], x, i)
    check(lambda x, i: x[:, i], x, i)
    check(lambda x, i: x[i, 1:] * 2, x, i)
    check(lambda x, i: fnp.take(x, i, axis=0), x, i)
    check(lambda x, i: fnp.at(x, i).set(7.0), x, i)
    check(lambda x, i: fnp.at(x, i).add(1.0), x, i)


def test_an_index_error_names_the_index_and_the_size() -> None:
    f = ft.jit(lambda x, i: x[1:, i].sum())
    x = np.ones((3, 4))
    assert f(x, 3) == 2
    with pytest.raises(IndexError, match=r"index 4 is out of bounds .* with size 4"):
        f(x, 4)
    assert f(x, -4) == 2
    with pytest.raises(IndexError, match=r"index -5 is out of bounds .* with size 4"):
        f(x, -5)


def test_updates_at_indices() -> None:
    x, i = np.arange(12.0).reshape(3, 4), np.array([0, 2, 0])
    v = np.array([[1.0, 2, 3, 4], [5, 6, 7, 8], [-9, 10, -11, 12]])
    for method in ("set", "add", "multiply", "min", "max"):
        check(lambda x, i, v, m=method: getattr(fnp.at(x, i), m)(v), x, i, v)
        check(lambda x, m=method: getattr(fnp.at(x, (slice(1, 3), 0)), m)(5.0), x)
        check(lambda x, m=method: getattr(fnp.at(x, (slice(None), [1, 1])), m)(5.0), x)


# ---------------------------------------------------------------------------- rearrangement

REARRANGE = {
    "reshape": lambda x: fnp.reshape(x, (6, -1)),
    "reshape of a transpose": lambda x: x.T.reshape(-1),
    "bad reshape": lambda x: fnp.reshape(x, (5, -1)),
    "transpose": lambda x: x.T,
    "permute": lambda x: fnp.transpose(x, (2, 0, 1)),
    "bad permute": lambda x: fnp.transpose(x, (2, 0, 0)),
    "flip": lambda x: fnp.flip(x),
    "flip 1": lambda x: fnp.flip(x, 1) + 1,
    "roll": lambda x: fnp.roll(x, 5),
    "roll axes": lambda x: fnp.roll(x, (1, -2), (0, 2)),
    "rot90": lambda x: fnp.rot90(x),
    "pad": lambda x: fnp.pad(x, ((1, 2), (0, 0), (3, 1)), constant_values=7),
    "pad edge": lambda x: fnp.pad(x, 2, mode="edge"),
    "pad reflect": lambda x: fnp.pad(x, 1, mode="reflect"),
    "pad wrap": lambda x: fnp.pad(x, 1, mode="wrap"),
    "concatenate": lambda x: fnp.concatenate([x, x * 2, x[:1]]),
    "concatenate last": lambda x: fnp.concatenate([x, x[..., :0], x[..., ::2]], axis=-1),
    "bad concatenate": lambda x: fnp.concatenate([x, x[:, 1:]], axis=0),
    "stack": lambda x: fnp.stack([x, x], axis=1),
    "hstack": lambda x: fnp.hstack([x, x]),
    "block": lambda x: fnp.block([[x[0], x[1]], [x[1], x[0]]]),
    "split": lambda x: fnp.split(x, 2, axis=2),
    "array_split": lambda x: fnp.array_split(x, 3, axis=2),
    "tril": lambda x: fnp.tril(x, 1),
    "triu": lambda x: fnp.triu(x, -1),
    "diag": lambda x: fnp.diag(x[0], 1),
    "diag of vector": lambda x: fnp.diag(x[0, 0], -2),
    "diagonal": lambda x: fnp.diagonal(x, 1, 0, 2),
    "trace": lambda x: fnp.trace(x),
    "tile": lambda x: fnp.tile(x, (2, 1, 2)),
    "repeat": lambda x: fnp.repeat(x, 3, axis=1),
    "squeeze": lambda x: fnp.squeeze(x[:1]),
    "expand": lambda x: fnp.expand_dims(x, (0, 2)),
    "broadcast": lambda x: fnp.broadcast_to(x, (2, *x.shape)),
    "bad broadcast": lambda x: fnp.broadcast_to(x, (2, 9)),
    "moveaxis": lambda x: fnp.moveaxis(x, 0, -1),
    "insert": lambda x: fnp.insert(x, 1, 9, axis=1),
    "delete": lambda x: fnp.delete(x, 1, axis=2),
    "diff": lambda x: fnp.diff(x, axis=1),
    "append": lambda x: fnp.append(x, x),
    "eye": lambda x: fnp.eye(3, 4, 1) + x[0, 0, 0],
    "arange": lambda x: fnp.arange(3, 9, 2) + x.shape[0],
    "unstack": lambda x: fnp.unstack(x, axis=1),
    "meshgrid": lambda x: fnp.meshgrid(x[0, 0], x[0, :, 0]),
    "cross": lambda x: fnp.cross(x[0], x[1]),
    "convolve": lambda x: fnp.convolve(x[0, 0], x[0, 1]),
}


@pytest.mark.parametrize("code", ["?", "i4", "f4", "f8", "c16"])
@pytest.mark.parametrize("name", REARRANGE)
def test_rearrangement(name: str, code: str) -> None:
    if code == "?" and name in ("cross", "convolve"):
        return
    check(REARRANGE[name], data((2, 3, 4), code) if name != "cross" else data((2, 4, 3), code))


@pytest.mark.parametrize("name", ["transpose", "flip", "concatenate", "stack", "tril", "roll"])
def test_rearrangement_of_empty_arrays(name: str) -> None:
    check(REARRANGE[name], np.ones((0, 3, 2)))
    check(REARRANGE[name], np.ones((2, 3, 0), "i4"))


# ---------------------------------------------------------------------------- products

MATMULS = [
    ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((2, 3), (3, 4)), ((1, 1), (1, 1)),
    ((5, 2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)), ((2, 3), (5, 3, 4)), ((2, 1, 2, 3), (5, 3, 4)),
    ((0, 3), (3, 4)), ((2, 0), (0, 4)), ((2, 3), (3, 0)), ((0,), (0,)), ((0, 2, 3), (0, 3, 4)),
    ((2, 3), (4, 3)), ((2,), (3,)), ((), (3,)), ((64, 65), (65, 66)), ((1, 300), (300, 2)),
    ((130, 70), (70, 1)), ((3, 1), (1, 3)),
]  # fmt: skip


@pytest.mark.parametrize("code", ["?", "i4", "i8", "u1", "f4", "f8", "c8", "c16"])
def test_matmul(code: str) -> None:
    for left, right in MATMULS:
        a, b = data(left, code), data(right, code)
        check(lambda a, b: a @ b, a, b, rtol=1e-13)
        at, bt = np.asfortranarray(a), np.asfortranarray(b)
        check(lambda a, b: fnp.matmul(a, b), at, bt, rtol=1e-13)
        if a.ndim > 1 and b.ndim > 1 and code[0] in "fc":
            turned = lambda a, b: fnp.swapaxes(b, -1, -2) @ fnp.swapaxes(a, -1, -2)  # noqa: E731
            check(turned, a, b, rtol=1e-13)
            sliced = lambda a, b: a[..., ::2, ::-1] @ b[..., ::-1, 1:]  # noqa: E731
            check(sliced, a, b, rtol=1e-13)


EINSUMS = [
    ("ij,jk", (2, 3), (3, 4)), ("ij,kj->ki", (2, 3), (4, 3)), ("ij,ij", (2, 3), (2, 3)),
    ("i,j", (3,), (4,)), ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
    ("bij,bkj->kbi", (2, 3, 4), (2, 5, 4)),
    ("...i,...i", (2, 3), (3,)), ("ijk,jil->kl", (2, 3, 4), (3, 2, 5)), ("ii,i", (3, 3), (3,)),
    ("ij,jk", (2, 0), (0, 4)), ("ij,j->", (2, 3), (3,)), ("ab,bc", (2, 3), (4, 5)),
]  # fmt: skip


@pytest.mark.parametrize("code", ["i8", "f4", "f8", "c16"])
@pytest.mark.parametrize(("text", "left", "right"), EINSUMS)
def test_einsum(text: str, left: Any, right: Any, code: str) -> None:
    check(lambda a, b: fnp.einsum(text, a, b), data(left, code), data(right, code), rtol=1e-13)


@pytest.mark.parametrize("axes", [0, 1, 2, ([1], [0]), ([0, 1], [1, 0]), ([0, 1], [0, 1])])
def test_tensordot_and_relatives(axes: Any) -> None:
    a, b = data((3, 3), "f8"), data((3, 3), "f8")
    check(lambda a, b: fnp.tensordot(a, b, axes), a, b, rtol=1e-13)
    for name in ("dot", "inner", "outer", "kron", "vdot", "vecdot"):
        check(lambda a, b, n=name: getattr(fnp, n)(a, b), a, b, rtol=1e-13)
    check(lambda a, b: fnp.tensordot(a[1:], b, 2), a, b)
