"""Every example runs, and what it prints is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import wrightomega

from examples import (
    adaptive_steps,
    custom_interpreter,
    custom_rules,
    d2l_autograd,
    d2l_control_flow,
    digits,
    dlsys_expression,
    hmc,
    implicit_gradients,
    kalman,
    linear_regression,
    lorenz,
    numba_kernels,
    rnn,
    scipy_minimize,
    user_derivative,
)

EXAMPLES = Path(digits.__file__).parent


def test_every_example_is_tested_here():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {name for name in globals() if (EXAMPLES / f"{name}.py").exists()}


def test_digits_are_the_1797_images_and_the_split_is_fixed():
    train, test = digits.load_digits()
    assert train.images.shape == (1437, 64)
    assert test.images.shape == (360, 64)
    assert train.images.dtype == train.targets.dtype == np.float32
    counts = (train.targets.sum(0) + test.targets.sum(0)).astype(int)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    np.testing.assert_array_equal(digits.load_digits()[1].images, test.images)


def test_digits_classifier_learns_and_loses_less_each_epoch(capsys):
    outcome = digits.main()
    assert outcome.accuracy >= 0.96
    assert outcome.losses[-1] < 0.15 < outcome.losses[0]
    printed = capsys.readouterr()
    assert "{ lambda ;" in printed.out
    assert "f32[32,64]" in printed.out
    assert "steps per second" in printed.out
    assert "epoch  1/20 [##############################] 44/44" in printed.err


def test_digits_step_gives_the_same_jitted_and_eager():
    train, _ = digits.load_digits()
    params = digits.init_params(np.random.default_rng(0))
    batch = train.images[:32], train.targets[:32]
    value, updated = digits.train_step(params, *batch)
    jit_value, jit_updated = digits.ft.jit(digits.train_step)(params, *batch)
    np.testing.assert_allclose(jit_value, value, rtol=1e-5)
    for pair, jit_pair in zip(updated, jit_updated, strict=True):
        for p, q in zip(pair, jit_pair, strict=True):
            assert p.dtype == q.dtype == np.float32
            np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-6)


def test_d2l_gradients():
    outcome = d2l_autograd.main()
    x = np.arange(4.0)
    np.testing.assert_array_equal(outcome.of_two_dots, 4 * x)
    np.testing.assert_array_equal(outcome.of_sum, np.ones(4))
    np.testing.assert_array_equal(outcome.of_squares, 2 * x)
    np.testing.assert_array_equal(outcome.of_detached, x**2)
    assert outcome.of_loop == {
        1.0: 1024.0,
        -1.0: 102400.0,
        0.3: 4096.0,
        500.0: 2.0,
        -0.001: 104857600.0,
    }


def test_linear_regression_recovers_the_weights():
    params = linear_regression.main()
    np.testing.assert_allclose(params.w, [2, -3.4], atol=2e-3)
    np.testing.assert_allclose(params.b, 4.2, atol=2e-3)


def test_dlsys_expression_has_the_derivative_found_by_hand(capsys):
    outcome = dlsys_expression.main(1.0)
    assert outcome.value == pytest.approx((np.e + 1) * np.e, rel=1e-14)
    assert outcome.derivative == pytest.approx(2 * np.e**2 + np.e, rel=1e-14)
    assert outcome.equations <= 5
    assert "{ lambda ; a:f64[]. let" in capsys.readouterr().out


def test_interpreter_bounds_every_sampled_value():
    low, high = custom_interpreter.main()
    assert low == pytest.approx(np.tanh(-1) - 2 - 1)
    assert high == pytest.approx(np.tanh(2) + 4)
    x, y = np.meshgrid(np.linspace(-1, 2, 50), np.linspace(0, 1, 50))
    values = custom_interpreter.f(x, y)
    assert low <= values.min()
    assert values.max() <= high


def test_interpreter_names_the_primitive_it_has_no_rule_for():
    with pytest.raises(TypeError, match="no interval rule for sin"):
        custom_interpreter.bounds(np.sin, (0.0, 1.0))


def test_own_operation_has_the_derivatives_of_the_omega_function():
    x = np.array([-1.0, 0.5, 1.0, 3.0])
    w = wrightomega(x)
    outcome = user_derivative.main()
    np.testing.assert_array_equal(outcome.value, w)
    np.testing.assert_allclose(outcome.first, w / (1 + w), rtol=1e-14)
    np.testing.assert_allclose(outcome.second, w / (1 + w) ** 3, rtol=1e-14)


def test_rules_of_functions_give_their_derivatives(capsys):
    outcome = custom_rules.main()
    np.testing.assert_allclose(outcome.root, [2, 1 / 12, -2 / 9 * 8 ** (-5 / 3)], rtol=1e-10)
    np.testing.assert_array_equal(outcome.slope, [0, 0.5, 1])
    assert outcome.clipped == 1
    np.testing.assert_array_equal(outcome.lengths, [5, 1])
    assert "custom_call[ call=softplus:jvp" in capsys.readouterr().out


def test_minimizers_reach_the_known_minima():
    outcome = scipy_minimize.main()
    np.testing.assert_allclose(outcome.rosenbrock, np.ones(5), atol=1e-4)
    np.testing.assert_allclose(outcome.newton, np.ones(5), atol=1e-4)
    np.testing.assert_allclose(outcome.logistic, [-4.0777, 1.5046], atol=1e-3)
    assert outcome.evaluations < 100


def test_planets_obey_keplers_equation_and_move_as_its_derivative_says():
    outcome = numba_kernels.main(0.6)
    means = outcome.anomaly - 0.6 * np.sin(outcome.anomaly)
    np.testing.assert_allclose(means, [0.5, 1.0, 2.0, 3.0], rtol=1e-14)
    np.testing.assert_allclose(outcome.speed, 1 / (1 - 0.6 * np.cos(outcome.anomaly)), rtol=1e-13)
    assert outcome.distance == pytest.approx(1 + 0.6**2 / 2, rel=1e-12)


def test_lorenz_trajectories_part_at_the_known_rate():
    outcome = lorenz.main()
    np.testing.assert_allclose(outcome.reverse, outcome.forward, rtol=1e-9)
    np.testing.assert_allclose(outcome.reverse, outcome.differences, rtol=1e-6)
    assert outcome.exponent == pytest.approx(0.9056, abs=0.01)


def test_adaptive_steps_are_fitted_by_reverse_mode():
    outcome = adaptive_steps.main()
    np.testing.assert_allclose(outcome.parameters, [1.1, 0.4, 0.1, 0.4], rtol=1e-4)
    assert outcome.gradient_error < 1e-4
    assert outcome.steps.min() < 20 < 60 < outcome.steps.max()
    assert outcome.evaluations < 50


def test_implicit_gradients_are_those_of_the_solution():
    errors = implicit_gradients.main()
    assert len(errors) == 5
    assert errors["fixed point, implicit"] < errors["fixed point, unrolled"] / 5
    assert max(errors["Newton, implicit"], errors["SciPy, implicit"]) < 1e-13


def test_samples_have_the_moments_of_the_grid():
    outcome = hmc.main()
    np.testing.assert_allclose(outcome.mean, outcome.exact_mean, atol=0.03)
    np.testing.assert_allclose(outcome.deviation, outcome.exact_deviation, rtol=0.03)
    assert 0.9 < outcome.accepted < 1


def test_kalman_filter_has_the_published_likelihood():
    outcome = kalman.main()
    assert outcome.noise == pytest.approx(15099, rel=1e-3)
    assert outcome.wander == pytest.approx(1469.1, rel=1e-3)
    assert kalman.filtered(np.log([15099, 1469.1]), kalman.FLOW)[0] == pytest.approx(
        -632.546, abs=1e-3
    )


def test_network_recalls_what_it_heard():
    outcome = rnn.main()
    assert outcome.accuracy > 0.99
    assert outcome.losses[-1] < 0.01 < 0.9 < outcome.losses[0]


def test_d2l_control_flow_has_the_gradient_f_of_a_over_a():
    outcome = d2l_control_flow.main()
    np.testing.assert_allclose(outcome.gradients, outcome.values / outcome.a, rtol=1e-14)
    assert np.all(np.abs(outcome.values) >= 1000)
    assert d2l_control_flow.ft.grad(d2l_control_flow.f)(-1.0) == 102400
