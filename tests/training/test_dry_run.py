import os
import sys

import jax
import pytest

from nami_jax.config import ConfigError
from nami_jax.parallel.sharding import make_mesh
from nami_jax.training.autoencoder.autoencoder_task import AutoencoderTask
from nami_jax.training.autoencoder.reconstruction import init_state
from nami_jax.training.dry_run import dry_run, report
from nami_jax.training.flow_task import FlowTask
from tests.support import patience, xla
from tests.support.autoencoder_runs import make_autoencoder_run
from tests.support.paths import ROOT
from tests.support.runs import card_config

ONE_DEVICE = jax.devices()[:1]

CARDS = """
from pathlib import Path

from ml_collections import ConfigDict

from tests.support.runs import card_config


def get_config():
    sections = {{"bridge": {{"kind": "conv", "steps": 1_000_000}}, "sample": {{"transition": "bridge"}}}}
    return ConfigDict(card_config(Path({data_dir!r}), **sections).to_dict())
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_command_tells_what_two_steps_took_and_leaves_nothing(data_dir, tmp_path):
    (tmp_path / "cards.py").write_text(CARDS.format(data_dir=str(data_dir)))
    command = [sys.executable, "-m", "nami_jax.train", "--config", str(tmp_path / "cards.py"),
               "--workdir", str(tmp_path / "runs" / "red"), "--dry_run", "--profile", "1:2"]  # fmt: skip
    run = patience.run(command, 300, cwd=ROOT, env=os.environ | {"XLA_FLAGS": xla.flags(devices=1)})
    assert run.returncode == 0, run.stderr
    for line in (
        "step 2: validation/stage_1",
        "samples in",
        "compiled the step on images of 8x4x4x3 + ",
        "programs in",
        "images/s",
        "memory:",
    ):
        assert line in run.stdout
    assert "training the bridge: 100%" in run.stderr
    assert "Sample from it" not in run.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["cards.py"]


def test_dry_run_beside_a_run_leaves_it_as_it_is(data_dir, tmp_path):
    workdir = tmp_path / "red"
    (workdir / "checkpoints" / "5").mkdir(parents=True)
    (workdir / "config.json").write_text("{}")
    before = contents(tmp_path)
    text = dry_run(AutoencoderTask(make_autoencoder_run(data_dir), ONE_DEVICE), workdir)
    state = init_state(make_autoencoder_run(data_dir), make_mesh(devices=ONE_DEVICE))
    assert (
        f"checkpoints: at most 4, each up to {sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e9:.3f} GB" in text
    )
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["red"]


def test_what_a_killed_dry_run_left_is_removed_and_errors_leave_nothing(data_dir, tmp_path):
    left = tmp_path / ".dry_run-red" / "checkpoints"
    left.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"model\.text_dim = 24"):
        dry_run(FlowTask(card_config(data_dir, model={"text_dim": 24}), ONE_DEVICE), tmp_path / "red")
    assert not list(tmp_path.iterdir())


FIGURES = {"step_time_ms/p50": 1500.0, "images_per_second": 16.0}


def test_report_says_what_the_devices_tell():
    memory = {"peak_bytes_in_use": 3 * 2**30, "bytes_limit": 16 * 2**30}
    assert report(FIGURES | {"mfu": 0.42}, [2.5, 1.0], 2_000_000, 3, memory).splitlines() == [
        "compiled 2 programs in 3.5 s, one after the other",
        "last step: 1.500 s, 16.0 images/s, MFU 42%",
        "checkpoints: at most 3, each up to 0.002 GB",
        "memory: at most 3.00 GiB of 16.00 GiB on the first device",
    ]


def test_report_of_a_device_that_tells_nothing():
    lines = report(FIGURES, [], 0, 1, None).splitlines()
    assert lines[1:] == [
        "last step: 1.500 s, 16.0 images/s",
        "checkpoints: at most 1, each up to 0.000 GB",
        "memory: not reported by the device",
    ]
