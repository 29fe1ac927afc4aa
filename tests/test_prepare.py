"""The command's flags, beside Beam's."""

import subprocess
import sys

import pytest
from apache_beam.options.pipeline_options import DirectOptions, StandardOptions, TypeOptions

from nami_jax.config import ConfigError
from nami_jax.preparation.beam_pipeline import beam_options, in_this_process, worker_message
from nami_jax.preparation.job import Options
from tests.support.paths import ROOT


def test_flags_of_beam_are_passed_on():
    options = beam_options(["--direct_num_workers", "3", "--direct_running_mode=multi_processing"])
    assert options.view_as(DirectOptions).direct_num_workers == 3
    assert options.view_as(DirectOptions).direct_running_mode == "multi_processing"
    assert options.view_as(TypeOptions).allow_unsafe_triggers  # keeps DirectRunner from fetching a program


def test_other_runners_are_given_flags_that_only_they_know():
    arguments = ["--runner=FlinkRunner", "--flink_master=host:1", "--zzz_of_the_cluster=7"]
    options = beam_options(arguments, own=["unit_size"])
    assert options.view_as(StandardOptions).runner == "FlinkRunner"
    assert not options.view_as(TypeOptions).allow_unsafe_triggers
    with pytest.raises(ConfigError, match=r"--unit_sise: .*Did you mean --unit_size"):
        beam_options([*arguments, "--unit_sise=3"], own=["unit_size"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"unit_size": 0}, r"unit_size = 0: must be at least 1\. Set e\.g\. 256"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"max_pixels": 0}, "max_pixels = 0"),
        ({"held_out": 1.0}, r"held_out = 1\.0: must be above 0 and below 1\. Set a number of images such as 20"),
        ({"held_out": 0.0}, r"held_out = 0\.0: must be above 0"),
        ({"held_out": -3}, r"held_out = -3: must be at least 1"),
        ({"max_upscale": 0.5}, r"max_upscale = 0\.5: must be at least 1"),
        ({"dtype": "float16"}, r"dtype = 'float16': is not a valid choice"),
    ],
)
def test_options_out_of_range_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Options(**fields)


@pytest.mark.parametrize(
    ("arguments", "here"),
    [([], True), (["--direct_running_mode=multi_threading"], True), (["--direct_running_mode=multi_processing"], False),
     (["--runner=FlinkRunner"], False)],
)  # fmt: skip
def test_work_of_threads_is_told_from_that_of_other_processes(arguments, here):
    assert in_this_process(beam_options(arguments)) == here


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one: a\ntwo [while running 'prepare']", "one: a\ntwo"),
        ("", "RuntimeError"),
        ("KeyboardInterrupt [while running 'prepare']", "KeyboardInterrupt"),
        ("Traceback (most recent call last):\n  File x\n    y\nValueError: y\n\nDuring that:\n\n"
         "Traceback (most recent call last):\n  File x\n    y\n    ^\na.b.SomeError: one: a\n two\n\nthree "
         "[while running 'prepare-ptransform-7']\n\nmore", "one: a\n two\n\nthree"),
    ],
)  # fmt: skip
def test_the_whole_message_of_a_worker_is_kept(text, message):
    assert worker_message(RuntimeError(text)) == message


def run_command(config: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nami_jax.prepare", "--config", config, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_source_is_by_default_the_config_s_data_set(tmp_path):
    arguments = ["--out", str(tmp_path / "out"), "--config.autoencoder.folder=x", "--config.data.name=not_a_set"]
    run = run_command("configs/emoji_latent.py", *arguments)
    assert run.returncode == 1
    assert "error: source = 'not_a_set': no such folder, and not usable as a data set: " in run.stderr
    run = run_command("configs/emoji_latent.py", *arguments[:-1], "--config.data.name=")
    assert "error: source = '': neither --source nor the config's data.name is set" in run.stderr


def test_own_flags_are_found_behind_those_of_beam():
    arguments = ["--runner", "DirectRunner", "--source", "nowhere", "--nothing_of_ours", "x", "--unit_size", "0"]
    run = run_command("configs/emoji_tiny.py", *arguments)
    assert run.returncode == 1
    assert run.stderr.strip() == "error: unit_size = 0: must be at least 1. Set e.g. 256."
