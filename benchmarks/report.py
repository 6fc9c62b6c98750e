"""Tables and a picture of results, and their comparison; also of files of earlier runs.

    python benchmarks/report.py results.json [more.json ...] [--svg ratios.svg]

Results are `{"about": ..., "workloads": {workload: {library: [record of a round, ...]}}}`. Later
files replace what a library measured of a workload in earlier ones.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.workloads import WORKLOADS

OURS = "functrans"
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}  # relative to a result's root mean square
MEMORY_FLOOR = 1 << 20  # bytes; below it, differences are noise
WORST = 8

# column -> (our quantity, the rival's)
RATIOS = {
    "call": ("call", "call"),
    "least": ("least", "least"),
    "first call": ("first", "first"),
    "warm / plain": ("warm_first", "first"),
    "warm / warm": ("warm_first", "warm_first"),
    "cold start": ("cold", "cold"),
    "cold, warm / plain": ("warm_cold", "cold"),
    "memory": ("memory", "memory"),
}
DRAWN = ("call", "first call", "memory")


def merged(results: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return results in one: rows of later ones replace those of earlier ones."""
    total: dict[str, Any] = {"about": {}, "workloads": {}}
    for part in results:
        total["about"] |= part.get("about", {})
        for workload, found in part["workloads"].items():
            before = total["workloads"].get(workload, {})
            total["workloads"] = {**total["workloads"], workload: {**before, **found}}
    return total


# ---------------------------------------------------------------------------- quantities


def quantities(records: list[dict]) -> dict[str, float]:
    """Return the medians over rounds of all that was measured; nothing if it did not run."""
    sources: dict[str, Callable[[dict], float]] = {
        "call": lambda r: r["median"],
        "least": lambda r: r["minimum"],
        "first": lambda r: r["first"],
        "cold": lambda r: r["cold"],
        "import": lambda r: r["import"],
        "warm_first": lambda r: r["warm_first"],
        "warm_cold": lambda r: r["warm_cold"],
        "second": lambda r: r["second"] / r["first"],
        "memory": lambda r: max(MEMORY_FLOOR, r["peak"] - r["outputs"]),
    }
    found = {}
    for name, source in sources.items():
        try:
            found[name] = statistics.median(map(source, records))
        except KeyError:
            continue
    if "least" in found:
        found["least"] = min(r["minimum"] for r in records)
    return found


def trouble(records: list[dict]) -> str | None:
    """Return why a library has no times for a workload, or None."""
    for record in records:
        if "unavailable" in record:
            return f"not available: {record['unavailable']}"
        if "failed" in record:
            return f"failed: {record['failed']}"
    return None


def disagreement(workload: str, found: dict[str, list[dict]], rival: str) -> str | None:
    """Return how a rival's answers differ from ours, or None."""
    ours, theirs = found[OURS][0].get("answers"), found[rival][0].get("answers")
    if ours is None or theirs is None:
        return None
    if len(ours) != len(theirs):
        return f"{workload}: {OURS} returns {len(ours)} arrays, {rival} {len(theirs)}"
    row = WORKLOADS[workload]
    tolerance = row.tolerance or TOLERANCE[row.dtype]
    largest = max(a[0] for a in ours)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        scale = max(a[0], 1e-3 * largest)  # parts that cancel to nearly 0 are compared with others
        if not all(abs(x - y) <= tolerance * scale for x, y in zip(a, b, strict=True)):
            return f"{workload}: array {i} of the result: {OURS} gives {a}, {rival} {b}"
    return None


def problems(results: dict[str, Any]) -> list[str]:
    """Return what went wrong: failures, and answers that differ."""
    lines = []
    for workload, found in results["workloads"].items():
        for library, records in found.items():
            if (why := trouble(records)) and why.startswith("failed"):
                lines.append(f"{workload}, {library}: {why}")
            if OURS in found and (why := disagreement(workload, found, library)):
                lines.append(f"answers differ in {why}")
    return lines


def ratios(workload: str, found: dict[str, list[dict]], rival: str) -> dict[str, float]:
    """Return functrans over a rival, per column; below 1, functrans needs less."""
    if OURS not in found or rival not in found or disagreement(workload, found, rival):
        return {}
    if trouble(found[OURS]) or trouble(found[rival]):
        return {}
    ours, theirs = quantities(found[OURS]), quantities(found[rival])
    return {
        column: ours[a] / theirs[b]
        for column, (a, b) in RATIOS.items()
        if a in ours and b in theirs
    }


def geometric_mean(values: list[float]) -> float:
    """Return the mean of ratios."""
    return math.exp(sum(map(math.log, values)) / len(values))


# ---------------------------------------------------------------------------- text


def seconds(value: float | None) -> str:
    """Return a time with three digits and its unit."""
    if value is None:
        return ""
    for unit, scale in (("s", 1), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _head(first: str, *columns: str) -> list[str]:
    return [_row(first, *columns), _row("---", *["---:"] * len(columns))]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def progress(workload: str, found: dict[str, list[dict]]) -> str:
    """Return a line for a workload that was just run."""
    parts = []
    for library, records in found.items():
        call = quantities(records).get("call")
        parts.append(f"{library} {seconds(call) if call else trouble(records)}")
    return f"{workload}: {', '.join(parts)}"


def smoke_row(library: str, record: dict[str, Any]) -> str:
    """Return a row of the quick run's table."""
    title = WORKLOADS[record["workload"]].title
    if why := trouble([record]):
        return _row(title, library, why, "")
    return _row(title, library, seconds(record["median"]), seconds(record["first"]))


def _rivals(results: dict[str, Any]) -> list[str]:
    names = {name for found in results["workloads"].values() for name in found}
    return sorted(names - {OURS}, key=lambda name: (name != "jax", name))


def _grouped(results: dict[str, Any]) -> list[tuple[str, list[str]]]:
    names = [name for name in WORKLOADS if name in results["workloads"]]
    groups = ((g, [n for n in names if WORKLOADS[n].group == g]) for g in ("small", "large"))
    return [(group, members) for group, members in groups if members]


def _ratio_table(results: dict[str, Any], rival: str) -> list[str]:
    """Return the table of ratios beside one rival, with the geometric mean of each group."""
    lines = [f"### functrans / {rival}", "", *_head("workload", *RATIOS)]
    for group, names in _grouped(results):
        rows: dict[str, dict[str, float]] = {}
        for name in names:
            found = results["workloads"][name]
            if rival not in found:
                continue
            title = WORKLOADS[name].title
            if rows_of := ratios(name, found, rival):
                rows[name] = rows_of
                lines.append(_row(title, *(_number(rows_of.get(c)) for c in RATIOS)))
                continue
            why = {n: trouble(found[n]) for n in (OURS, rival) if n in found}
            said = "; ".join(f"{text} ({n})" for n, text in why.items() if text)
            lines.append(_row(title, said or "answers differ", *[""] * (len(RATIOS) - 1)))
        means = []
        for column in RATIOS:
            values = [row[column] for row in rows.values() if column in row]
            means.append(f"**{geometric_mean(values):.2f}**" if values else "")
        if rows:
            lines.append(_row(f"**geometric mean of {len(rows)}, {group}**", *means))
    return [*lines, ""]


def _time_table(results: dict[str, Any]) -> list[str]:
    """Return the table of everything measured."""
    columns = ["library", "a call: median (least)", "first call", "with a warm cache", "cold start",
               "with a warm cache", "memory, MiB", "first call at a second shape"]  # fmt: skip
    lines = ["### Measured", "", *_head("workload", *columns)]
    for _, names in _grouped(results):
        for name in names:
            for library, records in results["workloads"][name].items():
                q, title = quantities(records), WORKLOADS[name].title
                if "call" not in q:
                    lines.append(_row(title, library, trouble(records) or "", *[""] * 6))
                    continue
                memory = [r["peak"] - r["outputs"] for r in records if "peak" in r]
                lines.append(_row(
                    title, library, f"{seconds(q['call'])} ({seconds(q['least'])})",
                    *(seconds(q.get(k)) for k in ("first", "warm_first", "cold", "warm_cold")),
                    f"{max(0, statistics.median(memory)) / 2**20:.1f}" if memory else "",
                    f"{q['second']:.0%}" if "second" in q else "",
                ))  # fmt: skip
    return [*lines, ""]


def _import_table(results: dict[str, Any]) -> list[str]:
    lines = ["### Import, after NumPy", "", *_head("library", "time")]
    for library in (OURS, *_rivals(results)):
        rounds = [
            record["import"]
            for found in results["workloads"].values()
            for record in found.get(library, [])
            if "import" in record
        ]
        if rounds:
            lines.append(_row(library, seconds(statistics.median(rounds))))
    return [*lines, ""]


def _worst(results: dict[str, Any], rival: str) -> list[str]:
    """Return the rows with the largest ratios, per column."""
    lines = [f"### Where functrans is worst beside {rival}", ""]
    for column in RATIOS:
        rows = []
        for name, found in results["workloads"].items():
            ratio = ratios(name, found, rival).get(column)
            if ratio is not None and ratio > 1:
                rows.append((ratio, name))
        shown = ", ".join(f"{name} {ratio:.2f}" for ratio, name in sorted(rows)[::-1][:WORST])
        lines.append(f"- {column}: {shown or 'nowhere above 1'}")
    return [*lines, ""]


def _second_shapes(results: dict[str, Any]) -> list[str]:
    """Return how long the first call at a second shape takes, as a part of the first call."""
    lines = []
    for library in (OURS, "jax"):
        parts = {
            name: quantities(found[library]).get("second")
            for name, found in results["workloads"].items()
            if library in found
        }
        shown = ", ".join(f"{name} {part:.0%}" for name, part in parts.items() if part is not None)
        if shown:
            lines.append(f"- {library}: {shown}")
    return ["### First call at a second shape, of the first call", "", *lines, ""]


def markdown(results: dict[str, Any]) -> str:
    """Return all tables."""
    facts = ", ".join(f"{name} {value}" for name, value in results["about"].items())
    lines = [f"({facts})", ""]
    for rival in _rivals(results):
        lines += _ratio_table(results, rival)
    if "jax" in _rivals(results):
        lines += _worst(results, "jax")
    lines += _second_shapes(results)
    return "\n".join([*lines, *_time_table(results), *_import_table(results)])


# ---------------------------------------------------------------------------- picture

_LABEL, _PANEL, _ROW, _TOP, _DECADES = 390, 230, 15, 56, 2.0  # points; a panel is 1/100 to 100
_STYLE = (
    "text{font:11px sans-serif;fill:#222}.h{font-weight:bold}.v{font-size:9px}"
    ".less{fill:#3b7dd8}.more{fill:#d8703b}.axis{stroke:#222}.grid{stroke:#ddd}"
)


def _bar(left: float, y: float, ratio: float) -> str:
    """Return a bar from 1 to a ratio, on a log axis, and its number."""
    middle = left + _PANEL / 2
    length = max(-1.0, min(1.0, math.log10(ratio) / _DECADES)) * (_PANEL / 2 - 24)
    x, kind = min(middle, middle + length), "less" if ratio <= 1 else "more"
    at = f'x="{middle + length - 3}" text-anchor="end"' if ratio <= 1 else (
        f'x="{middle + length + 3}"')  # fmt: skip
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{abs(length):.1f}" height="{_ROW - 4}"/>'
        f'<text class="v" {at} y="{y + 9}">{ratio:.2f}</text>'
    )


def picture(results: dict[str, Any], rival: str = "jax") -> str:
    """Return an SVG of the ratios: a row per workload, a panel per column, a log axis."""
    rows = [
        (WORKLOADS[name].title, values)
        for _, names in _grouped(results)
        for name in names
        if (values := ratios(name, results["workloads"][name], rival))
    ]
    width, height = _LABEL + _PANEL * len(DRAWN) + 10, _TOP + _ROW * len(rows) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">',
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="white"/>',
        f'<text class="h" x="8" y="18">functrans / {rival}: blue, functrans needs less</text>',
    ]
    for p, column in enumerate(DRAWN):
        left = _LABEL + p * _PANEL
        middle = left + _PANEL / 2
        parts.append(f'<text class="h" x="{middle}" y="18" text-anchor="middle">{column}</text>')
        for power in (-2, -1, 0, 1, 2):
            x = middle + power / _DECADES * (_PANEL / 2 - 24)
            kind, label = ("axis" if power == 0 else "grid"), f"{10.0**power:g}"
            parts.append(f'<text class="v" x="{x}" y="38" text-anchor="middle">{label}</text>')
            parts.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="42" y2="{height - 6}"/>')
        for i, (_, values) in enumerate(rows):
            if column in values:
                parts.append(_bar(left, _TOP + i * _ROW - 8, values[column]))
    for i, (title, _) in enumerate(rows):
        y = _TOP + i * _ROW + 2
        parts.append(f'<text x="{_LABEL - 4}" y="{y}" text-anchor="end">{escape(title)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Render files of results."""
    parser = argparse.ArgumentParser(description="Tables and a picture of saved results.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save them as one")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the ratios")
    options = parser.parse_args()
    results = merged(json.loads(path.read_text()) for path in options.files)
    print(markdown(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.svg:
        options.svg.write_text(picture(results))


if __name__ == "__main__":
    main()
