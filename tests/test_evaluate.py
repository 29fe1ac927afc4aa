import json
import sys

import pytest
from absl import flags

from nami_jax import evaluate
from nami_jax.evaluate import folder_name, given_data, score_rows
from nami_jax.terminal.command_line import parse_flags
from tests.support.flags import defined
from tests.support.runs import train
from tests.support.styled_cards import styled_config, styled_data


def test_a_folder_is_named_after_checkpoint_and_split():
    assert folder_name("runs/emoji_tiny step 1500", "held_out") == "emoji_tiny-step-1500-held_out"
    assert folder_name("weights/nami_2b", "train[:50%]") == "nami_2b-train-50"


def test_a_row_shows_what_is_known_of_a_score():
    score = {"value": 0.51234, "low": 0.4, "high": 0.6, "over": "seeds", "real": 0.9, "chance": None}
    (whole, lone) = score_rows({"style": score, "loss": {**score, "low": None, "high": None}})
    assert whole == ("style", "0.5123", "0.4 to 0.6", "seeds", "0.9", "")
    assert lone[2] == ""


def test_the_data_are_the_runs_own_or_what_the_flags_name(tmp_path):
    own = styled_data(tmp_path)
    with defined(evaluate.define_flags):
        parse_flags(["evaluate", "--checkpoint=run", "--data_dir=elsewhere", "--image_key=picture"])
        found = given_data(flags.FLAGS, own, 64)
        assert (found.name, found.data_dir, found.image_key, found.side) == (own.name, "elsewhere", "picture", 16)
        parse_flags(["evaluate", "--checkpoint=run", f"--data={tmp_path}"])
        assert given_data(flags.FLAGS, own, 64).prepared == str(tmp_path)
        parse_flags(["evaluate", "--checkpoint=run", "--data=other/set"])
        found = given_data(flags.FLAGS, None, 64)
        assert (found.name, found.prepared, found.side) == ("other/set", None, 64)


def test_converted_weights_need_to_be_told_their_data():
    with defined(evaluate.define_flags):
        parse_flags(["evaluate", "--checkpoint=run"])
        with pytest.raises(ValueError, match="Pass --data"):
            given_data(flags.FLAGS, None, 64)


@pytest.mark.slow
def test_the_command_measures_a_run_and_names_a_split_that_does_not_exist(tmp_path, monkeypatch, capsys):
    train(styled_config(tmp_path / "data", steps=2), tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["evaluate"])

    def run(*arguments: str) -> None:
        with defined(evaluate.define_flags):
            parse_flags(["evaluate", f"--checkpoint={tmp_path / 'run'}", f"--out={tmp_path / 'out'}", *arguments])
            evaluate.main(["evaluate"])

    with pytest.raises(SystemExit, match=r"error: split = 'held_uot': no such split of styled_cards. Did you mean"):
        run("--split=held_uot")
    assert not (tmp_path / "out").exists()
    run("--seeds=2", "--num_images=4", "--steps=2,2,2")
    said = capsys.readouterr().out
    assert "4 captions of held_out, 2 seeds" in said
    assert "kid/efficientnet_lite0" in said
    scores = json.loads((tmp_path / "out" / "evaluation.json").read_text())["scores"]
    assert {"concept", "style", "loss/stage_3"} <= scores.keys()
