import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functrans import ops
from functrans.core import Linear, get_aval
from functrans.ir import ShapedArray
from tests.helpers.primitive_rules import (
    check_batch,
    check_jvp,
    check_jvp_of_zero,
    check_transpose,
    evaluate,
    random_array,
)


@st.composite
def products(draw):
    """Shapes and dimension numbers: axes of each kind, in any order on each side."""
    extents = st.lists(st.integers(0, 3), max_size=2)
    batch, contract = draw(extents), draw(extents)
    sides = []
    for free in (draw(extents), draw(extents)):
        kinds = [("b", i) for i in range(len(batch))] + [("c", i) for i in range(len(contract))]
        kinds = draw(st.permutations(kinds + [("f", i) for i in range(len(free))]))
        extent_of = {"b": batch, "c": contract, "f": free}
        shape = tuple(extent_of[kind][i] for kind, i in kinds)
        numbers = [
            tuple(kinds.index((kind, i)) for i in range(len(extent_of[kind]))) for kind in "cb"
        ]
        sides.append((shape, numbers))
    (l_shape, (lc, lb)), (r_shape, (rc, rb)) = sides
    return l_shape, r_shape, ((lc, rc), (lb, rb))


def by_einsum(lhs, rhs, dimension_numbers):
    (lc, rc), (lb, rb) = dimension_numbers
    l_names = [chr(ord("a") + i) for i in range(lhs.ndim)]
    r_names = [chr(ord("A") + i) for i in range(rhs.ndim)]
    for i, j in zip((*lc, *lb), (*rc, *rb), strict=True):
        r_names[j] = l_names[i]
    out = [l_names[i] for i in lb]
    out += [n for i, n in enumerate(l_names) if i not in lc and i not in lb]
    out += [n for i, n in enumerate(r_names) if i not in rc and i not in rb]
    return np.einsum(f"{''.join(l_names)},{''.join(r_names)}->{''.join(out)}", lhs, rhs)


@given(products(), st.sampled_from([float, complex]))
def test_dot_general_rules_agree(case, dtype):
    l_shape, r_shape, numbers = case
    lhs, rhs = random_array(l_shape, dtype, 1), random_array(r_shape, dtype, 2)
    params = {"dimension_numbers": numbers}
    out = evaluate(ops.dot_general, lhs, rhs, **params)
    np.testing.assert_allclose(out, by_einsum(lhs, rhs, numbers), rtol=1e-10, atol=1e-12)
    check_jvp(ops.dot_general, lhs, rhs, moving=(0, 1), **params)
    check_jvp_of_zero(ops.dot_general, lhs, rhs, **params)
    check_transpose(ops.dot_general, lhs, rhs, linear=(0,), **params)
    check_transpose(ops.dot_general, lhs, rhs, linear=(1,), **params)


def close_batch(l_shape, r_shape, numbers):
    check_batch(
        ops.dot_general,
        lambda seed: (
            np.round(4 * random_array(l_shape, seed=seed)),
            np.round(4 * random_array(r_shape, seed=seed + 9)),
        ),
        dimension_numbers=numbers,
    )


@given(products())
def test_dot_general_of_a_batch_is_a_stack_of_products(case):
    close_batch(*case)


MATMUL = (((1,), (0,)), ((), ()))


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i4", "u8", "f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("stacked", [False, True])
def test_dot_general_keeps_the_dtype_and_wraps_integers(dtype, stacked):
    rng = np.random.default_rng(0)
    lhs, rhs = (rng.integers(0, 100, shape) for shape in [(2, 3, 4), (2, 4, 5)])
    lhs, rhs = ((x % 2 if dtype in "?f2" else x).astype(dtype) for x in (lhs, rhs))
    if stacked:
        out = evaluate(ops.dot_general, lhs, rhs, dimension_numbers=(((2,), (1,)), ((0,), (0,))))
        assert out.dtype == dtype
    else:
        lhs, rhs = lhs[0], rhs[0]
        out = evaluate(ops.dot_general, lhs, rhs, dimension_numbers=MATMUL)
    # In int64 modulo 2**bits the sum of products is exact; for bool it is an or of ands.
    kind = np.dtype(dtype).kind
    wide = {"?": bool, "b": bool, "i": "i8", "u": "u8", "f": "f8", "c": "c16"}[kind]
    expected = np.matmul(lhs.astype(wide), rhs.astype(wide)).astype(dtype)
    np.testing.assert_array_equal(out, expected)


def test_bool_products_are_or_of_ands():
    a = np.array([[True, True], [False, False]])
    out = evaluate(ops.dot_general, a, a.T, dimension_numbers=MATMUL)
    np.testing.assert_array_equal(out, [[True, False], [False, False]])


@pytest.mark.parametrize("l_shape", [(3,), (2, 3)])
@pytest.mark.parametrize("r_shape", [(3,), (3, 4)])
def test_vectors_and_matrices_multiply_as_numpy_does(l_shape, r_shape):
    lhs, rhs = random_array(l_shape), random_array(r_shape, seed=1)
    numbers = (((len(l_shape) - 1,), (0,)), ((), ()))
    out = evaluate(ops.dot_general, lhs, rhs, dimension_numbers=numbers)
    np.testing.assert_allclose(out, lhs @ rhs)
    np.testing.assert_allclose(
        ops.dot_general(lhs.T, rhs, dimension_numbers=(((0,), (0,)), ((), ()))), lhs @ rhs
    )


def test_products_of_nothing_are_zero():
    out = evaluate(ops.dot_general, np.ones((2, 0)), np.ones((0, 3)), dimension_numbers=MATMUL)
    np.testing.assert_array_equal(out, np.zeros((2, 3)))


def test_cotangents_of_a_matrix_product_are_one_product_each():
    # The two products of a dense layer's backward pass, without a permute of the result.
    lhs, rhs, ct = random_array((5, 3)), random_array((3, 4)), random_array((5, 4))
    linear = [Linear(get_aval(x)) for x in (lhs, rhs)]
    ct_lhs, _ = ops.dot_general.transpose(ct, linear[0], rhs, dimension_numbers=MATMUL)
    _, ct_rhs = ops.dot_general.transpose(ct, lhs, linear[1], dimension_numbers=MATMUL)
    np.testing.assert_allclose(ct_lhs, ct @ rhs.T)
    np.testing.assert_allclose(ct_rhs, lhs.T @ ct)
    assert ct_lhs.flags.c_contiguous
    assert ct_rhs.flags.c_contiguous


@pytest.mark.parametrize(
    ("l_aval", "r_aval", "numbers", "match"),
    [
        ("f8 2,3", "f4 3,2", MATMUL, "equal dtype"),
        ("f8 2,3", "f8 4,2", MATMUL, "different extents, 3 and 4"),
        ("f8 2,3", "f8 3,2", (((1,), (0, 1)), ((), ())), "as many contracted axes"),
        ("f8 2,3", "f8 3,2", (((2,), (0,)), ((), ())), "distinct axes"),
        ("f8 2,3", "f8 2,3", (((1,), (1,)), ((1,), (0,))), "distinct axes"),
    ],
)
def test_bad_operands_are_refused(l_aval, r_aval, numbers, match):
    avals = []
    for text in (l_aval, r_aval):
        dtype, shape = text.split()
        avals.append(ShapedArray(tuple(map(int, shape.split(","))), np.dtype(dtype)))
    with pytest.raises((TypeError, ValueError), match=match):
        ops.dot_general.abstract_eval(*avals, dimension_numbers=numbers)


def test_mixed_dtypes_are_refused_eagerly_too():
    with pytest.raises(TypeError, match="equal dtype"):
        ops.dot_general(np.ones((2, 2)), np.ones((2, 2), "f4"), dimension_numbers=MATMUL)


def test_mismatched_extents_of_equal_product_are_refused_eagerly():
    with pytest.raises(ValueError, match="different extents"):
        ops.dot_general(
            np.ones((2, 3)), np.ones((3, 2)), dimension_numbers=(((0, 1), (0, 1)), ((), ()))
        )


def test_transposing_both_operands_is_refused():
    both = Linear(ShapedArray((2, 2), np.dtype(float)))
    with pytest.raises(TypeError, match="not linear in both"):
        ops.dot_general.transpose(np.ones((2, 2)), both, both, dimension_numbers=MATMUL)
