"""Compare functrans with JAX and others on every workload; print tables, save JSON and a picture.

    python benchmarks/run.py [--rival-python PATH] [--json results.json] [--only mlp_small scalar]

Every number comes from a fresh process, and the libraries take turns within each round, so that
what else the machine does falls on all of them. Libraries run with their defaults, on all cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402  (works as a script from any directory)
from benchmarks.libraries import LIBRARIES  # noqa: E402
from benchmarks.workloads import WORKLOADS  # noqa: E402

TIMEOUT = 600  # seconds, of a process
CACHES = ("FUNCTRANS_CACHE", "JAX_COMPILATION_CACHE_DIR")  # of the user; not for measurements


class Runner:
    """Starts interpreters: this one for functrans, another one perhaps for its rivals."""

    def __init__(self, rival_python: str):
        self.rival_python = rival_python
        # In front, so that the working tree is measured and not an installed copy.
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        # Installed rivals have their bytecode: the working tree may keep its own as well.
        for name in (*CACHES, "PYTHONDONTWRITEBYTECODE"):
            self.environment.pop(name, None)

    def python(self, library: str) -> str:
        """Return the interpreter that runs a library."""
        return sys.executable if LIBRARIES[library].package == "functrans" else self.rival_python

    def has(self, library: str) -> bool:
        """Return whether the library's interpreter can import it."""
        package = LIBRARIES[library].package
        code = f"import importlib.util as u; print(u.find_spec({package!r}) is not None)"
        command = [self.python(library), "-c", code]
        done = subprocess.run(
            command, env=self.environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout.strip() == "True"

    def measure(self, library: str, *arguments: str, variables: dict[str, str]) -> dict[str, Any]:
        """Return the record of one workload, or of its failure."""
        command = [self.python(library), "-m", "benchmarks.measure", library, *arguments]
        start = time.time()
        try:
            done = subprocess.run(
                command, env={**self.environment, **variables}, cwd=ROOT, capture_output=True,
                text=True, timeout=TIMEOUT,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"failed": f"no result after {TIMEOUT} s"}
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            return {"failed": lines[-1]}
        record = json.loads(done.stdout)
        if "ready" in record:
            record["cold"] = record.pop("ready") - start
        return record

    def round(self, library: str, workload: str, seconds: float, caches: str) -> dict[str, Any]:
        """Return what one round finds: times, a first call with a warm cache, memory."""
        entry = LIBRARIES[library]

        def variables(template: dict[str, str], folder: str) -> dict[str, str]:
            return {name: value.replace("{}", folder) for name, value in template.items()}

        with tempfile.TemporaryDirectory() as folder:
            plain = variables(entry.plain, folder)
            found = self.measure(library, workload, f"--seconds={seconds}", variables=plain)
            if "median" not in found:
                return found
            memory = self.measure(library, workload, "--memory", variables=plain)
        found |= {key: memory[key] for key in ("peak", "outputs", "failed") if key in memory}
        if entry.warm:
            warm = variables(entry.warm, os.path.join(caches, library))
            if not Path(caches, library).exists():
                self.measure(library, workload, variables=warm)
            again = self.measure(library, workload, variables=warm)
            found |= {f"warm_{key}": again[key] for key in ("first", "cold") if key in again}
        return found


def installed(runner: Runner, chosen: list[str]) -> list[str]:
    """Return functrans and those of the chosen rivals that can be imported."""
    names = []
    for name, entry in LIBRARIES.items():
        if entry.package != "functrans" and name not in chosen:
            continue
        if runner.has(name):
            names.append(name)
        else:
            print(f"{name} is not installed in {runner.python(name)}: left out.", file=sys.stderr)
    return names


def compare(
    runner: Runner, workload: str, libraries: list[str], rounds: int, seconds: float
) -> dict[str, list[dict]]:
    """Return the rounds of each library; one that cannot run the workload has one."""
    found: dict[str, list[dict]] = {
        name: [] for name in WORKLOADS[workload].names if name in libraries
    }
    with tempfile.TemporaryDirectory() as caches:
        for _ in range(rounds):
            for name, records in found.items():
                if not records or "median" in records[-1]:
                    records.append(runner.round(name, workload, seconds, caches))
    return found


def smoke(runner: Runner, workloads: list[str]) -> None:
    """Run every workload briefly in functrans: a process for each namespace."""
    print("| workload | namespace | a call | first call |\n| --- | --- | ---: | ---: |", flush=True)
    for library in ("functrans", "functrans on numpy"):
        names = [name for name in workloads if library in WORKLOADS[name].libraries]
        if not names:
            continue
        command = [runner.python(library), "-m", "benchmarks.measure", library, *names]
        environment = {**runner.environment, **LIBRARIES[library].plain}
        with subprocess.Popen(
            [*command, "--seconds=0.01"], env=environment, cwd=ROOT, stdout=subprocess.PIPE,
            text=True,
        ) as process:  # fmt: skip
            for line in process.stdout or ():
                print(report.smoke_row(library, json.loads(line)), flush=True)
        if process.returncode:
            raise SystemExit(process.returncode)


def about() -> dict[str, Any]:
    """Return what is worth knowing about the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
    return {"cpu": model, "cores": cores, "python": platform.python_version()}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compare functrans with JAX and others.")
    add = parser.add_argument
    rivals = [name for name, entry in LIBRARIES.items() if entry.package != "functrans"]
    add("--rival-python", default=os.environ.get("BENCH_RIVAL_PYTHON", sys.executable),
        metavar="PATH", help="an interpreter that has the rivals (default: $BENCH_RIVAL_PYTHON, "
        "or this one)")  # fmt: skip
    add("--rivals", nargs="+", choices=rivals, default=rivals, metavar="NAME",
        help=f"some of {', '.join(rivals)}")  # fmt: skip
    add("--only", nargs="+", choices=list(WORKLOADS), metavar="NAME", help="these workloads")
    add("--group", choices=["small", "large"], help="the workloads of one size")
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=0.5, help="of repeats, in each measurement")
    add("--cores", type=int, help="keep every process on so many cores")
    add("--json", type=Path, metavar="FILE", help="save results; rows it has already are replaced")
    add("--svg", type=Path, metavar="FILE", help="draw the ratios")
    add("--list", action="store_true", help="print the names of the workloads")
    add("--smoke", action="store_true", help="functrans alone, briefly: does everything run?")
    return parser.parse_args()


def main() -> None:
    """Run what the command line says."""
    options = arguments()
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    workloads = [
        name for name in options.only or WORKLOADS if options.group in (None, WORKLOADS[name].group)
    ]
    if options.list:
        print(*(f"{name:26} {WORKLOADS[name].title}" for name in workloads), sep="\n")
        return
    runner = Runner(options.rival_python)
    if options.smoke:
        smoke(runner, workloads)
        return
    libraries = installed(runner, options.rivals)
    results: dict[str, Any] = {"about": about(), "workloads": {}}
    if options.json and options.json.exists():
        results = report.merged([json.loads(options.json.read_text()), results])
    for workload in workloads:
        found = compare(runner, workload, libraries, options.rounds, options.seconds)
        results = report.merged([results, {"workloads": {workload: found}}])
        print(report.progress(workload, found), file=sys.stderr, flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1))
    print(report.markdown(results))
    if options.svg:
        options.svg.write_text(report.picture(results))
    if problems := report.problems(results):
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
