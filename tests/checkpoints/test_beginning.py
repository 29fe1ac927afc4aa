import dataclasses
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from absl import flags
from ml_collections import config_flags

from configs import emoji_latent, emoji_tiny, finetune
from nami_jax.checkpoints.beginning import completed, find_origin
from nami_jax.config import AutoencoderConfig, Config, ConfigError, PipelineConfig, SampleConfig
from nami_jax.weights.converted import write_settings
from tests.support.paths import ROOT
from tests.support.sizes import make_config

RUN = make_config(
    model={"channels": 4, "text_dim": 48},
    flow={"sigma_ends": (0.6, 0.3, 0.0), "time_mean": 0.5},
    data={"prepared": "prepared", "side": 64},
    text={"max_length": 12},
    autoencoder={"folder": "somewhere/vae", "downscale": 2},
    sample={"steps": (3, 4, 5), "guidance_scale": 1.5, "transition": "bridge"},
    bridge={"kind": "conv", "noise": 0.5},
)


def write_run(folder: Path, cfg: Config = RUN, steps=(5, 10)) -> Path:
    """Writes what of a run is read before its weights."""
    folder.mkdir()
    for step in steps:
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(cfg.to_dict()))
    return folder


def write_converted(folder: Path, settings: PipelineConfig) -> Path:
    (folder / "transformer").mkdir(parents=True)
    write_settings(folder, settings)
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "run")


def fields(init_from: Any = None, **sections: dict[str, Any]) -> dict[str, Any]:
    """Returns configs/finetune.py with fields set."""
    config: Any = finetune.get_config()
    config.train.init_from = None if init_from is None else str(init_from)
    config.data.prepared = "new"
    config.train.stage_batches = ((2, 2, 2),)
    for name, values in sections.items():
        config[name].update(values)
    return config.to_dict()


def read(*args: Any, workdir: Path | None = None, **sections: Any) -> Config:
    return Config.from_dict(completed(fields(*args, **sections), workdir))


def test_what_is_unset_is_the_models_own(run):
    cfg = read(run)
    assert cfg.model == RUN.model
    assert (cfg.flow, cfg.text, cfg.sample) == (RUN.flow, RUN.text, RUN.sample)
    assert (cfg.bridge.kind, cfg.bridge.noise) == ("conv", 0.5)
    assert cfg.data.side == 64
    assert cfg.autoencoder == AutoencoderConfig(str(Path("somewhere/vae").absolute()), 2)
    assert cfg.data.prepared == "new"


def test_what_is_set_stays(run):
    cfg = read(
        run,
        model={"lora_rank": 2, "dtype": "bfloat16"},
        data={"side": 32},
        sample={"steps": (1, 1, 1), "transition": "renoise"},
        text={"max_length": 20},
        autoencoder={"folder": "other"},
    )
    assert (cfg.model.lora_rank, cfg.model.dtype, cfg.data.side) == (2, "bfloat16", 32)
    assert (cfg.sample, cfg.bridge.kind, cfg.bridge.noise) == (SampleConfig((1, 1, 1), 1.5), None, 0.0)
    assert (cfg.text.max_length, cfg.autoencoder.folder) == (20, "other")


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_another_share_of_noise_may_be_set(run, share):
    assert read(run, bridge={"noise": share}).bridge.noise == share


def test_pairs_are_not_inherited(tmp_path):
    cfg = make_config(model={"lora_rank": 4}, train={"init_from": "somewhere"})
    assert read(write_run(tmp_path / "run", cfg), data={"prepared": None}).model.lora_rank is None


def test_a_size_that_contradicts_is_named_before_any_rule_of_the_config(run):
    with pytest.raises(
        ConfigError, match=r"model\.num_heads = 3: the network in .*run has 2\. Set that value, or None"
    ):
        read(run, model={"num_heads": 3})
    config: Any = emoji_tiny.get_config()  # one of pixels, and this run is of latents
    config.train.init_from = str(run)
    with pytest.raises(ConfigError, match=r"model\.channels = 3: the network in .* has 4"):
        completed(config.to_dict())


def test_sizes_that_are_repeated_are_welcome(run):
    assert read(run, model=dataclasses.asdict(RUN.model)).model == RUN.model


def test_a_converted_folder_says_the_same_and_its_paths_are_below_it(tmp_path):
    settings = dataclasses.replace(RUN.pipeline, autoencoder=AutoencoderConfig("vae", 2))
    cfg = read(write_converted(tmp_path / "weights", settings))
    assert cfg.model == RUN.model
    assert cfg.autoencoder.folder == str(tmp_path / "weights" / "vae")


def test_a_config_that_leaves_sizes_open_says_what_it_needs():
    with pytest.raises(ConfigError, match=r"train\.init_from = None: this config takes model\.channels, .* and more"):
        read()


def test_a_complete_config_can_be_read_where_the_weights_are_not(tmp_path):
    sections = {name: value for name, value in RUN.pipeline.to_dict().items() if name != "side"}
    given = fields(tmp_path / "gone", **sections, data={"side": 64})
    assert Config.from_dict(completed(given)).model == RUN.model


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("nowhere", r"contains no converted weights and is no run\. Set a run's workdir, or .*nami_jax\.convert"),
        ("empty", "is a run without a finished checkpoint"),
        ("run@7", r"the run has checkpoints of \[5, 10\]\. Set one of them"),
        ("weights@7", r"is no run that has steps\. Set '.*weights'"),
        ("autoencoder", "is a run whose task is 'autoencoder'"),
    ],
)
def test_what_cannot_be_started_from_is_named(tmp_path, at, message):
    write_run(tmp_path / "run")
    write_converted(tmp_path / "weights", RUN.pipeline)
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    (write_run(tmp_path / "autoencoder") / "config.json").write_text('{"task": "autoencoder"}')
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / at)


def test_a_step_is_named_behind_an_at(run):
    assert find_origin(f"{run}@5").step == 5
    assert find_origin(str(run)).step is None


def test_a_folder_whose_name_ends_so_is_itself(tmp_path):
    assert find_origin(str(write_run(tmp_path / "run@5"))) == (tmp_path / "run@5", True, None)


def test_a_begun_run_knows_itself_when_its_origin_has_gone(tmp_path):
    cfg = dataclasses.replace(RUN, train=dataclasses.replace(RUN.train, init_from=str(tmp_path / "gone")))
    workdir = write_run(tmp_path / "begun", cfg)
    assert read(tmp_path / "gone", workdir=workdir).model == RUN.model


@pytest.mark.parametrize("steps", [(), ("100.orbax-checkpoint-tmp",)])
def test_a_run_that_saved_nothing_yet_asks_its_origin_again(run, tmp_path, steps):
    begun = write_run(tmp_path / "begun", dataclasses.replace(RUN, data=dataclasses.replace(RUN.data, side=16)), steps)
    assert read(run, workdir=begun).data.side == 64


@pytest.mark.parametrize("below", [".", "inside"])
def test_nothing_is_written_to_what_a_run_begins_from(run, tmp_path, below):
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(ConfigError, match=r"lies in it, and what a run begins from is not written to\. Use another"):
        read(run, workdir=tmp_path / "link" / below)


def documented(module: str) -> list[list[str]]:
    """Returns the command lines of docs/finetuning.md that run a module on configs/finetune.py."""
    blocks = re.findall(r"```\n(.*?)```", (ROOT / "docs" / "finetuning.md").read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if module in line]


@pytest.mark.parametrize("line", [*documented("nami_jax.train"), *documented("nami_jax.prepare")], ids=" ".join)
def test_each_documented_command_is_a_whole_config(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for config in (emoji_tiny, emoji_latent):
        name = config.__name__.rpartition(".")[2]
        write_run(tmp_path / "runs" / name, Config.from_dict(config.get_config().to_dict()), steps=(1200, 1500))
    arguments = [line[0], *line[5:]]
    monkeypatch.setattr(sys, "argv", arguments)  # where overrides are looked for
    values: Any = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", finetune.get_config(), flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    assert line[3:5] == ["--config", "configs/finetune.py"]
    values(arguments)
    given = values.config.to_dict()
    cfg = Config.from_dict(completed(given, None if values.workdir is None else Path(values.workdir)))
    assert cfg.model.text_dim == 384
    assert cfg.data.name.startswith("emoji_captions/") or cfg.data.prepared
    assert cfg.train.stage_batches == given["train"]["stage_batches"]
