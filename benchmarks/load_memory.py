"""Measures the host memory and the time that loading weights takes: `python -m benchmarks.load_memory`.

Writes random weights of NAMI-2B with fewer blocks (1.3 GB in bfloat16) as shards, and loads them in a fresh process per
case: cast or as they are stored, on one device and sharded over eight. Here the devices are the host's own memory, so
the network itself counts; what is above it has to stay below one shard and one tensor. Linux only.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from configs import presets
from nami_jax.config import ConfigError, MeshConfig, ModelConfig
from nami_jax.models.nami import abstract_model
from nami_jax.parallel.sharding import make_mesh, state_shardings
from nami_jax.planning.tables import table
from nami_jax.terminal.command_line import parse_flags
from nami_jax.weights import expected_shapes, open_tensors, save_tensors, tensor_bytes
from nami_jax.weights.nami_keys import load_nami, nami_slots


class Case(NamedTuple):
    """One way of loading."""

    stored: str  # type on disk
    wanted: str  # type of the parameters
    devices: int


CASES = [Case(stored, "bfloat16", devices) for stored in ("float32", "bfloat16") for devices in (1, 8)]
CASES.append(Case("bfloat16", "float32", 1))


class Measured(NamedTuple):
    """What loading took; sizes in bytes."""

    model: int
    peak: int  # above what the process held before
    seconds: float
    shard: int  # the largest
    tensor: int  # the largest, as stored


class RandomTensor:
    """A tensor of random numbers that exists only in the pieces that are asked for."""

    def __init__(self, shape: tuple[int, ...], dtype: str, block: np.ndarray):
        self.shape, self.dtype, self._block = shape, np.dtype(dtype), block

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.resize(self._block, np.broadcast_to(0, self.shape)[index].shape).astype(self.dtype)


def write_weights(cfg: ModelConfig, dtype: str, folder: Path, shard_bytes: int) -> None:
    """Writes random weights of a network in the released layout."""
    block = np.random.default_rng(0).standard_normal(2**20, np.float32)
    shapes = expected_shapes(nami_slots(cfg), abstract_model(cfg)[1])
    tensors = {key: RandomTensor(shape, dtype, block) for key, shape in shapes.items()}
    with tqdm(
        total=sum(map(tensor_bytes, tensors.values())), desc=f"writing {dtype}", unit="B", unit_scale=True
    ) as bar:
        save_tensors(tensors, folder, "diffusion_pytorch_model", shard_bytes, bar.update)


def memory(field: str) -> int:
    """Returns a field of this process's memory, bytes: VmRSS is now, VmHWM the most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def load(cfg: ModelConfig, folder: Path, case: Case) -> Measured:
    """Loads the weights in this process, which should have done nothing else."""
    mesh = make_mesh(MeshConfig(fsdp=case.devices))
    abstract_model(cfg)
    jax.block_until_ready(jnp.zeros(1))
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest mark
    before, start = memory("VmRSS"), time.perf_counter()
    tensors = open_tensors(folder)
    model = load_nami(
        cfg, tensors, param_dtype=jnp.dtype(case.wanted), shardings=lambda abstract: state_shardings(abstract, mesh)
    )
    jax.block_until_ready(model)
    seconds = time.perf_counter() - start
    shard = max(file.stat().st_size for file in folder.glob("*.safetensors"))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    return Measured(size, memory("VmHWM") - before, seconds, shard, max(map(tensor_bytes, tensors.values())))


def measure(arguments: Sequence[str], cases: Sequence[Case], cfg: ModelConfig, shard_bytes: int) -> Iterator[Measured]:
    """Yields what each case took, in a process of its own, started with `arguments`."""
    with tempfile.TemporaryDirectory() as name:
        for case in cases:
            folder = Path(name) / case.stored
            if not folder.exists():
                write_weights(cfg, case.stored, folder, shard_bytes)
            command = [sys.executable, "-m", "benchmarks.load_memory", *arguments, f"--load={folder}"]
            command += [f"--{field}={value}" for field, value in case._asdict().items()]
            env = os.environ | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={case.devices}",
            }
            run = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
            yield Measured(**json.loads(run.stdout))


def report(cases: Sequence[Case], measured: Sequence[Measured]) -> str:
    """Returns the table, sizes in MB, and whether every case stayed within its bound."""
    rows = []
    for case, m in zip(cases, measured, strict=True):
        name = f"{case.stored} to {case.wanted}, {case.devices} device{'s' * (case.devices > 1)}"
        sizes = [m.model, m.peak, m.peak - m.model, m.shard + m.tensor]
        rows.append((name, *(f"{size / 1e6:.0f}" for size in sizes), f"{m.seconds:.1f}"))
    header = ("loading", "model", "peak", "above the model", "shard + tensor", "seconds")
    over = [row[0] for row, m in zip(rows, measured, strict=True) if m.peak - m.model > m.shard + m.tensor]
    return f"{table(header, rows)}\n\nabove its bound: {', '.join(over) or 'none'}"


def main(argv: Sequence[str]) -> None:
    """Prints the table, or in a process of one case its measurement as JSON; exits with 1 above a bound."""
    del argv
    logging.set_verbosity(logging.WARNING)
    args = flags.FLAGS
    blocks = {"double_blocks": args.double_blocks, "stage_single_blocks": (args.single_blocks,)}
    try:
        cfg = dataclasses.replace(presets.NAMI_2B, **blocks)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error
    if args.load:
        measured = load(cfg, Path(args.load), Case(args.stored, args.wanted, args.devices))
        print(json.dumps(measured._asdict()))
        return
    arguments = [f"--double_blocks={args.double_blocks}", f"--single_blocks={args.single_blocks}"]
    text = report(CASES, list(measure(arguments, CASES, cfg, args.shard_mb * 10**6)))
    print(text)
    if not text.endswith("none"):
        raise SystemExit(1)


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_integer("double_blocks", 2, "double blocks of the network", lower_bound=1)
    flags.DEFINE_integer("single_blocks", 5, "single blocks of the network", lower_bound=0)
    flags.DEFINE_integer("shard_mb", 512, "size of a shard on disk, MB", lower_bound=1)
    flags.DEFINE_string("load", None, "folder of weights: load them in this process and print what it took")
    flags.DEFINE_string("stored", "bfloat16", "their type, for --load")
    flags.DEFINE_string("wanted", "bfloat16", "type of the parameters, for --load")
    flags.DEFINE_integer("devices", 1, "to load on, for --load", lower_bound=1)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)
