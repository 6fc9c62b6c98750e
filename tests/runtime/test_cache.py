"""Compiled code on disk: found by other processes, never trusted, never in the way."""

import concurrent.futures
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import functrans as ft
from functrans.runtime import cache, codegen
from functrans.runtime.codegen import Unit

PROGRAM = """
import numpy as np, functrans as ft
from functrans.runtime import codegen
compiled = []
make = codegen._compiled
codegen._compiled = lambda units: compiled.extend(units) or make(units)
f = ft.jit(lambda x, w: np.sum(np.tanh(x @ w) ** 2) / x.shape[0])
x, w = np.linspace(-1, 1, {rows} * 30).reshape({rows}, 30), np.linspace(0, 1, 1200).reshape(30, 40)
assert abs(f(x, w) - np.sum(np.tanh(x @ w) ** 2) / {rows}) < 1e-10
print(len(compiled))
"""


def compiled_units(folder, rows=100):
    """How many functions a new process compiles for the program."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM).format(rows=rows)],
        env={**os.environ, "FUNCTRANS_CACHE": str(folder)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return int(done.stdout)


def test_a_second_process_compiles_nothing(tmp_path):
    assert compiled_units(tmp_path) > 2
    assert compiled_units(tmp_path) == 0
    assert compiled_units(tmp_path, rows=150) == 0  # another batch size is the same machine code


def test_without_a_cache_every_process_compiles(tmp_path):
    assert compiled_units("off") > 2
    assert compiled_units("off") > 2


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:50] + b"\0" * 99])
def test_damaged_entries_are_made_anew(tmp_path, damage):
    compiled_units(tmp_path)
    for file in tmp_path.glob("*.entry"):
        file.write_bytes(damage(file.read_bytes()))
    assert compiled_units(tmp_path) > 2
    assert compiled_units(tmp_path) == 0


def test_entries_of_other_machines_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setenv("FUNCTRANS_CACHE", str(tmp_path))
    entry = cache.Entry(("unit",), (), b"code")
    cache.store(entry)
    assert cache.find(["unit"]) == [entry]
    monkeypatch.setattr(cache, "fingerprint", lambda: "another machine")
    assert cache.find(["unit"]) == []
    data = next(tmp_path.glob("*.entry")).read_bytes()
    assert cache.Entry.unpacked(data) is None


def test_many_writers_leave_whole_entries(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(compiled_units, [tmp_path] * 4))
    assert max(counts) > 2
    assert compiled_units(tmp_path) == 0
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="users are told apart by POSIX only")
def test_code_is_not_loaded_from_where_others_may_write(tmp_path):
    tmp_path.chmod(0o777)
    assert compiled_units(tmp_path) > 2
    assert not list(tmp_path.iterdir())


def test_info_counts_and_clear_deletes(tmp_path, monkeypatch):
    monkeypatch.setenv("FUNCTRANS_CACHE", str(tmp_path))
    assert ft.cache.info() == {"folder": str(tmp_path), "entries": 0, "units": 0, "bytes": 0}
    cache.store(cache.Entry(("a", "b"), (), b"code"))
    assert (ft.cache.info()["entries"], ft.cache.info()["units"]) == (1, 2)
    ft.cache.clear()
    assert ft.cache.info()["units"] == 0
    monkeypatch.setenv("FUNCTRANS_CACHE", "off")
    assert ft.cache.info()["folder"] is None


def test_the_folder_may_be_deleted_while_it_is_used(tmp_path, monkeypatch):
    home = tmp_path / "cäche"
    monkeypatch.setenv("FUNCTRANS_CACHE", str(home))
    cache.store(cache.Entry(("a",), (), b"code"))
    (file,) = home.glob("*.entry")
    shutil.rmtree(home)
    assert cache._size(file) == 0
    assert ft.cache.info()["entries"] == 0
    ft.cache.clear()
    cache.store(cache.Entry(("b",), (), b"code"))
    assert cache.find(["a", "b"]) == []


def test_old_entries_go_when_there_is_too_much(tmp_path, monkeypatch):
    monkeypatch.setenv("FUNCTRANS_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "LIMIT_BYTES", 3000)
    monkeypatch.setattr(os, "urandom", bytes)  # look every time
    for i in range(40):
        cache.store(cache.Entry((f"unit{i}",), (), bytes([i % 256]) * 300))
    assert 0 < ft.cache.info()["bytes"] <= 3000


def test_equal_units_are_compiled_once():
    made = []

    def parts(name):
        made.append(name)
        return [f"define i32 @{name}(ptr %a, ptr %b, ptr %c) {{\n  ret i32 {os.getpid()}\n}}"]

    key = f"a test of process {os.getpid()}"
    first = codegen.addresses([Unit(key, parts)])
    assert codegen.addresses([Unit(key, parts)]) == first
    assert len(made) == 1


def test_units_are_linked_without_those_they_were_compiled_with(tmp_path):
    """A kernel that a program with a large product left does not want the product's functions."""
    both = "f = ft.jit(lambda x: (np.tanh(x), x @ x.T)); f(np.ones((200, 100)))"
    one = "f = ft.jit(lambda x: np.tanh(x)); f(np.ones((200, 100)))"
    for body in (both, one):
        subprocess.run(
            [sys.executable, "-c", f"import numpy as np, functrans as ft\n{body}"],
            env={**os.environ, "FUNCTRANS_CACHE": str(tmp_path)}, check=True,
        )  # fmt: skip


def test_second_batch_size_compiles_nothing(monkeypatch):
    compiled = []
    make = codegen._compiled
    monkeypatch.setattr(codegen, "_compiled", lambda units: compiled.extend(units) or make(units))
    step = ft.jit(ft.value_and_grad(lambda w, x: np.mean(np.tanh(x @ w) ** 2)))
    w = np.linspace(-1, 1, 30 * 16).reshape(30, 16)
    for sizes in ((12, 16, 30, 23, 64), (1000, 2000, 3333)):
        step(w, np.ones((sizes[0], 30)))
        compiled.clear()
        for n in sizes[1:]:
            value, gradient = step(w, np.ones((n, 30)))
            assert compiled == []
            np.testing.assert_allclose(value, np.mean(np.tanh(np.ones((n, 30)) @ w) ** 2))
            assert gradient.shape == w.shape
