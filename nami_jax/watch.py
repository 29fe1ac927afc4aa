"""What a person sees of a training run: the bar, metrics, validation and pictures, each when it is due."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from nami_jax.metrics import EventWriter, Interval


class Cadence(Protocol):
    """How many steps lie between two of the same kind; the `train` section of a run's config has these fields."""

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


class Watch:
    """Shows a run step by step."""

    def __init__(
        self, cadence: Cadence, views: Views, interval: Interval, events: EventWriter, bar: tqdm, last_step: int
    ):
        """Collects the parts; whatever is done every so many steps is also done after `last_step`."""
        self.interval = interval
        self._cadence, self._views, self._events, self._bar, self._last = cadence, views, events, bar, last_step

    def due(self, step: int, every: int) -> bool:
        """Tells whether something that is done `every` so many steps, and at the last, is due after `step`."""
        return step % every == 0 or step == self._last

    def after_step(self, step: int, metrics: Any) -> None:
        """Takes in the metrics of a step.

        Raises:
            NonFiniteError: the loss or gradient of the step before is not finite.
        """
        self.interval.add(step, metrics)
        self._bar.update()

    def show(self, step: int, state: Any) -> None:
        """Writes and shows what is due after a step."""
        if self.due(step, self._cadence.log_every):
            scalars = self.interval.summary()
            scalars |= self._views.scalars(scalars)
            self._events.scalars(step, scalars)
            self._bar.set_postfix_str(self._views.bar_text(scalars))
        with self.interval.paused():
            if self.due(step, self._cadence.eval_every):
                scalars = self._views.validate(state)
                self._events.scalars(step, scalars)
                shown = [f"{name} {value:.4f}" for name, value in scalars.items() if name.startswith("validation/")]
                self._bar.write(f"step {step}: {', '.join(shown)}")
            if self.due(step, self._cadence.sample_every):
                path = self._views.preview(state, step)
                with Image.open(path) as picture:
                    self._events.picture(step, "samples", np.asarray(picture))
                self._bar.write(f"step {step}: samples in {path}")
