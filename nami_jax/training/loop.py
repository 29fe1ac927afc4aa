"""A training run from its data to its last checkpoint: the loop, and what is due every so many steps.

`data.loader` gives the batches, `train_step` makes the steps; `train` is the command around this.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.checkpoints.checkpoint import Checkpoints
from nami_jax.checkpoints.runs import load_base, load_base_bridge
from nami_jax.config import Config, require
from nami_jax.data.examples import Data, open_data
from nami_jax.data.loader import eval_batches, train_loader
from nami_jax.flow.transition import make_transition
from nami_jax.models.bridge import bridge_structure
from nami_jax.monitoring.events import tracked
from nami_jax.monitoring.flops import step_flops
from nami_jax.monitoring.metrics import Interval, NonFiniteError, bar_text
from nami_jax.monitoring.watch import NO_EXTRAS, Extras, Views, watching
from nami_jax.parallel import processes as distributed
from nami_jax.parallel.activations import MeshLayout, require_layout
from nami_jax.parallel.sharding import host_shard, make_mesh, require_divisible, shard_batch, state_shardings
from nami_jax.parallel.stopping import Stopping
from nami_jax.text.caption_table import encoder_widths
from nami_jax.training.bridge_training import train_bridge
from nami_jax.training.compilation import compile_steps, shapes_of
from nami_jax.training.preview import make_preview
from nami_jax.training.step import (
    State,
    abstract_state,
    init_state,
    make_eval_step,
    sampling_weights,
)


def train(
    cfg: Config,
    workdir: Path,
    devices: Sequence[Any] | None = None,
    stop_after: int | None = None,
    extras: Extras = NO_EXTRAS,
) -> State:
    """Runs or continues a training run.

    Args:
        cfg: the run.
        workdir: where it is kept.
        devices: to train on; all if not given.
        stop_after: stop once this many steps are done in all, saving; the next call continues. None: at `train.steps`.
        extras: what else to show of it.

    Returns:
        The training state at the end.

    Raises:
        ConfigError: settings that cannot work, found before any compilation.
        CheckpointError: all checkpoints are damaged, or a save failed.
        ModuleNotFoundError: `extras` ask for a package that is not installed.
        NonFiniteError: the loss or the gradient became NaN or infinite.
        Stopped: SIGTERM or SIGINT came, and the state is saved.
    """
    mesh = make_mesh(cfg.mesh, devices)
    check_run(cfg, mesh, stop_after)
    stop = cfg.train.steps if stop_after is None else min(stop_after, cfg.train.steps)
    autoencoder = None if cfg.autoencoder.folder is None else Autoencoder.from_config(cfg.autoencoder, cfg.model)
    with (
        Stopping() as stopping,
        Checkpoints(workdir, cfg) as checkpoints,
        tracked(extras.wandb, workdir, cfg.to_dict()) as tracker,
    ):
        with distributed.main_first("data"):  # what is prepared there must be prepared once
            data = open_data(cfg, autoencoder and autoencoder.fingerprint)
        loader, samples = train_loader(data.train, cfg, host_shard(mesh)), [len(source) for source in data.train]
        state, position = begin_or_continue(cfg, mesh, checkpoints, data)
        found = position.pop("samples", samples)
        require(
            found == samples,
            field="data.prepared" if cfg.data.prepared else "data.name",
            value=cfg.data.prepared or cfg.data.name,
            rule=f"the run was begun on {found} samples, and here are {samples}",
            remedy="Set the data that it was begun on, or another --workdir",
        )
        loader.set_state(position)
        start, null = int(state["step"]), dict(zip(("text_embeds", "pooled"), data.empty, strict=True))
        if distributed.is_main():
            (workdir / "config.json").write_text(json.dumps(cfg.to_dict(), indent=2) + "\n")
        checkpoints.prepare(state)
        programs = compile_steps(cfg, mesh, state, null, start) if start < stop else {}
        views = make_views(cfg, mesh, data, autoencoder, workdir / "samples")
        interval = Interval(max_skipped=cfg.train.max_skipped_steps, devices=list(mesh.devices.flat))
        with watching(cfg.train, views, interval, workdir, start, stop, extras, tracker) as watch:

            def save() -> None:
                checkpoints.save(int(state["step"]), state, loader.get_state() | {"samples": samples})

            try:
                for step in stopping.steps(start + 1, stop + 1):
                    batch = shard_batch(watch.next_batch(step, loader), mesh)
                    shapes = shapes_of(batch)
                    state, metrics = programs[shapes](state, batch, null)
                    watch.after_step(step, metrics, step_flops(cfg, shapes))
                    if watch.due(step, cfg.train.checkpoint_every):
                        watch.settle()
                        save()
                    checkpoints.require_saved()
                    stopping.interruptible(watch.show, step, state)
                watch.settle()
            except NonFiniteError:
                save()  # steps without a finite gradient have changed nothing
                raise
            if stopping.after is not None:
                save()
    stopping.require_going(cfg.train.steps)
    return state


def check_run(cfg: Config, mesh: Mesh, stop_after: int | None) -> None:
    """Checks what a run needs beyond its config: devices and the text encoder.

    Raises:
        ConfigError: batches that the devices cannot share, or a network of another width than the text encoder.
    """
    require(
        stop_after is None or stop_after >= 1,
        field="stop_after",
        value=stop_after,
        rule="must be at least 1",
        remedy="Leave it out",
    )
    require_layout(cfg, mesh)
    require_divisible("train.stage_batches", cfg.train.stage_batches, mesh)
    require_divisible("train.eval_batch", ((cfg.train.eval_batch,),), mesh)
    if cfg.data.prepared is not None:
        return  # text states come with the latents, whose reader checks their widths
    for field, width in zip(("text_dim", "pooled_dim"), encoder_widths(cfg.text), strict=True):
        value = getattr(cfg.model, field)
        require(
            value == width,
            field=f"model.{field}",
            value=value,
            rule=f"the text encoder gives {width}",
            remedy=f"Set {width}",
        )


def begin_or_continue(cfg: Config, mesh: Mesh, checkpoints: Checkpoints, data: Data) -> tuple[State, dict]:
    """Returns the state of the newest checkpoint, or that of a new run, and the loader's position.

    A new run starts from `train.init_from`, if that is set, and trains its bridge first, if it has one.
    """
    restored = checkpoints.restore_latest(abstract_state(cfg, mesh))
    if restored is not None and cfg.model.lora_rank is None:
        return restored[0] | {"frozen": {}}, restored[1]
    bridge = load_base_bridge(cfg) if restored is None else None
    dtype = "float32" if cfg.model.lora_rank is None else cfg.model.dtype  # what is frozen need not be finer
    base = None if cfg.train.init_from is None else load_base(cfg, dtype, lambda p: state_shardings(p, mesh))
    if restored is not None:
        return restored[0] | {"frozen": base}, restored[1]
    if bridge is None and cfg.bridge.kind is not None:
        bridge = train_bridge(cfg, mesh, data.train)
    state, position = init_state(cfg, mesh, base, bridge), {"next_index": 0}
    if bridge is not None:
        checkpoints.save(0, state, position)  # so that an interrupted run need not train the bridge again
        checkpoints.wait()  # a signal ends the program at once from here to the first step
    return state, position


def make_views(cfg: Config, mesh: Mesh, data: Data, autoencoder: Autoencoder | None, folder: Path) -> Views:
    """Returns what is shown of a run: its rates, validation losses and sample grids in `folder`."""
    structure = bridge_structure(cfg) if cfg.sample.transition == "bridge" else None
    decode = autoencoder.decode if autoencoder else np.asarray
    preview = make_preview(cfg, data, decode, folder, MeshLayout(mesh))

    def scalars(summary: Mapping[str, float]) -> dict[str, float]:
        del summary
        return {"corrupt_images": sum(source.num_corrupt for source in data.train)}

    def draw(state: State, step: int) -> Path:
        bridge = None if structure is None else nnx.merge(structure, state["bridge"])
        return preview(sampling_weights(state), make_transition(bridge), step)

    return Views(scalars, bar_text, make_validation(cfg, mesh, data), draw)


def make_validation(cfg: Config, mesh: Mesh, data: Data) -> Callable[[State], dict[str, float]]:
    """Returns state -> mean loss of each stage over the held-out split, with the same draws each time."""
    eval_step, null = make_eval_step(cfg, mesh), dict(zip(("text_embeds", "pooled"), data.empty, strict=True))

    def validate(state: State) -> dict[str, float]:
        losses, params = [], sampling_weights(state)
        for i, batch in enumerate(eval_batches(data.held_out, cfg, host_shard(mesh))):
            batch = shard_batch(batch, mesh)
            losses.append(eval_step(params, state["bridge"], batch, null, np.uint32(i)))
        return {f"validation/stage_{k}": float(loss) for k, loss in enumerate(np.mean(losses, axis=0), start=1)}

    return validate
