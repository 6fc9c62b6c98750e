"""Object files are placed in memory by our own loader or by LLVM's linker: with one result."""

import ctypes
import os
import subprocess
import sys

import pytest

from functrans.runtime import llvm, loader

TEXT = """
@scales = internal constant [4 x double] [double 1.0, double 10.0, double 100.0, double 1000.0]
@calls = internal global i64 0
@given = external global i64
declare double @sin(double)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

define internal double @scale(i64 %i) noinline {
  %at = getelementptr double, ptr @scales, i64 %i
  %value = load double, ptr %at
  ret double %value
}

define double @scaled(i64 %i, double %x, ptr %bytes, i64 %n) {
  %calls = load i64, ptr @calls
  %more = add i64 %calls, 1
  store i64 %more, ptr @calls
  call void @llvm.memset.p0.i64(ptr %bytes, i8 7, i64 %n, i1 false)
  %sine = call double @sin(double %x)
  %scale = call double @scale(i64 %i)
  %product = fmul double %sine, %scale
  %number = load i64, ptr @given
  %wide = sitofp i64 %number to double
  %with.given = fadd double %product, %wide
  %counted = sitofp i64 %more to double
  %result = fadd double %with.given, %counted
  ret double %result
}
"""
given = ctypes.c_int64(40)


def twice(x):
    return 2 * x


# Our own sine, to see that it is called, and not the C library's.
SINE = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(twice)
IMPORTS = {
    "given": ctypes.addressof(given),
    "sin": ctypes.cast(SINE, ctypes.c_void_p).value,
    "memset": ctypes.cast(ctypes.CDLL(None).memset, ctypes.c_void_p).value,
}
needs_loader = pytest.mark.skipif(not loader.SUPPORTED, reason="our loader is for x86-64 Linux")


def object_of(text, level=2):
    with llvm.machine(level) as machine, llvm.module(text) as module:
        return llvm.emitted(module, machine, as_object=True)


def call(address):
    function = ctypes.CFUNCTYPE(
        ctypes.c_double, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p, ctypes.c_int64
    )(address)
    memory = ctypes.create_string_buffer(5)
    results = [function(i, 0.5, memory, 5) for i in range(4)]
    assert memory.raw == b"\7" * 5
    return results


WANTED = [1.0 + 40 + 1, 10.0 + 40 + 2, 100.0 + 40 + 3, 1000.0 + 40 + 4]


@needs_loader
@pytest.mark.parametrize("level", [0, 2, 3])
def test_loaded_code_calls_reads_and_writes_what_it_names(level):
    found = loader.load([object_of(TEXT, level)], ["scaled"], IMPORTS.__getitem__)
    assert call(found["scaled"]) == WANTED


@needs_loader
def test_several_objects_are_placed_together():
    other = "define i32 @seven() {\n  ret i32 7\n}"
    objects = [object_of(TEXT), object_of(other)]
    found = loader.load(objects, ["seven", "scaled"], IMPORTS.__getitem__)
    assert ctypes.CFUNCTYPE(ctypes.c_int32)(found["seven"])() == 7
    assert call(found["scaled"]) == WANTED


def test_llvm_links_to_the_same():
    found = llvm.link("a test of the linker", [object_of(TEXT)], IMPORTS, ["scaled"])
    assert call(found["scaled"]) == WANTED


@needs_loader
def test_what_the_loader_does_not_know_is_left_to_llvm():
    threads_own = "@x = thread_local global i64 1\ndefine ptr @f() {\n  ret ptr @x\n}"
    for code in (object_of(threads_own), b"\x7fELF\x01" + bytes(100), bytes(64)):
        with pytest.raises(loader.UnsupportedObject):
            loader.load([code], ["f"], IMPORTS.__getitem__)


def test_a_text_that_llvm_refuses_says_why():
    with pytest.raises(llvm.LLVMError, match="expected"), llvm.module("define nonsense"):
        pass


def test_features_agree_with_llvm():
    names = {x[1:]: x[0] == "+" for x in llvm.host_features().split(",")}
    for name in ("avx2", "avx512f"):
        assert llvm.has_feature(name) == names.get(name, False)


@needs_loader
def test_a_process_that_finds_its_code_does_not_load_llvm(tmp_path):
    program = """if True:
        import numpy as np, functrans as ft
        from functrans.runtime import llvm
        step = ft.jit(ft.value_and_grad(lambda w, x: np.mean(np.tanh(x @ w) ** 2)))
        value, _ = step(np.ones((3, 4)), np.ones((5, 3)))
        assert abs(value - np.tanh(3.0) ** 2) < 1e-12
        print(llvm.library.cache_info().currsize)
    """
    loaded = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "FUNCTRANS_CACHE": str(tmp_path)},
            check=True, capture_output=True, text=True,
        ).stdout.strip()
        for _ in range(2)
    ]  # fmt: skip
    assert loaded == ["1", "0"]
