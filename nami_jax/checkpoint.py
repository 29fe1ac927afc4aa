"""Checkpoints of a run through Orbax: everything that resuming needs, and what sampling needs as an item of its own.

A checkpoint holds `ema` (the weights to sample with), `train` (parameters, optimizer, step, random key), `bridge` (if
the run has one), `data` (the loader's position) and `config`. What LoRA leaves frozen is not in it: that lies where
`train.init_from` says. Saving is asynchronous; a save that was cut short leaves no checkpoint behind.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import orbax.checkpoint as ocp

from nami_jax.autoencoder_config import TASK, AutoencoderRun
from nami_jax.config import Config, Settings, require
from nami_jax.train_step import State

ITEMS = ("ema", "train", "bridge", "data", "config")
TRAIN = ("params", "opt", "step", "key")
AnyConfig = TypeVar("AnyConfig", bound=Config | AutoencoderRun)
Same = Mapping[str, tuple[str, ...]]  # section -> the fields of it that a run cannot change on its way

# Of a flow: the shapes of its state, its flow, and the order of its samples.
SAME: Same = {
    "model": ("channels", "patch_size", "num_heads", "rope_axes", "rope_theta", "double_blocks", "stage_single_blocks",
              "mlp_ratio", "text_dim", "pooled_dim", "lora_rank"),
    "flow": ("sigma_ends", "time_mean", "time_std"),
    "data": ("name", "train_split", "image_key", "caption_key", "caption_templates", "side", "flip",
             "buckets"),
    "text": ("encoder", "max_length", "mask_padding", "pooled_length"),
    "autoencoder": ("downscale",),
    "bridge": ("kind",),
    "train": ("seed", "stage_batches", "phase_starts", "init_from"),
}  # fmt: skip


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, unfinished or of another shape."""


class Checkpoints:
    """The checkpoints in `workdir/checkpoints`. Use as a context manager: leaving it waits for the save in flight."""

    def __init__(self, workdir: Path, cfg: Config | AutoencoderRun | None = None, same: Same = SAME):
        """Opens the folder; creates it if `cfg` is given, which is then saved with every checkpoint.

        `same` are the fields in which `cfg` must agree with the newest checkpoint.

        Raises:
            ConfigError: the folder's newest checkpoint is of another run than `cfg`.
            CheckpointError: without `cfg`, the folder holds no finished checkpoint.
        """
        folder = Path(workdir).absolute() / "checkpoints"
        if cfg is None and not folder.is_dir():
            raise CheckpointError(
                f"{workdir} holds no checkpoints. Give the workdir of a training run, e.g. runs/emoji_tiny."
            )
        self.folder = folder
        self._cfg = cfg
        keep = cfg.train.keep_checkpoints if cfg else None
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=cfg is not None, read_only=cfg is None)
        self._manager = ocp.CheckpointManager(folder, options=options, item_names=ITEMS)
        latest = self._manager.latest_step()
        if cfg is not None and latest is not None:
            require_same_run(self._config(latest, type(cfg)), cfg, folder, same)
        if cfg is None and latest is None:
            unfinished = sorted(p.name for p in folder.iterdir())
            raise CheckpointError(
                f"{folder} holds no finished checkpoint, only {unfinished}. Train on to the next save."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    def save(self, step: int, state: State, data_state: dict) -> None:
        """Starts saving `state` and the loader's position after `step` steps; the state may be donated at once."""
        assert self._cfg is not None
        if step in self._manager.all_steps():
            return
        items = {
            "ema": ocp.args.StandardSave(state["ema"]),
            "train": ocp.args.StandardSave({name: state[name] for name in TRAIN}),
            "data": ocp.args.JsonSave(data_state),
            "config": ocp.args.JsonSave(self._cfg.to_dict()),
        }
        if state.get("bridge"):
            items["bridge"] = ocp.args.StandardSave(state["bridge"])
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore_latest(self, state: State) -> tuple[State, dict] | None:
        """Restores the newest checkpoint, if there is one.

        Args:
            state: ShapeDtypeStructs (or arrays) whose shardings say where the arrays go; they need not be those that it
                was saved with.

        Returns:
            The state, without `frozen`, and the loader's position, or None where no checkpoint exists.

        Raises:
            CheckpointError: it cannot be read.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        items = {
            "ema": ocp.args.StandardRestore(abstract["ema"]),
            "train": ocp.args.StandardRestore({name: abstract[name] for name in TRAIN}),
            "data": ocp.args.JsonRestore(),
        }
        if abstract.get("bridge"):
            items["bridge"] = ocp.args.StandardRestore(abstract["bridge"])
        restored = self._restore(step, **items)
        state = {**restored["train"], "ema": restored["ema"], "bridge": restored.get("bridge", {})}
        return state, restored["data"]

    def latest_step(self) -> int:
        """Returns the newest finished checkpoint's step."""
        step = self._manager.latest_step()
        assert step is not None
        return step

    def config(self, step: int) -> Config:
        """Returns the configuration saved with a checkpoint of a flow."""
        return self._config(step, Config)

    def _config(self, step: int, kind: type[AnyConfig]) -> AnyConfig:
        fields = self._restore(step, config=ocp.args.JsonRestore())["config"]
        wanted, task = (TASK if kind is AutoencoderRun else "flow"), fields.get("task", "flow")
        if task != wanted:
            raise CheckpointError(
                f"{self.folder} is of a run whose task is {task!r}, not {wanted!r}. Give another workdir."
            )
        return kind.from_dict(fields)

    def item(self, step: int, name: str, abstract: Any) -> Any:
        """Restores the weights `name`, "ema" or "bridge", alone, as the ShapeDtypeStructs of `abstract` say."""
        return self._restore(step, **{name: ocp.args.StandardRestore(abstract)})[name]

    def _restore(self, step: int, **args: Any) -> Any:
        if step not in self._manager.all_steps():
            raise CheckpointError(f"{self.folder} has no step {step}. It has {sorted(self._manager.all_steps())}.")
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**args))
        except (ValueError, KeyError, OSError) as error:
            raise CheckpointError(
                f"{self.folder / str(step)} cannot be read as {', '.join(args)}: {error}\n"
                "It may be damaged or of another model. Remove that folder to fall back to the checkpoint before it."
            ) from error


def require_same_run(saved: Settings, current: Settings, folder: Path, same: Same) -> None:
    """Checks that a run continues as what it was begun as. How it is computed, and how long, may change.

    Raises:
        ConfigError: it does not; the first differing field is named.
    """
    saved_fields, fields = saved.to_dict(), current.to_dict()
    for section, names in same.items():
        for name in names:
            value = fields[section][name]
            require(saved_fields[section][name] == value, f"{section}.{name}", value,
                    f"the run in {folder} was begun with {saved_fields[section][name]!r}",
                    "Set that value, or another --workdir")  # fmt: skip
