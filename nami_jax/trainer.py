"""A training run from its data to its last checkpoint: the loop, and what is due every so many steps.

`data.loader` gives the batches, `train_step` makes the steps; `train` is the command around this.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from nami_jax.checkpoint import Checkpoints
from nami_jax.config import Config, require
from nami_jax.data.loader import eval_batches, train_loader
from nami_jax.data.source import CaptionedImages, all_captions, open_source
from nami_jax.metrics import EventWriter, Interval, bar_text
from nami_jax.preview import make_preview
from nami_jax.sharding import make_mesh, require_divisible, shard_batch
from nami_jax.text import TextTable, encode_captions, encoder_widths
from nami_jax.train_step import State, abstract_state, init_state, make_eval_step, make_train_step


def train(cfg: Config, workdir: Path, devices: Sequence[Any] | None = None, stop_after: int | None = None) -> State:
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
        NonFiniteError: the loss or the gradient became NaN or infinite.
    """
    mesh = make_mesh(cfg.train.fsdp, devices)
    check_run(cfg, mesh, stop_after)
    stop = cfg.train.steps if stop_after is None else min(stop_after, cfg.train.steps)
    with Checkpoints(workdir, cfg) as checkpoints:
        train_source, held_out, table = open_data(cfg)
        null = dict(zip(("text_embeds", "pooled"), table.empty, strict=True))
        processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        loader = train_loader(train_source, table, cfg, **processes)
        state, position = checkpoints.restore_latest(abstract_state(cfg, mesh)) or (init_state(cfg, mesh), None)
        if position is not None:
            loader.set_state(position)
        start, train_step, eval_step = int(state["step"]), make_train_step(cfg, mesh), make_eval_step(cfg)
        (workdir / "config.json").write_text(json.dumps(cfg.to_dict(), indent=2) + "\n")

        def validate(params: Any) -> dict[str, float]:
            key, losses = jax.random.key(cfg.train.seed), []
            for i, batch in enumerate(eval_batches(held_out, table, cfg, **processes)):
                losses.append(eval_step(params, shard_batch(batch, mesh), null, jax.random.fold_in(key, i)))
            return {f"validation/stage_{k}": float(loss) for k, loss in enumerate(np.mean(losses, axis=0), start=1)}

        with (
            EventWriter(workdir, start) as events,
            tqdm(total=cfg.train.steps, initial=start, desc="training", unit="step", smoothing=0.05) as bar,
        ):
            preview = make_preview(cfg, train_source, held_out, table, workdir / "samples")
            watch = Watch(cfg, events, bar, validate, preview, stop)
            for step in range(start + 1, stop + 1):
                state, metrics = train_step(state, shard_batch(next(loader), mesh), null)
                watch.after_step(step, metrics)
                if watch.due(step, cfg.train.checkpoint_every):
                    watch.interval.require_finite()
                    checkpoints.save(step, state, loader.get_state())
                watch.show(step, state["ema"], train_source.num_corrupt)
    return state


def check_run(cfg: Config, mesh: jax.sharding.Mesh, stop_after: int | None) -> None:
    """Checks what a run needs beyond its config: devices and the text encoder.

    Raises:
        ConfigError: batches that the devices cannot share, or a network of another width than the text encoder.
    """
    require(stop_after is None or stop_after >= 1, "stop_after", stop_after, "must be at least 1", "Leave it out")
    require_divisible("train.stage_batches", cfg.train.stage_batches, mesh)
    require_divisible("train.eval_batch", ((cfg.train.eval_batch,),), mesh)
    for field, width in zip(("text_dim", "pooled_dim"), encoder_widths(cfg.text), strict=True):
        value = getattr(cfg.model, field)
        require(value == width, f"model.{field}", value, f"the text encoder gives {width}", f"Set {width}")


def open_data(cfg: Config) -> tuple[CaptionedImages, CaptionedImages, TextTable]:
    """Prepares the data set and its captions' states where absent; returns training split, held-out split, states."""
    train_source, held_out = (open_source(cfg.data, split) for split in (cfg.data.train_split, cfg.data.eval_split))
    captions = {*all_captions(train_source), *all_captions(held_out)}
    return train_source, held_out, encode_captions(cfg.text, sorted(captions), Path(cfg.data.data_dir) / "text")


class Watch:
    """What a person sees of a run: the bar, metrics, validation losses and sample grids, each when it is due."""

    def __init__(
        self,
        cfg: Config,
        events: EventWriter,
        bar: tqdm,
        validate: Callable[[Any], dict[str, float]],
        preview: Callable[[Any, int], Path],
        stop: int,
    ):
        """Collects the parts; `validate` and `preview` take the EMA weights, `stop` is the last step of this go."""
        self.interval = Interval()
        self._cfg, self._events, self._bar, self._stop = cfg.train, events, bar, stop
        self._validate, self._preview = validate, preview

    def due(self, step: int, every: int) -> bool:
        """Tells whether something that is done `every` so many steps, and at the last, is due after `step`."""
        return step % every == 0 or step == self._stop

    def after_step(self, step: int, metrics: Any) -> None:
        """Takes in the metrics of a step.

        Raises:
            NonFiniteError: the loss or gradient of the step before is not finite.
        """
        self.interval.add(step, metrics)
        self._bar.update()

    def show(self, step: int, params: Any, num_corrupt: int) -> None:
        """Writes and shows what is due after a step, given the EMA weights and the corrupt images met so far."""
        if self.due(step, self._cfg.log_every):
            scalars = self.interval.summary() | {"corrupt_images": num_corrupt}
            self._events.scalars(step, scalars)
            self._bar.set_postfix_str(bar_text(scalars))
        with self.interval.paused():
            if self.due(step, self._cfg.eval_every):
                losses = self._validate(params)
                self._events.scalars(step, losses)
                self._bar.write(f"step {step}: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))
            if self.due(step, self._cfg.sample_every):
                path = self._preview(params, step)
                with Image.open(path) as picture:
                    self._events.picture(step, "samples", np.asarray(picture))
                self._bar.write(f"step {step}: samples in {path}")
