"""Both doors to LLVM compile the same programs."""

import os
import subprocess
import sys

import pytest

from functrans.runtime import llvm, llvm_binding, llvm_library

PROGRAM = """
import numpy as np, functrans as ft
from functrans.runtime import llvm
llvm.KNOWN = {known}
f = ft.jit(ft.value_and_grad(lambda x: np.sum(np.sort(np.tanh(x @ x)) ** 2)))
x = np.linspace(-1, 1, 16).reshape(4, 4)
print(llvm.door().__name__, *np.hstack([y.ravel() for y in f(x)]).tolist())
stages = f.lower(x)
assert "define" in stages.llvm and ".text" in stages.assembly
"""


def run(known):
    environment = {**os.environ, "FUNCTRANS_CACHE": "off"}
    command = [sys.executable, "-c", PROGRAM.format(known=known)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    name, *numbers = done.stdout.split()
    return name, list(map(float, numbers))


def test_an_unknown_version_of_llvmlite_goes_the_documented_way():
    name, numbers = run(())
    assert name == llvm_binding.__name__
    if llvm.door() is llvm_library:
        quick, same = run(llvm.KNOWN)
        assert quick == llvm_library.__name__
        assert same == pytest.approx(numbers, rel=1e-12)


@pytest.mark.parametrize("door", [llvm_binding, llvm_library], ids=lambda m: m.__name__[-7:])
def test_a_text_that_is_no_llvm_says_where(door):
    if door is llvm_library and llvm.door() is not llvm_library:
        pytest.skip("another version of llvmlite")
    with pytest.raises(RuntimeError, match="expected"), door.module("define nothing"):
        pass
