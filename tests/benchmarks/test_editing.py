import dataclasses

import numpy as np
import pytest

from benchmarks import editing
from nami_jax import NamiPipeline
from tests.support.pipelines import small_pipeline


def test_figures_tell_the_halves_and_the_texts_apart():
    difference = np.zeros((2, 4, 4, 3))
    difference[:, :2] = 6.0
    found = editing.figures(np.array([0.2, 0.9]), np.array([0.5, 0.4]), difference)
    assert {name: x.tolist() for name, x in found.items()} == {
        "to_old_text": [0.2, 0.9], "to_new_text": [0.5, 0.4], "nearer_to_new": [1, 0], "upper_half": [6, 6],
        "lower_half": [0, 0],
    }  # fmt: skip
    assert editing.nearness(np.array([[3.0, 0.0], [0.0, 2.0]]), np.array([1.0, 0.0])).tolist() == [1, 0]


@pytest.mark.slow
def test_every_way_changes_pictures_and_those_of_a_half_leave_the_other_alone(tmp_path):
    sizes = dataclasses.replace(small_pipeline().cfg.model, text_dim=384, pooled_dim=384)
    small_pipeline(model=sizes).save_pretrained(tmp_path / "model")
    rows, shown = editing.measure(NamiPipeline.from_pretrained(tmp_path / "model"), [("red card", "blue card")], 2)
    assert [row["way"] for row in rows] == [way.name for way in editing.WAYS]
    for row, way in zip(rows, editing.WAYS, strict=True):
        assert row["upper_half"] > 0
        assert (row["lower_half"] == 0) == way.fills
    assert len(shown[0]) == 1 + len(editing.WAYS)
    assert "nearer to the new" in editing.report(rows)
