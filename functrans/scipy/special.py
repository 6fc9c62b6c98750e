"""`scipy.special`, traceable: see `functrans.numpy.scipy_special`, whose names these are."""

# ruff: noqa: I001
# fmt: off
from functrans.numpy.scipy_special import (
    cbrt, digamma, entr, erf, erfc, erfinv, exp10, expit, gammaln, log_expit, log_softmax, logit,
    logsumexp, ndtr, psi, rel_entr, softmax, xlog1py, xlogy,
)

__all__ = [
    "cbrt", "digamma", "entr", "erf", "erfc", "erfinv", "exp10", "expit", "gammaln", "log_expit",
    "log_softmax", "logit", "logsumexp", "ndtr", "psi", "rel_entr", "softmax", "xlog1py", "xlogy",
]
# fmt: on
