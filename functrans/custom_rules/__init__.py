"""Functions with derivatives and batching rules of their own.

`functions` has what users declare, `invocation` a call with its trees, `calls` that call as an
operation in every transformation, `linear_maps` the tangents of functions with `defvjp`.
"""

from functrans.custom_rules.conversions import closure_convert, custom_gradient, linear_call
from functrans.custom_rules.functions import (
    CustomFunction,
    SymbolicZero,
    custom_jvp,
    custom_vjp,
    custom_vjp_primal_tree_values,
    custom_vmap,
    sequential_vmap,
    zero_from_primal,
)
from functrans.custom_rules.invocation import CustomVJPPrimal

__all__ = [
    "CustomFunction",
    "CustomVJPPrimal",
    "SymbolicZero",
    "closure_convert",
    "custom_gradient",
    "custom_jvp",
    "custom_vjp",
    "custom_vjp_primal_tree_values",
    "custom_vmap",
    "linear_call",
    "sequential_vmap",
    "zero_from_primal",
]
