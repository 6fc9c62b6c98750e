"""Time one workload with one library in this process, and print the result as JSON.

`run.py` starts this in a fresh process for every measurement.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.libraries import LIBRARIES
from benchmarks.workloads import WORKLOADS

REPEAT_SECONDS = 5e-3  # long against the clock's resolution, short against other processes' turns


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


def answers(function: Callable, args: tuple, *, is_loop: bool) -> list[float]:
    """Return numbers that every library must agree on: the losses of five steps, or the result."""
    if not is_loop:
        result = function(*args)
        return [float(result[0] if isinstance(result, tuple) else result)]
    params, *data = args
    losses = []
    for _ in range(5):
        value, params = function(params, *data)
        losses.append(float(value))
    return losses


def measure(library_name: str, workload_name: str, *, repeats: int) -> dict[str, Any]:
    """Return the time of the first call, those of many short repeats, and the answers."""
    _, load = LIBRARIES[library_name]
    library, workload = load(), WORKLOADS[workload_name]
    function, args = workload.build(library)
    start = time.perf_counter()
    library.block(function(*args))
    first = time.perf_counter() - start
    if repeats == 0:
        return {"first": first}
    found = answers(function, args, is_loop=workload.is_loop)

    def run(count: int) -> float:
        return timed(function, args, library.block, count=count, is_loop=workload.is_loop)

    count = 1
    while (spent := run(count) * count) < REPEAT_SECONDS:
        count = max(count + 1, int(count * min(10, 1.2 * REPEAT_SECONDS / spent)))
    steady = [run(count) for _ in range(repeats + 5)][5:]
    return {
        "first": first,
        "median": float(np.median(steady)),
        "minimum": min(steady),
        "answers": found,
    }


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=list(LIBRARIES))
    parser.add_argument("workload", choices=list(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=60, help="0: only the first call")
    options = parser.parse_args()
    print(json.dumps(measure(options.library, options.workload, repeats=options.repeats)))


if __name__ == "__main__":
    main()
