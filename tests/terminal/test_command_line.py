"""What every command answers before it does anything."""

import subprocess
import sys

import pytest

import nami_jax
from tests.support.paths import ROOT

HELP = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    print("status", end.code)
print("modules", *sys.modules)
"""

# A flag of each command, with its default or, where it has none, the beginning of what it means.
FLAGS = {
    "train": "--initialization_timeout: seconds to wait for all processes to join (default: '300')",
    "sample": "--out: folder for the PNGs (default: 'out')",
    "demo": "--most_steps: steps of a stage, at most (default: '50')",
    "evaluate": "--references: real pictures of a split that are compared with, at most (default: '10000')",
    "prepare": "--batch_size: images that the autoencoder encodes at once (default: '16')",
    "plan": "--mfu: share of the chips' peak rate that the run is assumed to reach, in (0, 1] (default: '0.4')",
    "preflight": "--expected_hosts: expected number of processes, usually one per host",
    "convert": "--[no]allow_missing: go on without an autoencoder, text encoder or tokeniser that is absent "
    "(default: 'false')",
    "parity": "--tolerance: largest relative error (default: '2e-05')",
}

STRAY = "is not a flag, and nothing takes it."
FIELDS = "Set fields of the config with e.g. --config.train.steps=9."


def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", f"nami_jax.{command}", *arguments]
    return subprocess.run(whole, cwd=ROOT, capture_output=True, text=True)


def test_every_command_is_here():
    assert {path.stem for path in (ROOT / "nami_jax").glob("[!_]*.py")} == FLAGS.keys()


@pytest.mark.parametrize("command", FLAGS)
def test_help_lists_the_command_s_own_flags_without_importing_jax(command):
    shown = subprocess.run(
        [sys.executable, "-c", HELP, f"nami_jax.{command}"], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    words = shown.stdout.split()
    text, modules = " ".join(words), words[words.index("modules") + 1 :]
    assert "status None" in text
    assert FLAGS[command] in text
    for flag in ("--[no]version", "--[no]help") + (("--config:",) if command in ("train", "plan", "prepare") else ()):
        assert flag in text
    assert "absl" in modules
    assert not {"jax", "flax", "orbax", "numpy", "PIL", "safetensors", "apache_beam", "gradio"} & set(modules)


@pytest.mark.parametrize("command", ["train", "parity"])
def test_version_is_that_of_the_package(command):
    shown = run(command, "--version")
    assert (shown.returncode, shown.stdout) == (0, f"nami_jax {nami_jax.__version__}\n")


@pytest.mark.parametrize(
    ("command", "arguments", "line"),
    [
        ("train", ["--config=emoji_tiny", "stray"], f"stray: {STRAY} {FIELDS}"),
        ("plan", ["--config=emoji_tiny", "--topology=host", "stray"], f"stray: {STRAY} {FIELDS}"),
        ("preflight", ["stray", "--config=emoji_tiny"], f"stray: {STRAY} {FIELDS}"),
        ("sample", ["--checkpoint=c", "--prompt=red", "apple"], f"apple: {STRAY} Pass prompts with --prompt."),
        ("convert", ["--from=a", "b", "--to=c"], f"b: {STRAY} Pass folders with --from and --to."),
        ("demo", ["emoji"], f"emoji: {STRAY} Pass a model with --checkpoint."),
        ("parity", ["a", "b"], f"b: {STRAY} Pass one folder."),
        ("parity", [], "the folder is missing. Pass one, e.g. tests/golden/nami_tiny."),
        ("sample", ["--promt=x"], "Unknown command line flag 'promt'. Did you mean: prompt ? --help lists the flags."),
        ("sample", [], "--prompt is missing. --help lists the flags."),
        ("evaluate", [], "--checkpoint is missing. --help lists the flags."),
        ("train", [], "--config is missing. --help lists the flags."),
    ],
)
def test_flags_that_cannot_work_end_in_one_line(command, arguments, line):
    ended = run(command, *arguments)
    assert (ended.returncode, ended.stderr) == (1, f"error: {line}\n")
