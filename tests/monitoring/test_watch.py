import errno
import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

from nami_jax.monitoring.events import EventWriter
from nami_jax.monitoring.flops import step_flops, training_flops
from nami_jax.monitoring.metrics import Interval, NonFiniteError
from nami_jax.monitoring.profiling import Trace, Window
from nami_jax.monitoring.watch import Extras, Outlets, Views, Watch
from tests.monitoring.test_metrics import Clock, metrics, skipped
from tests.support import patience
from tests.support.event_files import read_values
from tests.support.offline_runs import read_offline_runs
from tests.support.paths import ROOT
from tests.support.runs import card_config, train
from tests.support.sizes import TRAIN

ONE_DEVICE = jax.devices()[:1]
PICTURE = Image.new("RGB", (6, 4), "red")


@pytest.fixture(scope="module")
def watched_run(tmp_path_factory):
    """A run of twelve steps with all extras: its config, its folder, what was logged and what was said."""
    workdir, logged, said = tmp_path_factory.mktemp("runs") / "red", {}, io.StringIO()
    cfg = card_config(tmp_path_factory.mktemp("data"))
    extras = Extras("cards", Window(3, 5), lambda step, scalars: logged.setdefault(step, {}).update(scalars))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.setattr(sys, "stdout", said)
        train(cfg, workdir, ONE_DEVICE, extras=extras)
    return cfg, workdir, logged, said.getvalue()


def test_events_hold_what_was_logged_and_the_grids(watched_run):
    _, workdir, logged, _ = watched_run
    values = read_values(workdir / "events")
    assert sorted(values["loss"]) == [4, 8, 12]
    assert sorted(values["validation/stage_3"]) == [6, 12]
    for step, scalars in logged.items():
        assert {name: values[name][step] for name in scalars} == pytest.approx(scalars)
    assert sorted(values["samples"]) == [6, 12]
    grid = Image.open(workdir / "samples" / "step_0000012.png")
    np.testing.assert_array_equal(Image.open(io.BytesIO(values["samples"][12])), grid)


def test_weights_and_biases_has_them_too(watched_run):
    cfg, workdir, logged, _ = watched_run
    (run,) = read_offline_runs(workdir)
    assert run.exit_code == 0
    assert {item.key for item in run.about.config.update} >= cfg.to_dict().keys()
    for step, scalars in logged.items():
        assert {name: run.history[name][step] for name in scalars} == pytest.approx(scalars)
    assert sorted(run.history["samples/path"]) == [6, 12]


def test_rates_and_times_of_a_real_run_agree(watched_run):
    cfg, _, logged, _ = watched_run
    for step in (4, 8, 12):
        found = logged[step]
        assert 0.0 < found["data_wait"] < 1.0
        assert 0.0 < found["step_time_ms/p50"] <= found["step_time_ms/p90"] <= found["step_time_ms/p99"]
        # Of four times a ≤ b ≤ c ≤ d the mean is at least half of (b + c) / 2 and at most d, and p99 at least 0.97 d.
        assert found["step_time_ms/p50"] / 2 <= 1e3 / found["steps_per_second"] <= found["step_time_ms/p99"] / 0.97
        assert found["images_per_second"] == pytest.approx(24 * found["steps_per_second"])
        assert found["images_per_second/stage_2"] == pytest.approx(8 * found["steps_per_second"])
        flops = sum(training_flops(cfg, (8, 8, 8)))
        assert found["tflops_per_second_per_device"] * 1e12 == pytest.approx(flops * found["steps_per_second"])
        assert "mfu" not in found


def test_trace_of_the_asked_steps_is_written(watched_run):
    _, workdir, _, said = watched_run
    (trace,) = workdir.glob("profile/plugins/profile/*/*.xplane.pb")
    assert trace.stat().st_size > 10_000
    assert f"trace of steps 3 to 5 in {workdir / 'profile'}" in said


def test_flops_of_a_step_are_those_of_its_own_images():
    cfg = card_config(Path())
    shapes = ((2, 2, 4, 3), (4, 4, 8, 3), (6, 8, 16, 3))
    assert step_flops(cfg, shapes) == sum(training_flops(cfg, (2, 4, 6), (8, 16)))
    assert step_flops(cfg, shapes) < sum(training_flops(cfg, (2, 4, 6)))


class Bar(tqdm):
    """A bar that keeps what it would write."""

    def __init__(self):
        self.said = []
        super().__init__(total=12, file=io.StringIO())

    def write(self, s):
        self.said.append(s)


class Parts:
    """A watch whose parts a test can look at: it logs at steps 4, 8, ..., validates and draws at 6, 12."""

    def __init__(self, workdir, max_skipped=3, **views):
        self.clock, self.states, self.full = Clock(), [], False
        self.interval = Interval(max_skipped=max_skipped, clock=self.clock)
        self.picture = workdir / "picture.png"
        PICTURE.save(self.picture)
        self.bar = Bar()
        self.events, self.trace = EventWriter(workdir, 0), Trace(None, workdir)
        shown = Views(
            lambda summary: {"corrupt_images": 3}, lambda scalars: "text", self.validate, self.preview, **views
        )
        self.watch = Watch(TRAIN, shown, self.interval, Outlets(self.events, self.trace, self.bar), 12)

    def validate(self, state):
        self.clock.now += 100.0
        self.states.append(state)
        return {"validation/stage_1": 0.5, "validation/loss": 0.75, "latents/std_0": 1.0}

    def preview(self, state, step):
        self.clock.now += 100.0
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.picture

    def run(self, steps):
        for step, values in steps:
            self.watch.next_batch(step, iter([None]))
            self.watch.after_step(step, values)
            self.clock.now += 2.0
            self.watch.show(step, f"state {step}")
            self.watch.draw(step, f"state {step}")

    def close(self):
        self.bar.close()
        self.events.__exit__()


@pytest.fixture
def parts(tmp_path):
    parts = Parts(tmp_path)
    yield parts
    parts.close()


def test_samples_are_evaluated_every_so_many_steps_and_at_the_last(tmp_path):
    parts = Parts(tmp_path, evaluate=lambda state: {"samples/kid": float(state.split()[1])}, evaluate_every=5)
    parts.run((step, metrics()) for step in range(1, 13))
    parts.close()
    assert read_values(tmp_path / "events")["samples/kid"] == {5: 5.0, 10: 10.0, 12: 12.0}
    assert "step 5: samples/kid 5" in parts.bar.said


def test_time_of_validation_and_pictures_is_no_steps(parts, tmp_path):
    parts.run((step, metrics()) for step in range(1, 13))
    parts.close()
    values = read_values(tmp_path / "events")
    assert values["step_time_ms/p99"] == {4: 2000.0, 8: 2000.0, 12: 2000.0}
    assert values["corrupt_images"] == {4: 3.0, 8: 3.0, 12: 3.0}
    assert values["latents/std_0"] == {6: 1.0, 12: 1.0}
    assert parts.states == ["state 6", "state 12"]
    assert parts.bar.said[:2] == [
        "step 6: validation/stage_1 0.5000, validation/loss 0.7500",
        f"step 6: samples in {parts.picture}",
    ]


def test_time_in_the_loader_is_data_wait(parts, tmp_path):
    def loader():
        while True:
            parts.clock.now += 0.5
            yield "batch"

    batches = loader()
    for step in range(1, 5):
        assert parts.watch.next_batch(step, batches) == "batch"
        parts.watch.after_step(step, metrics())
        parts.clock.now += 1.5
        parts.watch.show(step, None)
    parts.close()
    assert read_values(tmp_path / "events")["data_wait"] == {4: 0.25}


def test_skipped_steps_are_reported_and_the_run_goes_on_until_there_are_too_many(parts):
    good = metrics(skipped=0.0)
    parts.run(enumerate([good, skipped(), good, skipped(), skipped(), good], start=1))
    assert [line[:6] for line in parts.bar.said if "Skipped" in line] == ["step 2", "step 4", "step 5"]
    assert parts.bar.n == 6
    with pytest.raises(NonFiniteError, match=r"step 9: .* in a row: 3\."):
        parts.run(enumerate([skipped()] * 4, start=7))


def test_a_picture_that_cannot_be_written_ends_no_run_but_a_full_disk_does(parts):
    parts.picture = parts.picture.with_name("gone.png")
    parts.run((step, metrics()) for step in range(1, 8))
    assert f"step 6: no samples, No such file or directory: {parts.picture}. The training goes on." in parts.bar.said
    parts.full = True
    with pytest.raises(OSError, match="No space left"):
        parts.run((step, metrics()) for step in range(8, 13))


def test_the_validation_loss_is_that_of_its_own_step(parts):
    parts.run((step, metrics()) for step in range(1, 8))
    assert [parts.watch.validation_loss(step) for step in (5, 6, 7)] == [None, 0.75, None]


SILENT = """
import sys
from pathlib import Path
import jax
from PIL import Image

process = int(sys.argv[2])
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=process)

from nami_jax.monitoring.events import tracked
from nami_jax.monitoring.metrics import Interval
from nami_jax.monitoring.profiling import Window
from nami_jax.monitoring.watch import Extras, Views, watching
from tests.support.sizes import TRAIN
from tests.monitoring.test_metrics import metrics, skipped
folder = Path(sys.argv[3]) / f"process_{process}"
Path(sys.argv[3]).mkdir(exist_ok=True)

def preview(state, step):
    if process == 0:
        Image.new("RGB", (6, 4)).save(folder / "picture.png")
    return folder / "picture.png"

views = Views(lambda summary: {}, lambda scalars: "text", lambda state: {"validation/loss": 0.5}, preview)
extras = Extras("cards", Window(1, 2))
with (
    tracked(extras.wandb, folder, {}) as tracker,
    watching(TRAIN, views, Interval(max_skipped=3), folder, range(1, 7), extras, tracker) as watch,
):
    for step in range(1, 7):
        watch.next_batch(step, iter([None]))
        watch.after_step(step, skipped() if step == 3 else metrics(skipped=0.0))
        watch.show(step, None)
        watch.draw(step, None)
"""


def test_only_the_first_process_shows_and_writes_anything(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*free.getsockname())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SILENT, address, str(i), str(tmp_path / "runs")],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in (0, 1)
    ]  # fmt: skip
    first, second = (patience.finish(process, 120) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], first[1] + second[1]
    for text in (
        "step 3: the loss is nan",
        "step 6: validation/loss 0.5000",
        "samples in",
        "trace of steps 1 to 2",
    ):
        assert text in first[0]
    assert "training:" in first[1]
    assert [line for line in second[0].splitlines() if not line.startswith("[Gloo]")] == []  # which speaks for itself
    assert "training:" not in second[1]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["process_0"]
    assert {"events", "profile", "wandb"} <= {path.name for path in (tmp_path / "runs" / "process_0").iterdir()}
