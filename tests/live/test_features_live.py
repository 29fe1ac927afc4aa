"""The feature networks against their originals in PyTorch, on random weights, pictures and texts."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from nami_jax.evaluation.features import ClipNetwork, crop, load_features, resize
from nami_jax.models.dinov2 import bicubic_weights
from nami_jax.models.inception import Inception, resize_as_tensorflow1
from nami_jax.weights import open_tensors
from nami_jax.weights.dinov2_keys import load_dinov2, read_dinov2_config
from nami_jax.weights.efficientnet_lite_keys import efficientnet_lite0_file, load_efficientnet_lite
from nami_jax.weights.inception_keys import NAMES
from nami_jax.weights.slots import expected_shapes, slots_by_name
from nami_jax.weights.torch_files import read_torch_file

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

# Tens of layers in float32, in other orders of summation.
TOLERANCE = 2e-5
DINOV2 = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "mlp_ratio": 4, "image_size": 70}
TOWER = {"hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 4}
WORDS = "a photo of the old lighthouse on cliff at dusk cat".split()


def relative_error(found: Any, exact: Any) -> float:
    exact = np.asarray(exact, np.float64)
    return float(np.linalg.norm(np.asarray(found, np.float64) - exact) / np.linalg.norm(exact))


def scatter(model: Any) -> Any:
    """Moves every parameter and every statistic away from where it starts, so that all of them are tested."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand_like(tensor))
            elif tensor.dtype.is_floating_point and tensor.ndim > 1:
                fan = tensor[0].numel()
                tensor.copy_(torch.randn_like(tensor) * (1.5 / fan) ** 0.5)
            elif tensor.dtype.is_floating_point:
                tensor.add_(0.2 * torch.randn_like(tensor))
    return model.eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 9, 9, 3), dtype=np.uint8)  # smooth once enlarged, as pictures are
    return resize(coarse, 40, 40)


def torch_fidelity(name: str) -> Any:
    """Imports a module of torch-fidelity without its package, which wants torchvision for other networks."""
    if "torch_fidelity" not in sys.modules:
        spec = importlib.util.find_spec("torch_fidelity")
        if spec is None:
            pytest.skip("torch-fidelity is not installed")
        sys.modules["torch_fidelity"] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"torch_fidelity.{name}")


def test_torch_files_are_read_as_torch_reads_them(tmp_path):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {"whole": base, "turned": base.T, "part": base[1:3, 2:], "number": torch.tensor(7)}
    state |= {"half": base.half(), "brain": base.bfloat16(), "none": torch.zeros(0, 3)}
    state["parameter"] = torch.nn.Parameter(base * 2)
    for new in (True, False):
        torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
        found = read_torch_file(tmp_path / "w.pth")
        assert found.keys() == state.keys()
        for key, tensor in state.items():
            assert found[key].shape == tuple(tensor.shape)
            np.testing.assert_array_equal(found[key].astype(np.float64), tensor.detach().double().numpy())


@pytest.mark.parametrize("random", [False, True])
def test_efficientnet_lite_agrees(images, tmp_path, random):
    package: Any = pytest.importorskip("efficientnet_lite_pytorch")
    model = package.EfficientNet.from_name("efficientnet-lite0")
    if random:
        torch.save(scatter(model).state_dict(), tmp_path / "w.pth")
    file = tmp_path / "w.pth" if random else efficientnet_lite0_file()
    model.load_state_dict(torch.load(file))
    pictures = resize(images, 224, 224)
    with torch.no_grad():
        levels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
        exact = model.eval().extract_features((levels - 127) / 128).mean((2, 3)).numpy()
    if not random:
        assert relative_error(load_features("efficientnet_lite0")(images), exact) <= TOLERANCE
    found = jax.jit(load_efficientnet_lite(read_torch_file(file)))(jnp.asarray(pictures))
    assert relative_error(found, exact) <= TOLERANCE


@pytest.mark.parametrize("side", [40, 299, 320])
def test_tensorflows_resizing_agrees(images, side):
    exact = torch_fidelity("interpolate_compat_tensorflow").interpolate_bilinear_2d_like_tensorflow1x(
        torch.from_numpy(resize(images, side, side + 7)).permute(0, 3, 1, 2).float(), (299, 299), align_corners=False
    )
    found = resize_as_tensorflow1(jnp.asarray(resize(images, side, side + 7), jnp.float32), 299)
    # Levels of 0..255: one rounding of a weight of float32, of a place up to 320.
    assert np.abs(np.asarray(found) - exact.permute(0, 2, 3, 1).numpy()).max() <= 0.01


def test_inception_agrees(images, tmp_path):
    module = torch_fidelity("feature_extractor_inceptionv3")
    abstract = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Inception(rngs=nnx.Rngs(0)))))
    shapes = dict(expected_shapes(slots_by_name(abstract, NAMES), abstract))
    state = {
        key: torch.zeros(shape) for key, shape in (shapes | {"fc.weight": (1008, 2048), "fc.bias": (1008,)}).items()
    }
    file = tmp_path / "pt_inception-2015-12-05-random.pth"
    torch.save(state, file)
    original = module.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(file))
    torch.save(scatter(original).state_dict(), file)
    with torch.no_grad():
        exact = original(torch.from_numpy(images).permute(0, 3, 1, 2))[0].numpy()
    assert relative_error(load_features("inception_v3", str(file))(images), exact) <= TOLERANCE
    assert load_features("inception_v3", str(tmp_path)).size == 2048


def test_bicubic_interpolation_agrees():
    table = np.random.default_rng(1).normal(size=(1, 5, 37, 37)).astype(np.float32)
    for new, offset in ((16, 0.1), (16, 0.0), (40, 0.0)):
        given = {"scale_factor": (new + offset) / 37} if offset else {"size": (new, new)}
        exact = torch.nn.functional.interpolate(torch.from_numpy(table), mode="bicubic", align_corners=False, **given)
        weights = bicubic_weights(37, new, 37 / (new + offset))
        assert relative_error(np.einsum("im,jn,bcmn->bcij", weights, weights, table), exact.numpy()) <= 1e-5


def test_dinov2_agrees(images, tmp_path):
    model = scatter(transformers.Dinov2Model(transformers.Dinov2Config(**DINOV2, patch_size=14)))
    model.save_pretrained(tmp_path)
    processor = transformers.BitImageProcessorPil(
        size={"height": 224, "width": 224},
        do_center_crop=False,
        resample=Image.Resampling.BICUBIC,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    pixels = processor(list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        exact = model(pixels).pooler_output.numpy()
    cfg = read_dinov2_config(json.loads((tmp_path / "config.json").read_text()))
    dinov2 = load_dinov2(cfg, open_tensors(tmp_path))
    assert relative_error(dinov2(jnp.asarray(resize(images, 224, 224)), offset=0), exact) <= TOLERANCE
    found = load_features("dinov2", str(tmp_path))(images)
    np.testing.assert_allclose(found, dinov2(jnp.asarray(resize(images, 224, 224))), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    vocab = {token: i for i, token in enumerate([*"abcdefghijklmnopqrstuvwxyz"])}
    vocab |= {f"{token}</w>": i + 26 for token, i in vocab.copy().items()}
    vocab |= {"<|startoftext|>": 52, "<|endoftext|>": 53}
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=[])
    tokenizer.save_pretrained(folder)
    text = TOWER | {"vocab_size": 54, "max_position_embeddings": 40, "bos_token_id": 52, "eos_token_id": 53}
    cfg = transformers.CLIPConfig(text_config=text, vision_config=TOWER | {"image_size": 48, "patch_size": 16})
    cfg.projection_dim = 24
    scatter(transformers.CLIPModel(cfg)).save_pretrained(folder)
    return folder


def test_clip_agrees(images, clip_folder):
    clip = load_features("clip", str(clip_folder))
    assert isinstance(clip, ClipNetwork)
    assert clip.size == 24
    model = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    size = {"height": 48, "width": 48}
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size=size)
    captions = [" ".join(WORDS[:count]) for count in (0, 1, 3)] + ["Old  CLIFF\tat dusk"]
    tokens = transformers.CLIPTokenizer.from_pretrained(clip_folder)(captions, padding=True, return_tensors="pt")
    wide = resize(images, 40, 63)
    with torch.no_grad():
        exact_images, exact_wide = (
            model.get_image_features(processor(list(some), return_tensors="pt")["pixel_values"]).pooler_output
            for some in (images, wide)
        )
        exact_texts = model.get_text_features(**tokens).pooler_output
    assert relative_error(clip(images), exact_images) <= TOLERANCE
    assert relative_error(clip(wide), exact_wide) <= TOLERANCE
    assert relative_error(clip.text(captions), exact_texts) <= TOLERANCE


def test_cut_from_the_middle_is_clips_own(images):
    wide = resize(images, 50, 83)
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 33}, crop_size={"height": 33, "width": 33}, do_normalize=False, do_rescale=False
    )
    exact = processor(list(wide), return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(crop(wide, 33), exact)
