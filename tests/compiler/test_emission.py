import threading

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans.compiler.code.emission import kernel_unit
from functrans.compiler.words import scalar_math
from functrans.loop_ir import (
    ArgUpdate,
    Buffer,
    Check,
    CheckIndex,
    Const,
    HostStep,
    IndexValue,
    Init,
    Kernel,
    KernelCall,
    Let,
    Load,
    Loop,
    Param,
    Program,
    Store,
    StoreReduce,
    Update,
)
from functrans.printing_loops import program_to_python, run_python
from functrans.runtime.executable import compile_program
from tests.helpers.small_programs import at, elementwise, kernel_program, program

BOOL, I8, I32, I64, U8, U64, F16, F32, F64, C64, C128 = map(
    np.dtype, "bool i1 i4 i8 u1 u8 f2 f4 f8 c8 c16".split()
)
INTEGERS = [I8, I32, I64, U8, U64, np.dtype("i2"), np.dtype("u2"), np.dtype("u4")]
FLOATS = [F32, F64]

_FINITE = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    -1.5,
    2.5,
    2.0,
    3.0,
    -7.0,
    0.3,
    20.25,
    -20.25,
    100.0,
]


def samples(dtype):
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        values = [info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 5, 7, 100]
        return np.array(values + ([-1, -2, -3, -7] if dtype.kind == "i" else []), dtype)
    if dtype.kind == "f":
        info = np.finfo(dtype)
        extreme = [np.inf, -np.inf, np.nan, info.max, -info.max, info.tiny, info.smallest_subnormal]
        return np.array([*_FINITE, 100.0, *extreme, -info.smallest_subnormal], dtype)
    parts = samples(np.dtype(f"f{dtype.itemsize // 2}"))[[0, 1, 2, 3, 4, 9, 11, 16, 17, 18]]
    values = np.empty((10, 10), dtype)
    values.real, values.imag = parts[:, None], parts
    return values.ravel()


def combinations(dtypes):
    grids = np.meshgrid(*(np.arange(len(samples(d))) for d in dtypes), indexing="ij")
    return [samples(d)[g.ravel()] for d, g in zip(dtypes, grids, strict=True)]


def check_elementwise(op, dtypes, out, args=None, *, ulps=0.0, skip=None):
    args = combinations(dtypes) if args is None else args
    p = elementwise(op, dtypes, out, len(args[0]))
    with np.errstate(all="ignore"):
        (want,), (got,) = run_python(p, args), compile_program(p)(args)
    assert got.dtype == out
    same = (got == want) | ((got != got) & (want != want))
    if out.kind in "fc":
        real = np.dtype(f"f{out.itemsize // 2}") if out.kind == "c" else out
        with np.errstate(all="ignore"):
            error = np.abs(got - want) / np.maximum(np.spacing(np.abs(want)), np.finfo(real).tiny)
        same |= error <= ulps
    if out.kind == "f":
        same &= (np.signbit(got) == np.signbit(want)) | (want != 0)
    if skip is not None:
        with np.errstate(all="ignore"):
            same |= skip(*args)
    wrong = np.flatnonzero(~same)[:5]
    shown = [(*(a[i] for a in args), got[i], want[i]) for i in wrong]
    assert not shown, f"{op} {dtypes}: (operands..., got, want) = {shown}"


def _cases():
    for d in (*INTEGERS, *FLOATS, F16):
        yield from ((op, [d, d], d) for op in "add sub mul floor_divide mod fmod".split())
        yield from ((op, [d], d) for op in "neg abs sign copy".split())
        yield from ((op, [d, d], BOOL) for op in "eq ne lt le gt ge".split())
        yield "select", [BOOL, d, d], d
    for d in FLOATS:
        yield from ((op, [d, d], d) for op in "div heaviside copysign nextafter".split())
        yield from ((op, [d], d) for op in "floor ceil round trunc sqrt rsqrt reciprocal".split())
        yield from ((op, [d], BOOL) for op in "is_finite isnan isinf signbit".split())
    for d in INTEGERS:
        yield from ((op, [d, d], d) for op in "max min and or xor shift_left shift_right".split())
        yield from ((op, [d], d) for op in "not population_count".split())
        yield "masked_mul", [d, d], d
    for op in ("and", "or", "xor", "eq", "ne", "max", "min", "add", "mul"):
        yield op, [BOOL, BOOL], BOOL
    yield "not", [BOOL], BOOL
    for d in (C64, C128):
        yield from ((op, [d, d], d) for op in "add sub".split())
        yield from ((op, [d], d) for op in "neg conj copy".split())
        yield from ((op, [d, d], BOOL) for op in "eq ne".split())
        yield from ((op, [d], BOOL) for op in "isnan isinf is_finite".split())
        real = np.dtype(f"f{d.itemsize // 2}")
        yield from ((op, [d], real) for op in "real imag".split())
        yield "complex", [real, real], d


@pytest.mark.parametrize(("op", "dtypes", "out"), list(_cases()), ids=str)
def test_word_is_exactly_what_numpy_computes(op, dtypes, out):
    assert scalar_math.is_native(op, [*dtypes, out])
    check_elementwise(op, dtypes, out)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("op", ["max", "min"])
def test_nan_wins_in_extrema(op, dtype):
    # Which of two zeros is larger is not defined.
    check_elementwise(op, [dtype, dtype], dtype, skip=lambda x, y: (x == 0) & (y == 0))


@pytest.mark.parametrize("source", [BOOL, *INTEGERS, F16, F32, F64, C64, C128], ids=str)
def test_conversion_is_astype(source):
    for out in (BOOL, *INTEGERS, F16, F32, F64, C64, C128):
        # What a number outside the range becomes differs between NumPy's own loops.
        check_elementwise("convert", [source], out, skip=lambda x, out=out: _outside(x, out))


def _outside(x, out):
    if out.kind not in "iu" or x.dtype.kind not in "fc":
        return np.zeros(x.shape, bool)
    whole = np.trunc(x.real.astype(float))
    return ~((whole >= np.iinfo(out).min) & (whole < float(np.iinfo(out).max) + (out.itemsize < 8)))


_UNARY = """exp exp2 expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan sinh cosh tanh
arcsinh arccosh arctanh logistic cbrt erf erfc erf_inv lgamma""".split()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("op", _UNARY)
def test_elementary_function_is_close_to_numpy(op, dtype):
    # SciPy's gammaln and C's lgamma differ at -inf and at the smallest numbers.
    skip = (lambda x: np.isneginf(x) | (np.abs(x) < 1e-300)) if op == "lgamma" else None
    if op == "erf_inv":  # SciPy's loses the sign of zero
        skip = np.logical_not
    ulps = 64 if op in ("logistic", "lgamma") else 8
    check_elementwise(op, [dtype], dtype, ulps=ulps, skip=skip)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("op", ["atan2", "hypot", "pow", "logaddexp", "logaddexp2"])
def test_function_of_two_is_close_to_numpy(op, dtype):
    # NumPy computes a power of 0.5 as a square root, which differs at -inf and -0.
    skip = (lambda x, y: (np.isneginf(x) | (x == 0)) & (y == 0.5)) if op == "pow" else None
    check_elementwise(op, [dtype, dtype], dtype, ulps=8, skip=skip)


def test_digamma_is_scipys():
    x = np.array([0.5, 1.0, 2.5, -0.5, 30.0, 1e10, np.nan])
    check_elementwise("digamma", [F64], F64, [x], ulps=1)
    check_elementwise("digamma", [F32], F32, [x.astype(F32)], ulps=2)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_masked_mul_hides_infinities_behind_zeros(dtype):
    check_elementwise("masked_mul", [dtype, dtype], dtype, skip=lambda t, d: t * d == 0)
    p = elementwise("masked_mul", [dtype, dtype], dtype, 2)
    got = compile_program(p)([np.zeros(2, dtype), np.array([np.inf, np.nan], dtype)])
    np.testing.assert_array_equal(got[0], [0, 0])


@pytest.mark.parametrize("dtype", [I8, I32, I64, U8, U64], ids=str)
def test_integer_powers_wrap(dtype):
    base, exponent = np.meshgrid(samples(dtype), np.arange(9, dtype=dtype))
    check_elementwise("pow", [dtype, dtype], dtype, [base.ravel(), exponent.ravel()])


@pytest.mark.parametrize("dtype", [C64, C128], ids=str)
@pytest.mark.parametrize(
    "op", "mul div reciprocal sign exp log sqrt sin cos tan sinh cosh tanh arcsin arctan".split()
)
def test_complex_word_is_close_to_numpy(op, dtype):
    rng = np.random.default_rng(0)
    n = 2 if op in ("mul", "div") else 1
    args = [(rng.normal(size=50) + 1j * rng.normal(size=50)).astype(dtype) for _ in range(n)]
    check_elementwise(op, [dtype] * n, dtype, args, ulps=16)


def test_complex_division_by_zero_and_abs():
    x = samples(C128)
    check_elementwise("abs", [C128], F64, [x], ulps=2)
    check_elementwise("sign", [C128], C128, [x], ulps=2)
    check_elementwise("div", [C128, C128], C128, [x, np.zeros_like(x)])


# ---------------------------------------------------------------------------- reductions


def _reduction(op, x, initial, accumulator):
    body = [
        Loop("i", x.shape[0], (
            Init("a", Const(initial), accumulator),
            Loop("j", x.shape[1], (
                Load("v", "x", (at("i"), at("j")), x.dtype),
                Update("a", op, "v"),
            ), "reduce"),
            Store("y", (at("i"),), "a"),
        )),
    ]  # fmt: skip
    return kernel_program({"x": x}, {"y": np.empty(x.shape[0], accumulator)}, body)


@pytest.mark.parametrize("columns", [0, 1, 7, 100])
@pytest.mark.parametrize("dtype", [I32, U8, F32, F64, C64, BOOL], ids=str)
@pytest.mark.parametrize("op", ["add", "mul", "max", "min"])
def test_reduction_agrees_with_its_python(op, dtype, columns):
    if dtype.kind == "c" and op in ("max", "min"):
        pytest.skip("complex numbers have no order here")
    rng = np.random.default_rng(columns)
    x = (rng.normal(size=(3, columns)) + 1).astype(dtype)
    initial = dtype.type(op in ("mul", "min"))
    p = _reduction(op, x, initial, dtype)
    want, got = run_python(p, [x])[0], compile_program(p)([x])[0]
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("op", ["max", "min", "add"])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_reduction_sees_special_values(op, special):
    for position in range(40):
        x = np.ones((1, 40), F32)
        x[0, position] = special
        p = _reduction(
            op, x, F32.type(0 if op == "add" else np.inf if op == "min" else -np.inf), F32
        )
        np.testing.assert_array_equal(compile_program(p)([x])[0], run_python(p, [x])[0])
        if position % 13 == 0:
            x[0, 0] = np.inf
            np.testing.assert_array_equal(compile_program(p)([x])[0], run_python(p, [x])[0])


@pytest.mark.parametrize("op", ["max", "min"])
@pytest.mark.parametrize("dtype", [F64, I32, U8], ids=str)
def test_first_extremum_wins(op, dtype):
    x = np.array([3, 1, 5, 1, 5, 2], dtype)
    first = dtype.type(x[0])
    body = [
        Init("a", Const(first), dtype),
        Init("p", Const(np.int32(0)), I32),
        Loop("i", 6, (Load("v", "x", (at("i"),), dtype), ArgUpdate("a", "p", op, "v", at("i")))),
        Store("y", (), "p"),
    ]
    p = kernel_program({"x": x}, {"y": np.empty((), I32)}, body)
    run = compile_program(p)
    assert run([x])[0] == getattr(np, f"arg{op}")(x)
    if dtype.kind == "f":
        x[[2, 4]] = np.nan
        assert run([x])[0] == run_python(p, [x])[0] == 2


# ---------------------------------------------------------------------------- memory and indices


def test_broadcast_transpose_and_reversal_are_index_maps():
    x, row = np.arange(12.0).reshape(3, 4), np.arange(4.0)
    body = [
        Loop("i", 4, (Loop("j", 3, (
            Load("a", "x", (at(("j", -1), 2), at("i")), F64),
            Load("b", "row", (at("i"),), F64),
            IndexValue("k", at(("i", 10), "j"), F64),
            Let("s", "add", ("a", "b"), F64),
            Let("t", "mul", ("s", "k"), F64),
            Store("y", (at("i"), at("j")), "t"),
        )),)),
    ]  # fmt: skip
    p = kernel_program({"x": x, "row": row}, {"y": np.empty((4, 3))}, body)
    (got,) = compile_program(p)([x, row])
    want = (x[::-1].T + row[:, None]) * (10 * np.arange(4)[:, None] + np.arange(3))
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(run_python(p, [x, row])[0], want)


def test_guarded_load_pads_without_reading_outside():
    x = np.arange(5.0)
    body = [
        Loop("i", 64, (
            IndexValue("k", at("i", -3), I64),
            Let("low", "ge", ("k", Const(np.int64(0))), BOOL),
            Let("high", "lt", ("k", Const(np.int64(5))), BOOL),
            Let("inside", "and", ("low", "high"), BOOL),
            Load("v", "x", (at("i", -3),), F64, "inside", Const(np.float64(-1))),
            Store("y", (at("i"),), "v"),
        )),
    ]  # fmt: skip
    p = kernel_program({"x": x}, {"y": np.empty(64)}, body)
    np.testing.assert_array_equal(
        compile_program(p)([x])[0], np.pad(x, (3, 56), constant_values=-1)
    )
    empty = kernel_program({"x": x[:0]}, {"y": np.empty(64)}, body)
    assert compile_program(empty)([x[:0]])[0].shape == (64,)


def _scatter(op, index_dtype):
    body = (
        Loop("i", 4, (Store("y", (at("i"),), Const(np.float64(1))),)),
        Loop("i", 6, (
            Load("k", "index", (at("i"),), index_dtype),
            CheckIndex("place", "k", 4, "check", I64),
            Load("v", "x", (at("i"),), F64),
            StoreReduce("y", (at("place"),), op, "v"),
        ), "serial"),
    )  # fmt: skip
    kernel = Kernel(
        (Param("index", (6,), index_dtype, "in"), Param("x", (6,), F64, "in"),
         Param("y", (4,), F64, "out")), body, ("check",),
    )  # fmt: skip
    check = Check(4, 0, "scatter", "model.py:12")
    step = KernelCall(kernel, ("index", "x", "y"), (0,))
    inputs = [Buffer("index", (6,), index_dtype), Buffer("x", (6,), F64)]
    return program(inputs, [Buffer("y", (4,), F64)], [step], checks=(check,))


@pytest.mark.parametrize("index_dtype", [I8, I32, I64, U8], ids=str)
@pytest.mark.parametrize("op", ["add", "mul", "min", "max"])
def test_scatter_combines_and_wraps_negative_indices(op, index_dtype):
    p = _scatter(op, index_dtype)
    index = np.array([0, 3, 3, 1, -1 if index_dtype.kind == "i" else 2, 0], index_dtype)
    x = np.array([2.0, 3.0, -4.0, 0.5, 7.0, -1.0])
    np.testing.assert_array_equal(compile_program(p)([index, x])[0], run_python(p, [index, x])[0])


@pytest.mark.parametrize("bad", [4, -5, 100])
def test_index_outside_raises_with_value_size_and_line(bad):
    run, index = compile_program(_scatter("add", I64)), np.array([0, 1, 2, 3, bad, 0])
    with pytest.raises(
        IndexError, match=f"index {bad} is out of bounds for axis 0 with size 4"
    ) as e:
        run([index, np.ones(6)])
    assert "model.py:12" in e.value.__notes__[0]
    assert run([np.zeros(6, np.int64), np.ones(6)])[0][0] == 7


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
def test_empty_arrays_run_no_iterations(shape):
    indices = tuple(at(f"i{a}") for a in range(len(shape)))
    body = (Load("v", "x", indices, F64), Store("y", indices, "v"))
    for axis in reversed(range(len(shape))):
        body = (Loop(f"i{axis}", shape[axis], body),)
    x = np.empty(shape)
    p = kernel_program({"x": x}, {"y": x}, body)
    assert compile_program(p)([x])[0].shape == run_python(p, [x])[0].shape == shape


# ---------------------------------------------------------------------------- calls


def _double(n=4, dtype=F64):
    return compile_program(elementwise("add", [dtype, dtype], dtype, n))


@pytest.mark.parametrize("make", [
    lambda x: np.repeat(x, 2)[::2],
    lambda x: x[::-1].copy()[::-1],
    lambda x: x.astype(">f8"),
    lambda x: np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(F64),
    lambda x: np.asfortranarray(x.reshape(1, 4))[0],
    lambda x: list(x),
    lambda x: x.view(np.recarray),
])  # fmt: skip
def test_any_layout_of_input_is_read(make):
    x = np.array([1.0, 2.0, 3.0, 4.0])
    given = make(x)
    np.testing.assert_array_equal(_double()([given, given])[0], x + x)


def test_read_only_input_is_read_and_output_is_writable():
    x = np.ones(4)
    x.flags.writeable = False
    (y,) = _double()([x, x])
    y[0] = 5
    assert x[0] == 1


def _scalar_program(dtype):
    body = (Load("v", "x", (), dtype), Let("w", "add", ("v", "v"), dtype), Store("y", (), "w"))
    return kernel_program({"x": np.empty((), dtype)}, {"y": np.empty((), dtype)}, body)


@pytest.mark.parametrize("dtype", [BOOL, *INTEGERS, F16, F32, F64, C64, C128], ids=str)
def test_scalars_of_every_kind_are_read_and_returned(dtype):
    run = compile_program(_scalar_program(dtype))
    one = dtype.type(1)
    for given in (one, np.array(one), one.item()):
        (got,) = run([given])
        assert type(got) is dtype.type
        assert got == one + one


def test_returned_scalars_are_distinct_objects():
    run = compile_program(_scalar_program(F64))
    first, second = run([1.0])[0], run([2.0])[0]
    assert (first, second) == (2.0, 4.0)


def test_wrong_shape_or_dtype_is_refused_by_name():
    run = _double()
    with pytest.raises(TypeError, match=r"argument x1 .* must be float64\[4\], got float64\[5\]"):
        run([np.ones(4), np.ones(5)])
    with pytest.raises(TypeError, match=r"got int64\[4\]"):
        run([np.ones(4), np.ones(4, int)])
    with pytest.raises(TypeError, match="compiled for 2 arguments, got 1"):
        run([np.ones(4)])


def _host_program(constant):
    increment = elementwise("add", [F64, F64], F64, 4).steps[0].kernel
    steps = (
        KernelCall(increment, ("x", "c", "t")),
        HostStep("host reverse", lambda t: [t[::-1]], ("t",), ("u",)),
        KernelCall(increment, ("u", "c", "y")),
    )
    temps = (Buffer("t", (4,), F64), Buffer("u", (4,), F64))
    return Program(
        "f", (Buffer("x", (4,), F64),), ((Buffer("c", (4,), F64), constant),),
        (Buffer("y", (4,), F64), Buffer("z", (4,), F64)), temps, steps,
        copies=(("z", "c"),), offsets=(("t", 0), ("u", 64)), arena_bytes=128,
    )  # fmt: skip


@pytest.mark.parametrize("stride", [1, 2])
def test_host_steps_constants_and_copies(stride):
    constant = np.arange(8.0)[: 4 * stride : stride]
    p = _host_program(constant)
    run, x = compile_program(p), np.array([10.0, 20.0, 30.0, 40.0])
    for _ in range(2):
        got, want = run([x]), run_python(p, [x])
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(got[0], (x + constant)[::-1] + constant)
        got[1][:] = -1  # outputs never share memory with constants
        constant += 1  # constants are read at every call


def test_host_step_of_wrong_shape_is_named():
    p = _host_program(np.ones(4))
    bad = HostStep("host reverse", lambda t: [t[:2]], ("t",), ("u",))
    broken = Program(**{f: getattr(p, f) for f in p.__slots__} | {"steps": (bad,)})
    with pytest.raises(ValueError, match=r"host reverse returned float64\[2\].*float64\[4\]"):
        compile_program(broken)([np.ones(4)])


def test_equal_kernels_are_compiled_once():
    p = elementwise("tanh", [F64], F64, 16)
    kernel = p.steps[0].kernel
    copy = Kernel(tuple(kernel.params), tuple(kernel.body))
    temps = [Buffer("t", (16,), F64)]
    steps = [KernelCall(kernel, ("x0", "t")), KernelCall(copy, ("t", "out"))]
    twice = program(p.inputs, p.outputs, steps, temps)
    run, x = compile_program(twice), np.linspace(-1, 1, 16)
    np.testing.assert_allclose(run([x])[0], np.tanh(np.tanh(x)), rtol=1e-15)
    assert run.llvm.count("define internal") <= 4
    assert program_to_python(twice).count("def kernel") == 1


def test_threads_have_arenas_of_their_own():
    n = 50_000
    kernel = elementwise("add", [F64, F64], F64, n).steps[0].kernel
    steps = [KernelCall(kernel, ("x", "x", "t")), KernelCall(kernel, ("t", "x", "y"))]
    big = Buffer("x", (n,), F64)
    run = compile_program(program([big], [Buffer("y", (n,), F64)], steps, [Buffer("t", (n,), F64)]))
    wrong = []

    def work(seed):
        x = np.full(n, float(seed))
        wrong.extend(seed for _ in range(50) if not (run([x])[0] == 3 * seed).all())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_long_straight_kernels_compile():
    lets = [Let("v0", "copy", ("x0",), F64)]
    lets += [Let(f"v{i + 1}", "add", (f"v{i}", "x0"), F64) for i in range(2000)]
    body = (Load("x0", "x", (), F64), *lets, Store("y", (), "v2000"))
    p = kernel_program({"x": np.empty(())}, {"y": np.empty(())}, body)
    assert compile_program(p)([1.0])[0] == 2001.0


def runs_passes(f, *args):
    program = ft.jit(f).lower(*args).program
    return [kernel_unit(s.kernel).runs_passes for s in program.steps if isinstance(s, KernelCall)]


def test_kernels_that_only_look_up_compile_without_passes():
    x, i = np.ones((50, 40)), np.zeros(300, int)
    assert runs_passes(lambda x, i: x[i, i], x, i) == [False]
    assert runs_passes(lambda x, i: fnp.take_along_axis(x, i, 1), x, i.reshape(50, 6)) == [False]
    # Here vectors gain: there is arithmetic, or what is copied are rows.
    assert runs_passes(lambda x, i: np.exp(x[i, i]), x, i) == [True]
    assert runs_passes(lambda x, i: x[i], x, i) == [True]
    assert runs_passes(lambda x, i: x + 1, x, i) == [True]
