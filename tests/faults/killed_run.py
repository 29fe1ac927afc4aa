"""Kills a run again and again, and at last lets it end: `python -m tests.faults.killed_run FOLDER KILLS SEED`.

The children are forked from this process, which has imported everything and never asked jax for a device: a restart
takes seconds. Leaves in FOLDER `whole.npz` and `parts.npz`, the states at the end of an undisturbed run and of the
killed one, and prints what was killed as JSON.
"""

import json
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

STEPS = 60


def fork(folder: pathlib.Path, name: str) -> int:
    """Starts or continues the run `name` in a child, which leaves its last state in an .npz, and returns its id."""
    child = os.fork()
    if child:
        return child
    log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 1
    try:
        cfg = small_config(folder / "data", steps=STEPS, checkpoint_every=1, keep_checkpoints=3)
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


def wait_for_save(child: int, workdir: pathlib.Path, known: set[int], skip: int) -> None:
    """Waits until the child has begun `skip` saves and one more, or has ended."""
    seen = set(known)
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        new = unfinished(workdir) - seen
        if new and skip == 0:
            return
        skip -= len(new)
        seen |= new
        time.sleep(0.001)


def kill(folder: pathlib.Path, rng: random.Random, in_save: bool, longest: float) -> dict:
    """Starts the run and kills it within a save, or `longest` seconds after its start at the latest."""
    workdir, began = folder / "parts", time.monotonic()
    known = unfinished(workdir)
    child = fork(folder, "parts")
    if in_save:
        wait_for_save(child, workdir, known, skip=rng.randrange(3))
        began_save = time.monotonic() - began
        time.sleep(rng.uniform(0, 0.2))
    else:
        began_save = None
        time.sleep(rng.uniform(0, longest))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    steps = [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdecimal()]
    return {
        "killed": os.WIFSIGNALED(status), "in_save": bool(unfinished(workdir) - known), "seconds": began_save,
        "step": max(steps, default=0),
    }  # fmt: skip


def main(folder: pathlib.Path, kills: int, seed: int) -> None:
    began = time.monotonic()
    whole = fork(folder, "whole")  # also compiles everything, prepares the data
    assert os.waitpid(whole, 0)[1] == 0, (folder / "whole.log").read_text()
    rng, report = random.Random(seed), []
    longest = 0.0
    for i in range(kills):
        report.append(kill(folder, rng, in_save=i % 2 == 0, longest=longest))
        longest = max(longest, 1.5 * (report[-1]["seconds"] or 0.0))
    parts = fork(folder, "parts")
    assert os.waitpid(parts, 0)[1] == 0, (folder / "parts.log").read_text()
    print(json.dumps({"kills": report, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
