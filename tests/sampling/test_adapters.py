import re

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from nami_jax import NamiPipeline
from nami_jax.config import ConfigError
from nami_jax.weights import WeightsError
from nami_jax.weights.adapter_keys import DOWN, PREFIX, UP
from tests.support.pipelines import small_pipeline, states
from tests.support.runs import card_config, train

LAYER = f"{PREFIX}single_transformer_blocks.0.attn.to_q"
RANK = 2


def pair(seed: int = 0, layer: str = LAYER) -> dict[str, np.ndarray]:
    """An adapter of one layer of the small network, 32 channels wide."""
    rng = np.random.default_rng(seed)
    return {
        f"{layer}{DOWN}": rng.standard_normal((RANK, 32), np.float32),
        f"{layer}{UP}": rng.standard_normal((32, RANK), np.float32),
    }


@pytest.fixture
def files(tmp_path):
    for name in ("a", "b"):
        save_file(pair(ord(name)), tmp_path / f"{name}.safetensors")
    return tmp_path


def kernels(pipe):
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(pipe.model)))


def queries(pipe):
    """Of the first single block: (inputs, outputs)."""
    return np.asarray(kernels(pipe)["single_blocks"]["qkv"]["linear"]["kernel"][0, :, 0]).reshape(32, 32)


def latents(pipe):
    return pipe(**states(), output_type="latent")


def test_adapters_are_added_by_their_weights_and_leave_no_trace(files):
    pipe = small_pipeline()
    plain, before = latents(pipe), kernels(pipe)
    pipe.load_lora(files / "a.safetensors", 0.5)
    pipe.load_lora(files / "b.safetensors", -0.25, name="other")
    assert pipe.loras == {"a": 0.5, "other": -0.25}
    a, b = (pair(ord(name)) for name in ("a", "b"))
    update = 0.5 * a[LAYER + UP] @ a[LAYER + DOWN] - 0.25 * b[LAYER + UP] @ b[LAYER + DOWN]
    expected = before["single_blocks"]["qkv"]["linear"]["kernel"][0, :, 0].reshape(32, 32) + update.T
    np.testing.assert_allclose(queries(pipe), expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(latents(pipe), plain, atol=1e-3)
    pipe.set_lora_scale("other", 0.0)
    pipe.unload_lora("a")
    np.testing.assert_array_equal(latents(pipe), plain)
    pipe.unload_lora()
    jax.tree.map(np.testing.assert_array_equal, kernels(pipe), before)
    assert not pipe.loras


def test_the_same_name_is_replaced_not_added(files):
    pipe, once = small_pipeline(), small_pipeline()
    pipe.load_lora(files / "a.safetensors")
    pipe.load_lora(files / "a.safetensors", 2.0)
    once.load_lora(files / "a.safetensors", 2.0)
    np.testing.assert_array_equal(queries(pipe), queries(once))


def test_in_bfloat16_the_sum_is_made_in_float32_and_the_base_comes_back(files):
    pipe = small_pipeline(dtype="bfloat16")
    before = kernels(pipe)
    for scale in (1e-3, 1.0):
        pipe.load_lora(files / "a.safetensors", scale)
    pipe.unload_lora()
    jax.tree.map(np.testing.assert_array_equal, kernels(pipe), before)


def test_drawing_with_an_adapter_runs_the_same_programs(files):
    from nami_jax.parallel.kept_programs import compilations

    pipe = small_pipeline()
    latents(pipe)
    pipe.load_lora(files / "a.safetensors")
    with compilations() as compiled:
        latents(pipe)
    assert not compiled


def test_alpha_scales_what_is_added_by_its_ratio_to_the_rank(files):
    pipe, other = small_pipeline(), small_pipeline()
    save_file({**pair(ord("a")), f"{LAYER}.alpha": np.ones((), np.float32)}, files / "c.safetensors")
    pipe.load_lora(files / "c.safetensors")
    other.load_lora(files / "a.safetensors", 1.0 / RANK)
    np.testing.assert_allclose(queries(pipe), queries(other), rtol=1e-6)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (pair(layer="transformer.blocks.0.to_q"), "blocks.0.to_q: no layer of this network"),
        ({LAYER + DOWN: np.zeros((RANK, 32), np.float32)}, "half of a pair is missing"),
        ({LAYER + DOWN: np.zeros((RANK, 32), np.float32), LAYER + UP: np.zeros((16, RANK), np.float32)},
         "(16, 2) times (2, 32), the layer has (32, 32)"),
        ({LAYER: np.zeros(3, np.float32)}, "no part of a low-rank pair"),
        ({**pair(), LAYER + UP: np.full((32, RANK), np.nan, np.float32)}, "not finite"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_adapter_of_this_network_is_refused_and_changes_nothing(tmp_path, tensors, message):
    pipe = small_pipeline()
    before = kernels(pipe)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=re.escape(message)):
        pipe.load_lora(tmp_path / "x.safetensors")
    jax.tree.map(np.testing.assert_array_equal, kernels(pipe), before)
    assert not pipe.loras


def test_what_is_not_there_is_named_with_the_remedy(files):
    pipe = small_pipeline()
    with pytest.raises(ConfigError, match=r"lora = '.*nowhere': is not there\. Pass the workdir"):
        pipe.load_lora(files / "nowhere")
    with pytest.raises(ConfigError, match=r"lora = .*: has 2 safetensors files and no checkpoints"):
        pipe.load_lora(files)
    with pytest.raises(ConfigError, match=r"name = 'a': no such adapter is loaded\. Load one"):
        pipe.unload_lora("a")
    with pytest.raises(ConfigError, match=r"scale = nan: must be a number"):
        pipe.load_lora(files / "a.safetensors", float("nan"))


@pytest.mark.slow
def test_a_run_s_pairs_draw_what_the_run_draws_also_from_a_file(tmp_path):
    base = card_config(tmp_path / "data", train={"steps": 3})
    train(base, tmp_path / "base", jax.devices()[:1])
    fine = card_config(
        tmp_path / "data",
        train={
            "steps": 3,
            "init_from": str(tmp_path / "base"),
            "phase_learning_rates": (0.3,),
            "warmup_steps": 0,
            "ema_decay": 0.0,
        },
        model={"lora_rank": RANK},
    )
    train(fine, tmp_path / "lora", jax.devices()[:1])
    pipe, expected = (NamiPipeline.from_pretrained(tmp_path / name) for name in ("base", "lora"))
    text, negative = pipe.encode(["red card", ""], split=1)

    def draw(with_: NamiPipeline):
        return with_.sample_latents(text, negative)

    plain = draw(pipe)
    pipe.load_lora(tmp_path / "lora")
    np.testing.assert_allclose(draw(pipe), draw(expected), atol=1e-4)
    assert not np.allclose(draw(pipe), plain, atol=1e-3)
    pipe.save_lora(tmp_path / "adapter.safetensors", "lora")
    assert all(key.startswith(PREFIX) for key in load_file(tmp_path / "adapter.safetensors"))
    with_pairs = draw(pipe)
    pipe.unload_lora()
    np.testing.assert_array_equal(draw(pipe), plain)
    pipe.load_lora(tmp_path / "adapter.safetensors")
    np.testing.assert_array_equal(draw(pipe), with_pairs)
    with pytest.raises(ConfigError, match="is a run of a whole network, without low-rank pairs"):
        pipe.load_lora(tmp_path / "base")
