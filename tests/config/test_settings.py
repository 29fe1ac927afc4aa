import dataclasses
import pickle

import numpy as np
import pytest

from configs import (
    emoji,
    emoji_latent,
    emoji_tiny,
    emoji_tiny_bridge,
    emoji_tiny_conv_bridge,
    flowers,
    nami_2b_finetune,
    styles,
    styles_single_flow,
)
from nami_jax.config import BridgeConfig, Config, ConfigError, PipelineConfig, SampleConfig, fixed_fields
from nami_jax.config.settings import Epsilon, Settings, Width, declared, field, sections, settings
from tests.support.sizes import CONFIG, make_config


def test_dict_round_trip_through_json_types_gives_the_same_config():
    fields = CONFIG.to_dict()
    fields["model"]["rope_axes"] = list(fields["model"]["rope_axes"])
    fields["train"]["stage_batches"] = [list(b) for b in fields["train"]["stage_batches"]]
    assert Config.from_dict(fields) == CONFIG


@pytest.mark.parametrize(
    "config",
    [emoji_tiny, emoji, flowers, emoji_tiny_bridge, emoji_tiny_conv_bridge, emoji_latent, nami_2b_finetune,
     styles_single_flow, styles],
)  # fmt: skip
def test_every_config_is_valid(config):
    stages = 1 if config is styles_single_flow else 3
    assert Config.from_dict(config.get_config().to_dict()).model.num_stages == stages


def test_fine_tuning_is_of_low_rank_or_full_by_the_config_s_argument():
    ranks = {
        trained: Config.from_dict(nami_2b_finetune.get_config(trained).to_dict()).model.lora_rank
        for trained in ("lora", "full")
    }
    assert ranks == {"lora": 16, "full": None}
    with pytest.raises(ValueError, match="use :lora or :full"):
        nami_2b_finetune.get_config("all")


LATENTS = {"data": {"prepared": "p"}, "autoencoder": {"folder": "vae", "downscale": 2}}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"autoencoder": {"folder": "vae"}}, r"data\.prepared = None: a flow of latents trains on prepared data"),
        ({"autoencoder": {"downscale": 8}}, r"autoencoder\.downscale = 8: must be 1 without"),
        (LATENTS | {"data": {"prepared": "p", "side": 24}}, r"data\.side = 24: .* multiple of 16\. Set 32"),
        (LATENTS | {"data": {"prepared": "p", "buckets": ((16, 24),)}}, r"data\.buckets = 24: .* multiple of 16"),
        (LATENTS | {"data": {"prepared": "p", "flip": True}}, r"data\.flip = True: latents cannot be mirrored"),
        ({"data": {"buckets": ((16, 16),)}}, r"data\.buckets = .* Set data\.prepared"),
        ({"train": {"keep_every": 12}}, r"train\.keep_every = 12: must be a multiple of .*every = 5\. Set 15\."),
        ({"train": {"phase_learning_rates": (1e39,)}}, r"phase_learning_rates\[0\] = 1e\+39: .* at most 1e\+30"),
        ({"model": {"lora_rank": 4}}, r"model\.lora_rank = 4: .* Set train\.init_from"),
        ({"sample": {"transition": "bridge"}}, r"sample\.transition = 'bridge': the model has no bridge"),
        ({"bridge": {"kind": "conv"}}, r"sample\.transition = 'renoise': the stages are trained to start from"),
        ({"bridge": {"kind": "wide"}}, r"bridge\.kind = 'wide'"),
        ({"bridge": {"noise": 0.5}}, r"bridge\.noise = 0\.5: the model has no bridge, .* Set 0\.0, or set"),
        ({"bridge": {"noise": 1.5}}, r"bridge\.noise = 1\.5: must be in 0\.\.1"),
        (LATENTS | {"data": {"prepared": "p", "buckets": ((16, 16), (16, 32))}, "bridge": {"kind": "full"},
                    "sample": {"transition": "bridge"}},
         r"bridge\.kind = 'full': .* fits one image size, .* Set 'conv'"),
        ({"train": {"contrastive_weight": 0.05, "stage_batches": ((1, 8, 8),)}},
         r"train\.contrastive_weight = 0\.05: each image needs another one .* has a stage of 1\. Set 0, or 2 images"),
        ({"train": {"contrastive_weight": 0.05, "accumulation_steps": 8}},
         r"train\.contrastive_weight = 0\.05: .* has a stage of 8\. Set 0, or 16 images or more of each stage\."),
        ({"train": {"contrastive_weight": 1.0}}, r"train\.contrastive_weight = 1\.0: must be in \[0, 1\)"),
        ({"train": {"optimizer": "lion"}}, r"train\.optimizer = 'lion': is not a valid choice\. Set 'adamw' or 'muon'"),
        ({"data": {"lower_stages": "pixels"}},
         r"data\.lower_stages = 'pixels': a flow of pixels has no latents, .* Set 'latents', or autoencoder\.folder\."),
        ({"text": {"encoder": "t5_bert"}}, r"text\.folder = None: t5_bert needs a folder of weights"),
    ],
)  # fmt: skip
def test_sections_that_do_not_fit_each_other_are_refused(sections, message):
    with pytest.raises(ConfigError, match=message):
        make_config(**sections)


def test_pipeline_config_is_the_part_that_sampling_needs():
    cfg = make_config(bridge={"kind": "conv", "noise": 0.5}, sample={"transition": "bridge"}).pipeline
    assert PipelineConfig.from_dict(cfg.to_dict()) == cfg
    assert (cfg.side, cfg.bridge.kind, cfg.bridge.noise, cfg.model) == (16, "conv", 0.5, CONFIG.model)


def test_a_bridge_that_was_saved_before_noise_could_be_added_adds_none():
    saved = {"kind": "conv", "steps": 10, "learning_rate": 1e-3}
    assert BridgeConfig.from_dict(saved) == BridgeConfig("conv", 10, noise=0.0)


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


def test_wrong_type_and_missing_section_name_what_they_are_of():
    with pytest.raises(ConfigError, match=r"train\.steps = 'many': must be an integer\. Set e\.g\. 10000"):
        Config.from_dict(changed("train", steps="many"))
    fields = CONFIG.to_dict()
    del fields["data"]
    with pytest.raises(ConfigError, match=r"^data: is missing"):
        Config.from_dict(fields)


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("data", {"side": 20}, r"data\.side = 20: 3 stages of 2x2 patches need a multiple of 8\. Set 24"),
        ("sample", {"steps": (10, 10)}, r"sample\.steps = \(10, 10\): the model has 3 stages"),
        ("sample", {"steps": (10, 0, 10)}, r"sample\.steps"),
        ("sample", {"solver": "rk4"}, r"sample\.solver = 'rk4'"),
        ("train", {"stage_batches": ((8, 8),)}, r"train\.stage_batches = \(8, 8\): the model has 3 stages"),
        ("train", {"stage_batches": ((8, 0, 8),)}, r"each stage needs at least one image"),
        ("train", {"phase_starts": (0.5,)}, r"train\.phase_starts = \(0\.5,\): must start at 0"),
        ("train", {"steps": 0}, r"train\.steps = 0: must be at least 1"),
        ("train", {"caption_dropout": 1.5}, r"train\.caption_dropout = 1\.5"),
        ("model", {"stage_single_blocks": (3, 2, 1)}, r"not decreasing from stage to stage.*Set e\.g\. \(1, 2, 3\)"),
        ("model", {"rope_axes": (4, 5, 6)}, r"model\.rope_axes"),
        ("model", {"dtype": "float16"}, r"model\.dtype = 'float16'"),
        ("flow", {"sigma_ends": (0.3, 0.6, 0.0)}, r"flow\.sigma_ends"),
        ("model", {"channels": 4}, r"model\.channels = 4: images have 3 channels"),
        ("train", {"weight_decay": -1.0}, r"train\.weight_decay = -1\.0"),
        ("text", {"max_length": 1000}, r"text\.max_length = 1000"),
        ("data", {"caption_templates": ("a photo",)}, r"each template must contain \{\} exactly once"),
    ],
)
def test_bad_values_are_refused_with_field_value_and_remedy(section, fields, message):
    with pytest.raises(ConfigError, match=message):
        make_config(**{section: fields})


@pytest.mark.parametrize(
    ("given", "meant"),
    [(True, "full"), (False, "none"), ("True", "full"), ("False", "none"), ("keep_attention", "keep_attention")],
)
def test_rematerialisation_of_older_runs_was_true_or_false(given, meant):
    cfg = Config.from_dict(changed("model", remat=given))
    assert cfg.model.remat == meant
    assert Config.from_dict(cfg.to_dict()) == cfg


@pytest.mark.parametrize("value", ["some", 1, None, ("full",)])
def test_what_is_no_rematerialisation_is_refused(value):
    with pytest.raises(
        ConfigError, match=r"^model\.remat = .*: is not a valid choice\. Set 'none' or 'full' or 'keep_attention' or "
    ):
        Config.from_dict(changed("model", remat=value))


def test_every_wrong_field_of_a_section_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        Config.from_dict(changed("train", steps=0, decay="cosinus", ema_decay=1.0, stage_batches=((8, "8", 8),)))
    assert str(caught.value).splitlines() == [
        "train.steps = 0: must be at least 1. Set e.g. 10000.",
        "train.stage_batches[0][1] = '8': must be an integer. Set e.g. ((32, 16, 8), (16, 32, 8), (8, 16, 32)).",
        "train.decay = 'cosinus': is not a valid choice. Set 'constant' or 'cosine'.",
        "train.ema_decay = 1.0: must be in [0, 1). Set e.g. 0.999.",
    ]


@pytest.mark.parametrize("value", [True, 2.0, None, "2"])
def test_nothing_but_an_integer_is_taken_for_one(value):
    with pytest.raises(ConfigError, match=r"model\.patch_size = .*: must be an integer"):
        make_config(model={"patch_size": value})


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ConfigError, match=r"train\.grad_clip = nan: must be a finite number"):
        make_config(train={"grad_clip": float("nan")})


def test_what_is_left_out_keeps_its_default():
    fields = CONFIG.to_dict()
    del fields["train"]["max_skipped_steps"], fields["mesh"]
    assert Config.from_dict(fields) == CONFIG


def test_a_config_can_be_hashed_and_pickled():
    assert pickle.loads(pickle.dumps(CONFIG)) == CONFIG
    assert hash(Config.from_dict(CONFIG.to_dict())) == hash(CONFIG)


@settings("colour")
class Colour(Settings):
    red: int = field("level", default=1)
    name: str = field("for people", default="x", may_change=True)


@settings()
class Picture(Settings):
    colour: Colour


def test_a_field_that_says_nothing_may_not_change_when_a_run_continues():
    assert fixed_fields(Picture) == {"colour": ("red",)}


def test_fields_that_define_a_run_are_fixed():
    fixed = fixed_fields(Config)
    assert set(fixed) == {f.name for f in dataclasses.fields(Config)}
    assert fixed["train"] == (
        "seed", "stage_batches", "phase_starts", "optimizer", "first_moment_dtype", "contrastive_weight", "init_from",
    )  # fmt: skip
    assert set(declared_names("model")) - set(fixed["model"]) == {"dtype", "scan_blocks", "remat"}
    assert fixed["mesh"] == fixed["sample"] == ()


def test_a_located_run_names_its_folders_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = make_config(
        model={"channels": 4},
        data={"prepared": "prepared"},
        autoencoder={"folder": "runs/../vae", "downscale": 1},
        train={"init_from": "runs/a@3"},
    ).located()
    assert cfg.autoencoder.folder == str(tmp_path / "vae")
    assert cfg.train.init_from == str(tmp_path / "runs" / "a@3")
    assert cfg.text.folder is None
    assert cfg.located() == cfg


def declared_names(section: str) -> list[str]:
    return [found.name for found in declared(sections(Config)[section])]


def test_phases_begin_at_their_share_of_the_steps():
    train = dataclasses.replace(
        CONFIG.train,
        steps=10,
        stage_batches=((8, 8, 8),) * 3,
        phase_starts=(0.0, 0.25, 0.6),
        phase_learning_rates=(1.0,) * 3,
    )
    assert train.phase_bounds == (0, 2, 6, 10)


def test_image_tokens_of_each_stage():
    assert CONFIG.model.image_tokens(16, 32) == (2 * 4, 4 * 8, 8 * 16)


def test_repr_names_what_differs_from_the_defaults():
    cfg = Config.from_dict(emoji_tiny.get_config().to_dict())
    assert repr(cfg).startswith("Config(model=ModelConfig(stage_single_blocks=(2, 3, 4)), data=DataConfig(name='emoji_")
    assert repr(cfg).endswith("sample=SampleConfig(guidance_scale=2.0))")
    assert repr(cfg.mesh) == "MeshConfig()"
    assert "side=32" in repr(cfg.pipeline)


@settings(remedy="Use its own config.json")
class Sizes(Settings):
    width: Width
    epsilon: Epsilon = 1e-6


def test_fields_are_picked_out_of_what_others_wrote_and_the_rest_is_ignored():
    assert Sizes.pick({"width": 4, "epsilon": 0.5, "author": "x"}) == Sizes(4, epsilon=0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, r"^width = 0: must be at least 1\. Use its own config\.json\.$"),
        ({"width": 10**9}, r"width = 1000000000: must be at most 131072"),
        ({"width": 10**5000}, r"width = <int too large to show>: must be at most"),
        ({"width": True}, r"width = True: must be an integer"),
        ({"width": [[]] * 1000}, r"width = \(\(\), .{,320}: must be an integer"),
        ({}, r"^width: is missing\. Use its own config\.json\.$"),
        ({"width": 1, "epsilon": 0.0}, r"epsilon = 0\.0: must be between 0 and 1"),
        ({"width": 1, "epsilon": float("inf")}, r"epsilon = inf: must be a finite number"),
        ({"width": 1, "epsilon": "1e-6"}, r"epsilon = '1e-6': must be a number"),
    ],
)
def test_what_others_wrote_is_held_to_type_and_range(fields, message):
    with pytest.raises(ConfigError, match=message):
        Sizes.pick(fields)


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [nested(100_000), "x" * 10**6, "\ud800", b"x", {1: 2}])
def test_values_of_any_depth_length_and_type_are_refused_in_one_line(value):
    with pytest.raises(ConfigError) as caught:
        Config.from_dict(changed("data", train_split=value))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("fields", [None, [], 3, "x", {1: {}}, {"self": {}}, {"model": []}])
def test_what_is_no_mapping_of_sections_is_refused(fields):
    with pytest.raises(ConfigError):
        Config.from_dict(fields)


def test_numbers_of_numpy_count_as_numbers():
    sample = SampleConfig.from_dict({"steps": np.array([1, 2, 3]), "guidance_scale": np.float32(2)})
    assert sample == SampleConfig((1, 2, 3), 2.0)
