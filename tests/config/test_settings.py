import pytest

from configs import (
    emoji,
    emoji_latent,
    emoji_single_flow,
    emoji_tiny,
    emoji_tiny_bridge,
    emoji_tiny_conv_bridge,
    flowers,
    nami_2b_finetune,
)
from nami_jax.config import Config, ConfigError, PipelineConfig
from tests.support.sizes import CONFIG, make_config


def test_dict_round_trip_through_json_types_gives_the_same_config():
    fields = CONFIG.to_dict()
    fields["model"]["rope_axes"] = list(fields["model"]["rope_axes"])
    fields["train"]["stage_batches"] = [list(b) for b in fields["train"]["stage_batches"]]
    assert Config.from_dict(fields) == CONFIG


@pytest.mark.parametrize(
    "config",
    [emoji_tiny, emoji, flowers, emoji_tiny_bridge, emoji_tiny_conv_bridge, emoji_latent, nami_2b_finetune,
     emoji_single_flow],
)  # fmt: skip
def test_every_config_is_valid(config):
    stages = 1 if config is emoji_single_flow else 3
    assert Config.from_dict(config.get_config().to_dict()).model.num_stages == stages


def test_fine_tuning_is_of_low_rank_or_full_by_the_config_s_argument():
    ranks = {
        trained: Config.from_dict(nami_2b_finetune.get_config(trained).to_dict()).model.lora_rank
        for trained in ("lora", "full")
    }
    assert ranks == {"lora": 16, "full": None}
    with pytest.raises(ValueError, match="give :lora or :full"):
        nami_2b_finetune.get_config("all")


LATENTS = {"data": {"prepared": "p"}, "autoencoder": {"folder": "vae", "downscale": 2}}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"prepared": "p"}}, r"data\.prepared = 'p': a flow of latents needs both"),
        ({"autoencoder": {"folder": "vae"}}, r"data\.prepared = None: a flow of latents needs both"),
        ({"autoencoder": {"downscale": 8}}, r"autoencoder\.downscale = 8: must be 1 without"),
        (LATENTS | {"data": {"prepared": "p", "side": 24}}, r"data\.side = 24: .* multiple of 16\. Set 32"),
        (LATENTS | {"data": {"prepared": "p", "buckets": ((16, 24),)}}, r"data\.buckets = 24: .* multiple of 16"),
        (LATENTS | {"data": {"prepared": "p", "flip": True}}, r"data\.flip = True: prepared latents cannot"),
        ({"data": {"buckets": ((16, 16),)}}, r"data\.buckets = .* Set data\.prepared"),
        ({"model": {"lora_rank": 4}}, r"model\.lora_rank = 4: .* Set train\.init_from"),
        ({"sample": {"transition": "bridge"}}, r"sample\.transition = 'bridge': the model has no bridge"),
        ({"bridge": {"kind": "conv"}}, r"sample\.transition = 'renoise': the stages are trained behind the bridge"),
        ({"bridge": {"kind": "wide"}}, r"bridge\.kind = 'wide'"),
        (LATENTS | {"data": {"prepared": "p", "buckets": ((16, 16), (16, 32))}, "bridge": {"kind": "full"},
                    "sample": {"transition": "bridge"}},
         r"bridge\.kind = 'full': .* fits one image size, .* Set 'conv'"),
        ({"text": {"encoder": "t5_bert"}}, r"text\.folder = None: t5_bert needs its weights"),
    ],
)  # fmt: skip
def test_sections_that_do_not_fit_each_other_are_refused(sections, message):
    with pytest.raises(ConfigError, match=message):
        make_config(**sections)


def test_pipeline_config_is_the_part_that_sampling_needs():
    cfg = make_config(bridge={"kind": "conv"}, sample={"transition": "bridge"}).pipeline
    assert PipelineConfig.from_dict(cfg.to_dict()) == cfg
    assert (cfg.side, cfg.bridge.kind, cfg.model) == (16, "conv", CONFIG.model)


def test_section_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="train = None: must be a section"):
        Config.from_dict(CONFIG.to_dict() | {"train": None})


def test_released_grid_with_other_windows_is_refused():
    with pytest.raises(ConfigError, match=r"sample\.grid = 'released'"):
        make_config(flow={"sigma_ends": (0.5, 0.2, 0.0)}, sample={"grid": "released"})


def changed(section: str, **values):
    fields = CONFIG.to_dict()
    fields[section] |= values
    return fields


def test_unknown_field_names_the_nearest():
    with pytest.raises(ConfigError, match=r"train\.stepz: no such config field\. Did you mean 'steps'"):
        Config.from_dict(changed("train", stepz=3))


def test_unknown_section_names_the_nearest():
    with pytest.raises(ConfigError, match=r"modle: no such config section\. Did you mean 'model'"):
        Config.from_dict(CONFIG.to_dict() | {"modle": {}})


def test_wrong_type_and_missing_field_name_the_field():
    with pytest.raises(ConfigError, match=r"train\.steps.*base\.py"):
        Config.from_dict(changed("train", steps="many"))
    fields = CONFIG.to_dict()
    del fields["data"]["side"]
    with pytest.raises(ConfigError, match=r"data\.side"):
        Config.from_dict(fields)


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("data", {"side": 20}, r"data\.side = 20: 3 stages of 2x2 patches need a multiple of 8\. Set 24"),
        ("sample", {"steps": (10, 10)}, r"sample\.steps = \(10, 10\): the model has 3 stages"),
        ("sample", {"steps": (10, 0, 10)}, r"sample\.steps"),
        ("sample", {"solver": "rk4"}, r"sample\.solver = 'rk4'"),
        ("train", {"stage_batches": ((8, 8),)}, r"train\.stage_batches = \(8, 8\): the model has 3 stages"),
        ("train", {"stage_batches": ((8, 0, 8),)}, r"each stage needs an image"),
        ("train", {"phase_starts": (0.5,)}, r"train\.phase_starts = \(0\.5,\): must begin with 0"),
        ("train", {"steps": 0}, r"train\.steps = 0: must be at least 1"),
        ("train", {"caption_dropout": 1.5}, r"train\.caption_dropout = 1\.5"),
        ("model", {"stage_single_blocks": (3, 2, 1)}, r"counts must not fall.*Set e\.g\. \(1, 2, 3\)"),
        ("model", {"rope_axes": (4, 5, 6)}, r"model\.rope_axes"),
        ("model", {"dtype": "float16"}, r"model\.dtype = 'float16'"),
        ("flow", {"sigma_ends": (0.3, 0.6, 0.0)}, r"flow\.sigma_ends"),
        ("model", {"channels": 4}, r"model\.channels = 4: the images have 3"),
        ("train", {"weight_decay": -1.0}, r"train\.weight_decay = -1\.0"),
        ("text", {"max_length": 1000}, r"text\.max_length = 1000"),
        ("data", {"caption_templates": ("a photo",)}, r"each template must hold \{\} once"),
    ],
)
def test_bad_values_are_refused_with_field_value_and_remedy(section, fields, message):
    with pytest.raises(ConfigError, match=message):
        make_config(**{section: fields})
