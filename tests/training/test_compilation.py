import dataclasses

import jax
import numpy as np
import pytest

from nami_jax.config import AutoencoderConfig
from nami_jax.parallel.sharding import make_mesh, shard_batch
from nami_jax.training.compilation import compile_steps, shapes_of, step_shapes
from nami_jax.training.step import init_state
from tests.support.sizes import make_config
from tests.training.test_step import NULL, batches

TWO_PHASES = {"stage_batches": ((8, 8, 8), (8, 16, 8)), "phase_starts": (0.0, 0.5), "phase_learning_rates": (1e-3,) * 2}


def latent_config():
    cfg = make_config(train=TWO_PHASES)
    data = dataclasses.replace(cfg.data, side=64, prepared="somewhere", buckets=((64, 64), (32, 128)))
    return dataclasses.replace(cfg, data=data, autoencoder=AutoencoderConfig("vae", downscale=4))


def test_shapes_are_buckets_times_phases_and_each_holds_every_stage():
    shapes = step_shapes(latent_config())
    assert len(shapes) == 4
    assert shapes[0] == ((8, 4, 4, 3), (8, 8, 8, 3), (8, 16, 16, 3))
    assert shapes[3] == ((8, 2, 8, 3), (16, 4, 16, 3), (8, 8, 32, 3))


@pytest.mark.parametrize(("start", "count"), [(0, 4), (5, 4), (6, 2), (12, 0)])
def test_phases_that_are_over_are_left_out(start, count):
    assert len(step_shapes(latent_config(), start)) == count


def test_a_listed_shape_is_compiled_to_the_training_step():
    cfg = make_config(train={"stage_batches": ((16, 8, 8),)})
    mesh = make_mesh(devices=jax.devices()[:1])
    state = init_state(cfg, mesh)
    programs = compile_steps(cfg, mesh, state, NULL, 0)
    batch = batches(0)
    assert set(programs) == {shapes_of(batch)}
    state, metrics = programs[shapes_of(batch)](state, shard_batch(batch, mesh), NULL)
    assert int(state.step) == 1
    assert np.isfinite(metrics["loss"])
