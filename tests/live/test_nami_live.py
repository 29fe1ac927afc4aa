"""Compares our network with diffusers' FluxTransformer2DModel: the last stage whole, earlier ones as its prefix."""

import json
import sys
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from nami_jax.config import ModelConfig
from nami_jax.models.nami import Nami
from nami_jax.release.exporting import export_network
from nami_jax.weights import save_tensors
from nami_jax.weights.adapter_keys import Pair, adapter_tensors, add_adapter
from nami_jax.weights.nami_keys import export_nami, load_nami, released_transformer_config

torch: Any = pytest.importorskip("torch")
diffusers: Any = pytest.importorskip("diffusers")

CFG = ModelConfig(
    channels=3, patch_size=2, num_heads=3, rope_axes=(4, 6, 10), double_blocks=2, stage_single_blocks=(0, 1, 4),
    mlp_ratio=4, text_dim=14, pooled_dim=10,
)  # fmt: skip
BATCH, HEIGHT, WIDTH, TOKENS = 2, 6, 10, 5
FLUX_FIELDS = ("patch_size", "in_channels", "num_layers", "attention_head_dim", "num_attention_heads",
               "joint_attention_dim", "pooled_projection_dim", "guidance_embeds", "axes_dims_rope")  # fmt: skip


def flux(single_blocks: int) -> Any:
    released = released_transformer_config(CFG)
    fields = {name: released[name] for name in FLUX_FIELDS}
    return diffusers.FluxTransformer2DModel(**fields, num_single_layers=single_blocks).eval()


@pytest.fixture(scope="module")
def whole() -> Any:
    torch.manual_seed(0)
    model = flux(CFG.stage_single_blocks[-1])
    with torch.no_grad():
        for parameter in model.parameters():  # larger than at initialisation, so that every part matters
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def ours(whole) -> Nami:
    return load_nami(CFG, {key: tensor.numpy() for key, tensor in whole.state_dict().items()})


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "latents": (BATCH, HEIGHT, WIDTH, CFG.channels), "text": (BATCH, TOKENS, CFG.text_dim),
        "pooled": (BATCH, CFG.pooled_dim),
    }  # fmt: skip
    drawn = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    return drawn | {"t": np.array([0.93, 0.21], np.float32)}


def pack(latents: np.ndarray) -> np.ndarray:
    """Turns (B, H, W, C) into tokens (B, H/2 W/2, 4C), as FLUX's pipeline does."""
    b, h, w, c = latents.shape
    tokens = latents.transpose(0, 3, 1, 2).reshape(b, c, h // 2, 2, w // 2, 2)
    return tokens.transpose(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def flux_velocity(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Runs FLUX's own transformer; returns tokens (B, L, 4C)."""
    rows, columns = np.divmod(np.arange(HEIGHT * WIDTH // 4), WIDTH // 2)
    positions = np.stack([np.zeros_like(rows), rows, columns], axis=-1).astype(np.float32)
    with torch.no_grad():
        return model(
            hidden_states=torch.from_numpy(pack(inputs["latents"])),
            encoder_hidden_states=torch.from_numpy(inputs["text"]),
            pooled_projections=torch.from_numpy(inputs["pooled"]),
            timestep=torch.from_numpy(inputs["t"]),
            img_ids=torch.from_numpy(positions),
            txt_ids=torch.zeros(TOKENS, 3),
        ).sample.numpy()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_each_stage_is_flux_with_its_single_blocks_cut(whole, ours, inputs, stage):
    cut = flux(CFG.stage_single_blocks[stage - 1])
    cut.load_state_dict({key: whole.state_dict()[key] for key in cut.state_dict()})
    expected = flux_velocity(cut, inputs)
    arguments = (inputs["latents"], inputs["t"], inputs["text"], inputs["pooled"])
    velocity = jax.jit(lambda model, *args: model(*args, stage=stage))(ours, *arguments)
    error = np.linalg.norm(pack(np.asarray(velocity)) - expected) / np.linalg.norm(expected)
    assert error <= 2e-5  # float32 on both sides, six blocks deep; a hundred roundings at most


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_exported_folder_loads_in_diffusers_and_runs_the_last_stage(ours, inputs, tmp_path):
    parts = {"transformer": export_nami(ours)}
    export_network(tmp_path / "exported", parts, CFG, as_safetensors=True)
    index = json.loads((tmp_path / "exported" / "model_index.json").read_text())
    library, name = index["transformer"]
    model = getattr(sys.modules[library], name).from_pretrained(tmp_path / "exported", subfolder="transformer")
    arguments = (inputs["latents"], inputs["t"], inputs["text"], inputs["pooled"])
    velocity = jax.jit(lambda model, *args: model(*args, stage=3))(ours, *arguments)
    expected = flux_velocity(model.eval(), inputs)
    assert np.linalg.norm(pack(np.asarray(velocity)) - expected) / np.linalg.norm(expected) <= 2e-5


def test_an_adapter_s_file_loads_in_diffusers(whole, ours, inputs, tmp_path):
    pytest.importorskip("peft")
    rng, layers = np.random.default_rng(3), ("transformer_blocks.1.attn.to_k", "single_transformer_blocks.0.proj_mlp")
    shapes = {key: whole.state_dict()[f"{key}.weight"].shape for key in layers}
    adapter = {
        key: Pair(*(rng.standard_normal(shape, np.float32) for shape in ((2, inputs_), (outputs, 2))))
        for key, (outputs, inputs_) in shapes.items()
    }
    save_tensors(adapter_tensors(adapter), tmp_path, "adapter_model")
    adapted = flux(CFG.stage_single_blocks[-1])
    adapted.load_state_dict(whole.state_dict())
    adapted.load_lora_adapter(tmp_path, weight_name="adapter_model.safetensors")
    kernels = {path: np.array(leaf) for path, leaf in flatten_dict(nnx.to_pure_dict(nnx.state(ours))).items()}
    add_adapter(kernels, CFG, adapter, 1.0)
    changed = nnx.merge(nnx.split(ours)[0], unflatten_dict(kernels))
    arguments = (inputs["latents"], inputs["t"], inputs["text"], inputs["pooled"])
    velocity = jax.jit(lambda model, *args: model(*args, stage=3))(changed, *arguments)
    expected = flux_velocity(adapted.eval(), inputs)
    assert np.linalg.norm(pack(np.asarray(velocity)) - expected) / np.linalg.norm(expected) <= 2e-5


def test_our_table_names_every_tensor_of_flux(whole, ours):
    count = sum(parameter.numel() for parameter in whole.parameters())
    assert sum(leaf.size for leaf in jax.tree.leaves(ours)) == count
