"""What every test can use: the fixed hypothesis profile and golden texts.

`golden("name", text)` compares with `tests/golden/name.txt`; `pytest --update-golden` rewrites
those files, and the diff is then read before it is committed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Compiled code is kept for the run, so that its processes share it, and nothing of it stays.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="functrans-tests-")
    os.environ["FUNCTRANS_CACHE"] = _cache.name

GOLDEN_DIRECTORY = Path(__file__).parent / "golden"

# Fixed examples, so that a red test is red for everybody; `--hypothesis-profile=thorough` explores.
settings.register_profile("fixed", deadline=None, derandomize=True, database=None)
settings.register_profile("thorough", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("fixed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite tests/golden/*.txt with what is seen"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Return `check(name, text)`, which compares `text` with the file kept under that name."""

    def check(name: str, text: str) -> None:
        path = GOLDEN_DIRECTORY / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
            return
        assert path.exists(), f"no golden text {path}; write it with: pytest --update-golden"
        assert text.rstrip("\n") == path.read_text(encoding="utf-8").rstrip("\n")

    return check
