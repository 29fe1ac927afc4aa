"""`evaluate`: samples a split's captions with a model, measures them, and writes what was found."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nami_jax.checkpoints.checkpoint import Checkpoints
from nami_jax.config import DataConfig, EvaluationConfig, SampleConfig, require
from nami_jax.data.images import to_stage
from nami_jax.evaluation.drawing import KeptPictures, draw_all
from nami_jax.evaluation.evaluator import Evaluation, Measurement, as_dict
from nami_jax.evaluation.intervals import Score, mean_score
from nami_jax.evaluation.noise_losses import QUARTERS, by_quarter, losses_by_noise
from nami_jax.evaluation.page import make_page
from nami_jax.files.disk import written_whole
from nami_jax.files.json_files import read_json
from nami_jax.files.output_folder import make_folder
from nami_jax.flow.transition import make_transition
from nami_jax.sampling.pipeline import NamiPipeline
from nami_jax.sampling.stage_programs import Networks
from nami_jax.text.encoders import TextStates
from nami_jax.weights.converted import PIPELINE_FILE, RECIPE_FILE, find_folder

REPORT, PAGE = "evaluation.json", "index.html"


class Evaluated(NamedTuple):
    """The result of an evaluation.

    Attributes:
        report: what JSON holds: `scores` by name, and what was measured, how and where.
        evaluation: captions and originals.
        samples: (seeds, N, H, W, 3) uint8.
        measured: scores, and what was found of each picture.
    """

    report: dict[str, Any]
    evaluation: Evaluation
    samples: np.ndarray
    measured: Measurement


def run_data(workdir: str | Path, step: int | None = None) -> DataConfig | None:
    """Returns the data that a run was trained on, or the set that a converted folder was; None if it does not say.

    Raises:
        CheckpointError: the folder has no finished checkpoint.
        ConfigError: what a converted folder says of it is damaged.
    """
    folder = find_folder(workdir)
    if (folder / RECIPE_FILE).is_file():
        data = read_json(folder / RECIPE_FILE, "Convert the run again").get("data")
        return None if data is None else DataConfig.from_dict(data)
    if (folder / PIPELINE_FILE).is_file():
        return None
    with Checkpoints(folder) as checkpoints:
        return checkpoints.config(checkpoints.latest_step() if step is None else step).data


def evaluate(
    pipe: NamiPipeline | str | Path,
    data: DataConfig | None = None,
    settings: EvaluationConfig | None = None,
    *,
    sample: SampleConfig | None = None,
    out: Path | None = None,
    evaluation: Evaluation | None = None,
    progress: bool = False,
) -> Evaluated:
    """Samples the captions of a split and measures the samples.

    Args:
        pipe: the model, or a run's workdir, whose newest checkpoint then counts.
        data: the data set; None: what the run at `pipe` was trained on.
        settings: what is measured, and on how much; None: the defaults.
        sample: the sampler's settings; None: the model's own.
        out: where samples are kept as they are made, so that the same call continues; `evaluation.json` goes there too.
            None: nothing is written but features of real pictures.
        evaluation: of an earlier call with the same data and settings, to open nothing again: for many checkpoints.
        progress: show bars.

    Raises:
        ConfigError: something does not exist or cannot be measured, said before anything is sampled; or `out` holds
            samples of something else.
        CheckpointError, WeightsError: as `NamiPipeline.from_pretrained`.
    """
    began = time.perf_counter()
    if not isinstance(pipe, NamiPipeline):
        data = data or run_data(pipe)
        pipe = NamiPipeline.from_pretrained(pipe)
    if evaluation is None:
        require(
            data is not None,
            field="data",
            value=data,
            rule="a pipeline does not say what it was trained on",
            remedy="Pass run_data(workdir), or another DataConfig",
        )
        assert data is not None
        decode = None if pipe.autoencoder is None or data.prepared is None else pipe.autoencoder.decode
        evaluation = Evaluation(data, settings or EvaluationConfig(), decode, progress=progress)
    sample = sample or pipe.cfg.sample
    kept = None
    if out is not None:
        make_folder(out, field="out")
        kept = KeptPictures(out, _about(pipe, evaluation, sample), evaluation.captions)
    seconds = {"opening": time.perf_counter() - began}
    text, negative = pipe.encode([*evaluation.captions, ""], split=len(evaluation.captions))
    samples = _sampled(pipe, evaluation, (text, negative), sample, kept, progress)
    seconds["sampling"] = time.perf_counter() - began - sum(seconds.values())
    losses = _loss_scores(pipe, evaluation, text, progress)
    seconds["loss"] = time.perf_counter() - began - sum(seconds.values())
    measured = evaluation.measure(samples)
    seconds["measuring"] = time.perf_counter() - began - sum(seconds.values())
    report = _report(pipe, evaluation, sample, measured.scores | losses) | {"seconds": seconds}
    found = Evaluated(report, evaluation, samples, measured)
    if out is not None:
        _write(found, out)
    return found


def _write(found: Evaluated, out: Path) -> None:
    with written_whole(out / REPORT) as unfinished:
        unfinished.write_text(json.dumps(found.report, indent=1, ensure_ascii=False) + "\n")
    with written_whole(out / PAGE) as unfinished:
        unfinished.write_text(make_page(*found), "utf-8")


def _about(pipe: NamiPipeline, evaluation: Evaluation, sample: SampleConfig) -> dict[str, Any]:
    """Returns what makes the samples: with the same, they are the same."""
    return pipe.fingerprints() | {
        "split": evaluation.real.split,
        "sampler": sample.to_dict(),
        "side": list(evaluation.originals.shape[1:3]),
    }


def _sampled(
    pipe: NamiPipeline,
    evaluation: Evaluation,
    states: tuple[TextStates, TextStates],
    sample: SampleConfig,
    kept: KeptPictures | None,
    progress: bool,
) -> np.ndarray:
    (text, negative), (height, width) = states, evaluation.originals.shape[1:3]

    def draw(numbers: np.ndarray, seed: int) -> np.ndarray:
        own = TextStates(text.embeds[numbers], text.pooled[numbers])
        latents = pipe.sample_latents(
            own, negative, sample, height=height, width=width, seed=seed, numbers=numbers.tolist()
        )
        return np.stack([np.asarray(picture) for picture in pipe.decode(latents)])

    settings = evaluation.settings
    seeds = range(settings.seed, settings.seed + settings.seeds)
    return draw_all(draw, len(evaluation.captions), seeds, settings.batch_size, kept, progress)


def _loss_scores(pipe: NamiPipeline, evaluation: Evaluation, text: TextStates, progress: bool) -> dict[str, Score]:
    networks = Networks(pipe.model, make_transition(pipe.bridge, pipe.cfg.bridge.noise))
    (images, *lower), seed = model_originals(pipe, evaluation), evaluation.settings.seed
    losses = losses_by_noise(pipe.sampler, networks, images, text, seed, lower=lower, progress=progress)
    return loss_scores(losses)


def model_originals(pipe: NamiPipeline, evaluation: Evaluation) -> list[np.ndarray]:
    """Returns the chosen captions' pictures as the network is trained on them, pixels in [-1, 1] or latents.

    Those of the last stage (N, H, W, C) come first; then those of stages K-1, ..., 1, unless they are the last pooled.
    """
    images, data = evaluation.real.model_images(evaluation.chosen), evaluation.data
    if pipe.autoencoder is None or data.prepared is not None:
        return [images, *evaluation.real.lower_images(evaluation.chosen)]
    levels = pipe.cfg.model.num_stages if data.lower_stages == "pixels" else 1
    return [pipe.autoencoder.encode(to_stage(images, 2**level)) for level in range(levels)]


def loss_scores(losses: np.ndarray) -> dict[str, Score]:
    """Returns the scores of `losses_by_noise` (N, K, TIMES): of all, of each stage and of each quarter of its noise."""
    quarters, stages = by_quarter(losses), range(losses.shape[1])
    scores = {"loss": mean_score(losses.mean((1, 2))[None])}
    scores |= {f"loss/stage_{k + 1}": mean_score(losses[:, k].mean(1)[None]) for k in stages}
    return scores | {
        f"loss/stage_{k + 1}/noise_{q + 1}": mean_score(quarters[:, k, q][None])
        for k in stages
        for q in range(QUARTERS)
    }


def _report(
    pipe: NamiPipeline, evaluation: Evaluation, sample: SampleConfig, scores: Mapping[str, Score]
) -> dict[str, Any]:
    data, devices = evaluation.data, jax.devices()
    return {
        "checkpoint": pipe.source,
        "data": data.prepared or data.name,
        "split": evaluation.real.split,
        "pictures": {some.split: len(some) for some in evaluation.pictures},
        "captions": len(evaluation.captions),
        "settings": evaluation.settings.to_dict(),
        "sampler": sample.to_dict(),
        "scores": as_dict(scores),
        "device": f"{len(devices)} x {devices[0].device_kind}, {os.cpu_count()} CPU cores",
        "jax": jax.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
