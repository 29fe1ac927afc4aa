"""Times sampling by progressive flow against single flow, in one run: `python -m benchmarks.inference`.

The two models have the same parameters and the same number of solver steps; the progressive one takes a third of them
at each of three sizes, the coarser ones through fewer blocks. Weights are random: the time does not depend on them.

By default the sequences are those of a 1024-pixel image and the network is narrow enough for two cores. Attention is
most of its cost, so the ratio of FLOPs is 0.37; at the paper's sizes it is 0.40:

python -m benchmarks.inference --preset nami_2b
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from flax import nnx

from benchmarks.timing import Timed, interleave
from configs import presets
from nami_jax.config import ConfigError, ModelConfig, SampleConfig, choices, parse_steps
from nami_jax.flow.transition import Renoise
from nami_jax.models.layout import ONE_DEVICE, Layout
from nami_jax.models.nami import Nami, abstract_model
from nami_jax.monitoring.flops import sampling_flops
from nami_jax.planning.tables import table
from nami_jax.planning.xla_flops import sampling_xla_flops
from nami_jax.sampling.sampler import Request, make_sampler
from nami_jax.sampling.stage_programs import Networks
from nami_jax.terminal.command_line import parse_flags

# NAMI-2B with one of its 16 heads and depths 2, 3, 4 for 9, 16, 22.
NARROW = dataclasses.replace(
    presets.NAMI_2B, num_heads=1, double_blocks=1, stage_single_blocks=(1, 2, 3), text_dim=256, pooled_dim=64,
    dtype="float32", scan_blocks=False,
)  # fmt: skip
PRESETS = {"narrow": NARROW, "nami_0_6b": presets.NAMI_0_6B, "nami_2b": presets.NAMI_2B}


@dataclasses.dataclass(frozen=True)
class Workload:
    """What both models sample: `batch` images of side x side latents, from `text_tokens` T token states each."""

    side: int
    text_tokens: int
    batch: int


@dataclasses.dataclass(frozen=True)
class Contender:
    """A network and how it samples."""

    name: str
    model: ModelConfig
    sample: SampleConfig


def make_contenders(model: ModelConfig, sample: SampleConfig) -> tuple[Contender, Contender]:
    """Returns the progressive contender, and the K = 1 one with its parameters and number of solver steps."""
    single_model = dataclasses.replace(model, stage_single_blocks=model.stage_single_blocks[-1:])
    single_sample = dataclasses.replace(sample, steps=(sum(sample.steps),))
    return Contender("progressive", model, sample), Contender("single flow", single_model, single_sample)


def random_params(model: ModelConfig, rng: np.random.Generator) -> Any:
    """Draws every parameter, those too that training starts at 0: chips run cooler, thus faster, on zeros."""
    shapes = abstract_model(model)[1]
    return jax.tree.map(lambda p: jnp.asarray(0.02 * rng.standard_normal(p.shape, np.float32)), shapes)


def random_text(model: ModelConfig, workload: Workload, rng: np.random.Generator) -> tuple[jax.Array, jax.Array]:
    """Draws token states (2B, T, text_dim) and pooled vectors (2B, pooled_dim) of prompts and negative prompts."""
    shapes = (2 * workload.batch, workload.text_tokens, model.text_dim), (2 * workload.batch, model.pooled_dim)
    embeds, pooled = (jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes)
    return embeds, pooled


def sample_by_stage(
    model: Nami, text: tuple, sample: SampleConfig, workload: Workload, layout: Layout = ONE_DEVICE
) -> tuple[jax.Array, list[float]]:
    """Samples by renoising, waiting for each stage.

    Args:
        model: the network.
        text: token states (2B, T, D) and pooled vectors (2B, P), prompts first.
        sample: steps per stage, guidance scale, grid and solver.
        workload: sizes.
        layout: how attention is computed.

    Returns:
        The latents (B, side, side, C), and the seconds of each stage with its noise and the jump into it.
    """
    x, seconds, start = None, [], time.perf_counter()
    request = Request(workload.side, workload.side, seed=0, numbers=range(workload.batch))
    for end in make_sampler(model.cfg, layout=layout).by_stage(Networks(model, Renoise()), text, sample, request):
        x = end.x
        x.block_until_ready()
        seconds.append(time.perf_counter() - start - sum(seconds))
    assert x is not None
    return x, seconds


def make_network(params: Any, model: ModelConfig) -> Nami:
    """Builds a network around parameters that several networks may share."""
    return nnx.merge(abstract_model(model)[0], params)


def measure(contenders: Sequence[Contender], workload: Workload, rounds: int) -> list[np.ndarray]:
    """Times contenders of the same parameters in turns.

    Returns:
        For each contender (rounds, K) seconds by stage.

    Raises:
        ConfigError: steps of the wrong length, or a side that the stages or patches do not divide.
    """
    for contender in contenders:
        make_sampler(contender.model).check(contender.sample, Renoise(), workload.side, workload.side)
    rng, model = np.random.default_rng(0), contenders[0].model
    params, text = random_params(model, rng), random_text(model, workload, rng)

    def make_program(contender: Contender) -> Timed:
        network = make_network(params, contender.model)
        return lambda: sample_by_stage(network, text, contender.sample, workload)[1]

    seconds = interleave({c.name: make_program(c) for c in contenders}, rounds, "sampling")
    return list(seconds.values())


def count_flops(contender: Contender, workload: Workload) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Counts the FLOPs of each stage from the sizes and by XLA."""
    work = contender.model, contender.sample, workload.side, workload.text_tokens, workload.batch
    return sampling_flops(*work), sampling_xla_flops(*work)


def report_rows(contender: Contender, workload: Workload, seconds: np.ndarray) -> list[tuple[str, ...]]:
    """Returns a contender's rows of the table: its stages and then end to end, given (rounds, K) seconds."""
    model, steps = contender.model, contender.sample.steps
    tokens = model.image_tokens(workload.side, workload.side)
    flops, xla = count_flops(contender, workload)
    total = float(np.median(seconds.sum(axis=1)))

    def row(label, sizes, flops, xla, time):
        tera = f"{flops / 1e12:.4g}", f"{xla / 1e12:.4g}"
        return label, *map(str, sizes), *tera, f"{time:.3f}", f"{time / total:.1%}", f"{flops / time / 1e9:.1f}"

    rows = []
    for k, singles in enumerate(model.stage_single_blocks):
        sizes = tokens[k], model.double_blocks + singles, steps[k]
        rows.append(row(f"{contender.name}, stage {k + 1}", sizes, flops[k], xla[k], np.median(seconds[:, k])))
    return [*rows, row(f"{contender.name}, end to end", ("", "", sum(steps)), sum(flops), sum(xla), total)]


def report(contenders: Sequence[Contender], workload: Workload, seconds: Sequence[np.ndarray]) -> str:
    """Returns the table and the ratios of the first contender to the second, last the median of the rounds' ratios."""
    rows = [row for c, times in zip(contenders, seconds, strict=True) for row in report_rows(c, workload, times)]
    header = ("", "image tokens", "blocks", "steps", "TFLOP", "TFLOP by XLA", "seconds", "share", "GFLOP/s")
    ours, theirs = (times.sum(axis=1) for times in seconds)  # (rounds,)
    flops, their_flops = (sum(count_flops(contender, workload)[0]) for contender in contenders)
    rounds = " ".join(f"{ratio:.3f}" for ratio in ours / theirs)
    ratios = f"ratio of FLOPs {flops / their_flops:.3f}, of seconds by round {rounds}"
    # The two of a round run next to each other, so what else the machine does hits both alike.
    return f"{table(header, rows)}\n\n{ratios}\nratio {np.median(ours / theirs):.3f}"


def with_flags(preset: str, heads: int | None, dtype: str | None) -> ModelConfig:
    """Returns a preset, with another width or compute type where they are given."""
    changes = {"num_heads": heads, "dtype": dtype}
    return dataclasses.replace(PRESETS[preset], **{name: value for name, value in changes.items() if value is not None})


def main(argv: Sequence[str]) -> None:
    """Prints the table and, last, the ratio."""
    del argv
    logging.set_verbosity(logging.WARNING)
    args = flags.FLAGS
    workload = Workload(args.side, args.text_tokens, args.batch)
    try:
        model = with_flags(args.preset, args.heads, args.dtype)
        steps = parse_steps(args.steps)
        contenders = make_contenders(model, SampleConfig(steps, args.guidance_scale))
        seconds = measure(contenders, workload, args.rounds)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{args.preset}, width {model.width}, {model.dtype}, {jax.devices()[0].device_kind}")
    print(f"batch {args.batch} with guidance, {args.text_tokens} text tokens")
    print(f"medians of {args.rounds} rounds, compilation not included\n")
    print(report(contenders, workload, seconds))


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_enum("preset", "narrow", sorted(PRESETS), "sizes of the network")
    flags.DEFINE_integer("heads", None, "attention heads of 128 channels: the width is 128 times this", lower_bound=1)
    flags.DEFINE_enum("dtype", None, choices(ModelConfig, "dtype"), "compute type")
    flags.DEFINE_list("steps", "10,10,10", "solver steps of each stage; the single-flow model takes their sum")
    flags.DEFINE_float("guidance_scale", 3.0, "scale of guidance; every scale costs the same")
    flags.DEFINE_integer("side", 128, "height and width of the final latents; 128 has 4096 tokens", lower_bound=1)
    flags.DEFINE_integer("text_tokens", 256, "text tokens of a prompt", lower_bound=1)
    flags.DEFINE_integer("batch", 1, "images sampled at a time", lower_bound=1)
    flags.DEFINE_integer("rounds", 3, "rounds that are timed; in each, both models sample once", lower_bound=1)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)
