"""Checkpoints of a run through Orbax: everything that resuming needs, and what sampling needs as an item of its own.

A checkpoint holds `ema` (the weights to sample with), `train` (parameters, optimizer, step, random key), `bridge` (if
the run has one), `data` (the loader's position), `config`, and the `fingerprints` of all these, with which they are
compared when they are read. What LoRA leaves frozen is not in it: that lies where `train.init_from` says. Saving is
asynchronous; a save that was cut short leaves no checkpoint behind.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import orbax.checkpoint as ocp
from absl import logging

from nami_jax.checkpoints.fingerprints import fingerprint_arrays, fingerprint_json
from nami_jax.checkpoints.orbax_managers import open_reader, open_writer
from nami_jax.checkpoints.quiet_orbax import Reading, brief
from nami_jax.checkpoints.workdir import FULL, held, move_aside
from nami_jax.config import Config, Settings, require
from nami_jax.config.autoencoder_run import TASK, AutoencoderRun
from nami_jax.parallel.agreement import first_error

FINGERPRINTS = "fingerprints"
JSON_ITEMS = ("data", "config")
ITEMS = ("ema", "train", "bridge", *JSON_ITEMS, FINGERPRINTS)
TRAIN = ("params", "opt", "step", "key")
T = TypeVar("T")
State = dict[str, Any]  # of any task: arrays by name
AnyConfig = TypeVar("AnyConfig", bound=Config | AutoencoderRun)
Same = Mapping[str, tuple[str, ...]]  # section -> the fields of it that a run cannot change on its way

# Of a flow: the shapes of its state, its flow, and the order of its samples.
SAME: Same = {
    "model": (
        "channels",
        "patch_size",
        "num_heads",
        "rope_axes",
        "rope_theta",
        "double_blocks",
        "stage_single_blocks",
        "mlp_ratio",
        "text_dim",
        "pooled_dim",
        "lora_rank",
    ),
    "flow": ("sigma_ends", "time_mean", "time_std"),
    "data": ("name", "train_split", "image_key", "caption_key", "caption_templates", "side", "flip", "buckets"),
    "text": ("encoder", "max_length", "mask_padding", "pooled_length"),
    "autoencoder": ("downscale",),
    "bridge": ("kind",),
    "train": ("seed", "stage_batches", "phase_starts", "init_from"),
}


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, unfinished or of another shape, or that cannot be saved."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose files do not hold what was saved."""


class Checkpoints:
    """The checkpoints in `workdir/checkpoints`. Use as a context manager: leaving it waits for the save in flight."""

    def __init__(self, workdir: Path, cfg: Config | AutoencoderRun | None = None, same: Same = SAME):
        """Opens the folder: to read, or, if `cfg` is given, for a run, which then holds it until it is left.

        Reading writes nothing. A run makes the folder, and removes what unfinished saves left.

        Args:
            workdir: of the run.
            cfg: saved with every checkpoint.
            same: the fields in which `cfg` must agree with the newest checkpoint.

        Raises:
            ConfigError: the workdir cannot be written or another run holds it, or it is of another run than `cfg`.
            CheckpointError: without `cfg`, the folder holds no finished checkpoint; with it, only damaged ones.
        """
        self.folder = Path(workdir).absolute() / "checkpoints"
        self._cfg = cfg
        self._damaged: dict[int, str] = {}  # step -> what is wrong with it
        with contextlib.ExitStack() as stack:
            if cfg is not None:
                stack.enter_context(held(self.folder.parent))
                self._writer = stack.enter_context(open_writer(self.folder, ITEMS, cfg.train.keep_checkpoints))
            elif not self.folder.is_dir():
                raise CheckpointError(
                    f"{workdir} holds no checkpoints. Give the workdir of a training run, e.g. runs/emoji_tiny."
                )
            self._reader = stack.enter_context(open_reader(self.folder, ITEMS))
            if cfg is not None and self._steps():
                saved = self.latest_valid(lambda step: self._config(step, type(cfg)))
                require_same_run(saved, cfg, self.folder, same)
            if cfg is None and not self._steps():
                unfinished = sorted(p.name for p in self.folder.iterdir())
                raise CheckpointError(
                    f"{self.folder} holds no finished checkpoint, only {unfinished}. Train on to the next save."
                )
            self._opened = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, exception: BaseException | None, trace: object) -> None:
        """Waits for the save in flight and closes the folder.

        Raises:
            CheckpointError: that save failed, or what ends the run is a full disk.
        """
        with self._explained():
            self._opened.close()
        if isinstance(exception, OSError) and exception.errno in FULL:
            raise self._failure(exception) from exception

    def prepare(self, state: State) -> None:
        """Compiles what a save needs, so that one in a hurry, after a signal, takes no longer than any other."""
        for arrays in _arrays(state).values():
            fingerprint_arrays(arrays)

    def save(self, step: int, state: State, data_state: dict) -> None:
        """Starts saving `state` and the loader's position after `step` steps; the state may be donated at once.

        Raises:
            CheckpointError: this save could not begin, or the one before it failed.
        """
        assert self._cfg is not None
        if step in self._writer.all_steps():
            return
        arrays, values = _arrays(state), {"data": data_state, "config": self._cfg.to_dict()}
        fingerprints = {name: fingerprint_arrays(tree) for name, tree in arrays.items()}
        fingerprints |= {name: fingerprint_json(value) for name, value in values.items()}
        items = {name: ocp.args.StandardSave(tree) for name, tree in arrays.items()}
        items |= {name: ocp.args.JsonSave(value) for name, value in values.items()}
        items[FINGERPRINTS] = ocp.args.JsonSave(fingerprints)
        with self._explained():
            self._writer.save(step, args=ocp.args.Composite(**items))

    def require_saved(self) -> None:
        """Notices that the last save failed, without waiting for it if it is under way.

        Raises:
            CheckpointError: it did.
        """
        if not self._writer.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits for the save in flight.

        Raises:
            CheckpointError: it failed.
        """
        with self._explained():
            self._writer.wait_until_finished()

    def restore_latest(self, state: State) -> tuple[State, dict] | None:
        """Restores the newest checkpoint that is whole, if there is any; a run moves damaged ones to `workdir/damaged`.

        Args:
            state: ShapeDtypeStructs (or arrays) whose shardings say where the arrays go; they need not be those that it
                was saved with.

        Returns:
            The state, without `frozen`, and the loader's position, or None where no checkpoint exists.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged.
        """
        if not self._reader.all_steps():
            return None
        abstract = _arrays(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state))
        items = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
        restored = self.latest_valid(lambda step: self._restore(step, data=ocp.args.JsonRestore(), **items))
        self._move_damaged()
        state = {**restored["train"], "ema": restored["ema"], "bridge": restored.get("bridge", {})}
        return state, restored["data"]

    def latest_valid(self, load: Callable[[int], T]) -> T:
        """Returns what `load` makes of the newest step that it does not find damaged, with a warning of those it does.

        Raises:
            CheckpointError: all are damaged.
        """
        while steps := self._steps():
            try:
                return load(steps[-1])
            except DamagedCheckpointError as error:
                if self._cfg is None and not (self.folder / str(steps[-1])).exists():
                    self._reader.reload()  # its run has meanwhile replaced it by newer ones
                    continue
                self._damaged[steps[-1]] = str(error)
                if steps[:-1]:
                    logging.warning("%s The one before it is used instead: step %d.", error, steps[-2])
        raise CheckpointError(
            "\n".join([f"{self.folder} holds no checkpoint that is whole:", *self._damaged.values()])
            + "\nPut a copy in place of one of them, or give another workdir to begin anew."
        )

    def latest_step(self) -> int:
        """Returns the step of the newest finished checkpoint that was not found damaged."""
        return self._steps()[-1]

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
        """Restores the weights `name`, "ema" or "bridge", alone, as the ShapeDtypeStructs of `abstract` say.

        Raises:
            DamagedCheckpointError: they are not what was saved.
        """
        return self._restore(step, **{name: ocp.args.StandardRestore(abstract)})[name]

    def _steps(self) -> list[int]:
        """Returns the finished steps that were not found damaged, in order."""
        return sorted(step for step in self._reader.all_steps() if step not in self._damaged)

    def _restore(self, step: int, **args: Any) -> Any:
        """Reads items of a checkpoint, all processes together, and compares them with their fingerprints."""
        if step not in self._reader.all_steps():
            raise CheckpointError(f"{self.folder} has no step {step}. It has {sorted(self._reader.all_steps())}.")
        folder = self.folder / str(step)
        if (folder / FINGERPRINTS).is_dir():  # checkpoints of earlier versions have none
            args[FINGERPRINTS] = ocp.args.JsonRestore()
        restored = {}
        with Reading() as reading:
            restored = self._reader.restore(step, args=ocp.args.Composite(**args))
        error = first_error(reading.error)
        if error is not None:
            raise DamagedCheckpointError(f"{folder} cannot be read, it is damaged or of another model: {error}.")
        differing = _differing(restored, restored[FINGERPRINTS]) if FINGERPRINTS in args else []
        if differing:
            raise DamagedCheckpointError(f"{folder} is damaged: it does not hold what was saved as {differing}.")
        return restored

    def _move_damaged(self) -> None:
        """Moves damaged checkpoints to `workdir/damaged`: nothing is lost, and their steps can be saved again."""
        if self._cfg is None or not self._damaged:
            return
        move_aside([self.folder / str(step) for step in self._damaged], self.folder.with_name("damaged"))
        self._reader.reload()
        self._writer.reload()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> CheckpointError:
        """Returns what to say where writing failed."""
        full = any(os.strerror(number) in str(error) for number in FULL)
        problem, remedy = ("the disk is full", "Free space") if full else (brief(error), "Mend that")
        if full and isinstance(error, OSError) and error.filename:
            problem += f" ({error.filename})"  # which may be another disk, the data's
        self._reader.reload()
        return CheckpointError(
            f"{self.folder}: saving failed, {problem}. Checkpoints that were finished before are whole: "
            f"{sorted(self._reader.all_steps())}. {remedy}, and the same command continues from the newest."
        )


def _arrays(state: State) -> dict[str, Any]:
    """Returns what of a state is saved, by item."""
    items = {"ema": state["ema"], "train": {name: state[name] for name in TRAIN}}
    return items | ({"bridge": state["bridge"]} if state.get("bridge") else {})


def _differing(restored: Mapping[str, Any], fingerprints: Any) -> list[str]:
    """Returns the items that have other fingerprints than when they were saved."""
    own = {name: value for name, value in restored.items() if name != FINGERPRINTS}
    fingerprints = fingerprints if isinstance(fingerprints, dict) else {}
    prints = {name: (fingerprint_json if name in JSON_ITEMS else fingerprint_arrays)(own[name]) for name in own}
    return sorted(name for name in prints if prints[name] != fingerprints.get(name))


def require_same_run(saved: Settings, current: Settings, folder: Path, same: Same) -> None:
    """Checks that a run continues as what it was begun as. How it is computed, and how long, may change.

    Raises:
        ConfigError: it does not; the first differing field is named.
    """
    saved_fields, fields = saved.to_dict(), current.to_dict()
    for section, names in same.items():
        for name in names:
            value = fields[section][name]
            require(
                saved_fields[section][name] == value,
                field=f"{section}.{name}",
                value=value,
                rule=f"the run in {folder} was begun with {saved_fields[section][name]!r}",
                remedy="Set that value, or another --workdir",
            )
