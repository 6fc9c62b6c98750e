"""The layers of docs/architecture.md: imports point down, at module level."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "functrans"
LAYERS = [
    ["errors", "config", "dtypes", "source_info", "pytree"],
    ["ir", "loop_ir", "printing", "printing_loops", "checking"],
    ["core"],
    ["ops"],
    ["interpreters"],
    ["compiler", "runtime"],
    [
        "arguments",
        "static_arguments",
        "stages",
        "call_path",
        "jit",
        "checkpoint",
        "checkpoint_policies",
        "control_flow",
        "custom_rules",
    ],
    [
        "ad_checkpoint",
        "api",
        "vectorize",
        "kernel_calls",
        "foreign",
        "callbacks",
        "debug",
        "export",
        "implicit",
        "test_util",
    ],
    [
        "numpy",
        "lax",
        "lax_linalg",
        "windows",
        "nn",
        "random",
        "scipy",
        "tree",
        "tree_util",
        "custom_batching",
        "custom_derivatives",
    ],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
LATE = {"numba", "llvmlite", "scipy"}
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def unit_of(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports_of(path):
    """(module name, is it at module level, is it for types only) of every import in a file."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [module]
            if module == "functrans":
                names = [f"functrans.{alias.name}" for alias in node.names]
            for name in names:
                yield name, id(node) in top


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down_and_are_at_module_level(path):
    own = LEVEL[unit_of(path)]
    for module, at_top in imports_of(path):
        root = module.split(".")[0]
        if root == "functrans":
            unit = module.split(".")[1]
            assert at_top, f"{path}: {module} is imported inside a function"
            assert LEVEL[unit] <= own, f"{path}: {module} lies above"
        elif not at_top:
            assert root in LATE or root in sys.stdlib_module_names, f"{path}: {module}"


def test_import_brings_neither_numba_nor_scipy():
    heavy = ("numba", "scipy", "llvmlite")
    program = f"import sys, functrans; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-c", program]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
