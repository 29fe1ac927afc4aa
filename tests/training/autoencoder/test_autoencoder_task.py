import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import tests.support.runs  # noqa: F401  (registers the cards)
from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.checkpoints.checkpoint import CheckpointError, Checkpoints
from nami_jax.config import ConfigError
from nami_jax.config.autoencoder_run import AutoencoderRun
from nami_jax.data.captioned_images import open_source
from nami_jax.monitoring.metrics import NonFiniteError
from nami_jax.parallel.sharding import make_mesh
from nami_jax.training.autoencoder.autoencoder_task import AutoencoderTask
from nami_jax.training.autoencoder.reconstruction import init_state
from nami_jax.training.autoencoder.review import (
    LatentStatistics,
    batches,
    latent_statistics,
    make_validation,
    open_weights,
)
from tests.support.autoencoder_runs import make_autoencoder_run, train_autoencoder
from tests.support.runs import numbers, restored
from tests.support.sizes import CONFIG

ONE_DEVICE = jax.devices()[:1]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def whole_run(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    return workdir, train_autoencoder(make_autoencoder_run(data_dir), workdir, ONE_DEVICE)


@pytest.fixture(scope="module")
def train_source(whole_run, data_dir):
    cfg = make_autoencoder_run(data_dir)
    return open_source(cfg.data, cfg.data.train_split)


def test_interrupted_run_ends_bit_equal_to_an_uninterrupted_one(whole_run, data_dir, tmp_path):
    cfg = make_autoencoder_run(data_dir)
    stopped = train_autoencoder(cfg, tmp_path, ONE_DEVICE, stop_after=7)
    assert int(stopped.step) == 7
    found, expected = numbers(train_autoencoder(cfg, tmp_path, ONE_DEVICE)), numbers(whole_run[1])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    for file in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "vae" / file).read_bytes() == (whole_run[0] / "vae" / file).read_bytes()


def test_run_leaves_checkpoints_events_grids_and_its_config(whole_run, data_dir):
    workdir, _ = whole_run
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"10", "12"}
    assert list((workdir / "events").iterdir())
    assert AutoencoderRun.from_dict(json.loads((workdir / "config.json").read_text())) == make_autoencoder_run(data_dir)
    grids = sorted((workdir / "samples").iterdir())
    assert [p.name for p in grids] == ["step_0000006.png", "step_0000012.png"]
    with Image.open(grids[-1]) as grid:
        assert "card" in grid.text["captions"]  # pyright: ignore[reportAttributeAccessIssue]


def test_vae_folder_loads_and_its_latents_of_the_training_images_are_of_unit_scale(whole_run, train_source):
    autoencoder = Autoencoder.from_folder(whole_run[0] / "vae")
    statistics = latent_statistics(autoencoder, [train_source])
    assert statistics.mean == pytest.approx(0.0, abs=1e-5)
    assert statistics.std == pytest.approx(1.0, rel=1e-5)
    assert autoencoder.downscale == 2


def test_statistics_by_batches_are_those_of_all_latents_together():
    # A mean far from 0 and batches of different sizes and means: what running sums get wrong first.
    rng = np.random.default_rng(0)
    latents = [rng.normal(1000 + i, 0.1 + i, (count, 2, 2, 3)).astype(np.float32) for i, count in enumerate((5, 1, 3))]
    statistics = LatentStatistics(3)
    for some in latents:
        statistics.add(some)
    values = np.concatenate(latents).reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(statistics.channel_mean, values.mean(0), rtol=1e-13)
    np.testing.assert_allclose(statistics.channel_std, values.std(0), rtol=1e-12)
    np.testing.assert_allclose([statistics.mean, statistics.std], [values.mean(), values.std()], rtol=1e-12)


def test_equal_latents_have_no_deviation():
    statistics = LatentStatistics(2)
    for count in (3, 7):
        statistics.add(np.full((count, 2, 2, 2), 0.1, np.float32))
    assert statistics.std == 0.0


def test_vae_folder_holds_the_ema_weights(whole_run, train_source):
    autoencoder = Autoencoder.from_folder(whole_run[0] / "vae")
    kernel = autoencoder.model.decoder.conv_in.kernel[...]
    np.testing.assert_array_equal(kernel, whole_run[1].ema["decoder"]["conv_in"]["kernel"])
    assert np.abs(kernel - whole_run[1].params["decoder"]["conv_in"]["kernel"]).max() > 1e-4


def test_training_brings_reconstructions_nearer(whole_run, data_dir):
    cfg = make_autoencoder_run(data_dir)
    validate = make_validation(cfg, None, [open_source(cfg.data, cfg.data.eval_split)])
    first, last = validate(init_state(cfg, make_mesh(devices=ONE_DEVICE))), validate(whole_run[1])
    assert last["validation/pixel"] < first["validation/pixel"]
    assert last["validation/psnr"] > first["validation/psnr"]
    assert {"latents/std_0", "latents/std_1", "latents/mean_0", "latents/mean_1"} <= last.keys()
    assert "validation/perceptual" not in last


def test_validation_sees_every_held_out_image_once(whole_run, data_dir):
    cfg = make_autoencoder_run(data_dir)
    held_out = open_source(cfg.data, cfg.data.eval_split)
    assert np.concatenate(list(batches([held_out]))).shape == (4, 16, 16, 3)


def test_run_on_eight_devices_is_that_on_one(whole_run, data_dir, tmp_path):
    cfg = make_autoencoder_run(data_dir)
    state = train_autoencoder(cfg, tmp_path)
    images = next(batches([open_source(cfg.data, cfg.data.eval_split)]))
    found, expected = (open_weights(cfg, params) for params in (state.ema, whole_run[1].ema))
    decoded = expected.decode(expected.encode(images))
    # Not parameter by parameter: those that a norm cancels have gradients of rounding alone, which Adam enlarges.
    assert np.abs(found.decode(found.encode(images)) - decoded).max() < 0.02 * np.abs(decoded).max()


def test_workdir_of_another_network_is_refused(whole_run, data_dir):
    cfg = make_autoencoder_run(data_dir, model={"block_out_channels": (8, 8)})
    with pytest.raises(ConfigError, match=r"model\.block_out_channels = \(8, 8\): the run in .* started with \(4, 8\)"):
        train_autoencoder(cfg, whole_run[0], ONE_DEVICE)


def test_workdir_of_an_autoencoder_is_no_flows(whole_run):
    with pytest.raises(CheckpointError, match=r"whose task is 'autoencoder', not 'flow'"):
        Checkpoints(whole_run[0], CONFIG)
    with Checkpoints(whole_run[0]) as checkpoints, pytest.raises(CheckpointError, match=r"not 'flow'"):
        checkpoints.config(12)


def newest(workdir, cfg):
    """Returns the state and the loader's position in the newest checkpoint."""
    task = AutoencoderTask(cfg, ONE_DEVICE)
    with Checkpoints(workdir, cfg) as checkpoints:
        return restored(checkpoints, task)


def test_too_many_steps_without_a_finite_loss_stop_the_run_and_save_nothing(data_dir, tmp_path, capsys):
    rare = dict.fromkeys(("eval_every", "sample_every", "checkpoint_every"), 100)
    train = {"learning_rate": 1e30, "warmup_steps": 0, "log_every": 1} | rare
    cfg = make_autoencoder_run(data_dir, train=train)
    complaint = r"step 11: the loss is (nan|inf).* in a row: 10\. Lower train\.learning_rate .*No checkpoint is left"
    with pytest.raises(NonFiniteError, match=complaint):
        train_autoencoder(cfg, tmp_path, ONE_DEVICE)
    assert capsys.readouterr().out.count("Skipped; in a row") == 9
    assert not (tmp_path / "vae").exists()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_another_number_of_samples_is_another_run_and_checkpoints_without_it_are_continued(
    whole_run, data_dir, tmp_path
):
    cfg = make_autoencoder_run(data_dir, train={"steps": 14})
    workdir = shutil.copytree(whole_run[0], tmp_path / "run")
    state, position = newest(workdir, cfg)
    assert position["samples"] == [16]
    with Checkpoints(workdir, cfg) as checkpoints:
        checkpoints.save(13, dataclasses.replace(state, step=jnp.int32(13)).items(), position | {"samples": [15]})
    with pytest.raises(ConfigError, match=r"data\.name = 'plain_cards': the run was started on \[15\] samples"):
        train_autoencoder(cfg, workdir, ONE_DEVICE)
    with Checkpoints(workdir, cfg) as checkpoints:
        checkpoints.save(
            14, dataclasses.replace(state, step=jnp.int32(14)).items(), {"next_index": position["next_index"]}
        )  # as before samples were counted
    assert int(train_autoencoder(cfg, workdir, ONE_DEVICE).step) == 14


def test_batch_that_devices_cannot_share_is_named(data_dir, tmp_path):
    cfg = make_autoencoder_run(data_dir, train={"batch": 6})
    with pytest.raises(ConfigError, match=r"train\.batch = \(6,\): .* 8 devices"):
        train_autoencoder(cfg, tmp_path)
