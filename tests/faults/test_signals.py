"""A real run stopped by real signals, continued by the same command."""

import signal
import socket

import numpy as np
import pytest

from tests.faults.commands import STEPPING, STEPS, Commands, read_until, small_autoencoder
from tests.support import patience

IN_TIME = 30  # a quiet machine's seconds from the signal to the end; schedulers give as much before they kill


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("signals")


def stop(process, number):
    """Sends a signal and returns the rest of the output and a quiet machine's seconds to the process's end."""
    watch = patience.Stopwatch()
    process.send_signal(number)
    rest, _ = patience.finish(process, 120)
    return rest, watch.look()


@pytest.mark.parametrize(
    "numbers", [[signal.SIGTERM], pytest.param([signal.SIGTERM, signal.SIGINT], marks=pytest.mark.slow)]
)
def test_a_run_refuses_a_second_one_and_stopped_by_each_signal_continues_bit_equal(folder, tmp_path, numbers):
    commands, workdir = Commands(folder), tmp_path / "stopped"
    steps = [0]
    for number in numbers:
        with commands.start(workdir) as process:
            read_until(process, STEPPING)
            refused = commands.run(workdir, status=1)  # which takes some steps' time
            output, seconds = stop(process, number)
        holder = f"process {process.pid} on {socket.gethostname()}"
        last = refused.splitlines()[-1]
        assert last.startswith(f"error: workdir = {str(workdir)!r}: {holder} is training in it. Wait for it to"), last
        assert process.returncode == 0, output
        assert seconds < IN_TIME
        assert f"{number.name}: stopping after this step" in output
        assert "which is saved. The same command continues." in output
        assert "Traceback" not in output
        steps.append(max(int(path.name) for path in (workdir / "checkpoints").iterdir()))
        assert f"Stopped after step {steps[-1]} of {STEPS}" in output
        print(f"{number.name}: {seconds:.1f} s to the end")
    assert sorted({*steps, STEPS}) == [*steps, STEPS]
    last = f"--stop_after={steps[-1] + 2}"
    commands.run(workdir, last)
    commands.run(tmp_path / "whole", last)
    found, expected = commands.newest(workdir), commands.newest(tmp_path / "whole")
    assert found[".step"] == steps[-1] + 2
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_before_the_first_step_ends_the_command_at_once(tmp_path, number):
    commands, workdir = Commands(tmp_path), tmp_path / "early"  # with nothing compiled before
    with commands.start(workdir) as process:
        read_until(process, "compiling:")
        output, seconds = stop(process, number)
    assert process.returncode == 0, output
    assert seconds < IN_TIME
    assert f"{number.name}: nothing to save. The same command continues." in output
    assert "Traceback" not in output
    assert not list((workdir / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_run_that_is_stopped_after_a_skipped_step_has_not_failed(folder):
    wild = {"warmup_steps": 0, "phase_learning_rates": (1e3,), "max_skipped_steps": STEPS}
    commands, workdir = Commands(folder, **wild), folder / "wild"
    with commands.start(workdir) as process:
        read_until(process, "in a row: 2")
        output, _ = stop(process, signal.SIGTERM)
    assert process.returncode == 0, output
    assert "which is not saved, for its loss was out of range. The same command continues." in output
    assert "Traceback" not in output
    assert not list((workdir / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_dry_run_that_is_stopped_does_not_look_like_one_that_went_well(tmp_path):
    with Commands(tmp_path).start(tmp_path / "dry", "--dry_run") as process:
        read_until(process, "compiling:")
        output, _ = stop(process, signal.SIGTERM)
    assert process.returncode == 1, output
    assert "SIGTERM: this dry run was stopped before it could report anything" in output


@pytest.mark.slow
def test_a_signal_during_a_preview_breaks_it_off(folder):
    commands, workdir = Commands(folder, eval_every=1, sample_every=1), folder / "preview"
    with commands.start(workdir) as process:
        before = read_until(process, "step 1: validation/stage_1")
        rest, seconds = stop(process, signal.SIGTERM)
    assert process.returncode == 0, rest
    assert seconds < IN_TIME
    assert f"Stopped after step 1 of {STEPS}" in rest
    assert "samples in" not in before + rest
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"1"}


@pytest.mark.slow
def test_a_stopped_autoencoder_leaves_no_vae_until_it_is_continued_to_its_end(folder):
    commands, workdir = Commands(folder, small_autoencoder), folder / "autoencoder"
    with commands.start(workdir) as process:
        read_until(process, STEPPING)
        output, seconds = stop(process, signal.SIGTERM)
    assert process.returncode == 0, output
    assert seconds < IN_TIME
    (step,) = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    assert f"Stopped after step {step} of {STEPS}, which is saved" in output
    assert not (workdir / "vae").exists()
    commands.run(workdir, f"--stop_after={step + 2}")
    assert (workdir / "vae" / "config.json").is_file()
