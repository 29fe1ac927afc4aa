import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nami_jax.training.state import Optimizer, TrainState, advance, ema_decay, learning_rate, make_optimizer, step_key
from tests.support.sizes import TRAIN

PHASES = dataclasses.replace(
    TRAIN, steps=100, warmup_steps=10, decay="constant", stage_batches=((4, 2, 1), (1, 2, 4)), phase_starts=(0.0, 0.5),
    phase_learning_rates=(1e-4, 5e-5),
)  # fmt: skip


def test_learning_rate_warms_up_and_follows_the_phases():
    rate: Any = learning_rate(PHASES)
    assert [float(rate(s)) for s in (0, 4, 9, 49, 50, 99)] == pytest.approx([1e-5, 5e-5, 1e-4, 1e-4, 5e-5, 5e-5])


def test_phases_too_short_for_a_step_are_passed_over():
    short = dataclasses.replace(
        PHASES, steps=2, warmup_steps=0, stage_batches=((1, 1, 1),) * 3, phase_starts=(0.0, 0.3, 0.4),
        phase_learning_rates=(1.0, 2.0, 3.0),
    )  # fmt: skip
    rate: Any = learning_rate(short)
    assert [float(rate(s)) for s in (0, 1)] == [1.0, 3.0]


def test_cosine_decay_ends_at_zero():
    rate: Any = learning_rate(dataclasses.replace(PHASES, decay="cosine"))
    assert float(rate(10)) == pytest.approx(1e-4)
    assert float(rate(55)) == pytest.approx(5e-5 * 0.5)
    assert float(rate(100)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("steps", "warmup_steps"), [(1000, 600), (300, 500)])
def test_while_it_warms_up_nothing_decays(steps, warmup_steps):
    one_phase = {"stage_batches": ((4, 2, 1),), "phase_starts": (0.0,), "phase_learning_rates": (1.0,)}
    train = dataclasses.replace(PHASES, decay="cosine", steps=steps, warmup_steps=warmup_steps, **one_phase)
    rate: Any = learning_rate(train)
    first = np.arange(min(steps, warmup_steps))
    np.testing.assert_allclose([float(rate(step)) for step in first], (first + 1) / warmup_steps, rtol=1e-4)


def test_a_step_s_key_is_threefry_s_and_another_one_in_each_step():
    key = jax.random.key(3, impl="rbg")
    keys = [step_key(key, jnp.int32(step)) for step in (0, 1)]
    assert [jax.random.key_impl(each) for each in keys] == ["threefry2x32"] * 2
    one, other = map(jax.random.key_data, keys)
    assert not np.array_equal(one, other)
    alone = jax.random.fold_in(jax.random.key(3, impl="threefry2x32"), 0)
    np.testing.assert_array_equal(jax.random.key_data(keys[0]), jax.random.key_data(alone))


def test_warmup_may_be_absent():
    rate: Any = learning_rate(dataclasses.replace(PHASES, warmup_steps=0))
    assert float(rate(0)) == pytest.approx(1e-4)


def test_weight_decay_shrinks_kernels_alone():
    optimizer, _ = make_optimizer(dataclasses.replace(PHASES, weight_decay=0.1, warmup_steps=0))
    params = {"layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    updates: Any
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["layer"]["kernel"], np.full((2, 2), 0.1), rtol=1e-5)
    np.testing.assert_array_equal(updates["layer"]["bias"], 0)


def test_gradients_are_clipped_to_the_global_norm():
    optimizer, _ = make_optimizer(dataclasses.replace(PHASES, grad_clip=1.0))
    params = {"a": {"kernel": jnp.zeros(3)}, "b": {"kernel": jnp.zeros(4)}}
    grads = {"a": {"kernel": jnp.full(3, 30.0)}, "b": {"kernel": jnp.full(4, 40.0)}}
    _, state = optimizer.update(grads, optimizer.init(params), params)
    (moments,) = [s for s in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(s, "mu")]
    norm = jnp.sqrt(sum(jnp.vdot(m, m) for m in jax.tree.leaves(moments.mu)))
    assert float(norm) == pytest.approx((1 - PHASES.adam_b1) * 1.0, rel=1e-5)


def test_ema_forgets_the_first_weights_and_then_reaches_its_limit():
    assert float(ema_decay(0.999, jnp.int32(0))) == pytest.approx(0.1)
    assert float(ema_decay(0.999, jnp.int32(90))) == pytest.approx(0.91)
    assert float(ema_decay(0.999, jnp.int32(10**6))) == pytest.approx(0.999)


SGD = Optimizer(optax.identity(), lambda step: 0.5 / (step + 1))


def linear(slope):
    """The gradients of a loss whose slope is `slope` everywhere."""
    return jax.value_and_grad(
        lambda params, key: (slope * params["layer"]["kernel"].sum(), {"count": jnp.float32(3)}), has_aux=True
    )


def ones():
    params = {"layer": {"kernel": jnp.ones(2)}}
    return TrainState.begin(params, SGD.transform.init(params), jax.random.key(0))


def test_a_step_goes_down_the_gradient_and_the_average_follows():
    state, metrics = advance(ones(), linear(2.0), SGD, ema_limit=0.9)
    np.testing.assert_allclose(state.params["layer"]["kernel"], 1 - 0.5 * 2.0)
    np.testing.assert_allclose(state.ema["layer"]["kernel"], 0.1 * 1 + 0.9 * 0.0, atol=1e-7)
    assert int(state.step) == 1
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {"loss": 4.0, "count": 3.0, "grad_norm": 8**0.5, "grad_norm/layer": 8**0.5, "learning_rate": 0.5, "skipped": 0}
    )


@pytest.mark.parametrize("slope", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(slope):
    state, metrics = advance(ones(), linear(slope), SGD, ema_limit=0.9)
    assert int(state.step) == 1
    jax.tree.map(
        np.testing.assert_array_equal, (state.params, state.ema, state.opt), (ones().params, ones().ema, ones().opt)
    )
    assert (float(metrics["skipped"]), float(metrics["count"])) == (1.0, 0.0)
    # The rate follows the count of steps, not that of updates.
    assert float(advance(state, linear(1.0), SGD, 0.9)[1]["learning_rate"]) == 0.25


def test_each_step_has_a_random_key_of_its_own():
    drawn = []

    def loss(params, key):
        drawn.append(float(jax.random.uniform(key)))
        return (params["layer"]["kernel"].sum(), {}), params

    state, _ = advance(ones(), loss, SGD, 0.9)
    advance(state, loss, SGD, 0.9)
    advance(ones(), loss, SGD, 0.9)
    assert drawn[0] == drawn[2] != drawn[1]


def test_what_is_saved_is_all_but_what_is_frozen_and_comes_back():
    state = dataclasses.replace(ones(), frozen={"w": jnp.ones(1)})
    assert state.items().keys() == {"ema", "train"}
    assert state.items()["train"].keys() == {"params", "opt", "step", "key"}
    bridged = dataclasses.replace(state, bridge={"scales": jnp.ones(2)})
    assert bridged.items().keys() == {"ema", "train", "bridge"}
    for one in (state, bridged):
        assert TrainState.from_items(one.items(), one.frozen) == one


def test_the_first_moment_alone_is_kept_in_bfloat16_and_the_update_is_of_float32():
    params, found = {"layer": {"kernel": jnp.full(3, 0.3)}}, []
    for dtype in ("float32", "bfloat16"):
        optimizer, _ = make_optimizer(dataclasses.replace(PHASES, first_moment_dtype=dtype))
        updates: Any
        state: Any
        updates, state = optimizer.update({"layer": {"kernel": jnp.full(3, 0.01)}}, optimizer.init(params), params)
        (moments,) = [s for s in state if hasattr(s, "mu")]
        found.append((updates["layer"]["kernel"], moments.mu["layer"]["kernel"], moments.nu["layer"]["kernel"]))
    (update, mu, nu), (other, other_mu, other_nu) = found
    assert [mu.dtype, nu.dtype, other_mu.dtype, other_nu.dtype] == ["float32", "float32", "bfloat16", "float32"]
    np.testing.assert_array_equal(update, other)  # the first is taken of the unrounded moment
    np.testing.assert_array_equal(nu, other_nu)
