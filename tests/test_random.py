"""Random numbers: those of JAX, and the same under every transformation.

The values were computed by JAX 0.10.2 with `jax_enable_x64` and `k = jax.random.PRNGKey(42)`, by
the calls that stand beside them.
"""

import numpy as np
import pytest

import functrans as ft
from functrans import ops, random
from functrans.core import Zero

K = random.key(42)
P = np.array([0.1, 0.2, 0.3, 0.4])
LOGITS = np.log(np.arange(1.0, 13).reshape(3, 4))
ROWS = np.arange(12).reshape(4, 3)

EXACT = {
    "key(42)": (lambda: random.key(42), [0, 42]),
    "key(-1)": (lambda: random.PRNGKey(-1), [4294967295, 4294967295]),
    "key(2**40 + 5)": (lambda: random.key(2**40 + 5), [256, 5]),
    "split": (lambda: random.split(K), [[1832780943, 270669613], [64467757, 2916123636]]),
    "split (2, 3)": (lambda: random.split(K, (2, 3))[1], [
        [3134548294, 894150801], [2954079971, 3276725750], [2765691542, 824333390]]),
    "fold_in 7": (lambda: random.fold_in(K, 7), [2547012911, 1371500959]),
    "fold_in 2**32 - 1": (lambda: random.fold_in(K, 2**32 - 1), [2398536845, 3890976714]),
    "bits u8": (lambda: random.bits(K, (2, 3), "u1"), [[162, 217, 249], [215, 21, 216]]),
    "bits u16": (lambda: random.bits(K, (2, 3), "u2"), [
        [5026, 12505, 63993], [49623, 29461, 20184]]),
    "bits u32": (lambda: random.bits(K, (2, 3), "u4"), [
        [2098992034, 2919706841, 2646866425], [2409546199, 1935504149, 2516274904]]),
    "bits u64": (lambda: random.bits(K, (3,)), [
        7871734211187709741, 276886910877598708, 10591095138341673235]),
    "uniform f16": (lambda: random.uniform(K, (5,), "f2"), [
        0.076171875, 0.1904296875, 0.9755859375, 0.7568359375, 0.44921875]),
    "uniform f32": (lambda: random.uniform(K, (3,), "f4"), [
        0.48870956897735596, 0.6797971725463867, 0.6162714958190918]),
    "uniform f64": (lambda: random.uniform(K, (3,)), [
        0.4267275666499091, 0.015010069515314584, 0.5741444178995352]),
    "randint i8": (lambda: random.randint(K, (5,), -5, 100, "i1"), [94, 49, 76, -1, 84]),
    "randint u8, all": (lambda: random.randint(K, (5,), 0, 256, "u1"), [196, 18, 183, 193, 141]),
    "randint i32": (lambda: random.randint(K, (5,), -7, 11, "i4"), [-7, -1, 2, -6, 4]),
    "randint i64": (lambda: random.randint(K, (3,), 0, 10**12), [
        464050701877, 604979476158, 848944880791]),
    "randint u64": (lambda: random.randint(K, (2,), 0, 2**62, "u8"), [
        4466307427195926069, 869870568124700350]),
    "randint of nothing": (lambda: random.randint(K, (3,), 5, 5), [5, 5, 5]),
    "randint, array bounds": (
        lambda: random.randint(K, (2, 3), np.arange(3), np.array([10, 3, 2])),
        [[5, 1, 2], [1, 2, 2]]),
    "bernoulli": (lambda: random.bernoulli(K, 0.3, (8,)), [0, 1, 0, 0, 0, 0, 0, 0]),
    "permutation of 10": (lambda: random.permutation(K, 10), [7, 4, 2, 5, 3, 6, 8, 9, 0, 1]),
    "permutation of rows": (lambda: random.permutation(K, ROWS), [
        [6, 7, 8], [9, 10, 11], [0, 1, 2], [3, 4, 5]]),
    "permutation, independent": (
        lambda: random.permutation(K, ROWS, 1, independent=True),
        [[2, 0, 1], [4, 5, 3], [7, 6, 8], [10, 11, 9]]),
    "choice": (lambda: random.choice(K, 5, (3,)), [0, 3, 3]),
    "choice, once each": (lambda: random.choice(K, 6, (2, 2), replace=False), [[4, 2], [5, 3]]),
    "choice, p": (lambda: random.choice(K, 4, (5,), p=P), [2, 3, 2, 1, 2]),
    "choice, p, once each": (lambda: random.choice(K, 4, (3,), False, p=P), [3, 2, 0]),
    "categorical": (lambda: random.categorical(K, LOGITS), [3, 2, 2]),
    "categorical, axis 0": (lambda: random.categorical(K, LOGITS, 0), [1, 1, 1, 1]),
    "categorical, repeated": (lambda: random.categorical(K, LOGITS, shape=(5, 3)), [
        [3, 2, 2], [1, 3, 3], [1, 3, 1], [2, 0, 3], [3, 1, 1]]),
    "categorical, once each": (
        lambda: random.categorical(K, LOGITS, shape=(2, 3), replace=False),
        [[3, 2, 2], [2, 3, 1]]),
}  # fmt: skip
NEAR = {
    "normal f32": (lambda: random.normal(K, (3,), "f4"), [
        -0.02830461598932743, 0.4671318531036377, 0.2957029640674591]),
    "normal f64": (lambda: random.normal(K, (3,)), [
        -0.18471174528191162, -2.169824560397754, 0.18693555179382582]),
    "normal c128": (lambda: random.normal(K, (2,), "c16"), [
        -0.5093295292642132 + 0.45954304860759587j, -0.18428781404443714 + 0.08377702715980621j]),
    "exponential": (lambda: random.exponential(K, (3,)), [
        0.5563942243855916, 0.015123860720489336, 0.8536549993431988]),
    "gumbel": (lambda: random.gumbel(K, (3,)), [
        0.16062720630382138, -1.4348544993307841, 0.5890136500161952]),
    "truncated_normal": (lambda: random.truncated_normal(K, -1.0, 2.0, (3,)), [
        0.01998452592513169, -0.9504476695340623, 0.32827144083703297]),
}  # fmt: skip


def native(f):
    return ft.jit(f, host_steps="error")


@pytest.mark.parametrize("name", EXACT)
def test_the_numbers_are_those_of_jax(name):
    draw, expected = EXACT[name]
    eager, compiled = draw(), native(draw)()
    np.testing.assert_array_equal(eager, expected)
    np.testing.assert_array_equal(compiled, expected)
    assert compiled.dtype == eager.dtype


@pytest.mark.parametrize("name", NEAR)
def test_functions_of_the_numbers_are_near_those_of_jax(name):
    draw, expected = NEAR[name]
    # JAX contracts x * y + z into one rounding, and has its own erf_inv and log.
    tolerance = 2e-6 if name.endswith("f32") else 1e-13
    np.testing.assert_allclose(draw(), expected, rtol=tolerance)
    np.testing.assert_allclose(native(draw)(), expected, rtol=tolerance)


def test_every_name_is_drawn_from():
    drawn = {name for f, _ in [*EXACT.values(), *NEAR.values()] for name in f.__code__.co_names}
    assert set(random.__all__) - drawn == {"key_data"}
    assert random.key_data(K) is K


# ---------------------------------------------------------------------------- transformations


@pytest.mark.parametrize(
    "draw",
    [
        lambda k: random.split(k, 3),
        lambda k: random.fold_in(k, 5),
        lambda k: random.uniform(k, (3, 4), minval=-1.0, maxval=2.0),
        lambda k: random.normal(k, (5,), np.float32),
        lambda k: random.randint(k, (6,), 0, 100),
        lambda k: random.permutation(k, 7),
        lambda k: random.choice(k, np.arange(5.0), (3,), p=np.full(5, 0.2)),
        lambda k: random.categorical(k, LOGITS),
    ],
)
def test_a_batch_of_keys_draws_what_each_draws(draw):
    keys = random.split(K, 4)
    singles = np.stack([draw(k) for k in keys])
    np.testing.assert_allclose(ft.vmap(draw)(keys), singles, rtol=1e-6)
    np.testing.assert_allclose(native(ft.vmap(draw))(keys), singles, rtol=1e-6)


def test_seeds_may_be_traced_and_of_any_integer_dtype():
    for seed in (np.int32(-3), np.uint8(200), np.int64(-3), np.uint64(2**63)):
        np.testing.assert_array_equal(native(random.key)(seed), random.key(seed))
    np.testing.assert_array_equal(random.key(np.int32(-3)), [0, 2**32 - 3])
    np.testing.assert_array_equal(ft.vmap(random.key)(np.arange(3)), [[0, 0], [0, 1], [0, 2]])
    np.testing.assert_array_equal(native(lambda i: random.fold_in(K, i))(7), random.fold_in(K, 7))


def test_derivatives_flow_through_what_is_made_of_the_numbers():
    def loss(mean, scale):
        return np.sum((mean + scale * random.normal(K, (5,))) ** 2)

    ft.test_util.check_grads(loss, (np.array(0.5), np.array(2.0)), order=2)
    low = lambda a: np.sum(random.uniform(K, (4,), minval=a, maxval=a * 3.0))  # noqa: E731
    ft.test_util.check_grads(low, (np.array(0.7),), order=1)
    count = np.arange(3, dtype=np.uint64)
    _, tangent = ops.random_bits.jvp([count, count], [Zero(count), Zero(count)])
    assert type(tangent) is Zero


def test_drawing_is_one_loop_with_what_follows():
    f = native(lambda k: np.sum(random.uniform(k, (1000,)) ** 2))
    assert len(f.lower(K).program.steps) == 1
    np.testing.assert_allclose(f(K), np.sum(random.uniform(K, (1000,)) ** 2), rtol=1e-12)


def test_large_draws_equal_those_in_blocks():
    whole = random.bits(K, (3, 5000), np.uint32)
    np.testing.assert_array_equal(native(lambda k: random.bits(k, (3, 5000), np.uint32))(K), whole)
    keys = np.arange(15000, dtype=np.uint64)
    blocks = ops.random_bits(keys, keys[::-1])
    np.testing.assert_array_equal(blocks[-5:], ops.random_bits(keys[-5:], keys[4::-1]))


def test_distributions_have_their_moments():
    n = 20000
    for draw, mean, variance in [
        (random.uniform, 1 / 2, 1 / 12),
        (random.normal, 0, 1),
        (random.exponential, 1, 1),
        (random.gumbel, np.euler_gamma, np.pi**2 / 6),
    ]:
        x = draw(K, (n,))
        np.testing.assert_allclose(x.mean(), mean, atol=5 * np.sqrt(variance / n))
        np.testing.assert_allclose(x.var(), variance, rtol=0.1)
    x = random.truncated_normal(K, -0.5, np.array([1.0, 2.0]), (n // 2, 2))
    assert ((x > -0.5) & (x < [1.0, 2.0])).all()
    counts = np.bincount(random.categorical(K, np.log(P), shape=(n,)), minlength=4)
    np.testing.assert_allclose(counts / n, P, atol=0.02)


def test_empty_draws():
    assert random.normal(K, (0, 3)).shape == (0, 3)
    assert random.split(K, 0).shape == (0, 2)
    assert random.permutation(K, 0).shape == (0,)
    assert random.choice(K, 3, (0,)).shape == (0,)
    assert native(lambda k: random.uniform(k, (2, 0)))(K).shape == (2, 0)


# ---------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: random.uniform(np.zeros(2)), r"a key is uint32\[2\], got float64\[2\]"),
        (lambda: random.bits(random.split(K), (2,)), r"got uint32\[2, 2\].*vmap"),
        (lambda: random.key(0.5), "a seed is one integer"),
        (lambda: random.fold_in(K, np.arange(2)), "takes one integer"),
        (lambda: random.bits(K, (2,), np.int32), "unsigned integer dtype"),
        (lambda: random.uniform(K, (2,), np.int32), "uniform is of a float dtype"),
        (lambda: random.randint(K, (2,), 0, 5, np.float32), "randint is of an integer dtype"),
        (lambda: random.bernoulli(K, 1), "bernoulli is of a float dtype"),
        (lambda: ops.random_bits(np.uint8(1), np.uint8(1)), "does not accept uint8"),
    ],
)
def test_wrong_types_are_named(draw, message):
    with pytest.raises(TypeError, match=message):
        native(draw)()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: random.uniform(K, (2,), minval=np.zeros(3)), "parameter of shape"),
        (lambda: random.choice(K, 3, (4,), replace=False), "4 draws of 3"),
        (lambda: random.choice(K, 3, (4,), p=P), "it needs"),
        (lambda: random.categorical(K, LOGITS, shape=(4,)), "must end with"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
