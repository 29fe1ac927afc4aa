"""Times programs against each other on a machine that others may be using: turn by turn, reported by medians."""

import importlib.metadata
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

PACKAGES = ("jax", "jaxlib", "flax", "optax", "nvidia-cudnn-cu13", "libtpu", "torch", "diffusers")

Timed = Callable[[], list[float]]  # runs a program once and returns the seconds of each of its parts


def about() -> dict[str, str]:
    """Returns the device, the versions and the date of what was just measured."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"device": jax.devices()[0].device_kind, "date": time.strftime("%Y-%m-%d"), **found}


def clock(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """Calls `function` and waits for its arrays; returns its result and the seconds it took."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return result, time.perf_counter() - start


def interleave(programs: Mapping[str, Timed], rounds: int, desc: str, warm_up: int = 1) -> dict[str, np.ndarray]:
    """Runs programs A, B, A, B, ... so that what slows the machine down for a while slows all of them.

    Args:
        programs: by name, in the order of a round.
        rounds: that are kept.
        desc: of the progress bar.
        warm_up: rounds before them that are not kept: a program's first call compiles.

    Returns:
        For each program (rounds, parts) seconds.
    """
    seconds: dict[str, list[list[float]]] = {name: [] for name in programs}
    with tqdm(total=(warm_up + rounds) * len(programs), desc=desc, unit="run") as bar:
        for _ in range(warm_up + rounds):
            for name, program in programs.items():
                bar.set_postfix_str(name)
                seconds[name].append(program())
                bar.update()
    return {name: np.array(rows[warm_up:]) for name, rows in seconds.items()}


def matmul(dtype: str, side: int) -> Timed:
    """Returns a program that times one product of two (side, side) matrices: 2 side^3 FLOPs."""
    left, right = jax.random.normal(jax.random.key(0), (2, side, side)).astype(dtype)
    product = jax.jit(jnp.matmul)
    return lambda: [clock(product, left, right)[1]]


def queued(function: Callable[..., Any], *args: Any, rounds: int, repeats: int) -> float:
    """Returns the seconds of one call, the median of `rounds` rounds of `repeats` calls that wait only for the last.

    So an accelerator is never idle between two calls. One call before them is not counted: it compiles and warms up.
    """
    jax.block_until_ready(function(*args))

    def call_all() -> Any:
        result = None
        for _ in range(repeats):
            result = function(*args)
        return result

    return float(np.median([clock(call_all)[1] for _ in range(rounds)])) / repeats
