import pytest

from benchmarks import start_up
from tests.support.runs import card_config, train


@pytest.mark.slow
def test_each_part_up_to_the_first_picture_is_timed_and_drawing_again_is_shorter(tmp_path):
    train(card_config(tmp_path / "data"), tmp_path / "run", stop_after=1)
    seconds = dict(start_up.parts(str(tmp_path / "run"), "a red card"))
    assert len(seconds) == 5
    assert all(each > 0 for each in seconds.values())
    *_, first, again = seconds.values()
    assert again < first
