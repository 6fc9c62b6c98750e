"""Array functions that are neither elementwise nor networks: indexing, sorting, einsum."""

from __future__ import annotations

import numpy as np

from benchmarks.libraries import Library
from benchmarks.workloads.workload import Workload, normal

SEGMENTS = 1000


def embedding_gradient(library: Library):
    """Return the gradient of a mean over looked-up rows with respect to the table."""
    np_ = library.np_
    return library.jit(library.grad(lambda table, indices: np_.mean(table[indices] ** 2)))


def segment_sum(library: Library):
    """Return the sums of values with equal keys."""
    zeros = library.np_.zeros

    def total(values, keys):
        return library.add_at(zeros(SEGMENTS, dtype=values.dtype), keys, values)

    return library.jit(total)


def sort(library: Library):
    """Return sorted numbers."""
    return library.jit(lambda x: library.np_.sort(x))


def running_sum(library: Library):
    """Return running sums of a vector."""
    return library.jit(lambda x: library.np_.cumsum(x, axis=0))


def running_sums(library: Library):
    """Return running sums of a matrix along each axis."""
    cumsum = library.np_.cumsum
    return library.jit(lambda x: (cumsum(x, axis=0), cumsum(x, axis=1)))


def largest(library: Library):
    """Return the 100 largest numbers and where they are."""
    return library.jit(lambda x: library.lax.top_k(x, 100))


def products(library: Library):
    """Return a chain of batched products."""
    einsum = library.np_.einsum

    def chain(a, b, c, weights):
        return einsum("bik,bkl,b->il", einsum("bij,bjk->bik", a, b), c, weights)

    return chain


def einsum_forward(library: Library):
    """Return the jitted chain of products."""
    return library.jit(products(library))


def einsum_gradient(library: Library):
    """Return the gradient of the mean square of the chain of products, for all operands."""
    chain, np_ = products(library), library.np_
    loss = library.grad(lambda operands: np_.mean(chain(*operands) ** 2))
    return library.jit(lambda *operands: loss(operands))


def _rows(rng):
    return rng.normal(size=(10_000, 64)), rng.integers(10_000, size=2048).astype(np.int32)


def _keyed(rng):
    return rng.normal(size=100_000), rng.integers(SEGMENTS, size=100_000).astype(np.int32)


def _matrices(batch: int, n: int):
    return lambda rng: (*rng.normal(size=(3, batch, n, n)), rng.normal(size=batch))


WORKLOADS = {
    "embedding": Workload(
        "gradient of an embedding lookup, 10000x64, 2048 rows", _rows, embedding_gradient, "large"
    ),
    "segment_sum": Workload("segment sum, 1e5 into 1000", _keyed, segment_sum, "large"),
    "sort": Workload("sort, 1e5", normal(100_000), sort, "large"),
    "cumsum": Workload("cumsum, 1e6", normal(10**6), running_sum, "large", tolerance=1e-3),
    "cumsum_axes": Workload(
        "cumsum, 1000x1000, along each axis", normal(1000, 1000), running_sums, "large"
    ),
    "top_k": Workload("top_k, 100 of 1e5", normal(100_000), largest, "large"),
    "einsum_small": Workload(
        "einsum bij,bjk->bik and bik,bkl,b->il, 8x16x16", _matrices(8, 16), einsum_forward
    ),
    "einsum_medium": Workload(
        "einsum bij,bjk->bik and bik,bkl,b->il, 32x64x64",
        _matrices(32, 64),
        einsum_forward,
        "large",
    ),
    "einsum_grad": Workload(
        "gradient of these einsums, 32x64x64", _matrices(32, 64), einsum_gradient, "large"
    ),
}
