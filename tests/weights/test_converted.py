import dataclasses
import json

import pytest

from nami_jax.config import AutoencoderConfig, ConfigError
from nami_jax.weights.converted import (
    PIPELINE_FILE,
    find_folder,
    inside,
    read_pipeline_config,
    require_parts,
    shipped_models,
)
from tests.support.sizes import make_config


def test_settings_that_were_written_are_read_back(tmp_path):
    settings = make_config().pipeline
    (tmp_path / PIPELINE_FILE).write_text(json.dumps(settings.to_dict()))
    assert read_pipeline_config(tmp_path) == settings


def test_damaged_settings_are_named_with_the_remedy(tmp_path):
    (tmp_path / PIPELINE_FILE).write_text("{")
    with pytest.raises(ConfigError, match=r"pipeline\.json is damaged: .*\. Convert the release again\."):
        read_pipeline_config(tmp_path)


def test_parts_that_are_missing_are_named_together_with_what_makes_them(tmp_path):
    cfg = dataclasses.replace(make_config().pipeline, autoencoder=AutoencoderConfig("vae", 8))
    with pytest.raises(
        ConfigError, match=r"lacks transformer/, vae/\. `python -m nami_jax\.convert --from SOURCE --to"
    ):
        require_parts(tmp_path, cfg)
    for part in ("transformer", "vae"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "model.safetensors").touch()
    require_parts(tmp_path, cfg)


def test_paths_in_the_settings_are_below_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = dataclasses.replace(make_config().pipeline, autoencoder=AutoencoderConfig("vae", 8))
    found = inside(cfg, tmp_path.relative_to(tmp_path) / "folder")
    assert (found.autoencoder.folder, found.text.folder) == (str(tmp_path / "folder" / "vae"), None)


def test_a_name_means_the_model_that_comes_along_unless_something_of_that_name_is_there(tmp_path, monkeypatch):
    home, away = tmp_path / "pretrained", tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    assert shipped_models(home) == []
    for name in ("emoji", "flags"):
        (home / name).mkdir(parents=True)
        (home / name / PIPELINE_FILE).touch()
    (home / "unfinished").mkdir()
    assert shipped_models(home) == ["emoji", "flags"]
    assert find_folder("emoji", home) == find_folder(away.relative_to(away) / "emoji", home) == home / "emoji"
    for other in ("unfinished", "emoji/x", "../pretrained/emoji", "EMOJI", "no\0name"):
        assert find_folder(other, home) == type(home)(other)
    (away / "emoji").mkdir()
    assert find_folder("emoji", home) == type(home)("emoji")
