import json

import pytest

from nami_jax.config import ConfigError
from nami_jax.weights.converted import PIPELINE_FILE, read_pipeline_config
from tests.support.sizes import make_config


def test_settings_that_were_written_are_read_back(tmp_path):
    settings = make_config().pipeline
    (tmp_path / PIPELINE_FILE).write_text(json.dumps(settings.to_dict()))
    assert read_pipeline_config(tmp_path) == settings


def test_damaged_settings_are_named_with_the_remedy(tmp_path):
    (tmp_path / PIPELINE_FILE).write_text("{")
    with pytest.raises(ConfigError, match=r"pipeline\.json is damaged: .*\. Convert the release again\."):
        read_pipeline_config(tmp_path)
