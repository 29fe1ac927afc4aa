"""From the training step's device metrics to numbers for people: sums over an interval, TensorBoard, the bar's text."""

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import jax
import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from nami_jax.loss import QUARTILES


class NonFiniteError(FloatingPointError):
    """The loss or the gradient became NaN or infinite. The message names the step and what to change."""


class Interval:
    """Collects the metrics of consecutive steps until `summary` is asked for."""

    def __init__(self, rate_field: str = "train.phase_learning_rates") -> None:
        """Starts an interval; `rate_field` of the config is what to lower if the loss does not stay finite."""
        self._rate_field = rate_field
        self._steps: list[int] = []
        self._metrics: list[Mapping[str, jax.Array]] = []
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent inside, on validation or sampling, out of the rates."""
        entered = time.perf_counter()
        yield
        self._since += time.perf_counter() - entered

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Keeps one step's metrics, as its maker describes them, and waits for those of the step before.

        So one step runs while the next is prepared, and the progress bar tells the true rate.

        Raises:
            NonFiniteError: the loss or gradient of the step before is not finite.
        """
        self.require_finite()
        self._steps.append(step)
        self._metrics.append(metrics)

    def require_finite(self) -> None:
        """Waits for the last step.

        Raises:
            NonFiniteError: its loss or gradient is not finite.
        """
        if not self._metrics:
            return
        step, metrics = self._steps[-1], self._metrics[-1]
        loss, grad_norm = float(metrics["loss"]), float(metrics["grad_norm"])
        if not np.isfinite([loss, grad_norm]).all():
            raise NonFiniteError(
                f"step {step}: the loss is {loss}, the gradient norm {grad_norm}. The checkpoints before this step "
                f"are good. Lower {self._rate_field} or raise train.warmup_steps."
            )

    def summary(self) -> dict[str, float]:
        """Averages the steps collected since the last summary.

        Returns:
            Each metric of shape () under its name (`loss`, `grad_norm`, ...; of `learning_rate` the last) and
            `steps_per_second`; where the steps have `loss_sums` and `loss_counts`, the scalars of `_by_stage` too.

        Raises:
            NonFiniteError: the loss or gradient of a step is not finite.
        """
        self.require_finite()
        metrics = jax.device_get(self._metrics)
        seconds = time.perf_counter() - self._since
        scalars = {
            name: float(np.mean([m[name] for m in metrics])) for name, x in metrics[0].items() if np.ndim(x) == 0
        }
        scalars |= {"learning_rate": float(metrics[-1]["learning_rate"]), "steps_per_second": len(metrics) / seconds}
        if "loss_sums" in metrics[0]:
            scalars |= _by_stage(metrics, seconds)
        self._steps, self._metrics, self._since = [], [], time.perf_counter()
        return scalars


def _by_stage(metrics: Sequence[Mapping[str, np.ndarray]], seconds: float) -> dict[str, float]:
    """Returns `images_per_second/stage_k`, `loss/stage_k` and `loss/stage_k/noise_q`, every image counting alike.

    Noise q is the quarter of the stage's noise range, 1 the cleanest; quarters that no image fell into are left out.
    """
    scalars = {}
    sums = np.sum([m["loss_sums"] for m in metrics], axis=0)  # (K, 4)
    counts = np.sum([m["loss_counts"] for m in metrics], axis=0)
    for k, (stage_sums, stage_counts) in enumerate(zip(sums, counts, strict=True), start=1):
        scalars[f"images_per_second/stage_{k}"] = float(stage_counts.sum() / seconds)
        scalars[f"loss/stage_{k}"] = float(stage_sums.sum() / stage_counts.sum())
        for q in range(QUARTILES):
            if stage_counts[q]:
                scalars[f"loss/stage_{k}/noise_{q + 1}"] = float(stage_sums[q] / stage_counts[q])
    return scalars


class EventWriter:
    """Writes scalars and pictures as TensorBoard events below the workdir, each before the call returns.

    Not by tensorboardX's SummaryWriter: its thread ends on a full disk without a word, and the run then waits for it.
    """

    def __init__(self, workdir: Path, start: int):
        """Opens a new file of events in `workdir/events`, which supersedes what was logged after step `start`.

        Raises:
            OSError: here and in all methods: what is to be written does not get to the disk.
        """
        folder = workdir / "events"
        folder.mkdir(parents=True, exist_ok=True)
        self._events = EventsWriter(str(folder / "events"))
        self._write(Event(step=start + 1, session_log=SessionLog(status=SessionLog.START)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._events.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one value per name at `step`."""
        parts = [summary.scalar(name, value).value for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=itertools.chain(*parts))))

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Writes an image (H, W, 3) uint8 at `step`."""
        self._write(Event(step=step, summary=summary.image(name, picture, dataformats="HWC")))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)
        self._events.flush()


def bar_text(scalars: Mapping[str, float]) -> str:
    """Formats the progress bar's text: images/s and loss, stage by stage."""
    rates = [f"{v:.0f}" for name, v in scalars.items() if name.startswith("images_per_second/")]
    losses = [f"{v:.4f}" for name, v in scalars.items() if name.startswith("loss/stage_") and name.count("/") == 1]
    return f"images/s {'+'.join(rates)}, loss {' '.join(losses)}"
