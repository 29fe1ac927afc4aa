"""What `benchmarks.accelerator` measures: each function here is one part, and returns the rows of its table.

A row is a dict of what was measured, by name and unit. `TFLOP/s` counts the products of `nami_jax.monitoring.flops`.
"""

import dataclasses
import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.inference import Contender, Workload, make_contenders, random_text, sample_by_stage
from benchmarks.timing import queued
from benchmarks.train_step import Trainer
from configs import presets
from nami_jax.config import (
    AutoencoderConfig,
    Config,
    DataConfig,
    FlowConfig,
    ModelConfig,
    SampleConfig,
    TextConfig,
    TrainConfig,
)
from nami_jax.models.attention import cudnn_attention, kernel_for
from nami_jax.models.layout import ONE_DEVICE, Layout
from nami_jax.models.nami import Nami, abstract_model
from nami_jax.monitoring.chips import GIB
from nami_jax.monitoring.flops import sampling_flops, training_flops
from nami_jax.parallel.activations import MeshLayout
from nami_jax.parallel.sharding import make_mesh

Row = dict[str, Any]
MIB = 2**20
DETERMINISTIC = {"xla_gpu_exclude_nondeterministic_ops": True}
REFUSALS = (NotImplementedError, RuntimeError, ValueError)  # by jax, by XLA, by either


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured; the defaults are NAMI-2B's at 1024 pixels."""

    model: ModelConfig = presets.NAMI_2B
    side: int = 128  # of the final latents
    text_tokens: int = 256
    steps: tuple[int, ...] = (10, 10, 10)
    images: tuple[int, ...] = (1, 2)  # sampled at a time
    stage_batch: tuple[int, ...] = (1, 2, 4)  # of a training step
    matmul_side: int = 8192
    copied: int = 4 * GIB
    heads: tuple[tuple[int, int], ...] = ((16, 128), (32, 64))  # heads and their channels
    lengths: tuple[int, ...] = (512, 1280, 4352, 4353)  # text and image tokens of the stages, and an odd number
    rounds: int = 3
    repeats: int = 10
    run_steps: int = 60  # of the run that `start` trains


TINY = Sizes(
    model=ModelConfig(
        channels=4, patch_size=2, num_heads=2, rope_axes=(4, 6, 6), double_blocks=1, stage_single_blocks=(1, 1),
        mlp_ratio=4, text_dim=24, pooled_dim=12, dtype="bfloat16", scan_blocks=True, remat=True,
    ),
    side=8, text_tokens=4, steps=(1, 1), images=(1,), stage_batch=(2, 1), matmul_side=64, copied=MIB,
    heads=((2, 16),), lengths=(8, 9), rounds=1, repeats=2, run_steps=2,
)  # fmt: skip


def layouts() -> dict[str, Layout]:
    """Returns how attention can be computed here: plain, and by the platform's kernel, where it has one."""
    return {"plain": ONE_DEVICE, "kernel": MeshLayout(make_mesh(devices=jax.devices()[:1]))}


def temporaries(compiled: Any) -> int:
    """Returns the bytes that a compiled program needs beside its arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes


def ceiling(sizes: Sizes) -> Iterator[Row]:
    """Measures what the device reaches: matrix products, and reading and writing memory."""
    n, timed = sizes.matmul_side, functools.partial(queued, rounds=sizes.rounds, repeats=sizes.repeats)
    for dtype, precision in (("bfloat16", "default"), ("float32", "default"), ("float32", "highest")):
        left, right = jax.random.normal(jax.random.key(0), (2, n, n)).astype(dtype)
        seconds = timed(jax.jit(functools.partial(jnp.matmul, precision=precision)), left, right)
        what = f"product of two {n} x {n} matrices, {dtype}, {precision} precision"
        yield {"what": what, "ms": seconds * 1e3, "TFLOP/s": 2 * n**3 / seconds / 1e12}
    x = jax.random.normal(jax.random.key(0), (sizes.copied // 2,), jnp.bfloat16)
    seconds = timed(jax.jit(jnp.negative), x)
    yield {"what": f"{sizes.copied / GIB:g} GiB negated", "ms": seconds * 1e3, "GB/s": 2 * x.nbytes / seconds / 1e9}


Attention = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def attentions(head_dim: int, odd: bool) -> dict[str, tuple[Attention, dict[str, bool]]]:
    """Returns the ways to compute attention and the compiler's options for each: XLA's, cuDNN's as it is, and ours.

    Ours is cuDNN's where the length is even: there it is measured with the same bits at every call.
    """
    ways: dict[str, tuple[Attention, dict[str, bool]]] = {
        name: (functools.partial(jax.nn.dot_product_attention, implementation=name), {}) for name in ("xla", "cudnn")
    }
    kernel = kernel_for(jax.devices()[0], head_dim, jnp.bfloat16)
    if odd or kernel is not cudnn_attention:
        return ways | {"ours": (kernel, {})}
    return ways | {"ours, deterministic": (kernel, DETERMINISTIC)}


def with_gradient(attend: Attention) -> Callable[..., tuple[jax.Array, ...]]:
    """Returns (q, k, v, weights) -> the gradients of the weighted sum of the outputs."""
    return jax.grad(lambda q, k, v, w: jnp.vdot(attend(q, k, v).astype(jnp.float32), w), argnums=(0, 1, 2))


def relative_error(found: Any, expected: Any) -> float:
    """Returns |found - expected| / |expected| over all arrays of two trees."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    squares = [(jnp.sum(jnp.square(f.astype(jnp.float32) - e)), jnp.sum(jnp.square(e))) for f, e in pairs]
    return float(jnp.sqrt(sum(s for s, _ in squares) / sum(s for _, s in squares)))


def attention(sizes: Sizes) -> Iterator[Row]:
    """Measures attention alone in bfloat16, two rows of a batch, by length and size of heads, forward and backward."""
    for heads, head_dim in sizes.heads:
        for length in sizes.lengths if head_dim == sizes.heads[0][1] else sizes.lengths[-2:-1]:
            keys = jax.random.split(jax.random.key(length), 4)
            q, k, v, w = (jax.random.normal(key, (2, length, heads, head_dim)) for key in keys)
            q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))
            with jax.default_matmul_precision("highest"):
                exact = functools.partial(jax.nn.dot_product_attention, *(x.astype(jnp.float32) for x in (q, k, v)))
                out = jax.jit(exact)()
                grads = jax.jit(with_gradient(jax.nn.dot_product_attention))(
                    *(x.astype(jnp.float32) for x in (q, k, v)), w
                )
            flops = 4 * 2 * heads * length**2 * head_dim
            for way, (attend, options) in attentions(head_dim, length % 2 == 1).items():
                named = {"heads": f"{heads} x {head_dim}", "length": length, "by": way}
                cases = (
                    ("forward", attend, (q, k, v), out, 1),
                    ("and backward", with_gradient(attend), (q, k, v, w), grads, 3),
                )
                for direction, function, args, expected, products in cases:
                    row = named | {"pass": direction}
                    measured = _measured(function, args, options, expected, sizes)
                    rate = {"TFLOP/s": products * flops / measured["ms"] / 1e9} if "ms" in measured else {}
                    yield row | measured | rate


def _measured(function: Any, args: Sequence[jax.Array], options: dict[str, bool], expected: Any, sizes: Sizes) -> Row:
    try:
        compiled = jax.jit(function).lower(*args).compile(compiler_options=dict(options))
        found = compiled(*args)
    except REFUSALS as error:
        return {"refused": str(error).strip().splitlines()[0][:100]}
    seconds = queued(compiled, *args, rounds=sizes.rounds, repeats=sizes.repeats)
    again = all(map(np.array_equal, *(map(np.asarray, jax.tree.leaves(x)) for x in (found, compiled(*args)))))
    return {
        "ms": seconds * 1e3,
        "temporaries MiB": temporaries(compiled) / MIB,
        "error": relative_error(found, expected),
        "bits repeat": "yes" if again else "no",
    }


def random_network(cfg: ModelConfig) -> Nami:
    """Draws every parameter on the device, in the compute type."""
    structure, shapes = abstract_model(cfg)
    leaves, tree = jax.tree.flatten(shapes)

    @jax.jit
    def draw(key: jax.Array) -> list[jax.Array]:
        keys = jax.random.split(key, len(leaves))
        return [(0.02 * jax.random.normal(k, x.shape)).astype(cfg.dtype) for k, x in zip(keys, leaves, strict=True)]

    return nnx.merge(structure, jax.tree.unflatten(tree, draw(jax.random.key(0, impl="rbg"))))


def sampling(sizes: Sizes, way: str) -> Iterator[Row]:
    """Measures guided sampling by stage, and by a single flow of the same network that runs every step at full size."""
    network, layout = random_network(sizes.model), layouts()[way]
    params, rng = nnx.state(network), np.random.default_rng(0)
    runs: dict[tuple[int, Contender], Callable[[], list[float]]] = {}
    for images in sizes.images:
        workload = Workload(sizes.side, sizes.text_tokens, images)
        text = random_text(sizes.model, workload, rng)
        for contender in make_contenders(sizes.model, SampleConfig(sizes.steps)):
            model = nnx.merge(abstract_model(contender.model)[0], params)
            runs[images, contender] = functools.partial(
                lambda *args: sample_by_stage(*args)[1], model, text, contender.sample, workload, layout
            )
    start = time.perf_counter()
    with ThreadPoolExecutor() as pool:  # all of it compiles at once
        list(pool.map(lambda run: run(), runs.values()))
    first = time.perf_counter() - start
    for (images, contender), run in runs.items():
        seconds = np.median([run() for _ in range(sizes.rounds)], axis=0)
        flops = sampling_flops(contender.model, contender.sample, sizes.side, sizes.text_tokens, images)
        named = {"images": images, "attention": way}
        parts = [(f"stage {k}", *part) for k, part in enumerate(zip(seconds, flops, strict=True), start=1)]
        for part, taken, count in (*(parts if len(parts) > 1 else []), ("all", sum(seconds), sum(flops))):
            what = f"{contender.name}, {part}"
            yield named | {"what": what, "seconds": float(taken), "TFLOP/s": count / float(taken) / 1e12}
    yield {"what": "compiled all and drew once", "attention": way, "seconds": first}
    yield from peak_memory()


def peak_memory() -> Iterator[Row]:
    """Yields the most memory that this process's arrays have taken, where jax counts it."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        yield {"what": "peak memory", "GiB": stats["peak_bytes_in_use"] / GIB}


def run_config(sizes: Sizes) -> Config:
    """Returns a run that trains the network on latents of `side`; its training step is traced, and no file is read."""
    return Config(
        model=sizes.model,
        flow=FlowConfig(),
        data=DataConfig("", "train", "held_out", "image", "captions", side=sizes.side, prepared="of no file"),
        text=TextConfig(max_length=sizes.text_tokens),
        train=TrainConfig(stage_batches=(sizes.stage_batch,), phase_starts=(0.0,), phase_learning_rates=(1e-4,)),
        sample=SampleConfig(sizes.steps),
        autoencoder=AutoencoderConfig(folder="of no file", downscale=1),
    )


class Variant(NamedTuple):
    """How a training step computes."""

    attention: str  # of `layouts`
    dtype: str
    remat: bool


KERNEL, PLAIN = Variant("kernel", "bfloat16", True), Variant("plain", "bfloat16", True)
POLICIES = KERNEL, Variant("kernel", "bfloat16", False), Variant("plain", "float32", True)


def training(sizes: Sizes, variants: Sequence[Variant]) -> Iterator[Row]:
    """Measures training steps and their memory; one that does not fit is only compiled."""
    cfg = run_config(sizes)
    trainer = Trainer(cfg, sizes.stage_batch, make_mesh(devices=jax.devices()[:1]))
    flops = sum(training_flops(cfg, sizes.stage_batch))
    for variant in variants:
        model = dataclasses.replace(cfg.model, dtype=variant.dtype, remat=variant.remat)
        step, seconds = trainer.compile(dataclasses.replace(cfg, model=model), layouts()[variant.attention])
        memory, row = step.memory_analysis(), variant._asdict() | {"compile s": seconds}
        needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        row |= {"state GiB": memory.argument_size_in_bytes / GIB, "temporaries GiB": memory.temp_size_in_bytes / GIB}
        if needed <= (jax.devices()[0].memory_stats() or {}).get("bytes_limit", needed):
            run = trainer.program(step, count=3)
            run()
            seconds = float(np.median([run() for _ in range(sizes.rounds)]))
            row |= {"step ms": seconds * 1e3, "TFLOP/s": flops / seconds / 1e12}
        yield row
    yield from peak_memory()


def start(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Measures commands from start to end: training of the default run, and a picture by it, cold and warm."""
    run, cache, pictures = (str(folder / name) for name in ("run", "cache", "pictures"))
    fields = [f"--config.train.steps={sizes.run_steps}", f"--workdir={run}"]
    sample = ["nami_jax.sample", f"--checkpoint={run}", "--prompt=a red apple", f"--out={pictures}"]
    cached = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    commands = {
        f"train {sizes.run_steps} steps of configs/emoji_tiny.py": (
            ["nami_jax.train", "--config=configs/emoji_tiny.py", *fields],
            {},
        ),
        "sample, compilation cache empty": (sample, cached),
        "sample, compilation cache filled": (sample, cached),
    }
    for what, (arguments, env) in commands.items():
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", *arguments], env=os.environ | env, stdout=subprocess.DEVNULL)
        yield {"what": what, "seconds": time.perf_counter() - begun, "exit": done.returncode}
