"""Every command in the documentation: what it is given is parsed here, and something named here runs it."""

import ast
import dataclasses
import functools
import importlib
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nami_jax import NamiPipeline, prepare
from nami_jax.config import SampleChanges
from nami_jax.nami1k.__main__ import COMMANDS as COMMANDS_OF_NAMI1K
from nami_jax.terminal.command_line import parse_flags
from nami_jax.training.flags import parse_run_flags
from nami_jax.weights import save_tensors
from tests.support.flags import defined
from tests.support.paths import ROOT
from tests.support.pipelines import small_pipeline

BESIDE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "launch/README.md")
PAGES = [*BESIDE, *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
PROGRAMS = re.compile(r"(make|python|nami-\w+|pip|git clone|bash|gcloud|xpk|sky|launch/\w+\.sh|\.venv/bin/\S+) ")
COMMAND = re.compile(r"-m nami_jax\.(\w+)|\bnami-(\w+)")
OTHERS = "not ours"
# A command that begins so is run by CI, or by this test in a small form; the first that fits counts.
RUN_BY = {
    r"make (train|sample PROMPT=.*|styles|test-all|lint)$": ".ci/run",
    r"make test$": ".ci/run",  # a part of test-all
    r"make parity": "tests/live/test_nami_live.py",
    r"make gpu-check": "tests/test_plan.py",
    r"make docs": "tests/test_site.py",
    r"make notebooks": "tests/test_notebooks.py",
    r"make launch-check": "tests/live/test_launch_live.py",
    r"make train CONFIG=configs/(my_images|my_latents|emoji_latent|emoji\.py)": "tests/runs/test_training_on_pixels.py",
    r"make train CONFIG=configs/(my_autoenc|autoenc)": "tests/training/autoencoder/test_autoencoder_task.py",
    r"make train CONFIG=configs/styles": "tests/data/emoji_captions/test_pair_splits.py",
    r"make train CONFIG=configs/nami_2b_finetune": "tests/runs/test_finetune.py",
    r"make prepare": "tests/preparation/test_orchestration.py",
    r"make sample CONFIG=": "tests/runs/test_training_on_latents.py",
    r"make plan": "tests/test_plan.py",
    r"python -m nami_jax.train .*--dry_run": "tests/training/test_dry_run.py",
    r"python -m nami_jax.train .*--distributed": "tests/runs/test_hosts.py",
    r"python -m nami_jax.(train|prepare) --config configs/finetune.py": "tests/runs/test_begun_runs.py",
    r"(python -m nami_jax.train|nami-train) --config emoji_tiny": "tests/test_train.py",
    r"python -m nami_jax.train --config configs/emoji.py": "tests/runs/test_training_on_pixels.py",
    r"python -m nami_jax.sample .*--preset released": "tests/runs/test_finetune.py",
    r"python -m nami_jax.sample .*--(image|lora)": "tests/sampling/test_pipeline.py",
    r"python -m nami_jax.sample .*--sequence": "tests/sampling/test_sampler.py",
    r"python -m nami_jax.sample": "tests/sampling/test_pipeline.py",
    r"(make demo|python -m nami_jax.demo)": "tests/test_demo.py",
    r"python -m nami_jax.evaluate": "tests/test_evaluate.py",
    r"python -m nami_jax.parity": "tests/test_parity.py",
    r"python -m nami_jax.convert": "tests/test_convert.py",
    r"python -m nami_jax.nami1k (describe|audit|check)": "tests/nami1k/test___main__.py",
    r"python -m nami_jax.nami1k generate": "tests/nami1k/test_generate.py",
    r"python -m nami_jax.nami1k serve": "tests/nami1k/test_serve.py",
    r"python -m nami_jax.nami1k report": "tests/nami1k/test_report_votes.py",
    r"python -m nami_jax.nami1k simulate": "tests/nami1k/test_simulate.py",
    r"python -m benchmarks.arena_statistics": "tests/benchmarks/test_arena_statistics.py",
    r"python -m benchmarks.attention": "tests/benchmarks/test_attention_benchmark.py",
    r"python -m benchmarks.budget": "tests/benchmarks/test_budget.py",
    r"python -m benchmarks.editing": "tests/benchmarks/test_editing.py",
    r"python -m benchmarks.accelerator": "tests/benchmarks/test_accelerator.py",
    r"python -m benchmarks.first_run": "tests/benchmarks/test_first_run.py",
    r"python -m benchmarks.gaussian_flow": "tests/benchmarks/test_gaussian_flow.py",
    r"python -m benchmarks.growth": "tests/benchmarks/test_growth.py",
    r"python -m benchmarks.prompt_audit": "tests/benchmarks/test_prompt_audit.py",
    r"python -m benchmarks.start_up": "tests/benchmarks/test_start_up.py",
    r"python -m benchmarks.tpu_cycles": "tests/benchmarks/test_tpu_cycles.py",
    r"python -m benchmarks.vs_pytorch": "tests/live/test_vs_pytorch_live.py",
    r"python -m benchmarks": "tests/benchmarks/test_benchmarks.py",
    r"(launch/|bash launch/)": "tests/launch/test_launch.py",
    r"pip install (\.|--no-deps gt)": "tests/test_package.py",
    r"(pip|git clone|gcloud|xpk|sky|\.venv/bin/pre-commit) ": OTHERS,
}
PARSERS: dict[str, Callable[[list[str]], list[str]]] = {
    "train": parse_run_flags,
    "plan": parse_run_flags,
    "preflight": parse_run_flags,
    "prepare": prepare.parse_own_flags,
    "parity": functools.partial(parse_flags, positional=1),
}


def commands() -> list[tuple[str, str]]:
    """Returns each command line in blocks of code, and each benchmark in text, without comments, and its page."""
    found = []
    for page in PAGES:
        text, block = (ROOT / page).read_text(), re.compile(r"^```\w*\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
        found += [(page, code) for code in re.findall(r"`(python -m benchmarks[^`\n]+)`", text)]
        for content in block.findall(text):
            for line in re.sub(r"\\\n\s*", " ", content).splitlines():
                line = re.sub(r"\s+#.*", "", line).strip()
                if PROGRAMS.match(f"{line} "):
                    found.append((page, line))
    return found


COMMANDS = commands()


def runner(command: str) -> str | None:
    return next((place for beginning, place in RUN_BY.items() if re.match(beginning, command)), None)


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_each_command_is_run_by_a_test_or_by_ci(page, command):
    place = runner(command)
    assert place is not None, f"{page}: {command}: add what runs it to RUN_BY"
    assert place == OTHERS or (ROOT / place).is_file()


def test_nothing_is_said_to_be_run_that_no_page_has():
    assert {runner(command) for _, command in COMMANDS} == set(RUN_BY.values())


def test_ci_calls_what_it_is_said_to_call():
    script = (ROOT / ".ci" / "run").read_text()
    for _, command in COMMANDS:
        if runner(command) == ".ci/run":
            assert " ".join(command.split()[:2]) in script, command


def python_lines(command: str) -> list[list[str]]:
    """Returns the commands of nami_jax that a line runs, as words; of `make`, those that it would run."""
    if not command.startswith("make "):
        return [shlex.split(command)]
    recipe = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *shlex.split(command)[1:]],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [shlex.split(line.replace('"$PROMPT"', "prompt")) for line in recipe.splitlines() if COMMAND.search(line)]


@pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections, which loads the config's file
@pytest.mark.parametrize(("page", "command"), [entry for entry in COMMANDS if not entry[1].startswith("launch/")])
def test_each_command_has_flags_and_fields_that_exist(page, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in python_lines(command):
        match = COMMAND.search(" ".join(words))
        if match is None:
            continue
        name = match[1] or match[2]
        start = next(i for i, word in enumerate(words) if COMMAND.fullmatch(word) or word == f"nami_jax.{name}")
        home, parse = f"nami_jax.{name}", PARSERS.get(name, parse_flags)
        if name == "nami1k":  # a command of commands
            start += 1
            home, positional = COMMANDS_OF_NAMI1K[words[start]]
            parse = functools.partial(parse_flags, positional=positional)
        arguments = [name, *words[start + 1 :]]
        monkeypatch.setattr(sys, "argv", arguments)
        module: Any = importlib.import_module(home)
        with defined(module.define_flags):
            parse(arguments)


def snippets(page: str) -> list[str]:
    """Returns the Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def model_in_place(tmp_path, monkeypatch):
    """What the pages name: a small model that reads MiniLM's states, and two adapters of it."""
    sizes = dataclasses.replace(small_pipeline().cfg.model, text_dim=384, pooled_dim=384)
    small_pipeline(model=sizes).save_pretrained(tmp_path / "runs" / "emoji_tiny")
    rng, key = np.random.default_rng(0), "transformer.single_transformer_blocks.0.attn.to_q"
    pair = {f"{key}.lora_{part}.weight": rng.standard_normal(shape, np.float32) for part, shape in
            (("A", (2, sizes.width)), ("B", (sizes.width, 2)))}  # fmt: skip
    save_tensors(pair, tmp_path / "runs" / "emoji_lora", "adapter_model")
    save_tensors(pair, tmp_path, "style")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", ["api.md", "editing.md"])
def test_the_arguments_and_methods_in_python_blocks_exist(page):
    known = set(inspect.signature(NamiPipeline.__call__).parameters) | set(SampleChanges.__annotations__)
    calls = [node for block in snippets(page) for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    assert len(snippets(page)) >= 3
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id in ("pipe", "again"):
            assert {keyword.arg for keyword in call.keywords} <= known, ast.unparse(call)
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "pipe":
            assert hasattr(NamiPipeline, call.func.attr), ast.unparse(call)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["api.md", "editing.md"])
def test_the_python_blocks_run_one_after_the_other(page, model_in_place):
    names: dict[str, Any] = {}
    for block in snippets(page):
        exec(compile(block, f"docs/{page}", "exec"), names)
