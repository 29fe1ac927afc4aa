import dataclasses
import json

import numpy as np
from PIL import Image

from benchmarks import stage_pictures
from nami_jax import NamiPipeline
from nami_jax.sampling.pictures import CELL
from tests.support.pipelines import small_pipeline


def test_a_column_shows_a_prompt_s_stages_one_below_the_other(tmp_path):
    sizes = dataclasses.replace(small_pipeline().cfg.model, text_dim=384, pooled_dim=384)
    small_pipeline(model=sizes).save_pretrained(tmp_path / "model")
    path = stage_pictures.draw(str(tmp_path / "model"), ["red", "blue"], 0, tmp_path)
    with Image.open(path) as image:
        sheet = np.asarray(image)
    stages = NamiPipeline.from_pretrained(tmp_path / "model")(["red", "blue"], return_stages=True)
    for row, pictures in enumerate(stages):
        for column, picture in enumerate(pictures):
            x, y = 8 + column * (CELL + 8), 8 + row * (CELL + 2)
            scale = CELL // picture.width
            np.testing.assert_array_equal(sheet[y : y + CELL : scale, x : x + CELL : scale], np.asarray(picture))
    about = json.loads((tmp_path / "emoji_stages.json").read_text())["about"]
    assert (about["prompts"], about["checkpoint"]) == (["red", "blue"], str(tmp_path / "model"))
