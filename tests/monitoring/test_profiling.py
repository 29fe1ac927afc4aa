import jax
import jax.numpy as jnp
import pytest

from nami_jax.config import ConfigError
from nami_jax.monitoring.profiling import Trace, Window, parse_window


def traced(window, steps, folder):
    """Makes `steps` under a trace; returns those before which it began and after which it ended."""
    begun, ended = [], []
    with Trace(window, folder) as trace:
        for step in steps:
            if trace.begins(step):
                trace.start(step)
                begun.append(step)
            jnp.ones(step).sum().block_until_ready()
            if trace.ends(step):
                trace.stop(step)
                ended.append(step)
    return begun, ended


def files(folder):
    return [path for path in folder.rglob("*.xplane.pb") if path.stat().st_size]


def test_steps_of_the_window_are_traced(tmp_path, capsys):
    assert traced(Window(3, 5), range(1, 9), tmp_path) == ([3], [5])
    assert len(files(tmp_path)) == 1
    assert f"trace of steps 3 to 5 in {tmp_path}" in capsys.readouterr().out


def test_a_window_may_be_one_step(tmp_path):
    assert traced(Window(2, 2), range(1, 4), tmp_path) == ([2], [2])
    assert len(files(tmp_path)) == 1


def test_run_continued_within_the_window_traces_the_rest(tmp_path):
    assert traced(Window(3, 5), range(5, 9), tmp_path) == ([5], [5])
    assert len(files(tmp_path)) == 1


def test_run_that_ends_within_the_window_keeps_what_was_traced(tmp_path):
    assert traced(Window(3, 5), range(1, 5), tmp_path) == ([3], [])
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("steps", [range(6, 9), range(1, 3)])
def test_run_outside_the_window_says_that_nothing_was_traced(tmp_path, capsys, steps):
    assert traced(Window(3, 5), steps, tmp_path) == ([], [])
    assert "no trace: none of steps 3 to 5 ran this time" in capsys.readouterr().out
    assert not files(tmp_path)


def test_without_a_window_nothing_happens(tmp_path, capsys):
    assert traced(None, range(1, 4), tmp_path) == ([], [])
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


def test_a_failure_ends_the_trace(tmp_path):
    def failing_run():
        with Trace(Window(1, 5), tmp_path) as trace:
            trace.start(1)
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        failing_run()
    jax.profiler.start_trace(tmp_path / "next")  # fails while another trace is in progress
    jax.profiler.stop_trace()


def test_window_is_read():
    assert parse_window("10:15", 15) == Window(10, 15)
    assert parse_window("1:1", 15) == (1, 1)


@pytest.mark.parametrize("text", ["10", "10:", ":15", "10-15", "10:15:20", "a:b", "-1:5", "1.5:2", "²:3", ""])
def test_window_in_another_form_is_refused(text):
    with pytest.raises(
        ConfigError, match=r"--profile = .* first and the last step to trace\. Set e\.g\. --profile 10:15"
    ):
        parse_window(text, 20)


@pytest.mark.parametrize("text", ["0:3", "5:4", "10:21", "21:22"])
def test_window_outside_the_run_is_refused(text):
    with pytest.raises(ConfigError, match=r"must be steps of the run, 1 to 20, in order\. Set e\.g\. --profile 15:20"):
        parse_window(text, 20)
