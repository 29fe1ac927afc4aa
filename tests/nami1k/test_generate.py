"""The command that has prompts drawn: by a process of its own, with a small model that reads MiniLM's states."""

import dataclasses
import json
import sys

import pytest

from nami_jax.nami1k.picture_folders import check_folder
from nami_jax.nami1k.prompt_set import read_prompts
from tests.support import patience
from tests.support.paths import ROOT
from tests.support.pipelines import small_pipeline

LINES = [
    {"id": f"p{i}", "kind": "short", "topic": "cups", "style": "unspecified", "en": text, "zh": None, "tags": {}}
    for i, text in enumerate(["a red cup", "two blue cups", "a cup of rain"])
]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def generate(*arguments):
    command = [sys.executable, "-m", "nami_jax.nami1k", "generate", *map(str, arguments)]
    return patience.run(command, 300, cwd=ROOT)


@pytest.mark.slow
def test_all_prompts_are_drawn_and_checked(prompts, tmp_path):
    sizes = dataclasses.replace(small_pipeline().cfg.model, text_dim=384, pooled_dim=384)
    small_pipeline(model=sizes).save_pretrained(tmp_path / "model")
    given = ("--checkpoint", tmp_path / "model", "--prompts", prompts, "--out", tmp_path / "A")
    done = generate(*given)
    assert done.returncode == 0, done.stderr
    found = check_folder(tmp_path / "A", read_prompts(prompts))
    assert (found.missing, found.extra, list(found.sizes)) == ([], [], ["16x16"])
    assert "3 pictures drawn" in done.stdout
    assert "0 pictures drawn, 3 were there" in generate(*given).stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--language", "zh"], "language = 'zh': 3 prompts have no such text"),
        (["--tag", "colour"], "tag = 'colour': no prompt has it"),
    ],
)
def test_prompts_that_cannot_be_drawn_are_refused(prompts, tmp_path, arguments, told):
    done = generate("--checkpoint", "nowhere", "--prompts", prompts, "--out", tmp_path / "A", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert not (tmp_path / "A").exists()


@pytest.mark.slow
def test_what_the_drawing_process_says_is_passed_on(prompts, tmp_path):
    done = generate("--checkpoint", tmp_path / "nowhere", "--prompts", prompts, "--out", tmp_path / "A")
    assert done.returncode == 2
    assert "nowhere" in done.stderr.splitlines()[0]
    assert "nothing more was drawn" in done.stderr
