"""The commands as a user starts them: what they print, with which status they end, and without jax."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from nami_jax.nami1k.__main__ import COMMANDS
from nami_jax.nami1k.prompt_set import read_prompts
from tests.support.paths import ROOT

WITHOUT_JAX = """
import importlib, pkgutil, sys
import nami_jax.nami1k
for module in pkgutil.iter_modules(nami_jax.nami1k.__path__):
    importlib.import_module(f"nami_jax.nami1k.{module.name}")
sys.argv = ["nami1k", "describe", "--embedding=false", f"--out={sys.argv[1]}"]
try:
    nami_jax.nami1k.__main__.cli()
finally:
    assert "jax" not in sys.modules, "jax was imported"
"""


def run(*arguments, **settings):
    command = [sys.executable, "-m", "nami_jax.nami1k", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **settings)


def test_no_module_of_the_folder_imports_jax_nor_does_describe(tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WITHOUT_JAX, str(tmp_path / "out")]
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "kinds: short 360, typed 320, long 320" in ended.stdout
    assert "design: fulfilled" in ended.stdout
    with Image.open(tmp_path / "out" / "makeup.png") as picture:
        assert picture.width > 1000
    assert json.loads((tmp_path / "out" / "makeup.json").read_text())["digest"] == read_prompts().digest


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does_and_lists_its_flags(command):
    shown = run(command, "--help")
    assert shown.returncode == 0, shown.stderr
    assert f"nami_jax.nami1k {command}" in " ".join(shown.stdout.split())
    assert "--" in shown.stdout


def test_commands_are_listed_and_an_unknown_one_is_named():
    assert "describe, audit, generate, check" in run().stdout
    ended = run("descibe")
    assert (ended.returncode, ended.stderr) == (2, "error: descibe: no such command. Did you mean 'describe'?\n")


def test_audit_ends_with_1_and_a_report_where_a_prompt_leaks_and_with_0_where_none_does(tmp_path):
    prompt = read_prompts().prompts[10]
    captions = tmp_path / "c.txt"
    captions.write_text(f"a plain caption\nStock photo: {prompt.en}\n")
    leaking = run("audit", "--against", captions, "--embedding=false", "--out", tmp_path / "report.json")
    assert leaking.returncode == 1, leaking.stderr
    assert f"{captions}:2" in leaking.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(leak["prompt"], leak["by"]) for leak in report["leaks"]] == [(prompt.id, "n-grams")]
    captions.write_text("a plain caption\n")
    clean = run("audit", "--against", captions, "--embedding=false")
    assert clean.returncode == 0, clean.stderr
    assert "1 captions" in clean.stdout


def test_audit_compares_meanings_in_another_process(tmp_path):
    prompt = next(p for p in read_prompts().prompts if p.id == "n0516")
    (tmp_path / "c.txt").write_text("a trio of sparrows having dinner on a manhole lid covered by a tablecloth\n")
    ended = run("audit", "--against", tmp_path / "c.txt", "--prompts", one_prompt(tmp_path, prompt))
    assert ended.returncode == 1, ended.stderr
    assert "embedding 0." in ended.stdout


def one_prompt(folder, prompt):
    path = folder / "p.jsonl"
    path.write_text(json.dumps(prompt.to_dict()) + "\n")
    return path


def test_audit_of_pictures_names_the_copies(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.linear_gradient("L").rotate(30).save(tmp_path / name / "x.png")
    ended = run("audit", "--images", tmp_path / "a", "--training", tmp_path / "b", "--embedding=false")
    assert ended.returncode == 1, ended.stderr
    assert "pairs alike: 1" in ended.stdout


def test_check_ends_with_1_and_names_what_is_missing(tmp_path):
    path = one_prompt(tmp_path, read_prompts().prompts[0])
    (tmp_path / "a").mkdir()
    missing = run("check", tmp_path / "a", "--prompts", path)
    assert (missing.returncode, "missing: 1\n  n0001" in missing.stdout) == (1, True)
    Image.linear_gradient("L").save(tmp_path / "a" / "n0001.png")
    good = run("check", tmp_path / "a", "--prompts", path, "--json")
    assert (good.returncode, json.loads(good.stdout)["sizes"]) == (0, {"256x256": 1})


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["audit"], "nothing to compare. Pass --against CAPTIONS, or --images FOLDER with --training FOLDER."),
        (["audit", "--images=x"], "--training is missing. Name the folder of training pictures."),
        (["audit", "--against=none.txt", "--embedding=false"], "captions = 'none.txt': is not there."),
        (["check"], "the folder is missing. Name one, e.g. `check out/my_model`."),
        (["check", "no_such_folder"], "folder = 'no_such_folder': is no folder."),
        (["describe", "--beside=none.txt", "--out=/dev/null/x"], "out = '/dev/null/x': "),
        (["describe", "--prompts=none.jsonl"], "none.jsonl cannot be read: No such file"),
    ],
)
def test_what_cannot_work_ends_with_2_and_one_line(arguments, line):
    ended = run(*arguments)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: {line}")
    assert len(ended.stderr.splitlines()) == 1
