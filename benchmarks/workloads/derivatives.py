"""Transformations in each other: Hessians, products with them, Jacobians of many points."""

from __future__ import annotations

from typing import Any

from benchmarks.libraries import Library
from benchmarks.workloads.workload import Workload, normal


def rosenbrock(x: Any) -> Any:
    """Return the Rosenbrock function of a vector."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def hessian(library: Library):
    """Return the Hessian of Rosenbrock."""
    return library.jit(library.hessian(rosenbrock))


def hessian_product(library: Library):
    """Return a Hessian times a vector, forward over reverse."""
    gradient = library.grad(rosenbrock)
    return library.jit(lambda x, v: library.jvp(gradient, (x,), (v,))[1])


def jacobians(library: Library):
    """Return the Jacobians, at many points, of the map from spherical to Cartesian coordinates."""
    np_ = library.np_

    def cartesian(p):
        r, theta, phi = p[0], p[1], p[2]
        planar = r * np_.sin(theta)
        return np_.stack([planar * np_.cos(phi), planar * np_.sin(phi), r * np_.cos(theta)])

    return library.jit(library.vmap(library.jacfwd(cartesian)))


WORKLOADS = {
    "hessian": Workload("Hessian of Rosenbrock, 50 variables", normal(50), hessian),
    "hvp": Workload(
        "Hessian of Rosenbrock times a vector, 1000 variables",
        lambda rng: tuple(rng.normal(size=(2, 1000))),
        hessian_product,
    ),
    "jacobians": Workload("Jacobians (jacfwd) of a 3->3 map, 1000 points", normal(1000, 3),
                          jacobians),
}  # fmt: skip
