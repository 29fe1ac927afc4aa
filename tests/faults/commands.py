"""The training command on the cards as a process of its own: one device, compiled programs kept between processes."""

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nami_jax.checkpoints.checkpoint import Checkpoints
from nami_jax.config import Config
from nami_jax.config.autoencoder_run import AutoencoderRun
from nami_jax.training.tasks import read_task
from tests.support import patience, xla
from tests.support.autoencoder_runs import make_autoencoder_run
from tests.support.paths import ROOT
from tests.support.runs import card_config, numbers, restored

CONFIG_FILE = """
from ml_collections import ConfigDict

from tests.faults.commands import small_autoencoder, small_config

def get_config():
    return ConfigDict({make}({data_dir!r}, **{train!r}).to_dict())
"""
STEPS = 100_000  # which no test waits for, on a slow machine either
SELDOM = dict.fromkeys(("steps", "checkpoint_every", "eval_every", "log_every", "sample_every"), STEPS)


def small_autoencoder(data_dir: pathlib.Path | str, **train: Any) -> AutoencoderRun:
    """Returns the training of an autoencoder on the cards, with fields of `train` set."""
    return make_autoencoder_run(data_dir, loss={"perceptual": 0.0}, train=SELDOM | train)


def small_config(data_dir: pathlib.Path | str, **train: Any) -> Config:
    """Returns a run of a single stage on the cards, whose step is compiled in seconds, with fields of `train` set."""
    train = SELDOM | {"stage_batches": ((8,),)} | train
    return card_config(pathlib.Path(data_dir), model={"stage_single_blocks": (1,)}, sample={"steps": (2,)}, train=train)


def environment(cache: pathlib.Path) -> dict[str, str]:
    """Returns the environment of a process with one device: on several, jax 0.10.2 hangs on cached programs."""
    return os.environ | {
        "XLA_FLAGS": xla.FAST, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1",
        "JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }  # fmt: skip


class Commands:
    """The command for one run, in any workdir below a folder."""

    def __init__(self, folder: pathlib.Path, make: Callable[..., Any] = small_config, **train: Any):
        """Writes the run's config, as `make` makes it, into `folder`, where its data and compiled programs go too."""
        self.folder, self.cfg = folder, make(folder / "data", **train)
        self.config = folder / f"cards{len(list(folder.glob('cards*.py')))}.py"
        self.config.write_text(CONFIG_FILE.format(make=make.__name__, data_dir=str(folder / "data"), train=train))

    def arguments(self, workdir: pathlib.Path, *flags: str) -> list[str]:
        command = [sys.executable, "-m", "nami_jax.train", "--config", str(self.config), "--workdir", str(workdir)]
        return [*command, *flags]

    def start(self, workdir: pathlib.Path, *flags: str) -> subprocess.Popen:
        """Starts the command with its output, warnings and bars in one pipe."""
        return subprocess.Popen(
            self.arguments(workdir, *flags), env=environment(self.folder / "cache"), cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, workdir: pathlib.Path, *flags: str, status: int = 0) -> str:
        """Runs the command to its end and returns its output."""
        with self.start(workdir, *flags) as process:
            output, _ = patience.finish(process, 300)
        assert process.returncode == status, output
        return output

    def newest(self, workdir: pathlib.Path) -> dict[str, np.ndarray]:
        """Returns the numbers of a run's newest checkpoint."""
        task = read_task(self.cfg.to_dict(), jax.devices()[:1])
        with Checkpoints(workdir, task.cfg) as checkpoints:
            return numbers(restored(checkpoints, task)[0])


STEPPING = r"\d(step/s|s/step)"  # in the bar, once a step is made


def read_until(process: subprocess.Popen, pattern: str) -> str:
    """Returns what a process prints up to a match of a regular expression, waiting for it."""
    assert process.stdout is not None
    output = ""
    while not re.search(pattern, output[-200:]):
        letter = process.stdout.read(1)
        assert letter, output
        output += letter
    return output
