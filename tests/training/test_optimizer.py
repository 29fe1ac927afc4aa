import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.training.optimizer import learning_rate, make_optimizer
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


def test_warmup_may_be_absent():
    rate: Any = learning_rate(dataclasses.replace(PHASES, warmup_steps=0))
    assert float(rate(0)) == pytest.approx(1e-4)


def test_weight_decay_shrinks_kernels_alone():
    optimizer = make_optimizer(dataclasses.replace(PHASES, weight_decay=0.1, warmup_steps=0))
    params = {"layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    updates: Any
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["layer"]["kernel"], np.full((2, 2), 0.1), rtol=1e-5)
    np.testing.assert_array_equal(updates["layer"]["bias"], 0)


def test_gradients_are_clipped_to_the_global_norm():
    optimizer = make_optimizer(dataclasses.replace(PHASES, grad_clip=1.0))
    params = {"a": {"kernel": jnp.zeros(3)}, "b": {"kernel": jnp.zeros(4)}}
    grads = {"a": {"kernel": jnp.full(3, 30.0)}, "b": {"kernel": jnp.full(4, 40.0)}}
    _, state = optimizer.update(grads, optimizer.init(params), params)
    (moments,) = [s for s in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(s, "mu")]
    norm = jnp.sqrt(sum(jnp.vdot(m, m) for m in jax.tree.leaves(moments.mu)))
    assert float(norm) == pytest.approx((1 - PHASES.adam_b1) * 1.0, rel=1e-5)
