import jax
import numpy as np
import pytest

from nami_jax.config import MeshConfig, ModelConfig
from nami_jax.data.loader import StageBatch
from nami_jax.parallel.sharding import make_mesh, shard_batch
from nami_jax.text.encoders import TextStates
from nami_jax.training.step import init_state, make_eval_step, make_train_step
from tests.support.sizes import MODEL, make_config

TOKENS = 4


def null_states(model: ModelConfig = MODEL):
    return TextStates(np.zeros((1, TOKENS, model.text_dim), np.float32), np.zeros((1, model.pooled_dim), np.float32))


NULL = null_states()


def batches(step: int, sizes=(16, 8, 8), model: ModelConfig = MODEL):
    rng = np.random.default_rng(step)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return tuple(
        StageBatch(normal(b, s, s, 3), TextStates(normal(b, TOKENS, model.text_dim), normal(b, model.pooled_dim)))
        for b, s in zip(sizes, (4, 8, 16), strict=True)
    )


def run(mesh, fsdp: int, steps: int = 3):
    cfg = make_config(mesh={"fsdp": fsdp}, train={"stage_batches": ((16, 8, 8),)})
    state, train_step = init_state(cfg, mesh), make_train_step(cfg, mesh)
    seen = []
    for step in range(steps):
        state, metrics = train_step(state, shard_batch(batches(step), mesh), NULL)
        seen.append(jax.device_get(metrics))
    return state, seen, cfg


@pytest.fixture(scope="module")
def on_one_device():
    return run(make_mesh(devices=jax.devices()[:1]), fsdp=1)


def test_eight_devices_give_the_losses_and_parameters_of_one(on_one_device):
    state, seen, _ = run(make_mesh(MeshConfig(fsdp=2)), fsdp=2)
    expected_state, expected, _ = on_one_device
    for metrics, wanted in zip(seen, expected, strict=True):
        for name in wanted:
            np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-5, err_msg=name)
    for leaf, wanted in zip(jax.tree.leaves(state.ema), jax.tree.leaves(expected_state.ema), strict=True):
        # Adam divides by the root of the second moment, which makes much of rounding where a gradient is nearly 0.
        np.testing.assert_allclose(leaf, wanted, atol=2e-5)


def test_metrics_count_every_image_and_average_to_the_loss(on_one_device):
    for metrics in on_one_device[1]:
        np.testing.assert_array_equal(metrics["loss_counts"].sum(axis=1), [16, 8, 8])
        assert metrics["loss"] == pytest.approx(metrics["loss_sums"].sum() / 32, rel=1e-5)


def test_a_step_moves_parameters_counts_and_draws_anew(on_one_device):
    state, seen, cfg = on_one_device
    assert int(state.step) == 3
    initial = init_state(cfg, make_mesh(devices=jax.devices()[:1]))
    assert not np.array_equal(state.params["image_out"]["kernel"], initial.params["image_out"]["kernel"])
    counts = [metrics["loss_counts"] for metrics in seen]
    assert not np.array_equal(counts[0], counts[1]) or not np.array_equal(counts[1], counts[2])


def test_the_given_state_is_donated(on_one_device):
    cfg, mesh = on_one_device[2], make_mesh(devices=jax.devices()[:1])
    state = init_state(cfg, mesh)
    make_train_step(cfg, mesh)(state, shard_batch(batches(0), mesh), NULL)
    assert state.params["image_out"]["kernel"].is_deleted()


def test_validation_loss_is_the_same_at_each_call_and_of_each_stage(on_one_device):
    state, _, cfg = on_one_device
    eval_step = make_eval_step(cfg, make_mesh(devices=jax.devices()[:1]))
    losses = [eval_step(state.ema, {}, batches(0), NULL, np.uint32(0)) for _ in range(2)]
    assert losses[0].shape == (3,)
    np.testing.assert_array_equal(losses[0], losses[1])
    assert not np.array_equal(losses[0], eval_step(state.ema, {}, batches(0), NULL, np.uint32(1)))
