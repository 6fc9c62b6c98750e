"""`vmap`, and the Jacobians built on it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.api import Argnums, _all_owned, _Chosen, _linearized, jvp
from functrans.arguments import (
    argument_names,
    check_leaves,
    concrete_scalar,
    flatten_outputs,
    function_name,
)
from functrans.core import get_aval, instantiate
from functrans.interpreters.batching import batch_flat, move_to
from functrans.interpreters.transpose import transpose_tape
from functrans.pytree import broadcast_prefix, tree_flatten, tree_leaves, tree_map, tree_unflatten


def vmap(
    fun: Callable[..., Any],
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_name: Any = None,
    axis_size: int | None = None,
) -> Callable[..., Any]:
    """`fun` over a batch: as if called per example and stacked, but on whole arrays.

    `in_axes` says which axis of each positional argument is mapped (an int, None for not mapped, or
    a tree prefix of them; negative counts from the end); keyword arguments are mapped over axis 0.
    `out_axes` says where the batch axis goes in the outputs. `axis_name` names the axis for
    `lax.psum` and friends.

    >>> import numpy as np
    >>> vmap(np.dot, in_axes=(0, None))(np.eye(2), np.array([1.0, 2.0]))
    array([1., 2.])

    Raises ValueError for axes that do not exist or sizes that differ, naming the arguments.
    """
    what = f"vmap of {function_name(fun)}"
    if isinstance(in_axes, list):
        in_axes = tuple(in_axes)

    @functools.wraps(fun)
    def batched(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = tree_flatten((args, kwargs))
        names = argument_names(fun, args, kwargs)
        check_leaves(leaves, lambda: names, what)
        dims = _input_axes(in_axes, args, kwargs, leaves, names, what)
        size = _batch_size(leaves, dims, names, axis_size, what)
        trees: list[Any] = []

        def flat(*tracers: Any) -> list[Any]:
            traced_args, traced_kwargs = tree_unflatten(tree, tracers)
            outs, out_tree = flatten_outputs(fun(*traced_args, **traced_kwargs), what)
            trees.append(out_tree)
            return outs

        inputs = [
            concrete_scalar(x) if d is not None else x for x, d in zip(leaves, dims, strict=True)
        ]
        outs, out_dims = batch_flat(flat, inputs, dims, size, axis_name)
        wanted = _output_axes(out_axes, trees[0], what)
        moved = [
            _place(y, d, w, size, i, what)
            for i, (y, d, w) in enumerate(zip(outs, out_dims, wanted, strict=True))
        ]
        return tree_unflatten(trees[0], moved)

    return batched


def _input_axes(
    in_axes: Any, args: Any, kwargs: Any, leaves: Sequence[Any], names: Sequence[str], what: str
) -> list[int | None]:
    if isinstance(in_axes, tuple) and len(in_axes) != len(args):
        raise ValueError(
            f"{what}: in_axes has {len(in_axes)} entries for {len(args)} positional argument(s)."
        )
    per_arg = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
    dims: list[Any] = []
    for axes, arg in zip(per_arg, args, strict=True):
        try:
            dims.extend(broadcast_prefix(axes, arg, is_leaf=lambda x: x is None))
        except ValueError as error:
            error.add_note(f"in_axes of {what} must be a tree prefix of its arguments.")
            raise
    dims.extend([0] * (len(leaves) - len(dims)))
    return [_normalize(d, x, n, what) for d, x, n in zip(dims, leaves, names, strict=True)]


def _normalize(dim: Any, x: Any, name: str, what: str) -> int | None:
    if dim is None:
        return None
    if not isinstance(dim, int | np.integer) or isinstance(dim, bool):
        raise TypeError(f"{what}: in_axes for {name} is {dim!r}; it must be an int or None.")
    ndim = np.ndim(x)
    if not -ndim <= dim < ndim:
        raise ValueError(
            f"{what} was asked to map axis {dim} of {name}, which is {get_aval(x)} and has {ndim} "
            f"axes.\n  Pass in_axes=None for arguments that all examples share."
        )
    return int(dim) % ndim


def _batch_size(
    leaves: Sequence[Any],
    dims: Sequence[int | None],
    names: Sequence[str],
    axis_size: int | None,
    what: str,
) -> int:
    sizes = {
        n: np.shape(x)[d] for n, x, d in zip(names, leaves, dims, strict=True) if d is not None
    }
    if not sizes and axis_size is None:
        raise ValueError(
            f"{what} has no mapped argument: in_axes is None throughout. Map at least one, or pass "
            "axis_size."
        )
    expected = axis_size if axis_size is not None else next(iter(sizes.values()))
    wrong = [f"{n} has {s}" for n, s in sizes.items() if s != expected]
    if wrong:
        source = "axis_size is" if axis_size is not None else f"{next(iter(sizes))} has"
        raise ValueError(
            f"{what} needs mapped axes of one size: {source} {expected}, but {', '.join(wrong)}."
        )
    return expected


def _output_axes(out_axes: Any, out_tree: Any, what: str) -> list[int | None]:
    dummy = tree_unflatten(out_tree, [0] * out_tree.num_leaves)
    axes = tuple(out_axes) if isinstance(out_axes, list) and isinstance(dummy, tuple) else out_axes
    try:
        return broadcast_prefix(axes, dummy, is_leaf=lambda x: x is None)
    except ValueError as error:
        error.add_note(f"out_axes of {what} must be a tree prefix of its result.")
        raise


def _place(y: Any, dim: int | None, wanted: int | None, size: int, i: int, what: str) -> Any:
    if wanted is None:
        if dim is not None:
            raise ValueError(
                f"{what}: out_axes is None for output {i}, but that output depends on a mapped "
                "argument. Give it an axis, or reduce over the batch with lax.psum/pmean."
            )
        return y
    ndim = np.ndim(y) + (dim is None)
    if not -ndim <= wanted < ndim:
        raise ValueError(f"{what}: out_axes {wanted} does not exist in output {i} of {ndim} axes.")
    moved = move_to(y, dim, wanted % ndim, size)
    # A value repeated along the axis is a read-only view; the caller gets an array of their own.
    return moved.copy() if type(moved) is np.ndarray and not moved.flags.writeable else moved


# ---------------------------------------------------------------------------- Jacobians


def _basis(leaves: Sequence[Any], i: int) -> Any:
    """All unit vectors of leaf `i`, stacked: shape (size, *shape)."""
    aval = get_aval(leaves[i])
    return np.eye(aval.size, dtype=aval.dtype).reshape(aval.size, *aval.shape)


def jacfwd(
    fun: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
) -> Callable[..., Any]:
    """The Jacobian by forward mode: a column per input element. Best for few inputs.

    Each leaf has shape `output shape + input shape`; outputs outside, inputs inside.

    >>> import numpy as np
    >>> jacfwd(lambda x: x**2)(np.array([1.0, 2.0]))
    array([[2., 0.],
           [0., 4.]])
    """
    what = f"jacfwd of {function_name(fun)}"

    @functools.wraps(fun)
    def jacobian_of(*args: Any, **kwargs: Any) -> Any:
        chosen = _Chosen(fun, args, kwargs, argnums, None, what)
        _require_kind(chosen, holomorphic)
        leaves = chosen.leaves
        f = lambda *xs: chosen.call(xs)  # noqa: E731
        aux: list[Any] = []

        def push(i: int) -> Callable[[Any], Any]:
            def column(t: Any) -> Any:
                ts = tuple(t if j == i else np.zeros(np.shape(x), get_aval(x).dtype)
                           for j, x in enumerate(leaves))  # fmt: skip
                result = jvp(f, tuple(leaves), ts, has_aux)
                return (result[1], result[2]) if has_aux else (result[1], ())

            return column

        columns = []
        for i in range(len(leaves)):
            out, extra = vmap(push(i), out_axes=(-1, None))(_basis(leaves, i))
            for y in tree_leaves(out):
                if get_aval(y).dtype == dtypes.float0:
                    raise TypeError(f"{what} needs floating-point outputs, got integers or bools.")
            aux.append(extra)
            shape = np.shape(leaves[i])
            columns.append(tree_map(lambda c, shape=shape: _split_last(c, shape), out))
        jac = _outer_tree(columns, chosen)
        return (jac, aux[0]) if has_aux else jac

    return jacobian_of


def _split_last(c: Any, shape: tuple[int, ...]) -> Any:
    return ops.reshape(c, shape=(*np.shape(c)[:-1], *shape))


def _split_first(g: Any, shape: tuple[int, ...]) -> Any:
    return ops.reshape(g, shape=(*shape, *np.shape(g)[1:]))


def _require_kind(chosen: _Chosen, holomorphic: bool) -> None:
    chosen.ints_as_floats()
    chosen.require_inexact()
    for x, name in zip(chosen.leaves, chosen.names(), strict=True):
        if get_aval(x).dtype.kind == "c" and not holomorphic:
            raise TypeError(
                f"{chosen.what}: {name} is {get_aval(x)}; for a holomorphic function pass "
                "holomorphic=True, else differentiate real and imaginary parts."
            )


def _outer_tree(columns: list[Any], chosen: _Chosen) -> Any:
    """From a tree of outputs per input leaf to a tree of inputs per output leaf."""
    flat = [tree_flatten(c) for c in columns]
    out_tree = flat[0][1]
    rows = [chosen.pack(_all_owned([f[0][i] for f in flat])) for i in range(out_tree.num_leaves)]
    return tree_unflatten(out_tree, rows)


def jacrev(
    fun: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
) -> Callable[..., Any]:
    """The Jacobian by reverse mode: a row per output element. Best for few outputs.

    Each leaf has shape `output shape + input shape`; outputs outside, inputs inside.
    """
    what = f"jacrev of {function_name(fun)}"

    @functools.wraps(fun)
    def jacobian_of(*args: Any, **kwargs: Any) -> Any:
        chosen = _Chosen(fun, args, kwargs, argnums, None, what)
        _require_kind(chosen, holomorphic)
        leaves = chosen.leaves
        f = lambda *xs: chosen.call(xs)  # noqa: E731
        outs, out_tree, tape, _, _, aux = _linearized(f, tuple(leaves), has_aux, what)
        for y in outs:
            kind = get_aval(y).dtype.kind
            if kind not in "fc" or (kind == "c" and not holomorphic):
                raise TypeError(f"{what} needs real floating-point outputs, got {get_aval(y)}.")
        rows = []
        for i, y in enumerate(outs):

            def pull(ct: Any, i: int = i) -> tuple[Any, ...]:
                cts = [
                    ct if j == i else np.zeros(np.shape(o), get_aval(o).dtype)
                    for j, o in enumerate(outs)
                ]
                return tuple(instantiate(c) for c in transpose_tape(tape, cts))

            grads = vmap(pull)(_basis(outs, i))
            shape = np.shape(y)
            rows.append(chosen.pack(_all_owned([_split_first(g, shape) for g in grads])))
        jac = tree_unflatten(out_tree, rows)
        return (jac, aux) if has_aux else jac

    return jacobian_of


def jacobian(
    fun: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
) -> Callable[..., Any]:
    """The Jacobian of `fun`: `jacrev`."""
    return jacrev(fun, argnums, has_aux, holomorphic)


def hessian(
    fun: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
) -> Callable[..., Any]:
    """The Hessian: forward mode over reverse mode.

    >>> import numpy as np
    >>> hessian(lambda x: np.sum(x**3))(np.array([1.0, 2.0]))
    array([[ 6.,  0.],
           [ 0., 12.]])
    """
    return jacfwd(jacrev(fun, argnums, has_aux, holomorphic), argnums, has_aux, holomorphic)
