"""Measure workloads with one library in this process; print a line of JSON for each.

`run.py` starts this in a fresh process for every measurement.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.libraries import LIBRARIES, Library, Unavailable, tree_leaves, tree_map, with_dtype
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.workload import Workload

REPEAT_SECONDS = 5e-3  # long against the clock's resolution, short against other processes' turns
LEAST_REPEATS = 5
WARM_UP = "mlp_small"  # before memory is measured: starts threads, loads what a library defers
MEMORY_CALLS = 5
STEPS = 5  # of a train step, whose losses are compared


def timed(function: Callable, args: tuple, block: Callable, *, count: int, is_loop: bool) -> float:
    """Return the seconds one call takes, from `count` calls that end with a finished result."""
    if is_loop:
        params, *data = args
        start = time.perf_counter()
        for _ in range(count):
            value, params = function(params, *data)
        block((value, params))
    else:
        start = time.perf_counter()
        for _ in range(count):
            value = function(*args)
        block(value)
    return (time.perf_counter() - start) / count


def steady(run: Callable[[int], float], seconds: float) -> dict[str, Any]:
    """Return median and least time of a call, over repeats that fill a time after a warm-up."""
    count = 1
    while (spent := run(count) * count) < REPEAT_SECONDS:
        count = max(count + 1, int(count * min(10, 1.2 * REPEAT_SECONDS / spent)))
    warm = time.perf_counter() + seconds / 5
    end = warm + seconds
    while time.perf_counter() < warm:
        run(count)
    times = []
    while time.perf_counter() < end or len(times) < LEAST_REPEATS:
        times.append(run(count))
    return {"median": float(np.median(times)), "minimum": min(times), "repeats": len(times)}


# ---------------------------------------------------------------------------- answers


def digest(result: Any) -> list[list[float]]:
    """Return, for every array: its root mean square, and sums with weights that tell positions."""
    rows = []
    for leaf in tree_leaves(result):
        x = np.asarray(leaf, np.float64).ravel()
        weights = np.cos(np.arange(x.size)) * np.sqrt(2 / max(x.size, 1))
        rows.append([float(np.sqrt(np.mean(x * x))), float(x @ weights), float(x @ weights[::-1])])
    return rows


def answers(function: Callable, args: tuple, *, is_loop: bool) -> list[list[float]]:
    """Return numbers that every library must agree on: of the result, or of five train steps."""
    if not is_loop:
        return digest(function(*args))
    params, *data = args
    losses = []
    for _ in range(STEPS):
        value, params = function(params, *data)
        losses.append(float(value))
    return digest([np.array(losses), params])


# ---------------------------------------------------------------------------- memory


def _reset_peak() -> bool:
    """Make the kernel forget the peak of resident memory; return whether it can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(field: str) -> int:
    """Return a field of this process's status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def _settled() -> int:
    """Return resident memory after garbage and what malloc keeps are given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _status("VmRSS")


def peak_memory(function: Callable, args: tuple, library: Library) -> dict[str, int]:
    """Return the peak of resident memory in calls over what was there, and the outputs' size.

    The program is compiled before but has not run (where a library can do that), so buffers that
    it keeps from its first call for later ones count. Pages of code files read meanwhile do not,
    nor what malloc kept of results that were deleted.
    """
    if not sys.platform.startswith("linux") or not _reset_peak():
        return {}
    if hasattr(function, "lower"):
        function = function.lower(*args).compile()
    else:
        library.block(function(*args))
    before, files, peaks = _settled(), _status("RssFile"), []
    for _ in range(MEMORY_CALLS):
        _settled()
        _reset_peak()
        result = function(*args)
        library.block(result)
        outputs = sum(np.asarray(x).nbytes for x in tree_leaves(result))
        del result
        peaks.append(_status("VmHWM") - before - (_status("RssFile") - files))
    return {"peak": int(np.median(peaks)), "outputs": outputs}


# ---------------------------------------------------------------------------- a measurement


def first_call(function: Callable, args: tuple, block: Callable) -> float:
    """Return how long a call takes until its result is there."""
    start = time.perf_counter()
    block(function(*args))
    return time.perf_counter() - start


def arguments(workload: Workload, inputs: Callable, library: Library) -> tuple:
    """Return the library's arrays, the same numbers in every process."""
    args = with_dtype(inputs(np.random.default_rng(0)), workload.dtype)
    return tree_map(library.asarray, args)


def build(library_name: str, workload: Workload, library: Library) -> Callable:
    """Return the function that is measured."""
    if library_name != "numba":
        return workload.program(library)
    assert workload.by_hand is not None
    return workload.by_hand()


def measure_memory(library_name: str, workload_name: str) -> dict[str, Any]:
    """Return the record of memory, in a process that has run a small program."""
    workload = WORKLOADS[workload_name]
    library = LIBRARIES[library_name].load(workload.dtype)
    if library_name in WORKLOADS[WARM_UP].libraries:
        small = WORKLOADS[WARM_UP]
        library.block(small.program(library)(*arguments(small, small.inputs, library)))
    args = arguments(workload, workload.inputs, library)
    return peak_memory(build(library_name, workload, library), args, library)


def measure(library_name: str, workload_name: str, seconds: float | None) -> dict[str, Any]:
    """Return the record of times; without `seconds`, of the first call only."""
    workload = WORKLOADS[workload_name]
    start = time.perf_counter()
    library = LIBRARIES[library_name].load(workload.dtype)
    record: dict[str, Any] = {"import": time.perf_counter() - start}
    args = arguments(workload, workload.inputs, library)
    start = time.perf_counter()
    function = build(library_name, workload, library)
    library.block(function(*args))
    record |= {"first": time.perf_counter() - start, "ready": time.time()}
    if seconds is None:
        return record
    if workload.other_inputs is not None:
        other = arguments(workload, workload.other_inputs, library)
        start = time.perf_counter()
        library.block(function(*other))
        record["second"] = time.perf_counter() - start
    record["answers"] = answers(function, args, is_loop=workload.is_loop)

    def run(count: int) -> float:
        return timed(function, args, library.block, count=count, is_loop=workload.is_loop)

    return record | steady(run, seconds)


def is_unavailable(error: Exception) -> bool:
    """Return whether an error says that the library lacks a function, and not that it failed."""
    if isinstance(error, AttributeError):
        return isinstance(error.obj, ModuleType)
    return isinstance(error, (ImportError, Unavailable))


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=list(LIBRARIES))
    parser.add_argument("workloads", nargs="+", choices=list(WORKLOADS), metavar="workload")
    parser.add_argument("--seconds", type=float, help="of repeats; without: only the first call")
    parser.add_argument("--memory", action="store_true", help="the peak of memory, and no times")
    options = parser.parse_args()
    for name in options.workloads:
        try:
            if options.memory:
                record = measure_memory(options.library, name)
            else:
                record = measure(options.library, name, options.seconds)
        except Exception as error:
            if not is_unavailable(error):
                error.add_note(f"in the workload {name} with {options.library}")
                raise
            record = {"unavailable": str(error)}
        print(json.dumps({"workload": name, **record}), flush=True)


if __name__ == "__main__":
    main()
