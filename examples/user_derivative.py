"""An operation of your own, with a derivative of your own, checked against finite differences.

`Elementwise` is the family that the library's own functions are rows of: a name, the function on
NumPy arrays, and for each operand what its tangent is multiplied by.

    python examples/user_derivative.py
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import wrightomega

import functrans as ft
from functrans.ops.base import Elementwise, slope
from functrans.test_util import check_grads

# omega(x) solves omega + log(omega) = x; differentiating that gives omega' = omega / (1 + omega).
omega = Elementwise("omega", wrightomega, [slope(lambda y, x: y / (1 + y))], kinds="f")


class Outcome(NamedTuple):
    """Values and derivatives at the points looked at."""

    value: np.ndarray
    first: np.ndarray
    second: np.ndarray


def main() -> Outcome:
    """Differentiate the new operation twice, alone and inside other code."""
    x = np.array([-1.0, 0.5, 1.0, 3.0])
    first = ft.vmap(ft.grad(omega))(x)
    second = ft.vmap(ft.grad(ft.grad(omega)))(x)
    print("x       ", x)
    print("omega   ", omega(x))
    print("omega'  ", first)
    print("omega'' ", second)
    check_grads(lambda x: np.sum(np.sin(omega(x) * x)), (x,), order=2, modes=("fwd", "rev"))
    print("derivatives agree with finite differences, in both modes, to second order")
    print(ft.make_jaxpr(ft.grad(lambda x: omega(x) ** 2))(1.0))
    return Outcome(omega(x), first, second)


if __name__ == "__main__":
    main()
