import os
import subprocess
import sys

import pytest

from configs import autoencoder_emoji
from nami_jax.config import ConfigError
from nami_jax.config.autoencoder_run import AutoencoderRun
from tests.support.autoencoder_runs import make_autoencoder_run
from tests.support.paths import ROOT


def test_config_file_is_valid():
    fields = autoencoder_emoji.get_config().to_dict()
    cfg = AutoencoderRun.from_dict(fields)
    assert cfg.model.downscale == 4
    assert {name: content.keys() for name, content in fields.items() if name != "task"} == {
        name: content.keys() for name, content in cfg.to_dict().items() if name != "task"
    }


def test_dict_round_trip_gives_the_same_config():
    cfg = make_autoencoder_run()
    assert AutoencoderRun.from_dict(cfg.to_dict()) == cfg


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("model", {"block_out_channels": (4, 6)}, r"model\.block_out_channels = \(4, 6\): each must be a multiple of"),
        ("model", {"latent_channels": 0}, r"model\.latent_channels = 0: must be in 1..4096"),
        ("loss", {"kl": -1.0}, r"loss\.kl = -1\.0: must not be negative"),
        ("loss", {"perceptual_blocks": 6}, r"loss\.perceptual_blocks = 6: must be in 1\.\.5"),
        ("loss", {"pixel": 0.0, "perceptual": 0.0}, r"loss\.pixel = 0\.0: loss\.pixel and loss"),
        ("train", {"crop": 9}, r"train\.crop = 9: the autoencoder needs a multiple of 2\. Set 10"),
        ("train", {"crop": 18}, r"train\.crop = 18: must be at most data\.side = 16\. Set 16"),
        ("train", {"batch": 0}, r"train\.batch = 0: must be at least 1"),
        ("train", {"warmup_steps": 12}, r"train\.warmup_steps = 12: must be in 0\.\.11"),
        ("train", {"learning_rate": 0.0}, r"train\.learning_rate = 0\.0: must be positive"),
        ("train", {"ema_decay": 1.0}, r"train\.ema_decay = 1\.0: must be in \[0, 1\)"),
        ("data", {"side": 15}, r"data\.side = 15: the autoencoder needs a multiple of 2\. Set 16"),
        ("data", {"prepared": "p", "buckets": ((16, 17),)}, r"data\.buckets = 17: the autoencoder needs .* Set 18"),
        ("data", {"prepared": "p", "buckets": ((16, 6),)}, r"train\.crop = 8: must be at most data\.buckets = 6"),
    ],
)
def test_bad_values_are_refused_with_field_value_and_remedy(section, fields, message):
    with pytest.raises(ConfigError, match=message):
        make_autoencoder_run(**{section: fields})


def test_unknown_field_names_the_nearest():
    fields = make_autoencoder_run().to_dict()
    fields["loss"]["percaptual"] = 1.0
    with pytest.raises(ConfigError, match=r"loss\.percaptual: no such config field\. Did you mean 'perceptual'"):
        AutoencoderRun.from_dict(fields)


def test_train_command_takes_the_task_from_the_config(tmp_path):
    command = [sys.executable, "-m", "nami_jax.train", "--config", str(ROOT / "configs" / "autoencoder_emoji.py"),
               "--workdir", str(tmp_path / "run"), "--config.train.crop=30"]  # fmt: skip
    run = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert run.returncode == 1
    assert "error: train.crop = 30: the autoencoder needs a multiple of 4. Set 32." in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())
