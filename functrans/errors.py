"""The errors that are this library's own.

Each says what happened with values, where, and what to write instead. Mistakes that NumPy has a
type for (shapes, dtypes, indices) raise NumPy's type.
"""

from __future__ import annotations


class ConcretizationTypeError(TypeError):
    """A value was needed while only its shape and dtype were known."""


class TracerBoolConversionError(ConcretizationTypeError):
    """A Python `if`, `while`, `and`, `or` or `not` asked a traced value for its truth.

    Under `jit` and `vmap` a value is not known while the function is traced. Use
    `functrans.numpy.where`, or mark the argument static (`static_argnums`).
    """


class TracerIntegerConversionError(ConcretizationTypeError):
    """A traced value was used where Python needs an integer: a shape, `range`, a list index."""


class TracerArrayConversionError(ConcretizationTypeError):
    """A traced value was handed to code that needs a plain NumPy array."""


class UnexpectedTracerError(RuntimeError):
    """A traced value was used after the transformation that made it had ended (a leak)."""


class MissingRule(TypeError):
    """A primitive lacks the rule that a transformation asked for."""


class CheckError(ValueError):
    """What `functrans.debug.check` was given does not hold."""


class JaxprError(ValueError):
    """A jaxpr is not well formed: a defect of a pass or of a user's own interpreter."""
