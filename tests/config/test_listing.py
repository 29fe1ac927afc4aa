from typing import Any

import pytest

from configs import base
from nami_jax.config import Config
from nami_jax.config.listing import base_config
from tests.support.paths import ROOT


def test_the_page_of_all_fields_is_that_of_the_declarations():
    page = (ROOT / "configs" / "README.md").read_text()
    assert page == base.explained(), "write it anew: python -m configs.base > configs/README.md"
    assert "| `train.steps`" not in page
    assert "| `steps` | `10000` |" in page


def test_defaults_keep_their_types_and_those_that_are_none_take_their_own():
    config: Any = base_config(Config)
    config.model.lora_rank = 4
    config.bridge.kind = "full"
    config.data.buckets = ((16, 16),)
    for name, value in (("lora_rank", "four"), ("channels", "three")):
        with pytest.raises(TypeError):
            config.model[name] = value
