"""From the training step's device metrics to numbers for people: means, rates, times over some steps, the bar's text.

docs/watching.md says what each one means.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nami_jax.monitoring.chips import find_chip
from nami_jax.monitoring.loss_range import LossRange

QUARTILES = 4  # the noise range of a stage is logged in this many equal parts
PERCENTILES = (50, 90, 99)
NOT_AVERAGED = ("skipped", "learning_rate")  # of the metrics of shape ()


class NonFiniteError(FloatingPointError):
    """The loss or the gradient became NaN, infinite or too large. The message names the step and what to change."""


class _Step(NamedTuple):
    metrics: Mapping[str, jax.Array]
    skipped: bool
    seconds: float
    flops: float


class Interval:
    """Collects consecutive steps until `summary` is asked for.

    Steps are dispatched before those before them have ended. So a step's time is taken from the end of the step before
    it to its own end, waiting for data and saving included, pauses left out: the times add up to the interval's.
    """

    def __init__(
        self,
        rate_field: str = "train.phase_learning_rates",
        max_skipped: int = 1,
        devices: Sequence[Any] = (),
        clock: Callable[[], float] = time.perf_counter,
        max_rise: float | None = None,
        past: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts an interval.

        Args:
            rate_field: of the config, what to lower if the loss does not stay finite.
            max_skipped: steps in a row, skipped or with a loss out of range, at which the run stops.
            devices: that share the steps, for the rates of each.
            clock: gives the time in seconds.
            max_rise: see `LossRange`.
            past: what `past` returned when the run was saved; None: it begins.
        """
        self._rate_field, self._max_skipped, self._devices, self._clock = rate_field, max_skipped, devices, clock
        self._pending: tuple[int, Mapping[str, jax.Array], float] | None = None
        self._steps: list[_Step] = []
        self._bad_in_a_row, self._skipped_total, self._waited = 0, 0, 0.0
        self._losses, self._validations = (
            LossRange.continued(max_rise, (past or {}).get(name)) for name in ("training", "validation")
        )
        self._complaints: str | None = None  # why the state as it is now is not to be saved
        self.good_until = 0  # the last step whose state is known to be good, by the loss of the step after it
        self._end = clock()  # of the step before

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent inside, on validation or sampling, out of all times; the last step must be settled."""
        assert self._pending is None
        entered = self._clock()
        yield
        self._end += self._clock() - entered

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Counts the time spent inside as waiting for the loader."""
        entered = self._clock()
        yield
        self._waited += self._clock() - entered

    def add(self, step: int, metrics: Mapping[str, jax.Array], flops: float = 0.0) -> str | None:
        """Takes in a step that was dispatched, and settles the step before: one runs while the next is prepared.

        Args:
            step: its number.
            metrics: as its maker describes them, `loss`, `grad_norm` and `learning_rate` () among them.
            flops: its floating-point operations on all devices; 0 where they are not counted.

        Returns:
            What `settle` says of the step before.

        Raises:
            NonFiniteError: as `settle`.
        """
        warning = self.settle()
        self._pending = step, metrics, flops
        return warning

    def settle(self) -> str | None:
        """Waits for the last step.

        Returns:
            A warning if it was skipped, for its metric `skipped` says so, or if its loss is out of range.

        Raises:
            NonFiniteError: too many such steps in a row, or its loss or gradient is not finite and it was not skipped.
        """
        if self._pending is None:
            return None
        (step, metrics, flops), self._pending = self._pending, None
        loss, grad_norm, skipped = map(float, (metrics["loss"], metrics["grad_norm"], metrics.get("skipped", 0.0)))
        now = self._clock()
        self._steps.append(_Step(metrics, bool(skipped), now - self._end, flops))
        self._end = now
        self._skipped_total += bool(skipped)
        if not skipped and np.isfinite(grad_norm) and self._losses.holds(loss):
            self._losses.add(loss)
            self._bad_in_a_row, self._complaints, self.good_until = 0, None, step - 1
            return None
        self._bad_in_a_row += 1
        return self._complaint(step, loss, grad_norm, bool(skipped))

    def _complaint(self, step: int, loss: float, grad_norm: float, skipped: bool) -> str:
        """Returns the warning of a step that was skipped or is out of range, or stops the run."""
        count, finite = self._bad_in_a_row, bool(np.isfinite([loss, grad_norm]).all())
        found, kind = f"step {step}: the loss is {loss}, the gradient norm {grad_norm}", "Skipped"
        if finite and not skipped:
            found, kind = f"step {step}: the loss is {loss:.4g}, {self._beyond(self._losses)}", "Not saved"
        self._complaints = found
        if not (finite or skipped):
            raise self._stop(found)
        if count >= self._max_skipped:
            raise self._stop(f"{found}; steps like this in a row: {count}")
        return f"{found}. {kind}; in a row: {count} (the run stops at {self._max_skipped})."

    def _stop(self, found: str) -> NonFiniteError:
        return NonFiniteError(f"{found}. Lower {self._rate_field} or raise train.warmup_steps.")

    def _beyond(self, losses: LossRange) -> str:
        return f"beyond {losses.limit:.4g}, the range of this run's past (train.max_loss_rise = {losses.max_rise})"

    def judge(self, step: int, loss: float) -> str | None:
        """Takes in the validation loss of the state after `step`.

        Returns:
            A warning if it is not finite or out of range: this state is not to be saved.
        """
        if self._validations.holds(loss):
            self._validations.add(loss)
            if self._bad_in_a_row <= 1:  # it was the batch's fault
                self._complaints = None
            return None
        self._complaints = f"step {step}: the validation loss is {loss:.4g}, {self._beyond(self._validations)}"
        return f"{self._complaints}. Not saved."

    @property
    def in_range(self) -> bool:
        """Whether nothing is known against the state after the last settled step: only then is it to be saved."""
        return self._complaints is None

    def require_in_range(self) -> None:
        """Raises `NonFiniteError` unless the state is `in_range`: for a run's last, which no later step follows."""
        if self._complaints is not None:
            raise self._stop(f"{self._complaints}. The state is not saved")

    def past(self) -> dict[str, Any]:
        """Returns the ranges of the losses so far, to be saved with the run."""
        return {"training": self._losses.state(), "validation": self._validations.state()}

    def summary(self) -> dict[str, float]:
        """Describes the steps settled since the last summary, at least one.

        Returns:
            The mean of each metric of shape () over the steps that were not skipped, under its name (`loss`,
            `grad_norm`, ...; of `learning_rate` the last), `steps_per_second`, `step_time_ms/p50`, ... and `data_wait`
            in [0, 1]. Where the steps have them: `skipped_steps` and their total since the start, the scalars of
            `_by_stage`, and those of `_utilisation`.
        """
        steps, self._steps = self._steps, []
        waited, self._waited = self._waited, 0.0
        metrics = jax.device_get([step.metrics for step in steps])
        times, flops = [step.seconds for step in steps], sum(step.flops for step in steps)
        seconds = sum(times)
        scalars = _means([m for m, step in zip(metrics, steps, strict=True) if not step.skipped])
        scalars |= {
            "learning_rate": float(metrics[-1]["learning_rate"]),
            "steps_per_second": len(steps) / seconds,
            "data_wait": waited / seconds,
        }
        scalars |= {f"step_time_ms/p{q}": 1e3 * float(np.percentile(times, q)) for q in PERCENTILES}
        if "skipped" in metrics[0]:
            skipped = sum(step.skipped for step in steps)
            scalars |= {"skipped_steps": skipped, "skipped_steps_total": self._skipped_total}
        if "loss_sums" in metrics[0]:
            scalars |= _by_stage(metrics, seconds)
        return scalars | (_utilisation(flops / seconds, self._devices) if flops else {})


def _means(trained: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Averages each metric of shape () over steps; of no steps there are none."""
    names = [name for name, value in trained[0].items() if np.ndim(value) == 0] if trained else []
    return {name: float(np.mean([m[name] for m in trained])) for name in names if name not in NOT_AVERAGED}


def _by_stage(metrics: Sequence[Mapping[str, np.ndarray]], seconds: float) -> dict[str, float]:
    """Returns rates and losses by stage, every image counting alike, and none of a skipped step.

    They are `images_per_second`, `images_per_second/stage_k`, `loss/stage_k` and `loss/stage_k/noise_q`. Noise q is the
    quarter of the stage's noise range, 1 the cleanest. Losses of no image are left out.
    """
    sums, counts = (np.sum([m[name] for m in metrics], axis=0) for name in ("loss_sums", "loss_counts"))  # (K, 4)
    scalars = {"images_per_second": float(counts.sum() / seconds)}
    for k, (stage_sums, stage_counts) in enumerate(zip(sums, counts, strict=True), start=1):
        scalars[f"images_per_second/stage_{k}"] = float(stage_counts.sum() / seconds)
        if stage_counts.any():
            scalars[f"loss/stage_{k}"] = float(stage_sums.sum() / stage_counts.sum())
        for q in range(QUARTILES):
            if stage_counts[q]:
                scalars[f"loss/stage_{k}/noise_{q + 1}"] = float(stage_sums[q] / stage_counts[q])
    return scalars


def _utilisation(flops_per_second: float, devices: Sequence[Any]) -> dict[str, float]:
    """Returns `tflops_per_second_per_device` and, for chips that are known, its share `mfu` of their peak."""
    each, chip = flops_per_second / len(devices), find_chip(devices[0].device_kind)
    scalars = {"tflops_per_second_per_device": each / 1e12}
    return scalars if chip is None else scalars | {"mfu": each / chip.peak_flops}


def bar_text(scalars: Mapping[str, float]) -> str:
    """Formats the progress bar's text: images/s and loss, stage by stage, and MFU where it is known."""
    rates = [f"{v:.0f}" for name, v in scalars.items() if name.startswith("images_per_second/")]
    losses = [f"{v:.4f}" for name, v in scalars.items() if name.startswith("loss/stage_") and name.count("/") == 1]
    parts = [f"images/s {'+'.join(rates)}", f"loss {' '.join(losses) or 'none: all steps were skipped'}"]
    return ", ".join(parts + ([f"MFU {scalars['mfu']:.0%}"] if "mfu" in scalars else []))
