import io
import json
import sys

import numpy as np
import pytest
import wandb
from PIL import Image

from nami_jax.config import ConfigError
from nami_jax.monitoring.events import EventWriter, tracked
from tests.support import patience
from tests.support.event_files import read_values
from tests.support.offline_runs import read_offline_runs

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
SETTINGS = {"train": {"steps": 12}}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Weights & Biases without an account, and without what a person's settings on this machine would change."""
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    yield
    wandb.teardown()


def write(workdir, start, steps, tracker=None):
    with EventWriter(workdir, start, tracker) as events:
        for step in steps:
            events.scalars(step, {"loss": 1 / step, "loss/stage_1": 2 / step})
        events.picture(steps[-1], "samples", PICTURE)


def test_scalars_and_pictures_are_written(tmp_path):
    write(tmp_path, 0, [4, 8])
    values = read_values(tmp_path / "events")
    assert values["loss/stage_1"] == {4: 0.5, 8: 0.25}
    np.testing.assert_array_equal(Image.open(io.BytesIO(values["samples"][8])), PICTURE)


def test_weights_and_biases_gets_all_scalars_and_pictures(offline, tmp_path):
    with tracked("cards", tmp_path / "red", SETTINGS) as tracker:
        write(tmp_path / "red", 0, [4, 8], tracker)
    (run,) = read_offline_runs(tmp_path / "red")
    assert (run.about.project, run.about.display_name, run.exit_code) == ("cards", "red", 0)
    assert json.loads({item.key: item.value_json for item in run.about.config.update}["train"]) == {"steps": 12}
    assert run.history["loss"] == {4: 0.25, 8: 0.125}
    assert run.history["loss/stage_1"] == {4: 0.5, 8: 0.25}
    picture = run.history["samples/path"][8]
    np.testing.assert_array_equal(Image.open(run.folder / "files" / picture), PICTURE)


def test_continued_run_continues_on_weights_and_biases_and_sends_nothing_twice(offline, tmp_path):
    with tracked("cards", tmp_path, SETTINGS) as tracker:
        write(tmp_path, 0, [4, 8], tracker)
    with tracked("cards", tmp_path, SETTINGS) as tracker:
        write(tmp_path, 8, [12], tracker)
    runs = read_offline_runs(tmp_path)
    assert runs[0].about.run_id == runs[1].about.run_id
    assert [sorted(run.history["loss"]) for run in runs] == [[4, 8], [12]]


def test_nothing_is_sent_unless_asked_for(tmp_path):
    with tracked(None, tmp_path, SETTINGS) as tracker:
        write(tmp_path, 0, [4], tracker)
    assert [path.name for path in tmp_path.iterdir()] == ["events"]


LEAVES = """
import sys
from pathlib import Path
from nami_jax.monitoring.events import EventWriter, tracked

with tracked("cards", Path(sys.argv[1]), {}) as tracker, EventWriter(Path(sys.argv[1]), 0, tracker) as events:
    events.scalars(4, {"loss": 0.25})
    raise SystemExit("error: the loss is nan")
"""


def test_a_process_that_ends_in_an_error_loses_nothing_and_says_no_more(offline, tmp_path):
    command = [sys.executable, "-c", LEAVES, str(tmp_path)]
    ended = patience.run(command, 120)
    assert (ended.returncode, ended.stderr) == (1, "error: the loss is nan\n")
    (run,) = read_offline_runs(tmp_path)
    assert (run.history["loss"], run.exit_code) == ({4: 0.25}, 1)


def test_without_a_login_the_way_out_is_named(offline, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with (
        pytest.raises(ConfigError, match=r"--wandb = 'cards': No API key.*`wandb login`.*WANDB_MODE=offline"),
        tracked("cards", tmp_path, SETTINGS),
    ):
        pass


def test_a_package_that_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails as if it were not there
    with (
        pytest.raises(ModuleNotFoundError, match=r"--wandb: wandb is not installed.*pip install wandb"),
        tracked("cards", tmp_path, SETTINGS),
    ):
        pass
