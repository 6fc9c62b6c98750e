"""Functions on pytrees, under JAX's short names: `tree.map`, `tree.leaves`, ..."""

from functrans.pytree import tree_all as all
from functrans.pytree import tree_broadcast as broadcast
from functrans.pytree import tree_flatten as flatten
from functrans.pytree import tree_flatten_with_path as flatten_with_path
from functrans.pytree import tree_leaves as leaves
from functrans.pytree import tree_leaves_with_path as leaves_with_path
from functrans.pytree import tree_map as map
from functrans.pytree import tree_map_with_path as map_with_path
from functrans.pytree import tree_reduce as reduce
from functrans.pytree import tree_structure as structure
from functrans.pytree import tree_transpose as transpose
from functrans.pytree import tree_unflatten as unflatten

__all__ = [
    "all",
    "broadcast",
    "flatten",
    "flatten_with_path",
    "leaves",
    "leaves_with_path",
    "map",
    "map_with_path",
    "reduce",
    "structure",
    "transpose",
    "unflatten",
]
