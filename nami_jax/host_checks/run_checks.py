"""Checks that a run fits its devices and that its data can be read, before anything is compiled."""

import math
import time
from collections.abc import Mapping
from pathlib import Path

import jax

from nami_jax.host_checks.findings import OK, WARNING, Finding
from nami_jax.training.task import Task

SAMPLES = 16  # that are read of each source, spread over it


def check_mesh(task: Task) -> str:
    """Says how the devices are arranged; raises `ConfigError` if they cannot be."""
    return " x ".join(f"{axis} {size}" for axis, size in task.mesh.shape.items())


def check_state(task: Task) -> str:
    """Checks that the training state can be sharded, and says how large it is, in all and on each device."""
    leaves = jax.tree.leaves(task.abstract_state())
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    each = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
    return f"{whole / 1e9:.3g} GB of parameters, EMA and moments; {each / 1e9:.3g} GB on each device"


def check_weights(task: Task, workdir: Path) -> str:
    """Opens the weights that a run starts from, and reads none."""
    return f"{len(task.open_weights(workdir))} tensors to start from"


def checkpoint_bytes(task: Task) -> int:
    """Returns the size of a checkpoint."""
    saved = jax.tree.leaves(task.state_shapes().items())
    return sum(leaf.size * leaf.dtype.itemsize for leaf in saved)


def check_data(task: Task, facts: dict[str, Mapping[str, str]]) -> Finding:
    """Opens the data as the run will, unless they would have to be built first, and reads a few samples of each source.

    The numbers of samples go into `facts`: they must be the same on all hosts.
    """
    sources, data = task.ready_sources(), task.cfg.data
    if sources is None:
        return Finding(
            "data",
            WARNING,
            f"{data.name} is not in {data.data_dir} yet. Training will build it "
            "first, on each host that does not find it there.",
        )
    facts["samples"] = {split: str([len(source) for source in those]) for split, those in sources.items()}
    flat = [source for those in sources.values() for source in those]
    start = time.perf_counter()
    for source in flat:
        for i in range(SAMPLES):
            _ = source[i * len(source) // SAMPLES]
    seconds = (time.perf_counter() - start) / (SAMPLES * len(flat))
    count = sum(map(len, sources["train"]))
    return Finding("data", OK, f"{count} samples to train on; reads {1 / seconds:.0f} per second", cost=seconds)
