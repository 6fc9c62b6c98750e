"""The programs that are timed, each written once for every library; a file per family."""

from __future__ import annotations

from benchmarks.workloads import (
    arrays,
    calls,
    derivatives,
    elementwise,
    loops,
    networks,
    science,
)

WORKLOADS = {
    **calls.WORKLOADS,
    **elementwise.WORKLOADS,
    **networks.WORKLOADS,
    **derivatives.WORKLOADS,
    **science.WORKLOADS,
    **arrays.WORKLOADS,
    **loops.WORKLOADS,
}
