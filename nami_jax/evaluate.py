"""Measures a trained model on a split of its data: `python -m nami_jax.evaluate --checkpoint runs/emoji_tiny`.

Samples captions of the split with several seeds and prints how good the pictures are, with 95 % intervals. The folder
--out gets the samples as they are made, so that the same command continues, `evaluation.json` and `index.html`.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from nami_jax.config import ConfigError, DataConfig, EvaluationConfig
from nami_jax.terminal.command_line import run_command
from nami_jax.terminal.sampler_flags import define_model_flags, define_sampler_flags, given_mesh, given_settings

OUT = Path("out") / "evaluation"
DATA_FLAGS = {"data_dir": "data_dir", "image_key": "image_key", "caption_key": "caption_key"}


def define_flags() -> None:
    """Defines the command's flags."""
    default = EvaluationConfig()
    define_model_flags()
    flags.DEFINE_string("data", None, "tensorflow-datasets set, or folder of prepared data; the run's own if not given")
    flags.DEFINE_string("data_dir", None, "where the data set is stored; the run's own if not given")
    flags.DEFINE_string("image_key", None, "feature with the image; the run's own if not given")
    flags.DEFINE_string("caption_key", None, "feature with the captions; the run's own if not given")
    flags.DEFINE_string("split", None, "whose captions are sampled; the run's held-out split if not given")
    flags.DEFINE_integer("num_images", default.num_images, "captions sampled; all of the split if it has fewer")
    flags.DEFINE_integer("seeds", default.seeds, "samples of each caption")
    flags.DEFINE_integer("seed", default.seed, "first seed of the noise, and seed of what is chosen")
    flags.DEFINE_list("features", list(default.features), "networks whose features are compared; the first one judges")
    flags.DEFINE_string("weights", None, "file or folder with the weights of a feature network in no package")
    flags.DEFINE_integer("references", default.references, "real pictures of a split that are compared with, at most")
    flags.DEFINE_string("concept_key", default.concept_key, "feature that names what is shown")
    flags.DEFINE_string("style_key", default.style_key, "feature that names how it is drawn")
    define_sampler_flags()
    flags.DEFINE_integer("batch_size", default.batch_size, "pictures drawn at once")
    flags.DEFINE_string("out", None, f"folder for samples and report; one in {OUT} if not given")


def given_data(args: flags.FlagValues, own: DataConfig | None, side: int) -> DataConfig:
    """Returns the data that the flags name: those of the run, or others at its size of pictures."""
    given = {field: args[name].value for name, field in DATA_FLAGS.items() if args[name].value is not None}
    if args.data is not None:
        prepared = Path(args.data).is_dir()
        given |= {"prepared": args.data} if prepared else {"name": args.data, "prepared": None}
    if own is None:
        if args.data is None:
            raise ConfigError("data: these weights do not say what they were trained on. Pass --data.")
        return DataConfig.from_dict({"side": side} | given)
    return dataclasses.replace(own, **given)


def score_rows(scores: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns a row for each score: name, value, interval, what real pictures score and what chance does."""

    def text(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    def interval(low: float | None, high: float | None) -> str:
        return "" if low is None or high is None else f"{text(low)} to {text(high)}"

    return [
        (name, text(s["value"]), interval(s["low"], s["high"]), s["over"], text(s["real"]), text(s["chance"]))
        for name, s in scores.items()
    ]


def folder_name(source: str, split: str) -> str:
    """Returns e.g. "emoji_tiny-step-1500-held_out" for a checkpoint, by its path and step, and a split."""
    path, _, step = source.partition(" step ")
    return re.sub(r"[^\w]+", "-", f"{Path(path).absolute().name} {step and 'step'} {step} {split}").strip("-")


HEADER = ("score", "value", "95 % interval", "over", "real pictures", "chance")


def main(argv: list[str]) -> None:
    """Loads the checkpoint, samples, measures and reports."""
    # Not at the top: see nami_jax/terminal/command_line.py.
    from nami_jax.evaluation.run_evaluation import PAGE, REPORT, evaluate, run_data
    from nami_jax.planning.tables import table
    from nami_jax.sampling.pipeline import NamiPipeline
    from nami_jax.sampling.pipeline_command import pipeline_command

    del argv
    args = flags.FLAGS
    with pipeline_command():
        settings = EvaluationConfig.from_dict(
            {field.name: args[field.name].value for field in dataclasses.fields(EvaluationConfig)}
        )
        given = given_settings(args)
        pipe = NamiPipeline.from_pretrained(args.checkpoint, args.step, dtype=args.dtype, mesh=given_mesh(args))
        data = given_data(args, run_data(args.checkpoint, args.step), pipe.cfg.side)
        out = Path(args.out) if args.out else OUT / folder_name(pipe.source, settings.split or data.eval_split)
        evaluated = evaluate(pipe, data, settings, sample=pipe.settings(args.preset, **given), out=out, progress=True)
    report = evaluated.report
    print(f"{report['checkpoint']}: {report['captions']} captions of {report['split']}, {args.seeds} seeds\n")
    print(table(HEADER, score_rows(report["scores"])))
    print(f"\n{out / REPORT}\n{out / PAGE}")


def cli() -> None:
    """Runs the command."""
    run_command(main, define_flags, __doc__)


if __name__ == "__main__":
    cli()
