from nami_jax.evaluate import folder_name, score_rows


def test_a_folder_is_named_after_checkpoint_and_split():
    assert folder_name("runs/emoji_tiny step 1500", "held_out") == "emoji_tiny-step-1500-held_out"
    assert folder_name("weights/nami_2b", "train[:50%]") == "nami_2b-train-50"


def test_a_row_shows_what_is_known_of_a_score():
    score = {"value": 0.51234, "low": 0.4, "high": 0.6, "over": "seeds", "real": 0.9, "chance": None}
    (whole, lone) = score_rows({"style": score, "loss": {**score, "low": None, "high": None}})
    assert whole == ("style", "0.5123", "0.4 to 0.6", "seeds", "0.9", "")
    assert lone[2] == ""
