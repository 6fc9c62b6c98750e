"""Programs so small that the call itself is what is timed."""

from __future__ import annotations

from benchmarks.libraries import Library
from benchmarks.workloads.workload import Workload


def scalar_derivative(library: Library):
    """Return the derivative of x^2 sin(x)."""
    np_ = library.np_
    return library.jit(library.grad(lambda x: x**2 * np_.sin(x)))


def tree_update(library: Library):
    """Return a step of gradient descent on a dict of arrays."""

    def update(params, grads):
        return library.tree_map(lambda p, g: p - 0.1 * g, params, grads)

    return library.jit(update)


def twenty_arrays(rng):
    """Return parameters and gradients: dicts of 20 arrays of 8 numbers."""
    return tuple({f"p{i:02}": rng.normal(size=8) for i in range(20)} for _ in range(2))


WORKLOADS = {
    "scalar": Workload(
        "derivative of x^2 sin(x), one scalar", lambda rng: (1.5,), scalar_derivative
    ),
    "tree": Workload("update of a dict of 20 arrays of 8", twenty_arrays, tree_update),
}
