"""Functions with rules of their own for `vmap`, under JAX's `custom_batching` names."""

from functrans.custom_rules import custom_vmap, sequential_vmap

__all__ = ["custom_vmap", "sequential_vmap"]
