"""NumPy's namespace, traceable."""

from functrans.numpy import (
    array_methods,
    composites,
    contractions,
    creation,
    einsum,
    index_update,
    indexing,
    inspection,
    linalg,
    manipulation,
    protocols,
    rearrange,
    reductions,
    scipy_special,
    ufuncs,
)
