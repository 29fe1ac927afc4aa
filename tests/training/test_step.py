import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding

from nami_jax.config import ConfigError, FlowConfig, MeshConfig, ModelConfig
from nami_jax.data.loader import StageBatch
from nami_jax.parallel.sharding import AXES, BATCH, make_mesh, shard_batch
from nami_jax.planning.programs import lower_step
from nami_jax.text.encoders import TextStates
from nami_jax.training.loss import draw
from nami_jax.training.state import step_key
from nami_jax.training.step import init_state, make_eval_step, make_train_step, require_parts
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


def test_eight_devices_give_the_step_of_one_with_muon_and_contrast():
    """The other image's velocity may be on another device, and a matrix is spread over several."""
    found = []
    for devices in (1, 8):
        mesh = make_mesh(MeshConfig(fsdp=2 if devices > 1 else 1), jax.devices()[:devices])
        train = {"stage_batches": ((16, 8, 8),), "optimizer": "muon", "contrastive_weight": 0.05}
        cfg = make_config(model=SHALLOW, mesh={"fsdp": mesh.shape["fsdp"]}, train=train)
        state, step, metrics = init_state(cfg, mesh), make_train_step(cfg, mesh), {}
        for number in range(2):
            state, metrics = step(state, shard_batch(batches(number), mesh), NULL)
        found.append((jax.device_get(metrics), jax.device_get(state.params)))
    (wanted, params), (metrics, others) = found
    for name in wanted:
        np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-4, err_msg=name)
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(other, one, atol=2e-5)


def test_contrast_changes_the_gradient_and_not_the_loss_that_is_told():
    mesh, seen = make_mesh(devices=jax.devices()[:1]), []
    for weight in (0.0, 0.05):
        train = {"stage_batches": ((16, 8, 8),), "contrastive_weight": weight, "grad_clip": 1e9, "warmup_steps": 0}
        cfg = make_config(model=SHALLOW, train=train)
        state, metrics = make_train_step(cfg, mesh)(init_state(cfg, mesh), shard_batch(batches(0), mesh), NULL)
        seen.append((jax.device_get(metrics), jax.device_get(state.opt[1].mu["image_out"])))
    (plain, moments), (contrasted, others) = seen
    for name in ("loss", "loss_sums", "loss_counts"):
        np.testing.assert_allclose(contrasted[name], plain[name], rtol=1e-6, err_msg=name)
    # A new network predicts 0. So its bias's gradient is -2 mean(v), and the contrast's that of the same v in another
    # order; its kernel's is of products with what the network sees of the image, which are others.
    np.testing.assert_allclose(others["bias"], 0.95 * moments["bias"], rtol=1e-4)
    apart = np.abs(others["kernel"] - 0.95 * moments["kernel"]).max() / np.abs(moments["kernel"]).max()
    assert 0.01 < apart < 0.2


def test_validation_draws_the_same_times_whatever_they_are_in_training():
    mesh, found = make_mesh(devices=jax.devices()[:1]), []
    for flow in ({}, {"time_mean": 3.0}, {"time_sampling": "u_shaped"}):
        cfg = make_config(model=SHALLOW, flow=flow)
        params = jax.tree.map(jax.numpy.ones_like, init_state(cfg, mesh).ema)  # which do not predict 0
        found.append(make_eval_step(cfg, mesh)(params, {}, batches(0), NULL, np.uint32(0)))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


SHALLOW = {"double_blocks": 0, "stage_single_blocks": (1, 1, 1)}


@pytest.mark.parametrize("devices", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_step_in_parts_is_the_step_in_one(devices):
    mesh = make_mesh(MeshConfig(fsdp=2 if devices > 1 else 1), jax.devices()[:devices])
    found = []
    for parts in (1, 2):
        train = {"stage_batches": ((16, 8, 8),), "accumulation_steps": parts, "grad_clip": 1e9}
        cfg = make_config(model=SHALLOW, mesh={"fsdp": mesh.shape["fsdp"]}, train=train)
        state, step, metrics = init_state(cfg, mesh), make_train_step(cfg, mesh), {}
        for number in range(2):
            state, metrics = step(state, shard_batch(batches(number), mesh), NULL)
        found.append((metrics, state.opt[1].mu))
    (wanted, moments), (metrics, others) = found
    np.testing.assert_array_equal(metrics["loss_counts"], wanted["loss_counts"])
    for name in wanted:
        np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-5, err_msg=name)
    for one, other in zip(jax.tree.leaves(moments), jax.tree.leaves(others), strict=True):
        # The sums round in another order, which a gradient near 0 shows most.
        np.testing.assert_allclose(other, one, atol=1e-4 * float(np.abs(one).max()))


def test_a_device_draws_no_more_noise_than_its_part_of_it():
    shape = (64, 16, 16, 3)

    def noise(key, step):
        return draw(step_key(key, step), shape, FlowConfig(), 0.1).noise

    run = jax.jit(noise, out_shardings=NamedSharding(make_mesh(), BATCH))
    program = run.lower(jax.random.key(0, impl="rbg"), np.int32(0)).compile().as_text() or ""
    assert "[8,16,16,3]" in program
    assert "[64,16,16,3]" not in program  # which rbg's bits are, on each of eight


def test_parts_take_less_memory():
    cfg, mesh = make_config(model=SHALLOW), make_mesh(devices=jax.devices()[:1])

    def temporaries(parts):
        divided = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, accumulation_steps=parts))
        shapes = ((256, 4, 4, 3), (256, 8, 8, 3), (256, 16, 16, 3))
        stats = lower_step(divided, mesh, shapes).compile().memory_analysis()
        assert stats is not None
        return stats.temp_size_in_bytes

    assert temporaries(4) < 0.5 * temporaries(1)


def test_parts_that_do_not_divide_a_devices_images_are_refused():
    cfg = make_config(mesh={"fsdp": 2}, train={"stage_batches": ((16, 8, 24),), "accumulation_steps": 4})
    require_parts(cfg, make_mesh(cfg.mesh, jax.devices()[:2]))
    message = r"^train\.accumulation_steps = 4: must divide .* those of each of 4 devices\. Set 2, or other images\.$"
    with pytest.raises(ConfigError, match=message):
        require_parts(cfg, make_mesh(cfg.mesh, jax.devices()[:4]))
    with pytest.raises(ConfigError, match=r"^train\.stage_batches = \(16, 8, 24\): .* over 16 devices"):
        require_parts(cfg, Mesh(np.array(jax.devices() * 2).reshape(16, 1, 1, 1), AXES))
