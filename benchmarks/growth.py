"""Measures how the network's cost grows, and draws it beside the FLOPs: `python -m benchmarks.growth --out FOLDER`.

GLIBC_TUNABLES=glibc.malloc.hugetlb=1 .venv/bin/python -m benchmarks.growth --out out

A forward pass is measured around one network (`BASE`), with its width, depth, tokens or batch alone made smaller and
larger, in turns; then guided sampling at one final size by 1 to 4 stages, with the same parameters and number of steps.
The FLOPs of NAMI-2B at 256 to 2048 pixels by 1 to 4 stages are counted. Leaves FOLDER/growth.json and growth.svg.
Needs matplotlib, which `make test` installs.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags, logging
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.accelerator_parts import layouts, random_network
from benchmarks.inference import NARROW, Workload, make_network, random_params, random_text, sample_by_stage
from benchmarks.pytorch_flux import compiled_forward, inputs, our_arguments, take_apart
from benchmarks.timing import Timed, about, clock, interleave
from configs import presets
from nami_jax.config import ModelConfig, SampleConfig
from nami_jax.files.disk import written_whole
from nami_jax.monitoring.flops import forward_flops, sampling_flops
from nami_jax.planning.tables import table
from nami_jax.terminal.command_line import parse_flags

Row = dict[str, Any]
HEAD_DIM, GROWN = 64, ("width", "depth", "tokens", "batch")
COLOURS = "#1b6ca8", "#c0392b", "#1e8449", "#7d3c98"
STYLES = {"seconds": "o-", "TFLOP": "--"}  # of what was measured, of what was counted
STEPS = 12  # of the sampling that is measured, shared by its stages
# Of NAMI-2B by number of stages: the paper's three; with four, what depth there is is spread over them.
NAMI_STAGES = {1: (14,), 2: (8, 14), 3: (1, 8, 14), 4: (1, 5, 10, 14)}
# TFLOP of 30 guided steps at 1024 px, published with the release for one flow and for three stages.
PUBLISHED = {1: 783.0, 3: 316.0}


class Size(NamedTuple):
    """What a forward pass runs on."""

    width: int = 512
    depth: int = 6  # blocks, a third of them double
    tokens: int = 1024  # image tokens, a square; 64 text tokens
    batch: int = 1

    @property
    def model(self) -> ModelConfig:
        """The network's sizes."""
        double = self.depth // 3
        return ModelConfig(
            channels=16, patch_size=2, num_heads=self.width // HEAD_DIM, rope_axes=(8, 28, 28), double_blocks=double,
            stage_single_blocks=(self.depth - double,), mlp_ratio=4, text_dim=256, pooled_dim=64, remat="none",
            scan_blocks=jax.default_backend() != "cpu",
        )  # fmt: skip


TEXT_TOKENS = 64
BASE, TINY = Size(), Size(width=64, depth=3, tokens=16)
FACTORS = {"width": (0.25, 0.5, 1, 2), "depth": (0.5, 1, 2, 4), "tokens": (0.25, 1, 4), "batch": (1, 2, 4)}
TINY_FACTORS = {"width": (1, 2), "depth": (1, 2), "tokens": (1, 4), "batch": (1, 2)}


def pass_time(size: Size) -> Timed:
    """Returns a turn of a forward pass."""
    cfg = size.model
    run = compiled_forward(layouts()["kernel"])
    given = our_arguments(inputs(cfg, 2 * math.isqrt(size.tokens), TEXT_TOKENS, size.batch))
    network = random_network(cfg)
    params = take_apart(network)
    return lambda: [clock(run, network, params, *given)[1]]


def passes(base: Size, factors: Mapping[str, Sequence[float]], rounds: int) -> Iterator[Row]:
    """Measures forward passes of `base` with one of its sizes multiplied, all in turns."""
    cases = {
        (name, factor): base._replace(**{name: round(getattr(base, name) * factor)})
        for name, multiples in factors.items()
        for factor in multiples
    }
    sizes = list(dict.fromkeys(cases.values()))
    names = {size: ", ".join(map(str, size)) for size in sizes}
    taken = interleave({names[size]: pass_time(size) for size in sizes}, rounds, "forward passes")
    for (name, factor), size in cases.items():
        flops = size.batch * forward_flops(size.model, 1, size.tokens, TEXT_TOKENS)
        seconds = float(np.median(taken[names[size]]))
        yield {"grown": name, "factor": factor, **size._asdict(), "TFLOP": flops / 1e12, "seconds": seconds}


def stage_counts(side: int, steps: int, rounds: int) -> Iterator[Row]:
    """Measures guided sampling of side x side latents by 1 to 4 stages, in turns; all have the same parameters."""
    deepest = NARROW.stage_single_blocks[-1]
    workload = Workload(side, 256, batch=1)
    models = {
        k: dataclasses.replace(NARROW, stage_single_blocks=tuple(range(deepest - k + 1, deepest + 1)))
        for k in (1, 2, 3, 4)
    }
    rng = np.random.default_rng(0)
    params, text = random_params(NARROW, rng), random_text(NARROW, workload, rng)
    samples = {k: SampleConfig((steps // k,) * k) for k in models}

    def program(k: int) -> Timed:
        network, layout = make_network(params, models[k]), layouts()["kernel"]
        return lambda: [sum(sample_by_stage(network, text, samples[k], workload, layout)[1])]

    taken = interleave({str(k): program(k) for k in models}, rounds, "sampling by stages")
    for k, cfg in models.items():
        flops = sum(sampling_flops(cfg, samples[k], side, workload.text_tokens))
        tokens = "/".join(map(str, cfg.image_tokens(side, side)))
        seconds = float(np.median(taken[str(k)]))
        yield {"stages": k, "tokens": tokens, "steps": steps, "TFLOP": flops / 1e12, "seconds": seconds}


def nami_rows() -> Iterator[Row]:
    """Counts NAMI-2B's guided sampling in 30 steps, by stages and pixels; its latents have an eighth of the side."""
    for k, blocks in NAMI_STAGES.items():
        cfg = dataclasses.replace(presets.NAMI_2B, stage_single_blocks=blocks)
        for pixels in (256, 512, 1024, 2048):
            steps = tuple(30 // k + (i >= k - 30 % k) for i in range(k))
            flops = sum(sampling_flops(cfg, SampleConfig(steps), pixels // 8, text_tokens=256))
            yield {"stages": k, "pixels": pixels, "steps": "+".join(map(str, steps)), "TFLOP": flops / 1e12}


def figure(grown: Sequence[Row], staged: Sequence[Row], nami: Sequence[Row], about: dict[str, str]) -> Figure:
    """Draws the rows, all axes logarithmic: relative growth, stages, and NAMI-2B."""
    drawn = Figure(figsize=(14, 4.4), layout="constrained")
    growth, stages, sizes = drawn.subplots(1, 3)
    drawn.suptitle(f"points: measured, {about['device']}, {about['date']}; dashed: FLOPs", fontsize="medium")
    for name, colour in zip(GROWN, COLOURS, strict=True):
        rows = sorted((row for row in grown if row["grown"] == name), key=lambda row: row["factor"])
        base = next(row for row in rows if row["factor"] == 1)
        for what, style in STYLES.items():
            values = [row[what] / base[what] for row in rows]
            (line,) = growth.plot([row["factor"] for row in rows], values, style, color=colour)
            if what == "seconds":
                line.set_label(name)
    for what, style in STYLES.items():
        values = [row[what] / staged[0][what] for row in staged]
        stages.plot([row["stages"] for row in staged], values, style, color=COLOURS[0])
    for k, colour in zip(NAMI_STAGES, COLOURS, strict=True):
        rows = [row for row in nami if row["stages"] == k]
        values, label = [row["TFLOP"] for row in rows], f"{k} stage{'s' * (k > 1)}"
        sizes.plot([row["pixels"] for row in rows], values, STYLES["TFLOP"], color=colour, label=label)
    for value in PUBLISHED.values():
        sizes.plot(1024, value, "k+", markersize=10)
        sizes.annotate(f"published: {value:g} ", (1024, value), ha="right", va="center", fontsize="small")
    finish(growth, "A forward pass, one size at a time", "times larger", "times the cost", (0.25, 0.5, 1, 2, 4))
    finish(stages, f"{staged[0]['steps']} steps by 1 to 4 stages", "stages", "share of a single flow", NAMI_STAGES)
    finish(sizes, "NAMI-2B, 30 guided steps", "pixels", "TFLOP", (256, 512, 1024, 2048))
    growth.legend()
    sizes.legend()
    return drawn


def finish(axes: Axes, title: str, x_label: str, y_label: str, ticks: Iterable[float]) -> None:
    """Names a panel and its axes, which become logarithmic, with plain numbers at round places."""
    axes.set(title=title, xlabel=x_label, ylabel=y_label, xscale="log", yscale="log")
    axes.set_xticks(list(ticks), [f"{tick:,g}" for tick in ticks])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.tick_params(which="minor", length=0, labelleft=False, labelbottom=False)
    axes.grid(alpha=0.4)


def text(rows: Sequence[Row]) -> str:
    """Returns rows as a table, with their rate where they were measured."""
    rated = [row | ({"GFLOP/s": 1e3 * row["TFLOP"] / row["seconds"]} if "seconds" in row else {}) for row in rows]
    cells = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rated]
    return table(list(rated[0]), cells)


def main(argv: Sequence[str]) -> None:
    """Measures, prints the tables, and leaves the figures and their picture."""
    del argv
    logging.set_verbosity(logging.WARNING)
    args, folder = flags.FLAGS, Path(flags.FLAGS.out)
    folder.mkdir(parents=True, exist_ok=True)
    base, factors, side, steps = (TINY, TINY_FACTORS, 16, 12) if args.tiny else (BASE, FACTORS, 128, STEPS)
    grown = list(passes(base, factors, args.rounds))
    staged = list(stage_counts(side, steps, max(1, args.rounds // 2)))
    nami = list(nami_rows())
    facts = about() | ({"device": args.device} if args.device else {})
    print("\n\n".join([", ".join(f"{k} {v}" for k, v in facts.items()), *map(text, (grown, staged, nami))]))
    with written_whole(folder / "growth.json") as path:
        path.write_text(json.dumps({"about": facts, "passes": grown, "stages": staged, "nami_2b": nami}, indent=1))
    with written_whole(folder / "growth.svg") as path:
        figure(grown, staged, nami, facts).savefig(path, format="svg")
    print(f"\n{folder / 'growth.svg'}")


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("out", None, "folder for the picture and its figures", required=True)
    flags.DEFINE_integer("rounds", 5, "turns of each forward pass; half as many of sampling", lower_bound=1)
    flags.DEFINE_string("device", None, "what to call the device in the picture, where jax says no more than cpu")
    flags.DEFINE_bool("tiny", False, "a network and pictures of a few seconds, to try this")


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)
