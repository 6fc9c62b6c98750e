"""`scipy.special`, traceable: see `functrans.numpy.scipy_special`, whose names these are."""

from functrans.numpy.scipy_special import *
from functrans.numpy.scipy_special import __all__ as __all__
