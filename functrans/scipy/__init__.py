"""The parts of SciPy that can be traced."""

from functrans.scipy import linalg, special

__all__ = ["linalg", "special"]
