import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nami_jax.models.efficientnet_lite import HEAD, SIDE, BlockGroup, DepthwiseConv, EfficientNetLite
from nami_jax.weights.efficientnet_lite_keys import load_efficientnet_lite

STAGES = (BlockGroup(1, 3, 1, 1, 4), BlockGroup(2, 5, 2, 2, 6))


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    """Random weights of a small network, convolutions in the order (O, I, H, W)."""
    rng, tensors = np.random.default_rng(0), {}

    def add(conv: str, norm: str, outputs: int, inputs: int, side: int) -> None:
        scale = (2 / (inputs * side**2)) ** 0.5
        tensors[f"{conv}.weight"] = rng.normal(scale=scale, size=(outputs, inputs, side, side))
        for name in ("weight", "bias", "running_mean"):
            tensors[f"{norm}.{name}"] = rng.normal(1, 0.3, outputs)
        tensors[f"{norm}.running_var"] = rng.uniform(0.5, 2, outputs)

    add("_conv_stem", "_bn0", 5, 3, 3)
    inputs, number = 5, 0
    for stage in STAGES:
        for _ in range(stage.repeats):
            block, width = f"_blocks.{number}.", inputs * stage.expand
            if stage.expand > 1:
                add(f"{block}_expand_conv", f"{block}_bn0", width, inputs, 1)
            add(f"{block}_depthwise_conv", f"{block}_bn1", width, 1, stage.kernel)
            add(f"{block}_project_conv", f"{block}_bn2", stage.channels, width, 1)
            inputs, number = stage.channels, number + 1
    add("_conv_head", "_bn1", 7, inputs, 1)
    return {key: tensor.astype(np.float32) for key, tensor in tensors.items()}


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Convolves (H, W, I) position by position; zeros around, of an odd number one more below and on the right."""
    outputs, inputs, side, _ = kernel.shape
    sides = [-(-length // stride) for length in x.shape[:2]]
    more = [max((out - 1) * stride + side - length, 0) for out, length in zip(sides, x.shape[:2], strict=True)]
    padded = np.pad(x.astype(np.float64), (*((n // 2, n - n // 2) for n in more), (0, 0)))
    out = np.zeros((*sides, outputs))
    for row in range(sides[0]):
        for column in range(sides[1]):
            window = padded[row * stride :, column * stride :][:side, :side]
            if inputs == 1 and x.shape[-1] > 1:
                out[row, column] = (window * kernel[:, 0].transpose(1, 2, 0)).sum((0, 1))
            else:
                out[row, column] = np.einsum("hwi,oihw->o", window, kernel)
    return out


def apply(x: np.ndarray, tensors: dict[str, np.ndarray], conv: str, norm: str, stride: int = 1) -> np.ndarray:
    x = convolve(x, tensors[f"{conv}.weight"], stride)
    scale = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + 1e-3)
    return (x - tensors[f"{norm}.running_mean"]) * scale + tensors[f"{norm}.bias"]


def test_features_are_those_of_a_plain_computation(tensors):
    images = np.random.default_rng(1).integers(0, 256, (2, 11, 8, 3), dtype=np.uint8)
    found = load_efficientnet_lite(tensors, STAGES, 5, 7)(jnp.asarray(images))
    expected = []
    for image in images:
        states = np.clip(apply((image - 127.0) / 128.0, tensors, "_conv_stem", "_bn0", 2), 0, 6)
        for block, (expands, stride, adds) in enumerate([(False, 1, False), (True, 2, False), (True, 1, True)]):
            name, inputs = f"_blocks.{block}.", states
            if expands:
                states = np.clip(apply(states, tensors, f"{name}_expand_conv", f"{name}_bn0"), 0, 6)
            states = np.clip(apply(states, tensors, f"{name}_depthwise_conv", f"{name}_bn1", stride), 0, 6)
            states = apply(states, tensors, f"{name}_project_conv", f"{name}_bn2")
            states = states + inputs if adds else states
        expected.append(np.clip(apply(states, tensors, "_conv_head", "_bn1"), 0, 6).mean((0, 1)))
    # Sums of up to a few dozen products in float32, through eight layers, against float64.
    assert np.abs(found - np.stack(expected)).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("side", "stride", "kernel"), [(7, 1, 3), (7, 2, 3), (8, 2, 3), (8, 2, 5), (9, 2, 5), (4, 1, 5)]
)
def test_depthwise_sum_is_xlas_grouped_convolution(side, stride, kernel):
    conv = DepthwiseConv(6, kernel, stride, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, side, side + 2, 6)), jnp.float32)
    expected = jax.lax.conv_general_dilated(
        x,
        conv.kernel[...],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=6,
    )
    np.testing.assert_allclose(conv(x), expected, atol=1e-5)  # 25 products of numbers about 1


def test_lite0_has_the_published_number_of_parameters():
    model = nnx.eval_shape(lambda: EfficientNetLite(rngs=nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert round((count + 1000 * (HEAD + 1)) / 1e6, 2) == 4.65  # with the classifier of 1,000 classes
    pictures = jax.ShapeDtypeStruct((2, SIDE, SIDE, 3), jnp.uint8)
    features = nnx.eval_shape(lambda images: EfficientNetLite(rngs=nnx.Rngs(0))(images), pictures)
    assert (features.shape, features.dtype) == ((2, HEAD), jnp.float32)
