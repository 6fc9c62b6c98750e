"""What a checkpoint keeps: policies under JAX's names.

A policy is a function `(primitive, *avals, **params) -> bool`, asked about each operation on values
that are known on the way forward. Results of those it affirms are kept; the rest is computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from functrans import ops
from functrans.core import Primitive
from functrans.interpreters.rematerialize import Policy, name_primitive


def everything_saveable(primitive: Primitive, *avals: Any, **params: Any) -> bool:
    """Keep everything, as without a checkpoint."""
    return True


def nothing_saveable(primitive: Primitive, *avals: Any, **params: Any) -> bool:
    """Keep the arguments alone: what `policy=None` means."""
    return False


def dots_saveable(primitive: Primitive, *avals: Any, **params: Any) -> bool:
    """Keep products and convolutions."""
    return primitive in (ops.dot_general, ops.conv_general_dilated)


def dots_with_no_batch_dims_saveable(primitive: Primitive, *avals: Any, **params: Any) -> bool:
    """Keep products without batch axes: of activations and weights, not of queries and keys."""
    return primitive is ops.dot_general and not params["dimension_numbers"][1][0]


checkpoint_dots = dots_saveable
checkpoint_dots_with_no_batch_dims = dots_with_no_batch_dims_saveable


def _by_name(is_kept: Callable[[str], bool], without_name: bool) -> Policy:
    def policy(primitive: Primitive, *avals: Any, **params: Any) -> bool:
        return is_kept(params["name"]) if primitive is name_primitive else without_name

    return policy


def save_only_these_names(*names_which_can_be_saved: str) -> Policy:
    """Keep what `checkpoint_name` gave one of these names, and nothing else."""
    return _by_name(frozenset(names_which_can_be_saved).__contains__, False)


def save_any_names_but_these(*names_not_to_save: str) -> Policy:
    """Keep what has a name, other than these, and nothing without one."""
    names = frozenset(names_not_to_save)
    return _by_name(lambda name: name not in names, False)


def save_anything_except_these_names(*names_not_to_save: str) -> Policy:
    """Keep everything but what has one of these names.

    A value that has no name where it is computed, `checkpoint_name(np.sin(x), "s")`, counts as
    without one there.
    """
    names = frozenset(names_not_to_save)
    return _by_name(lambda name: name not in names, True)


def save_from_both_policies(policy_1: Policy, policy_2: Policy) -> Policy:
    """Keep what either policy keeps."""

    def policy(primitive: Primitive, *avals: Any, **params: Any) -> bool:
        return policy_1(primitive, *avals, **params) or policy_2(primitive, *avals, **params)

    return policy


__all__ = [
    "checkpoint_dots",
    "checkpoint_dots_with_no_batch_dims",
    "dots_saveable",
    "dots_with_no_batch_dims_saveable",
    "everything_saveable",
    "nothing_saveable",
    "save_any_names_but_these",
    "save_anything_except_these_names",
    "save_from_both_policies",
    "save_only_these_names",
]
