"""What the README shows can be pasted: its commands are single, and its Python blocks run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import functrans as ft

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("heading", ["Run", "Test"])
def test_readme_has_one_command_under(heading):
    (section,) = re.findall(rf"^## {heading}\n(.*?)^## ", README, re.S | re.M)
    (command,) = re.findall(r"^```bash\n(.*?)^```$", section, re.S | re.M)
    assert command.count("\n") == 1


def test_readme_links_lead_to_files():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (Path(__file__).parents[2] / target).exists(), target


def test_readme_python_blocks_run_in_order(capsys):
    x, y = np.eye(2), np.array([1.0, 2.0])
    names = {
        "params": {"w": np.zeros(2), "b": 0.0},
        "batches": [(x, y)] * 50,
        "loss": lambda params, x, y: np.mean((x @ params["w"] + params["b"] - y) ** 2),
    }
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.S | re.M)
    assert len(blocks) == 5
    for block in blocks:
        exec(block, names)
    assert names["value"] < 0.01
    assert "{ lambda ;" in capsys.readouterr().out


def test_python_blocks_of_the_docs_run():
    for path in sorted((Path(__file__).parents[2] / "docs").glob("*.md")):
        for block in re.findall(r"^```python\n(.*?)^```$", path.read_text("utf-8"), re.S | re.M):
            if not block.startswith(">>> "):  # sessions are doctests, with a test of their own
                exec(block, {"np": np, "ft": ft})
