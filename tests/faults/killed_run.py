"""Kills a run again and again, and at last lets it end: `python -m tests.faults.killed_run FOLDER KILLS SEED`.

The children are forked from this process, which has imported everything and never asked jax for a device: a restart
takes seconds. Leaves in FOLDER `whole.npz` and `parts.npz`, the states at the end of an undisturbed run and of the
killed one, and prints what was killed as JSON.
"""

import json
import math
import os
import pathlib
import random
import signal
import sys
import time
import traceback

import numpy as np

from tests.faults.commands import small_config
from tests.support.runs import numbers, train

SAVES = 3  # that a start may begin before it is killed; a save is made after every step


def fork(folder: pathlib.Path, name: str, steps: int) -> int:
    """Starts or continues the run `name` in a child, which leaves its last state in an .npz, and returns its id."""
    child = os.fork()
    if child:
        return child
    log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 1
    try:
        cfg = small_config(folder / "data", steps=steps, checkpoint_every=1, keep_checkpoints=3)
        state = numbers(train(cfg, folder / name))
        np.savez(folder / f"{name}.npz", allow_pickle=False, **state)  # pyright: ignore[reportArgumentType]
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)  # and not back into the caller, which is the parent's


def unfinished(workdir: pathlib.Path) -> set[int]:
    """Returns the inodes of the folders of saves that are under way or were cut short."""
    found = set()
    for path in workdir.glob("checkpoints/*.orbax-checkpoint-tmp"):
        try:
            found.add(path.stat().st_ino)
        except FileNotFoundError:
            continue  # finished meanwhile
    return found


def wait_for_saves(child: int, workdir: pathlib.Path, known: set[int], saves: int, seconds: float = math.inf) -> None:
    """Waits until the child has begun `saves` saves, has ended, or `seconds` have passed."""
    seen, until = set(known), time.monotonic() + seconds
    while len(seen - known) < saves and time.monotonic() < until:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.001)
        seen |= unfinished(workdir)


def kill(folder: pathlib.Path, rng: random.Random, steps: int, in_save: bool, longest: float) -> dict:
    """Starts the run and kills it within a save, or `longest` seconds after its start; after `SAVES` at the latest.

    However fast the machine is, a start thus makes few steps, and the run does not end before its last kill.
    """
    workdir, began = folder / "parts", time.monotonic()
    known = unfinished(workdir)
    child = fork(folder, "parts", steps)
    if in_save:
        wait_for_saves(child, workdir, known, rng.randint(1, SAVES))
        began_save = time.monotonic() - began
        wait_for_saves(child, workdir, known, SAVES, rng.uniform(0, 0.2))
    else:
        began_save = None
        wait_for_saves(child, workdir, known, SAVES, rng.uniform(0, longest))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    saved = [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdecimal()]
    return {
        "killed": os.WIFSIGNALED(status), "in_save": bool(unfinished(workdir) - known), "seconds": began_save,
        "step": max(saved, default=0),
    }  # fmt: skip


def main(folder: pathlib.Path, kills: int, seed: int) -> None:
    began, steps = time.monotonic(), (SAVES + 1) * (kills + 1)
    whole = fork(folder, "whole", steps)  # also compiles everything, prepares the data
    assert os.waitpid(whole, 0)[1] == 0, (folder / "whole.log").read_text()
    rng, report = random.Random(seed), []
    longest = 0.0
    for i in range(kills):
        report.append(kill(folder, rng, steps, in_save=i % 2 == 0, longest=longest))
        longest = max(longest, 1.5 * (report[-1]["seconds"] or 0.0))
    parts = fork(folder, "parts", steps)
    assert os.waitpid(parts, 0)[1] == 0, (folder / "parts.log").read_text()
    print(json.dumps({"kills": report, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
