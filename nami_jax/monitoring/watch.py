"""What a person sees of a training run: the bar, metrics, validation and pictures, each when it is due.

All processes compute what is shown; only the first shows and writes it.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from nami_jax.files.disk import is_full
from nami_jax.monitoring.events import EventWriter
from nami_jax.monitoring.metrics import Interval
from nami_jax.monitoring.profiling import Trace, Window
from nami_jax.parallel.processes import is_main
from nami_jax.terminal.progress import progress_bar

T = TypeVar("T")
VALIDATION_LOSS = "validation/loss"  # the scalar by which a run's checkpoints are ranked


class Cadence(Protocol):
    """How many steps a run has, and how often things are due: the `train` section of its config."""

    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def log_every(self) -> int: ...  # noqa: D102
    @property
    def eval_every(self) -> int: ...  # noqa: D102
    @property
    def sample_every(self) -> int: ...  # noqa: D102


class Views(NamedTuple):
    """What differs between kinds of training."""

    scalars: Callable[[Mapping[str, float]], Mapping[str, float]]  # an interval's summary -> what to log beside it
    bar_text: Callable[[Mapping[str, float]], str]
    validate: Callable[[Any], Mapping[str, float]]  # state -> scalars; those called validation/… are also printed
    preview: Callable[[Any, int], Path]  # state, step -> a picture
    evaluate: Callable[[Any], Mapping[str, float]] | None = None  # state -> scalars that take long; None: none
    evaluate_every: int | None = None  # steps


@dataclasses.dataclass(frozen=True)
class Extras:
    """What is shown of a run only on request."""

    wandb: str | None = None  # project of Weights & Biases to send the events to
    profile: Window | None = None  # steps to trace, in the workdir's `profile/`
    on_scalars: Callable[[int, Mapping[str, float]], None] | None = None  # gets what is logged after a step too


NO_EXTRAS = Extras()


class Outlets(NamedTuple):
    """Where a run is shown."""

    events: EventWriter
    trace: Trace
    bar: tqdm
    on_scalars: Callable[[int, Mapping[str, float]], None] | None = None


class Watch:
    """Shows a run step by step."""

    def __init__(self, cadence: Cadence, views: Views, interval: Interval, outlets: Outlets, last_step: int):
        """Collects the parts; whatever is done every so many steps is also done after `last_step`."""
        self._cadence, self._views, self._interval, self._last = cadence, views, interval, last_step
        self._events, self._trace, self._bar, self._on_scalars = outlets
        self._validated: tuple[int, float] | None = None  # the last step that was, and its loss

    def due(self, step: int, every: int) -> bool:
        """Returns whether something that is done `every` so many steps, and at the last, is due after `step`."""
        return step % every == 0 or step == self._last

    def next_batch(self, step: int, loader: Iterator[T]) -> T:
        """Takes the batch of a step from the loader.

        Raises:
            NonFiniteError: of the step before, as `Interval.settle`.
        """
        if self._trace.begins(step):
            self.settle()
            with self._interval.paused():
                self._trace.start(step)
        with self._interval.waiting_for_data():
            return next(loader)

    def after_step(self, step: int, metrics: Any, flops: float = 0.0) -> None:
        """Takes in the metrics of a step that was dispatched, and its floating-point operations if they are counted.

        Raises:
            NonFiniteError: of the step before, as `Interval.settle`.
        """
        self._say(self._interval.add(step, metrics, flops))
        self._bar.update()
        if self._trace.ends(step):
            self.settle()
            with self._interval.paused():
                self._trace.stop(step)

    def settle(self) -> None:
        """Waits for the last step.

        Raises:
            NonFiniteError: its loss or gradient is not finite, as `Interval.settle`.
        """
        self._say(self._interval.settle())

    def pause(self, wait: Callable[..., None], *arguments: Any) -> None:
        """Calls `wait`, whose time is not the steps'.

        Raises:
            NonFiniteError: of the last step, as `Interval.settle`.
        """
        self.settle()
        with self._interval.paused():
            wait(*arguments)

    def show(self, step: int, state: Any) -> None:
        """Logs, validates and evaluates samples if that is due after a step.

        Raises:
            NonFiniteError: of this step, as `Interval.settle`.
        """
        logs, validates = (self.due(step, every) for every in (self._cadence.log_every, self._cadence.eval_every))
        every, evaluate = self._views.evaluate_every, self._views.evaluate
        evaluates = every is not None and evaluate is not None and self.due(step, every)
        if not (logs or validates or evaluates):
            return
        self.settle()
        if logs:
            scalars = self._interval.summary()
            scalars |= self._views.scalars(scalars)
            self._log(step, scalars)
            self._bar.set_postfix_str(self._views.bar_text(scalars), refresh=False)
        if validates:
            with self._interval.paused():
                scalars = self._views.validate(state)
            self._log(step, scalars)
            if (loss := scalars.get(VALIDATION_LOSS)) is not None:
                self._validated = step, loss
                self._say(self._interval.judge(step, loss))
            shown = [f"{name} {value:.4f}" for name, value in scalars.items() if name.startswith("validation/")]
            self._say(f"step {step}: {', '.join(shown)}" if shown else None)
        if evaluates:
            assert evaluate is not None
            with self._interval.paused():
                scalars = evaluate(state)
            self._log(step, scalars)
            self._say(f"step {step}: {', '.join(f'{name} {value:.4g}' for name, value in scalars.items())}")

    def validation_loss(self, step: int) -> float | None:
        """Returns the validation loss of the state after `step`, if `show` has measured it."""
        return self._validated[1] if self._validated is not None and self._validated[0] == step else None

    def draw(self, step: int, state: Any) -> None:
        """Draws a picture if that is due after a step. One that cannot be written is no reason to end a run.

        Raises:
            NonFiniteError: of this step, as `Interval.settle`.
            OSError: the disk is full.
        """
        if not self.due(step, self._cadence.sample_every):
            return
        self.settle()
        with self._interval.paused():
            try:
                self._picture(step, self._views.preview(state, step))
            except OSError as error:
                if is_full(error):
                    raise
                self._say(f"step {step}: no samples, {error.strerror}: {error.filename}. The training goes on.")

    def _log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._events.scalars(step, scalars)
        if self._on_scalars is not None:
            self._on_scalars(step, scalars)

    def _picture(self, step: int, path: Path) -> None:
        if is_main():  # which is the one that made the file
            with Image.open(path) as picture:
                self._events.picture(step, "samples", np.asarray(picture))
            self._say(f"step {step}: samples in {path}")

    def _say(self, text: str | None) -> None:
        if text is not None and not self._bar.disable:
            self._bar.write(text)


@contextlib.contextmanager
def watching(
    cadence: Cadence,
    views: Views,
    interval: Interval,
    workdir: Path,
    steps: range,
    extras: Extras,
    tracker: Any = None,
) -> Iterator[Watch]:
    """Opens the bar, the events and the trace of a run for its steps `steps`.

    `tracker` is a run of Weights & Biases that gets the events too.
    """
    silent, start = not is_main(), steps.start - 1
    with (
        EventWriter(workdir, start, tracker) as events,
        Trace(extras.profile, workdir / "profile") as trace,
        progress_bar(
            total=cadence.steps, initial=start, desc="training", unit="step", smoothing=0.05, disable=silent
        ) as bar,
    ):
        yield Watch(cadence, views, interval, Outlets(events, trace, bar, extras.on_scalars), steps.stop - 1)
