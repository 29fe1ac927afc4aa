"""Pictures of one's own in pixels: prepared once, for a flow and for an autoencoder, and damaged in mid-training."""

import dataclasses
import logging

import jax
import numpy as np
import pytest

from nami_jax import NamiPipeline
from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.config import ConfigError
from nami_jax.data.corruption import CorruptDataError
from nami_jax.data.prepared import PreparedData
from nami_jax.preparation.job import Options
from nami_jax.preparation.orchestration import prepare
from tests.preparation.conftest import SQUARE, WIDE, png
from tests.support.autoencoder_runs import make_autoencoder_run, train_autoencoder
from tests.support.damaged_files import damage_record
from tests.support.event_files import read_values
from tests.support.runs import numbers, train
from tests.support.sizes import make_config

ONE_DEVICE = jax.devices()[:1]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Twenty-four images of two shapes, each with its text beside it."""
    folder = tmp_path_factory.mktemp("images")
    for i, (width, height) in enumerate([(20, 20)] * 12 + [(40, 20)] * 12):
        (folder / f"{i}.png").write_bytes(png(width, height, "red" if i % 2 else "blue"))
        (folder / f"{i}.txt").write_text(f"card {i}")
    return folder


@pytest.fixture(scope="module")
def cfg(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("pixels")
    cfg = make_config(
        model={"double_blocks": 0, "stage_single_blocks": (1, 1, 1), "text_dim": 384, "pooled_dim": 384},
        data={"prepared": str(out), "buckets": (SQUARE, WIDE), "flip": True},
        train={"steps": 4, "eval_every": 4, "sample_every": 4, "checkpoint_every": 2, "sample_images": 3},
    )
    prepare(cfg, str(source), str(out), Options(held_out=4))
    return cfg


@pytest.fixture(scope="module")
def run(cfg, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train(cfg, workdir, ONE_DEVICE)


def test_a_flow_of_pixels_trains_on_two_buckets_continues_bit_equal_and_draws(cfg, run, tmp_path):
    train(cfg, tmp_path, ONE_DEVICE, stop_after=2)
    again = train(cfg, tmp_path, ONE_DEVICE)
    for found, expected in zip(jax.tree.leaves(again.params), jax.tree.leaves(run[1].params), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (run[0] / "samples" / "step_0000004.png").is_file()
    pipe = NamiPipeline.from_pretrained(run[0])
    assert pipe("card 3", width=32, steps=(1, 1, 1))[0].size == (32, 16)


@pytest.mark.parametrize("options", [{}, {"optimizer": "muon", "contrastive_weight": 0.05}], ids=["adamw", "muon"])
def test_a_step_in_parts_with_a_short_moment_and_kept_attention_continues_bit_equal(cfg, tmp_path, options):
    train_fields = {"accumulation_steps": 2, "first_moment_dtype": "bfloat16", "eval_every": 100, "sample_every": 100}
    train_fields |= options
    cfg = dataclasses.replace(
        cfg,
        model=dataclasses.replace(cfg.model, remat="keep_attention"),
        train=dataclasses.replace(cfg.train, **train_fields),
    )
    whole = train(cfg, tmp_path / "whole", ONE_DEVICE)
    train(cfg, tmp_path / "parts", ONE_DEVICE, stop_after=2)
    again = train(cfg, tmp_path / "parts", ONE_DEVICE)
    for name, found in numbers(again).items():
        np.testing.assert_array_equal(found, numbers(whole)[name], err_msg=name)
    full = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, first_moment_dtype="float32"))
    with pytest.raises(ConfigError, match=r"train\.first_moment_dtype = 'float32': the run .* with 'bfloat16'"):
        train(full, tmp_path / "parts", ONE_DEVICE)


def test_nothing_held_out_trains_without_validation(cfg, run, source, tmp_path):
    prepare(cfg, str(source), str(cfg.data.prepared), Options(held_out=None))
    try:
        train(cfg, tmp_path, ONE_DEVICE)
    finally:
        prepare(cfg, str(source), str(cfg.data.prepared), Options(held_out=4))
    names = [set(read_values(workdir / "events")) for workdir in (tmp_path, run[0])]
    assert [any(name.startswith("validation/") for name in found) for found in names] == [False, True]
    assert (tmp_path / "samples" / "step_0000004.png").is_file()


def test_an_autoencoder_trains_on_the_same_data(cfg, tmp_path):
    data = {"name": "", "prepared": cfg.data.prepared, "buckets": cfg.data.buckets}
    run = make_autoencoder_run(data=data, train={"steps": 4})
    train_autoencoder(run, tmp_path, ONE_DEVICE)
    assert (tmp_path / "samples" / "step_0000004.png").is_file()
    sources = PreparedData(cfg.data).sources("train")
    latents = Autoencoder.from_folder(tmp_path / "vae").encode(sources[1][0].image[None] / np.float32(127.5) - 1)
    assert latents.shape == (1, 8, 16, 2)


@pytest.mark.parametrize(("share", "ends"), [(0.5, False), (0.01, True)])
def test_a_block_that_is_damaged_in_mid_training_is_one_skipped_record(cfg, source, tmp_path, caplog, share, ends):
    data = dataclasses.replace(cfg.data, prepared=str(tmp_path / "data"), max_corrupt_share=share)
    cfg = dataclasses.replace(cfg, data=data, train=dataclasses.replace(cfg.train, log_every=1))
    prepare(cfg, str(source), str(tmp_path / "data"), Options(held_out=4))
    train(cfg, tmp_path / "run", ONE_DEVICE, stop_after=1)
    for shard in PreparedData(data).shards:
        damage_record(tmp_path / "data" / shard.name, next(i for i in range(12) if i not in shard.held_out))
    with caplog.at_level(logging.WARNING, "absl"):
        if ends:
            with pytest.raises(CorruptDataError, match=r"1 of 20 images cannot be read"):
                train(cfg, tmp_path / "run", ONE_DEVICE)
            return
        train(cfg, tmp_path / "run", ONE_DEVICE)
    told = [record.getMessage() for record in caplog.records if "is corrupt and skipped" in record.getMessage()]
    assert told  # one of each bucket that the remaining steps take samples from
    assert max(read_values(tmp_path / "run" / "events")["corrupt_images"].values()) == len(told)
