"""The training of an autoencoder, from its data to a `vae` folder that a flow of latents can be trained with.

`data.crops` gives the batches, `autoencoder_step` makes the steps, `autoencoder_review` judges them; `train` is the
command around this. `trainer` is the same for a flow.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nami_jax.autoencoder.codec import save_autoencoder
from nami_jax.checkpoints.checkpoint import Checkpoints
from nami_jax.config import require
from nami_jax.config.autoencoder_run import SAME, AutoencoderRun
from nami_jax.data.captioned_images import CaptionedImages, open_source
from nami_jax.data.crops import crop_loader
from nami_jax.models.vgg import Vgg
from nami_jax.monitoring.events import tracked
from nami_jax.monitoring.metrics import Interval
from nami_jax.monitoring.watch import NO_EXTRAS, Extras, Views, Watch, watching
from nami_jax.parallel import processes as distributed
from nami_jax.parallel.sharding import host_shard, make_mesh, require_divisible, shard_batch
from nami_jax.parallel.stopping import Stopping
from nami_jax.training.autoencoder.perceptual import load_perceptual
from nami_jax.training.autoencoder.reconstruction import abstract_state, init_state, make_train_step
from nami_jax.training.autoencoder.review import make_preview, make_validation, with_unit_latents
from nami_jax.training.step import State


def train_autoencoder(
    cfg: AutoencoderRun,
    workdir: Path,
    devices: Sequence[Any] | None = None,
    stop_after: int | None = None,
    extras: Extras = NO_EXTRAS,
) -> State:
    """Runs or continues the training of an autoencoder and writes `workdir/vae`.

    Args:
        cfg: the run.
        workdir: where it is kept.
        devices: to train on; all if not given. Each has all parameters and its share of the batch.
        stop_after: stop once this many steps are done in all, saving; the next call continues. None: at `train.steps`.
        extras: what else to show of it.

    Returns:
        The training state at the end.

    Raises:
        ConfigError: settings that cannot work, found before any compilation.
        CheckpointError: all checkpoints are damaged, or a save failed.
        ModuleNotFoundError: the package with the perceptual network is missing, or one that `extras` ask for.
        NonFiniteError: the loss or the gradient became NaN or infinite.
        Stopped: SIGTERM or SIGINT came, and the state is saved.
    """
    require(
        stop_after is None or stop_after >= 1,
        field="stop_after",
        value=stop_after,
        rule="must be at least 1",
        remedy="Leave it out",
    )
    mesh = make_mesh(devices=devices)
    require_divisible("train.batch", ((cfg.train.batch,),), mesh)
    vgg = load_perceptual(cfg.loss.perceptual_blocks) if cfg.loss.perceptual else None
    vgg = jax.device_put(vgg, NamedSharding(mesh, PartitionSpec()))  # whole on every device
    stop = cfg.train.steps if stop_after is None else min(stop_after, cfg.train.steps)
    with (
        Stopping() as stopping,
        Checkpoints(workdir, cfg, SAME) as checkpoints,
        tracked(extras.wandb, workdir, cfg.to_dict()) as tracker,
    ):
        with distributed.main_first("data"):  # what is prepared there must be prepared once
            train, held_out = (open_source(cfg.data, split) for split in (cfg.data.train_split, cfg.data.eval_split))
        watch = functools.partial(watching, workdir=workdir, last_step=stop, extras=extras, tracker=tracker)
        state = _run(cfg, workdir, mesh, checkpoints, stopping, stop, vgg, train, held_out, watch)
        if stopping.after is None:
            with distributed.main_first("vae"):
                if distributed.is_main():
                    save_autoencoder(workdir / "vae", with_unit_latents(cfg, state["ema"], train))
    stopping.require_going(cfg.train.steps)
    return state


def _run(
    cfg: AutoencoderRun,
    workdir: Path,
    mesh: Mesh,
    checkpoints: Checkpoints,
    stopping: Stopping,
    stop: int,
    vgg: Vgg | None,
    train: CaptionedImages,
    held_out: CaptionedImages,
    watching: Callable[..., AbstractContextManager[Watch]],
) -> State:
    """Takes the steps that are left up to `stop` and returns the state after them."""
    loader = crop_loader(
        train,
        seed=cfg.train.seed,
        batch=cfg.train.batch,
        crop=cfg.train.crop,
        flip=cfg.data.flip,
        shard=host_shard(mesh),
    )
    restored = checkpoints.restore_latest(abstract_state(cfg, mesh))
    state, position = restored or (init_state(cfg, mesh), {"next_index": 0})
    checkpoints.prepare(state)
    loader.set_state(position)
    start, train_step = int(state["step"]), make_train_step(cfg, mesh)
    if distributed.is_main():
        (workdir / "config.json").write_text(json.dumps(cfg.to_dict(), indent=2) + "\n")

    def scalars(summary: Mapping[str, float]) -> dict[str, float]:
        images_per_second = cfg.train.batch * summary["steps_per_second"]
        return {"images_per_second": images_per_second, "corrupt_images": train.num_corrupt}

    views = Views(
        scalars, _bar_text, make_validation(cfg, vgg, held_out), make_preview(cfg, held_out, workdir / "samples")
    )
    with watching(cfg.train, views, Interval("train.learning_rate"), start=start) as watch:

        def save(step: int) -> None:
            watch.settle()
            checkpoints.save(step, state, loader.get_state())

        for step in stopping.steps(start + 1, stop + 1):
            state, metrics = train_step(state, vgg, shard_batch(watch.next_batch(step, loader), mesh))
            watch.after_step(step, metrics)
            if watch.due(step, cfg.train.checkpoint_every):
                save(step)
            checkpoints.require_saved()
            stopping.interruptible(watch.show, step, state)
        if stopping.after is not None:
            save(stopping.after)
    return state


def _bar_text(scalars: Mapping[str, float]) -> str:
    return f"images/s {scalars['images_per_second']:.0f}, loss {scalars['loss']:.4f}"
