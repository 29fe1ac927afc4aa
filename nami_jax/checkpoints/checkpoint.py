"""Checkpoints of a run through Orbax: everything that resuming needs, and what sampling needs as a separate item.

A checkpoint holds items of arrays, `ema` (the weights to sample with), `train` (what else resuming needs) and `bridge`
(if the run has one), and beside them `data` (the loader's position), `config`, `frozen` (fingerprints of the networks
that the run uses and does not train) and the `fingerprints` of all these, with which they are compared when they are
read. Saving is asynchronous; a save that was cut short leaves no checkpoint behind.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import CustomSteps

from nami_jax.checkpoints.fingerprints import fingerprint_arrays, fingerprint_json
from nami_jax.checkpoints.orbax import VALIDATION_LOSS, Reading, brief, keeping, open_reader, open_writer
from nami_jax.checkpoints.same_run import require_same_networks, require_same_run
from nami_jax.checkpoints.workdir import held, move_aside
from nami_jax.config import Config, Settings
from nami_jax.config.autoencoder_run import AutoencoderRun
from nami_jax.config.flow_run import TASK
from nami_jax.files.disk import is_full
from nami_jax.parallel.processes import first_error

FINGERPRINTS = "fingerprints"
FROZEN = "frozen"
JSON_ITEMS = ("data", "config", FROZEN)
ARRAY_ITEMS = ("ema", "train", "bridge")
ITEMS = (*ARRAY_ITEMS, *JSON_ITEMS, FINGERPRINTS)
T = TypeVar("T")
AnyConfig = TypeVar("AnyConfig", bound=Settings)
Items = Mapping[str, Any]  # what is saved, pytrees of arrays by name


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, unfinished or of a different shape, or that cannot be saved."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose files do not hold what was saved."""


class Checkpoints:
    """The checkpoints in `workdir/checkpoints`. Use as a context manager: leaving it waits for the save in flight."""

    def __init__(self, workdir: Path, cfg: Config | AutoencoderRun | None = None):
        """Opens the folder: to read, or, if `cfg` is given, for a run, which locks it until the context ends.

        Reading writes nothing. A run creates the folder, and removes the remains of unfinished saves.

        Args:
            workdir: of the run.
            cfg: saved with every checkpoint; must agree with the newest in all fields that may not change.

        Raises:
            ConfigError: the workdir cannot be written, is in use, or belongs to a different run than `cfg`.
            CheckpointError: without `cfg`, the folder has no finished checkpoint; with it, only damaged ones.
        """
        self.folder = Path(workdir).absolute() / "checkpoints"
        self._cfg = cfg
        self._damaged: dict[int, str] = {}  # step -> what is wrong with it
        self._begun_from = -1  # the step that this run continues from; none yet
        self._frozen: Mapping[str, str] = {}
        with contextlib.ExitStack() as stack:
            if cfg is not None:
                self._keeping = keeping(cfg.train)
                stack.enter_context(held(self.folder.parent))
                self._writer = stack.enter_context(open_writer(self.folder, ITEMS, self._keeping))
            elif not self.folder.is_dir():
                raise CheckpointError(
                    f"{workdir} contains no checkpoints. Use the workdir of a training run, e.g. runs/emoji_tiny."
                )
            self._reader = stack.enter_context(open_reader(self.folder, ITEMS))
            if cfg is not None and self._steps():
                saved = self.latest_valid(lambda step: self.config(step, type(cfg)))
                require_same_run(saved, cfg, self.folder)
            if cfg is None and not self._steps():
                unfinished = sorted(p.name for p in self.folder.iterdir())
                raise CheckpointError(
                    f"{self.folder} contains no finished checkpoint, only {unfinished}. Train until the next save."
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
        if isinstance(exception, OSError) and is_full(exception):
            raise self._failure(exception) from exception

    def prepare(self, items: Items) -> None:
        """Compiles what a save needs, so that one in a hurry, after a signal, takes no longer than any other."""
        for arrays in items.values():
            fingerprint_arrays(arrays)

    def use_networks(self, frozen: Mapping[str, str]) -> None:
        """Takes the fingerprints of the networks that the run does not train: they are saved with every checkpoint.

        Raises:
            ConfigError: the run was begun with others.
        """
        if self._steps():
            require_same_networks(self.latest_valid(self.frozen), frozen, self.folder.parent)
        self._frozen = frozen

    def save(self, step: int, items: Items, data_state: dict, validation_loss: float | None = None) -> None:
        """Starts saving what a run has come to after `step` steps.

        Args:
            step: which.
            items: pytrees of arrays by name, of `ARRAY_ITEMS`; they may be donated at once.
            data_state: the loader's position.
            validation_loss: of this state, if it was measured: the best are kept longer.

        Raises:
            CheckpointError: this save could not begin, or the one before it failed.
        """
        assert self._cfg is not None
        if step in self._writer.all_steps():
            return
        values = {"data": data_state, "config": self._cfg.to_dict(), FROZEN: dict(self._frozen)}
        fingerprints = {name: fingerprint_arrays(tree) for name, tree in items.items()}
        fingerprints |= {name: fingerprint_json(value) for name, value in values.items()}
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        args |= {name: ocp.args.JsonSave(value) for name, value in values.items()}
        args[FINGERPRINTS] = ocp.args.JsonSave(fingerprints)
        metrics = {} if validation_loss is None else {VALIDATION_LOSS: validation_loss}
        with self._explained():
            saved = self._writer.save(step, args=ocp.args.Composite(**args), metrics=metrics)
        if not saved:  # Orbax saves no step before the newest that there is
            raise CheckpointError(
                f"{self.folder}: step {step} was not saved, for the folder contains {sorted(self._writer.all_steps())}."
                " Move those of later steps out of it, or use another --workdir."
            )

    def set_aside(self, good: int) -> str:
        """Moves what this run has saved since it was continued, and after step `good`, to `workdir/diverged`.

        Returns:
            What is left, for people.
        """
        self.wait()
        bad = [step for step in self._writer.all_steps() if step > max(good, self._begun_from, 0)]
        if bad:
            move_aside([self.folder / str(step) for step in bad], self.folder.with_name("diverged"))
            self._reload()
        left = sorted(self._writer.all_steps())
        told = f"Saved after that, and moved to {self.folder.with_name('diverged')}: {bad}. " if bad else ""
        if not left:
            return f"{told}No checkpoint is left: the same command begins anew."
        told += (
            f"The checkpoints in {self.folder} are as they were: {left}. The same command continues from {left[-1]}."
        )
        if good < self._begun_from:
            told += f" That one may be bad itself, for no step after it was in range: if so, move {left[-1]} out of it."
        return told

    def require_saved(self) -> None:
        """Raises if the last save failed, without waiting for one that is still under way.

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

    def restore_latest(self, items: Items) -> tuple[dict[str, Any], dict] | None:
        """Restores the newest valid checkpoint, if there is any; a run moves damaged ones to `workdir/damaged`.

        Args:
            items: ShapeDtypeStructs (or arrays) whose shardings say where the arrays go; they need not be those that
                they were saved with.

        Returns:
            The items and the loader's position, or None where no checkpoint exists.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged.
        """
        if not self._reader.all_steps():
            return None
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), dict(items))
        args = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
        step, restored = self.latest_valid(lambda step: (step, self._restore_own(step, args)))
        self._move_damaged()
        if self._cfg is not None:
            self._begun_from = step
            self._keeping.append(CustomSteps(steps=[step]))  # whatever this run comes to, it can be begun again
        return {name: restored[name] for name in items}, restored["data"]

    def _restore_own(self, step: int, args: Mapping[str, Any]) -> Any:
        """Reads a step to continue from, which is to be that of its folder's name."""
        restored = self._restore(step, data=ocp.args.JsonRestore(), **args)
        train = restored.get("train")
        own = int(train["step"]) if isinstance(train, dict) and "step" in train else step
        if own != step:
            raise DamagedCheckpointError(
                f"{self.folder / str(step)} contains the state after step {own}, not {step}: was it renamed?"
            )
        return restored

    def latest_valid(self, load: Callable[[int], T]) -> T:
        """Returns `load(step)` for the newest step that it does not find damaged, with a warning for each damaged one.

        Raises:
            CheckpointError: all are damaged.
        """
        while steps := self._steps():
            try:
                return load(steps[-1])
            except DamagedCheckpointError as error:
                if self._cfg is None:
                    self._reader.reload()
                    if self._steps()[-1:] > steps[-1:]:
                        continue  # its run has saved a newer one, and may have begun to delete this one
                self._damaged[steps[-1]] = str(error)
                if steps[:-1]:
                    logging.warning("%s Using the one before it instead: step %d.", error, steps[-2])
        raise CheckpointError(
            "\n".join([f"{self.folder} contains no valid checkpoint:", *self._damaged.values()])
            + "\nReplace one of them with a good copy, or use another workdir to start over."
        )

    def latest_step(self) -> int:
        """Returns the step of the newest finished checkpoint that was not found damaged."""
        return self._steps()[-1]

    def config(self, step: int, kind: type[AnyConfig] = Config) -> AnyConfig:
        """Returns the configuration saved with a checkpoint, which is to be of a `kind`.

        Raises:
            CheckpointError: it is of another one.
        """
        fields = self._restore(step, config=ocp.args.JsonRestore())["config"]
        if not isinstance(fields, dict):
            raise DamagedCheckpointError(f"{self.folder / str(step)} is damaged: its config is not that of a run.")
        wanted, task = getattr(kind, "task", TASK), fields.get("task", TASK)
        if task != wanted:
            raise CheckpointError(
                f"{self.folder} belongs to a run whose task is {task!r}, not {wanted!r}. Use another workdir."
            )
        return kind.from_dict(fields)

    def frozen(self, step: int) -> Mapping[str, str]:
        """Returns the fingerprints of the networks that a checkpoint's run did not train; none of earlier versions."""
        return self._restore(step, **{FROZEN: ocp.args.JsonRestore()}).get(FROZEN, {})

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
        restored, problem, error = self._read(step, args)
        if error is not None:  # once more before it is condemned: the disk may have failed for a moment
            restored = None  # where it could be read
            restored, problem, error = self._read(step, args)
        if error is not None:
            complaint = f"{folder} cannot be read; it is damaged or of a different model: {error}."
            raise DamagedCheckpointError(complaint) from problem
        differing = _differing(restored, restored[FINGERPRINTS]) if FINGERPRINTS in restored else []
        if differing:
            raise DamagedCheckpointError(f"{folder} is damaged: it does not contain what was saved as {differing}.")
        return restored

    def _read(self, step: int, args: Mapping[str, Any]) -> tuple[Any, BaseException | None, str | None]:
        """Reads what a checkpoint has of some items, and its fingerprints.

        Returns:
            These, why this process cannot read them, and why the first of all processes that cannot says it: by that
            they all read again, or none does.
        """
        restored: Any = {}
        with Reading() as reading:
            wanted = {**args, FINGERPRINTS: ocp.args.JsonRestore()}
            for name in (FROZEN, FINGERPRINTS):  # which checkpoints of earlier versions lack
                if not (self.folder / str(step) / name).is_dir():
                    wanted.pop(name, None)
            restored = self._reader.restore(step, args=ocp.args.Composite(**wanted)) if wanted else {}
        return restored, reading.problem, first_error(reading.problem and brief(reading.problem))

    def _move_damaged(self) -> None:
        """Moves damaged checkpoints to `workdir/damaged`: nothing is lost, and their steps can be saved again."""
        if self._cfg is None or not self._damaged:
            return
        move_aside([self.folder / str(step) for step in self._damaged], self.folder.with_name("damaged"))
        self._reload()

    def _reload(self) -> None:
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
        full = is_full(error)
        problem, remedy = ("the disk is full", "Free space") if full else (brief(error), "Fix this")
        if full and isinstance(error, OSError) and error.filename:
            problem += f" ({error.filename})"  # which may be another disk, the data's
        self._reader.reload()
        return CheckpointError(
            f"{self.folder}: saving failed, {problem}. Earlier checkpoints are intact: "
            f"{sorted(self._reader.all_steps())}. {remedy} and rerun the same command: it continues from the newest."
        )


def _differing(restored: Mapping[str, Any], fingerprints: Any) -> list[str]:
    """Returns the items that have other fingerprints than when they were saved."""
    own = {name: value for name, value in restored.items() if name != FINGERPRINTS}
    fingerprints = fingerprints if isinstance(fingerprints, dict) else {}
    prints = {name: (fingerprint_json if name in JSON_ITEMS else fingerprint_arrays)(own[name]) for name in own}
    return sorted(name for name in prints if prints[name] != fingerprints.get(name))
