"""Fills the disk beneath a run: `python -m tests.faults.full_disk ACTION DISK FOLDER [POINTS]`.

DISK is a small file system, FOLDER has room for what does not belong on it. What happened is checked by `test_disk`,
from the lines of JSON that are printed here.
"""

import json
import os
import pathlib
import shutil
import sys
import time

import numpy as np

from nami_jax.checkpoints.checkpoint import CheckpointError, Checkpoints
from nami_jax.checkpoints.orbax import mute_orbax
from nami_jax.monitoring.events import EventWriter
from tests.faults.commands import Commands, small_config
from tests.support.runs import numbers, train

PAGE = 4096  # bytes


class Ballast:
    """Leaves so many pages of a disk free."""

    def __init__(self, disk: pathlib.Path, free: int):
        self._file, self._disk, self._free = disk / "ballast", disk, free

    def __enter__(self):
        stat = os.statvfs(self._disk)
        self._file.write_bytes(bytes(stat.f_bavail * stat.f_frsize - self._free * PAGE))

    def __exit__(self, *exception):
        self._file.unlink()


def failure_of(action) -> dict:
    began = time.monotonic()
    try:
        action()
    except (CheckpointError, OSError) as error:
        return {"error": type(error).__name__, "message": str(error), "seconds": time.monotonic() - began}
    return {"error": None}


def say(**values) -> None:
    print(json.dumps(values), flush=True)


def pages(folder: pathlib.Path) -> int:
    return sum(path.stat().st_blocks * 512 // PAGE for path in folder.rglob("*"))


def save(disk: pathlib.Path, folder: pathlib.Path, points: str) -> None:
    """Runs out of space at points of a run's beginning and its saves, and continues when there is some again."""
    mute_orbax()
    cfg = small_config(folder / "data", checkpoint_every=1, keep_checkpoints=3)
    whole, workdir = numbers(train(cfg, folder / "whole", stop_after=4)), disk / "run"
    train(cfg, disk / "begun", stop_after=2)
    size = pages(disk / "begun" / "checkpoints" / "2")
    for free in np.linspace(1, 2.8 * size, int(points), dtype=int):
        shutil.copytree(disk / "begun", workdir)
        with Ballast(disk, int(free)):
            failure = failure_of(lambda: train(cfg, workdir, stop_after=4))
            with Checkpoints(workdir) as checkpoints:
                newest = checkpoints.latest_step()
        state = numbers(train(cfg, workdir, stop_after=4))
        differing = [name for name in whole if not np.array_equal(whole[name], state[name])]
        say(free=int(free), size=size, newest=newest, differing=differing, **failure)
        shutil.rmtree(workdir)


def command(disk: pathlib.Path, folder: pathlib.Path) -> None:
    """Lets the command meet a full disk at a sample grid and at a save, and run once more."""
    commands = Commands(folder, checkpoint_every=1)
    workdir = disk / "run"
    commands.run(workdir, "--stop_after=1")
    for name, cadence, free in (("grid", "sample_every=1", 8), ("save", "checkpoint_every=100", 60)):
        with Ballast(disk, free):
            say(name=name, output=commands.run(workdir, f"--config.train.{cadence}", status=1))
    say(name="after", output=commands.run(workdir, "--stop_after=3"))


def events(disk: pathlib.Path, folder: pathlib.Path) -> None:
    """Leaves no space for events, small ones and large ones."""
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)

    def write(large: bool) -> None:
        with EventWriter(disk / "run", 0) as writer:
            for step in range(500):
                writer.scalars(step, {f"loss/{i}": 1.0 for i in range(30)})
                if large:
                    writer.picture(step, "samples", picture)
                time.sleep(0.005)

    for large in (False, True):
        with Ballast(disk, 8):
            say(**failure_of(lambda large=large: write(large)))


if __name__ == "__main__":
    actions = {"save": save, "command": command, "events": events}
    actions[sys.argv[1]](*map(pathlib.Path, sys.argv[2:4]), *sys.argv[4:])
