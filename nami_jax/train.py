"""Trains a model: `python -m nami_jax.train --config configs/emoji_tiny.py --workdir runs/emoji_tiny`.

Leaves in the workdir: `checkpoints/`, TensorBoard `events/`, `samples/` (grids) and `config.json`. The same command
continues an interrupted run. Fields of the config are set as flags: `--config.train.steps=2000`.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags
from PIL import Image
from tqdm import tqdm

from nami_jax.checkpoint import CheckpointError, Checkpoints
from nami_jax.config import Config, ConfigError
from nami_jax.data.loader import eval_batches, train_loader
from nami_jax.data.phases import phase_bounds, phase_of
from nami_jax.data.source import CaptionedImages, CorruptDataError, all_captions, open_source
from nami_jax.metrics import EventWriter, Interval, NonFiniteLossError, bar_text
from nami_jax.preview import make_preview
from nami_jax.sharding import make_mesh, require_divisible, shard_batch
from nami_jax.text import TextTable, encode_captions
from nami_jax.train_step import init_state, make_eval_step, make_train_step

# What is due every so many steps, and at the last one, in this order.
EVERY = ("log_every", "checkpoint_every", "eval_every", "sample_every")


def open_data(cfg: Config) -> tuple[CaptionedImages, CaptionedImages, TextTable]:
    """Prepares the data set and its captions' states where absent; returns training split, held-out split, states."""
    train, held_out = open_source(cfg.data, cfg.data.train_split), open_source(cfg.data, cfg.data.eval_split)
    captions = {*all_captions(train), *all_captions(held_out)}
    table = encode_captions(cfg.text, sorted(captions), Path(cfg.data.data_dir) / "text")
    embeds, pooled = table.empty
    for field, found in (("text_dim", embeds.shape[-1]), ("pooled_dim", pooled.shape[-1])):
        if getattr(cfg.model, field) != found:
            raise ConfigError(
                f"model.{field} = {getattr(cfg.model, field)}: the text encoder gives {found}. Set {found}."
            )
    return train, held_out, table


def validation(eval_step: Callable, params: Any, batches: Iterable, null: Any, key: jax.Array) -> dict[str, float]:
    """Averages the held-out loss per stage, with the same noise and times at each call."""
    losses = [eval_step(params, batch, null, jax.random.fold_in(key, i)) for i, batch in enumerate(batches)]
    return {f"validation/stage_{k}": float(loss) for k, loss in enumerate(np.mean(losses, axis=0), start=1)}


def train(cfg: Config, workdir: Path, devices: Sequence[Any] | None = None, stop_after: int | None = None) -> Any:
    """Runs or continues a training run.

    Args:
        cfg: the run.
        workdir: where it is kept.
        devices: to train on; all if not given.
        stop_after: stop once this many steps are done in all, saving; the next call continues. None: at `train.steps`.

    Returns:
        The training state at the end.

    Raises:
        ConfigError: settings that cannot work, found before any compilation.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    mesh = make_mesh(cfg.train.fsdp, devices)
    require_divisible((*cfg.train.stage_batches, (cfg.train.eval_batch,)), mesh)
    train_source, held_out, table = open_data(cfg)
    null = dict(zip(("text_embeds", "pooled"), table.empty, strict=True))
    held_out_batches = [shard_batch(batch, mesh) for batch in eval_batches(held_out, table, cfg)]
    preview = make_preview(cfg, train_source, held_out, table, workdir / "samples")
    state = init_state(cfg, mesh)
    train_step, eval_step = make_train_step(cfg, mesh), make_eval_step(cfg)
    loader = train_loader(train_source, table, cfg)

    with Checkpoints(workdir, cfg) as checkpoints, EventWriter(workdir) as events:
        restored = checkpoints.restore_latest(state)
        if restored is not None:
            state, position = restored
            loader.set_state(position)
        (workdir / "config.json").write_text(json.dumps(cfg.to_dict(), indent=2) + "\n")
        start, stop = int(state["step"]), min(stop_after or cfg.train.steps, cfg.train.steps)
        interval, bounds = Interval(), phase_bounds(cfg.train.steps, cfg.train.phase_starts)
        with tqdm(total=cfg.train.steps, initial=start, desc="training", unit="step", smoothing=0.05) as bar:
            for done in range(start + 1, stop + 1):
                state, metrics = train_step(state, shard_batch(next(loader), mesh), null)
                interval.add(done, metrics)
                bar.update()
                due = {done_every for done_every in EVERY if done % getattr(cfg.train, done_every) == 0 or done == stop}
                if "log_every" in due:
                    stage_batch = cfg.train.stage_batches[phase_of(done - 1, bounds)]
                    scalars = interval.summary(stage_batch)
                    events.scalars(done, scalars)
                    bar.set_postfix_str(bar_text(scalars))
                if "checkpoint_every" in due:
                    interval.require_finite()
                    checkpoints.save(done, state, loader.get_state())
                if "eval_every" in due:
                    losses = validation(eval_step, state["ema"], held_out_batches, null, jax.random.key(cfg.train.seed))
                    events.scalars(done, losses)
                    bar.write(f"step {done}: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))
                if "sample_every" in due:
                    path = preview(state["ema"], done)
                    events.picture(done, "samples", np.asarray(Image.open(path)))
                    bar.write(f"step {done}: samples in {path}")
                if due:
                    interval.restart_clock()
    return state


def main(argv: list[str]) -> None:
    """Trains as the flags say and ends with the command that samples from the result."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}: fields of the config are set as --config.train.steps=2000")
    logging.set_verbosity(logging.WARNING)
    workdir = Path(flags.FLAGS.workdir)
    try:
        cfg = Config.from_dict(flags.FLAGS.config.to_dict())
        train(cfg, workdir, stop_after=flags.FLAGS.stop_after)
    except (CheckpointError, ConfigError, CorruptDataError, ModuleNotFoundError, NonFiniteLossError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f'Sample from it:\n{sys.executable} -m nami_jax.sample --checkpoint {workdir} --prompt "red apple"')


def define_flags() -> None:
    """Defines the command's flags."""
    config_flags.DEFINE_config_file(
        "config", None, "file of the run's config, e.g. configs/emoji_tiny.py", lock_config=True
    )
    flags.DEFINE_string("workdir", None, "folder to keep the run in, e.g. runs/emoji_tiny", required=True)
    flags.DEFINE_integer("stop_after", None, "stop once this many steps are done, saving; the same command continues")
    flags.mark_flag_as_required("config")


if __name__ == "__main__":
    define_flags()
    app.run(main)
