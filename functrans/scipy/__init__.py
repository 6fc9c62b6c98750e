"""The parts of SciPy that can be traced."""

from functrans.scipy import special

__all__ = ["special"]
