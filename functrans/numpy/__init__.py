"""NumPy's namespace, traceable."""

from functrans.numpy import (
    array_methods,
    inspection,
    protocols,
    reductions,
    ufuncs,
)
