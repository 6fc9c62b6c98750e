"""Compare functrans with JAX and autograd, and print Markdown tables.

    python benchmarks/run.py [--jax-python PATH] [--rounds 5] [--only mlp_small scalar] [--smoke]

Every number comes from a fresh process, and the libraries take turns within each round, so that
what else the machine does falls on all of them. JAX runs with its defaults (float32, all cores).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.libraries import LIBRARIES  # noqa: E402  (works as a script from any directory)
from benchmarks.workloads import WORKLOADS  # noqa: E402

TOLERANCE = 1e-4  # relative; float32 sums in another order differ by about 1e-6 a step
IMPORTS = """
import time, numpy
start = time.perf_counter()
import {}
print(time.perf_counter() - start)
"""


class Runner:
    """Starts interpreters: this one for functrans, another one perhaps for its rivals."""

    def __init__(self, rival_python: str):
        self.rival_python = rival_python
        # In front, so that the working tree is measured and not an installed copy.
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def python(self, library: str) -> str:
        """Return the interpreter that runs a library."""
        return sys.executable if LIBRARIES[library][0] == "functrans" else self.rival_python

    def run(self, library: str, *arguments: str) -> str:
        """Return what a fresh interpreter prints; its errors pass through and end the run."""
        command = [self.python(library), *arguments]
        done = subprocess.run(
            command, env=self.environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout

    def has(self, library: str) -> bool:
        """Return whether the library's interpreter can import it."""
        package = LIBRARIES[library][0]
        code = f"import importlib.util as u; print(u.find_spec({package!r}) is not None)"
        return self.run(library, "-c", code).strip() == "True"

    def measure(self, library: str, workload: str, repeats: int) -> dict:
        """Return the record of one measurement, with the wall time of the whole process."""
        start = time.perf_counter()
        text = self.run(
            library, "-m", "benchmarks.measure", library, workload, f"--repeats={repeats}"
        )
        return {**json.loads(text), "process": time.perf_counter() - start}


def check_answers(workload: str, records: dict[str, list[dict]]) -> None:
    """Refuse to compare the speed of programs that compute different things."""
    (first_name, first), *others = ((name, rs[0]["answers"]) for name, rs in records.items())
    for name, answers in others:
        for a, b in zip(first, answers, strict=True):
            if abs(a - b) > TOLERANCE * max(abs(a), abs(b)):
                raise SystemExit(f"{workload}: {first_name} gives {first}, {name} gives {answers}")


def human(seconds: float) -> str:
    """Return a time with three digits and its unit."""
    for unit, scale in (("s", 1), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def middle(records: list[dict], key: str) -> float:
    """Return the median over rounds."""
    return statistics.median(record[key] for record in records)


def ratio(ours: list[dict], theirs: list[dict], key: str) -> str:
    """Return ours over theirs; below 1, functrans is faster."""
    return f"{middle(ours, key) / middle(theirs, key):.2f}"


def print_steady(title: str, records: dict[str, list[dict]]) -> None:
    """Print the rows of one workload."""
    ours = records["functrans"]
    for name, rounds in records.items():
        least = min(record["minimum"] for record in rounds)
        cells = [
            f"{human(middle(rounds, 'median'))} ({human(least)})",
            ratio(ours, rounds, "median") if name != "functrans" else "",
            human(middle(rounds, "first")),
            ratio(ours, rounds, "first") if name != "functrans" else "",
        ]
        print(f"| {title} | {name} |", " | ".join(cells), "|", flush=True)


def time_workloads(
    runner: Runner, libraries: list[str], workloads: list[str], rounds: int, repeats: int
) -> None:
    """Print steady time and first call of each workload."""
    print("| workload | library | a call: median (least) | functrans / it | first call | / it |")
    print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
    for key in workloads:
        records = defaultdict(list)
        for _ in range(rounds):
            for name in WORKLOADS[key].libraries:
                if name in libraries:
                    records[name].append(runner.measure(name, key, repeats))
        check_answers(key, records)
        print_steady(WORKLOADS[key].title, records)


def time_start(runner: Runner, libraries: list[str], rounds: int) -> None:
    """Print import time, and process time to the end of the first train step."""
    print("\n| library | import, after numpy | process that makes one train step |")
    print("| --- | ---: | ---: |")
    names = [name for name in ("functrans", "jax") if name in libraries]
    imports, processes = defaultdict(list), defaultdict(list)
    for _ in range(rounds):
        for name in names:
            imports[name].append(float(runner.run(name, "-c", IMPORTS.format(name))))
            processes[name].append(runner.measure(name, "mlp_small", repeats=0)["process"])
    for name in names:
        shown = human(statistics.median(imports[name])), human(statistics.median(processes[name]))
        print(f"| {name} |", " | ".join(shown), "|", flush=True)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="Compare functrans with JAX and autograd.")
    parser.add_argument(
        "--jax-python",
        default=os.environ.get("BENCH_JAX_PYTHON", sys.executable),
        metavar="PATH",
        help="an interpreter with jax and autograd (default: $BENCH_JAX_PYTHON, or this one)",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument(
        "--smoke", action="store_true", help="functrans alone, briefly: does everything run?"
    )
    options = parser.parse_args()
    runner = Runner(options.jax_python)
    libraries = []
    for name, (package, _) in LIBRARIES.items():
        if options.smoke and package != "functrans":
            continue
        if runner.has(name):
            libraries.append(name)
        else:
            print(f"{name} is not installed in {runner.python(name)}: its columns are left out.\n")
    rounds, repeats = (1, 3) if options.smoke else (options.rounds, 60)
    time_workloads(runner, libraries, options.only, rounds, repeats)
    time_start(runner, libraries, rounds)


if __name__ == "__main__":
    main()
