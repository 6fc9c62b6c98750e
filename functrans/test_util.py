"""Checks of derivatives against finite differences.

The numerical Jacobian uses central differences of step `eps`, whose truncation error is O(eps**2);
the default step is the cube root of the machine epsilon, which balances it against rounding
(Nocedal and Wright, Numerical Optimization, 2nd ed., section 8.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans.api import jvp, vjp
from functrans.core import get_aval
from functrans.custom_rules import CustomFunction
from functrans.jit import jit
from functrans.pytree import tree_flatten, tree_leaves, tree_unflatten
from functrans.vectorize import jacfwd, jacrev, vmap


def _step(args: Sequence[Any], eps: float | None) -> float:
    if eps is not None:
        return eps
    kinds = [np.asarray(x).dtype for x in tree_leaves(list(args))]
    return float(max([np.finfo(d).eps for d in kinds if d.kind in "fc"], default=2e-16)) ** (1 / 3)


def numerical_jvp(
    f: Callable[..., Any], args: Sequence[Any], tangents: Sequence[Any], eps: float
) -> Any:
    """The directional derivative by central differences, in the structure of the output."""
    moved = []
    for sign in (1, -1):
        leaves, tree = tree_flatten(list(args))
        steps = tree_leaves(list(tangents))
        shifted = [np.asarray(x + sign * eps * t) for x, t in zip(leaves, steps, strict=True)]
        moved.append(tree_flatten(f(*tree_unflatten(tree, shifted))))
    (high, out_tree), (low, _) = moved
    return tree_unflatten(out_tree, [(h - w) / (2 * eps) for h, w in zip(high, low, strict=True)])


def _random_like(rng: np.random.Generator, tree: Any) -> Any:
    leaves, treedef = tree_flatten(tree)
    out = []
    for x in leaves:
        dtype, shape = np.asarray(x).dtype, np.shape(x)
        t = rng.standard_normal(shape)
        if dtype.kind == "c":
            t = t + 1j * rng.standard_normal(shape)
        out.append(np.asarray(t, dtype)[()])
    return tree_unflatten(treedef, out)


def _compare(a: Any, b: Any, atol: float, rtol: float, what: str) -> None:
    for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=atol, rtol=rtol, err_msg=what)


def _inner(a: Any, b: Any) -> Any:
    pairs = zip(tree_leaves(a), tree_leaves(b), strict=True)
    return sum((np.sum(np.asarray(x) * np.asarray(y)) for x, y in pairs), np.float64(0)).real


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int,
    modes: Sequence[str] = ("fwd", "rev"),
    atol: float | None = None,
    rtol: float | None = None,
    eps: float | None = None,
) -> None:
    """Check derivatives of `f` at `args` up to `order`, in the given modes.

    Forward mode is compared with finite differences along a random direction, reverse mode with the
    same by the inner product `<ct, J t> = <J^T ct, t>`. Raises AssertionError with both values.
    """
    unknown = set(modes) - {"fwd", "rev"}
    if unknown:
        raise ValueError(f"modes are 'fwd' and 'rev', got {', '.join(map(repr, sorted(unknown)))}.")
    args = tuple(args)
    step = _step(args, eps)
    tolerance = 100 * step**2 if eps is None else 1e-2
    atol = tolerance if atol is None else atol
    rtol = tolerance if rtol is None else rtol
    rng = np.random.default_rng(0)
    tangents = tuple(_random_like(rng, args))
    numerical = numerical_jvp(f, args, tangents, step)
    if "fwd" in modes:
        _, tangent = jvp(f, args, tangents)
        _compare(tangent, numerical, atol, rtol, f"forward mode, {order} order(s) left")
    out, pullback = vjp(f, *args)
    ct = _random_like(rng, out)
    if "rev" in modes:
        pulled = _inner(pullback(ct), tangents)
        _compare(pulled, _inner(ct, numerical), atol, rtol, f"reverse mode, {order} order(s) left")
    if order > 1:
        if "fwd" in modes:
            check_grads(
                lambda *xs: jvp(f, xs, tangents)[1], args, order - 1, modes, atol, rtol, eps
            )
        if "rev" in modes:
            check_grads(lambda *xs: vjp(f, *xs)[1](ct), args, order - 1, modes, atol, rtol, eps)


def check_custom_rule(
    f: CustomFunction[..., Any],
    args: Sequence[Any],
    order: int = 1,
    modes: Sequence[str] = ("fwd", "rev"),
    atol: float | None = None,
    rtol: float | None = None,
    eps: float | None = None,
) -> None:
    """Check the rules of a function declared by `custom_jvp`, `custom_vjp` or `custom_vmap`.

    Outputs that rules return are compared with those of the function, eagerly and staged; its
    derivatives with finite differences, as in `check_grads`; a batch of two with each of them.
    Arguments that carry no derivative are kept. Raises AssertionError with both values.
    """
    call, floats = _on_floats(f, args)
    of_floats = lambda *xs: call(f, xs)  # noqa: E731
    expected = call(f.fun, floats)
    tangents = tuple(_random_like(np.random.default_rng(0), floats))
    for name, g in (("eagerly", of_floats), ("staged", jit(of_floats))):
        if "fwd" in modes:
            outs = jvp(g, tuple(floats), tangents)[0]
            _compare_outputs(outs, expected, f"outputs in forward mode, {name}")
        if "rev" in modes:
            _compare_outputs(vjp(g, *floats)[0], expected, f"outputs in reverse mode, {name}")
    check_grads(of_floats, floats, order, modes, atol, rtol, eps)
    nearby = [x * (1 + 1e-3) for x in floats]
    batch = [np.stack(pair) for pair in zip(floats, nearby, strict=True)]
    each = [np.stack(pair) for pair in zip(expected, call(f.fun, nearby), strict=True)]
    _compare_outputs(vmap(of_floats)(*batch), each, "outputs of a batch")


def _on_floats(
    f: CustomFunction[..., Any], args: Sequence[Any]
) -> tuple[Callable[..., list[Any]], list[np.ndarray]]:
    """A way to call functions like `f` with the floats among its arguments, and these."""
    full = f.positional(tuple(args), {})
    fixed = {n % len(full) for n in f.nondiff_argnums}
    leaves, tree = tree_flatten([None if i in fixed else x for i, x in enumerate(full)])
    smooth = [i for i, x in enumerate(leaves) if get_aval(x).dtype.kind in "fc"]

    def call(fun: Callable[..., Any], floats: Sequence[Any]) -> list[Any]:
        moved = list(leaves)
        for i, x in zip(smooth, floats, strict=True):
            moved[i] = x
        pairs = enumerate(zip(full, tree_unflatten(tree, moved), strict=True))
        outs = tree_leaves(fun(*[x if i in fixed else y for i, (x, y) in pairs]))
        return [y for y in outs if get_aval(y).dtype.kind in "fc"]

    return call, [np.asarray(leaves[i]) for i in smooth]


def _compare_outputs(found: Any, expected: Any, what: str) -> None:
    finest = max([np.finfo(get_aval(y).dtype).eps for y in expected], default=2e-16)
    _compare(found, expected, 100 * float(finest), 1e4 * float(finest), what)


def compare_jacobians(
    f: Callable[..., Any], *args: Any, order: int = 1, mode: str = "rev", eps: float | None = None
) -> tuple[Any, Any, float]:
    """`(theoretical, numerical, largest difference)`: Jacobians of `f` in its first argument.

    Of order 2, the Jacobian of the Jacobian, and so on. `mode` is "fwd" or "rev". Arrays of shape
    `output shape + input shape`.
    """
    if mode not in ("fwd", "rev"):
        raise ValueError(f"mode is 'fwd' or 'rev', got {mode!r}.")
    differentiate = jacfwd if mode == "fwd" else jacrev
    for _ in range(order - 1):
        f = differentiate(f)
    x = np.asarray(args[0])
    step = _step(args, eps)
    theoretical = np.asarray(differentiate(f)(x, *args[1:]))
    columns = []
    for i in range(x.size):
        t = np.zeros(x.size, x.dtype)
        t[i] = 1
        columns.append(numerical_jvp(lambda y: f(y, *args[1:]), (x,), (t.reshape(x.shape),), step))
    shape = np.shape(columns[0]) if columns else theoretical.shape[: theoretical.ndim - x.ndim]
    numerical = np.stack(columns, axis=-1) if columns else np.zeros((*shape, 0))
    numerical = numerical.reshape((*shape, *x.shape))
    difference = float(np.max(np.abs(theoretical - numerical), initial=0.0))
    return theoretical, numerical, difference
