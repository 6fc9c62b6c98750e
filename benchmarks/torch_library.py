"""PyTorch behind NumPy's names: `torch.func`'s transformations, eagerly or with `torch.compile`."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.libraries import Library

# From an environment of its own: not a dependency, so checked by nobody.
torch: Any = importlib.import_module("torch")
pytree: Any = importlib.import_module("torch.utils._pytree")


class TorchNumpy:
    """`torch`, with NumPy's meaning of the names that differ."""

    linalg = torch.linalg

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def dot(a: Any, b: Any) -> Any:
        return torch.matmul(a, b)

    @staticmethod
    def max(x: Any, axis: Any, keepdims: bool = False) -> Any:
        return torch.amax(x, axis, keepdims)

    @staticmethod
    def maximum(x: Any, bound: float) -> Any:
        return torch.clamp(x, min=bound)

    @staticmethod
    def sort(x: Any) -> Any:
        return torch.sort(x).values


def _convolution(x: Any, w: Any, strides: Any, padding: str, dimension_numbers: Any) -> Any:
    """Convolve images in "NHWC" with kernels in "HWIO"."""
    result = torch.nn.functional.conv2d(
        x.permute(0, 3, 1, 2), w.permute(3, 2, 0, 1), stride=strides, padding=padding.lower()
    )
    return result.permute(0, 2, 3, 1)


def _solve_triangular(a: Any, b: Any, lower: bool = False) -> Any:
    return torch.linalg.solve_triangular(a, b[:, None], upper=not lower)[:, 0]


def _value_and_grad(function: Any) -> Any:
    transformed = torch.func.grad_and_value(function)

    def swapped(*args: Any) -> Any:
        grads, value = transformed(*args)
        return value, grads

    return swapped


def _jvp(function: Any, primals: Any, tangents: Any) -> Any:
    return torch.func.jvp(function, primals, tangents)


def library(dtype: str, *, is_compiled: bool) -> Library:
    """Return the library for one dtype."""

    def asarray(x: Any) -> Any:
        if isinstance(x, float):
            return torch.tensor(x, dtype=getattr(torch, dtype))
        x = np.ascontiguousarray(x)
        return torch.from_numpy(x if x.dtype.kind == "f" else x.astype(np.int64))

    return Library(
        np_=TorchNumpy(),
        grad=torch.func.grad,
        value_and_grad=_value_and_grad,
        jit=torch.compile if is_compiled else lambda function: function,
        tree_map=pytree.tree_map,
        vmap=lambda function, in_axes=0: torch.func.vmap(function, in_dims=in_axes),
        jvp=_jvp,
        jacfwd=torch.func.jacfwd,
        hessian=torch.func.hessian,
        add_at=lambda x, i, v: x.index_add(0, i, v),
        lax=SimpleNamespace(conv_general_dilated=_convolution, top_k=torch.topk),
        scipy=SimpleNamespace(
            special=SimpleNamespace(logsumexp=lambda x, axis: torch.logsumexp(x, axis)),
            linalg=SimpleNamespace(solve_triangular=_solve_triangular),
        ),
        asarray=asarray,
    )
