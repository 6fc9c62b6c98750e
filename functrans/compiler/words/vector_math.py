"""Elementary and special functions as straight-line LLVM, which the loop vectorizer takes whole.

Each function is branch-free, special values are selected at the end, and `alwaysinline`, so a loop
that calls some is one basic block. Errors are at most 2 units in the last place; 4 for `pow`,
`lgamma` and `digamma`. The formulas are in `vector_exponentials`, `vector_trigonometry` and
`vector_special`, written with the operators of `vector_builder`. Where twice the precision makes
them short, float32 is computed in float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from functrans.compiler.words import vector_exponentials as exponentials
from functrans.compiler.words import vector_special as special
from functrans.compiler.words import vector_trigonometry as trigonometry
from functrans.compiler.words.vector_builder import Code, Real

_FORMULAS: dict[str, Callable[..., Real]] = {
    "exp": exponentials.exp,
    "exp2": exponentials.exp2,
    "expm1": exponentials.expm1,
    "log": exponentials.log,
    "log2": exponentials.log2,
    "log10": exponentials.log10,
    "log1p": exponentials.log1p,
    "pow": exponentials.power,
    "logistic": exponentials.logistic,
    "sinh": exponentials.sinh,
    "cosh": exponentials.cosh,
    "tanh": exponentials.tanh,
    "arcsinh": exponentials.arcsinh,
    "arccosh": exponentials.arccosh,
    "arctanh": exponentials.arctanh,
    "sin": trigonometry.sin,
    "cos": trigonometry.cos,
    "tan": trigonometry.tan,
    "arcsin": trigonometry.arcsin,
    "arccos": trigonometry.arccos,
    "arctan": trigonometry.arctan,
    "atan2": trigonometry.arctan2,
    "erf": special.erf,
    "erfc": special.erfc,
    "erf_inv": special.erf_inv,
    "lgamma": special.lgamma,
    "digamma": special.digamma,
}
NAMES = frozenset(_FORMULAS)
_OF_TWO = frozenset(("pow", "atan2"))
IN_F64 = frozenset(("pow", "erfc", "erf_inv", "lgamma", "digamma"))  # float32 by way of float64


@functools.cache
def function(name: str, bits: int) -> tuple[str, ...]:
    """The text of the LLVM function `@ft_<name>_f<bits>`, after that of functions it calls."""
    code = Code(64 if name in IN_F64 else bits, bits)
    names = ["%x", "%y"] if name in _OF_TWO else ["%x"]
    result = _FORMULAS[name](*(code.argument(x) for x in names))
    text = code.function(f"ft_{name}_f{bits}", names, result)
    return (*code.needed, text)
