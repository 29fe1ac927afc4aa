"""The part `profile` of `benchmarks.accelerator`: where a forward pass of the last stage spends the device's time."""

import collections
import dataclasses
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax

from benchmarks.accelerator_parts import Row, Sizes, layouts, random_network
from benchmarks.pytorch_flux import compiled_forward, inputs, our_arguments, take_apart

PASSES = 3
# Command buffers launch many kernels as one, whose parts the profiler would not see.
SEPARATE_KERNELS = {"xla_gpu_enable_command_buffer": ""}
# The first that a kernel's name fits; names of XLA's, cuBLAS's, cuDNN's and, on CPUs, YNNPACK's kernels.
KINDS = (
    ("attention", r"sdpa|fmha|flash|dot_product_attention"),
    ("matrix products", r"nvjet|gemm|cutlass|ynn|(^|_)dot"),
    ("copies", r"^(memcpy|copy)"),
    ("concatenations", r"concatenate"),
    ("slices and sums", r"memset|slice|reduce"),
)
ELEMENTWISE = "elementwise"


def kind(kernel: str) -> str:
    """Returns what a kernel does, by its name."""
    return next((what for what, pattern in KINDS if re.search(pattern, kernel, re.IGNORECASE)), ELEMENTWISE)


def kernels(trace: Path) -> Iterator[tuple[str, float]]:
    """Yields name and seconds of each kernel in a trace, by the device's planes or else XLA's threads."""
    (path,) = trace.rglob("*.xplane.pb")
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices or planes:
        for line in plane.lines:
            if devices or line.name.startswith("tf_XLA"):
                yield from ((event.name, event.duration_ns / 1e9) for event in line.events if "::" not in event.name)


def by_kind(timed: Iterable[tuple[str, float]], passes: int) -> list[Row]:
    """Adds up kernels by kind; returns milliseconds and calls of one pass, the longest first."""
    seconds = collections.defaultdict[str, list[float]](list)
    for name, taken in timed:
        seconds[kind(name)].append(taken)
    rows = [{"kernels": what, "ms": sum(t) / passes * 1e3, "calls": len(t) / passes} for what, t in seconds.items()]
    return sorted(rows, key=lambda row: -row["ms"])


def profile(sizes: Sizes) -> Iterator[Row]:
    """Measures two rows' forward pass of the last stage, kernel by kernel; kernels of several streams overlap."""
    cfg = dataclasses.replace(sizes.model, stage_single_blocks=sizes.model.stage_single_blocks[-1:])
    network, layout = random_network(cfg), layouts()["kernel"]
    arguments = network, take_apart(network), *our_arguments(inputs(cfg, sizes.side, sizes.text_tokens, batch=2))
    lowered = compiled_forward(layout).lower(*arguments)
    run = lowered.compile(compiler_options=dict(SEPARATE_KERNELS))
    jax.block_until_ready(run(*arguments))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready([run(*arguments) for _ in range(PASSES)])
        yield from by_kind(kernels(Path(folder)), PASSES)
