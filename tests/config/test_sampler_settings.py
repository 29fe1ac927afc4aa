import pytest

from nami_jax.config import (
    SAMPLE_PRESETS,
    Budget,
    ConfigError,
    SampleConfig,
    parse_interval,
    parse_scales,
    parse_taus,
    sample_preset,
)


@pytest.mark.parametrize("steps", [(30,), (15, 15), (10, 10, 10), (8, 8, 8, 8), (1, 1, 1)])
@pytest.mark.parametrize("name", SAMPLE_PRESETS)
def test_presets_of_budgets_fit_any_number_of_stages(name, steps):
    if name == "released":
        return
    found = sample_preset(name, SampleConfig(steps, 2.5, transition="bridge"))
    assert len(found.steps) == len(steps)
    assert all(count >= 1 for count in found.steps)
    assert (found.guidance_scale, found.transition) == (2.5, "bridge")


def test_a_budget_takes_shares_of_the_model_s_own_steps_rounded_up():
    own = SampleConfig((10, 10, 8), (3.0, 3.0, 1.0), grid="released")
    found = Budget(last=0.3, earlier=0.55, changes={"solver": "ab2"}).of(own)
    assert found == SampleConfig((6, 6, 3), (3.0, 3.0, 1.0), solver="ab2")


def test_settings_that_were_saved_before_a_field_existed_load():
    saved = {"steps": [4, 4, 4], "guidance_scale": 2.0, "grid": "released", "solver": "heun", "transition": "bridge"}
    assert SampleConfig.from_dict(saved).taus is None


def test_settings_survive_being_saved():
    sample = SampleConfig((2, 1), (3.0, 1.0), (0.1, 0.9), taus=((1.0, 0.3, 0.0), (1.0, 0.0)))
    assert SampleConfig.from_dict(sample.to_dict()) == sample
    assert sample.stage_scales == (3.0, 1.0)
    assert SampleConfig((2, 1), 3.0).stage_scales == (3.0, 3.0)


def test_flags_are_read():
    assert parse_scales(["3"]) == 3.0
    assert parse_scales(["3", " 1", "1.5"]) == (3.0, 1.0, 1.5)
    assert parse_interval(["0.2", "0.9"]) == (0.2, 0.9)
    assert parse_taus("1,0.5,0;1,0") == ((1.0, 0.5, 0.0), (1.0, 0.0))


@pytest.mark.parametrize(
    ("parse", "value"), [(parse_scales, ["x"]), (parse_scales, []), (parse_interval, ["1", ""]), (parse_taus, "1;;0")]
)
def test_flags_that_are_no_numbers_are_refused(parse, value):
    with pytest.raises(ConfigError, match=r"must be numbers\. Set "):
        parse(value)
