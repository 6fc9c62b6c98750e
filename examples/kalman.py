"""The flow of the Nile, 1871 to 1970: a Kalman filter in a `scan`, fitted by gradient.

The local level model: a level that wanders, observed with noise. Durbin and Koopman, "Time Series
Analysis by State Space Methods" (2012), section 2.10, find the variances 15099 and 1469.1.

    python examples/kalman.py
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

import functrans as ft
from functrans import lax

# Annual flow at Aswan in 10^8 cubic metres.
FLOW = np.array("""
1120 1160  963 1210 1160 1160  813 1230 1370 1140  995  935 1110  994 1020  960 1180  799  958 1140
1100 1210 1150 1250 1260 1220 1030 1100  774  840  874  694  940  833  701  916  692 1020 1050  969
 831  726  456  824  702 1120 1100  832  764  821  768  845  864  862  698  845  744  796 1040  759
 781  865  845  944  984  897  822 1010  771  676  649  846  812  742  801 1040  860  874  848  890
 744  749  838 1050  918  986  797  923  975  815 1020  906  901 1170  912  746  919  718  714  740
""".split(), float)  # fmt: skip


class Outcome(NamedTuple):
    """Variances of the noise and of the steps of the level; the level of each year."""

    noise: float
    wander: float
    levels: np.ndarray


def filtered(log_variances, flow):
    """Return the log-likelihood of all but the first year, and the level of each year."""
    noise, wander = np.exp(log_variances)

    def year(state, y):
        level, variance = state
        total = variance + noise
        surprise = y - level
        gain = variance / total
        level = level + gain * surprise
        log_density = -0.5 * (np.log(2 * np.pi * total) + surprise**2 / total)
        return (level, variance * (1 - gain) + wander), (log_density, level)

    # Nothing is known before the first year, so it gives the level of the second.
    _, (log_densities, levels) = lax.scan(year, (flow[0], noise + wander), flow[1:])
    return np.sum(log_densities), levels


def main() -> Outcome:
    """Maximize the likelihood."""
    loss = ft.jit(ft.value_and_grad(lambda p: -filtered(p, FLOW)[0]))
    fit = minimize(loss, np.log([1e4, 1e4]), jac=True, method="BFGS")
    noise, wander = np.exp(fit.x)
    _, levels = ft.jit(filtered)(fit.x, FLOW)
    print(f"variances: noise {noise:.0f}, level {wander:.1f}; log-likelihood {-fit.fun:.3f}")
    print(f"level before the dam of 1899: {levels[26]:.0f}, and ten years later {levels[36]:.0f}")
    np.testing.assert_allclose([noise, wander], [15099, 1469.1], rtol=2e-3)
    return Outcome(float(noise), float(wander), levels)


if __name__ == "__main__":
    main()
