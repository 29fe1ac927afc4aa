"""What the tensors of each part must be, by the networks' own tables; reports the mismatches of all parts at once."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from nami_jax.config import (
    AutoencoderConfig,
    BridgeConfig,
    ConfigError,
    FlowConfig,
    ModelConfig,
    PipelineConfig,
    SampleConfig,
    TextConfig,
)
from nami_jax.models.nami import abstract_model
from nami_jax.release.released_parts import ReleasedPart
from nami_jax.weights import TensorShapes, WeightsError, differences, expected_shapes
from nami_jax.weights.autoencoder_keys import AUTOENCODER, read_autoencoder_config
from nami_jax.weights.bert_keys import BERT, read_bert_config
from nami_jax.weights.converted import BRIDGE
from nami_jax.weights.nami_keys import bridge_shapes, model_config, nami_slots
from nami_jax.weights.t5_keys import DECODER_PREFIXES, T5, read_t5_config


class Network(NamedTuple):
    """What a part's config.json describes."""

    sizes: Any  # its configuration
    shapes: TensorShapes  # key -> shape of every tensor that it needs
    known_as: Callable[[str], str] = str  # a key that a release may use -> the network's own
    is_unused: Callable[[str], bool] = lambda _: False  # keys that may be there and are not used
    is_left_out: Callable[[str], bool] = lambda _: False  # those among them that are not even converted


def describe_transformer(config: Mapping[str, Any]) -> Network:
    """Returns what the transformer needs; raises `WeightsError` if config.json describes another network."""
    cfg = model_config(config)
    return Network(cfg, expected_shapes(nami_slots(cfg), abstract_model(cfg)[1]))


def describe_vae(config: Mapping[str, Any]) -> Network:
    """Returns what the autoencoder needs; raises `ConfigError` if config.json describes another network."""
    cfg = read_autoencoder_config(config)
    return Network(cfg, AUTOENCODER.shapes(cfg), AUTOENCODER.known_as)


def describe_mt5(config: Mapping[str, Any]) -> Network:
    """Returns what the T5 encoder needs; raises `WeightsError` if config.json describes another network."""
    cfg = read_t5_config(config)
    return Network(
        cfg, T5.shapes(cfg), T5.known_as, T5.is_unused, is_left_out=lambda key: key.startswith(DECODER_PREFIXES)
    )


def describe_mclip(config: Mapping[str, Any]) -> Network:
    """Returns what the BERT needs; raises `WeightsError` if config.json describes another network."""
    cfg = read_bert_config(config)
    return Network(cfg, BERT.shapes(cfg), BERT.known_as, BERT.is_unused)


DESCRIBE = {"transformer": describe_transformer, "vae": describe_vae, "mt5": describe_mt5, "mclip": describe_mclip}


def check_parts(parts: Mapping[str, ReleasedPart]) -> dict[str, Network]:
    """Checks all parts against their networks, and the networks against each other.

    Args:
        parts: by name; the transformer is among them.

    Raises:
        WeightsError: config.json describes a network that is not supported, or tensors are missing, unexpected or of
            the wrong shape. Everything that is wrong is listed.
    """
    networks, problems = {}, []
    for name, part in parts.items():
        if name == BRIDGE:
            continue
        try:
            if not isinstance(part.config, Mapping):
                raise WeightsError("no config.json, or not one of a network. Use a complete release.")
            networks[name] = DESCRIBE[name](part.config)
        except ValueError as error:  # the error of all configurations
            problems.append(f"{name}: {error}")
    if BRIDGE in parts and "transformer" in networks:
        found = {key: tuple(tensor.shape) for key, tensor in parts[BRIDGE].tensors.items()}
        networks[BRIDGE] = Network(None, bridge_shapes(found, networks["transformer"].sizes))
    for name, network in networks.items():
        found = {network.known_as(key): tuple(tensor.shape) for key, tensor in parts[name].tensors.items()}
        unused = [key for key in found if network.is_unused(key)]
        problems += [f"{name}: {line}" for line in differences(network.shapes, found, unused)]
    problems += _strangers({name: network.sizes for name, network in networks.items()})
    if problems:
        listed = "\n  ".join(problems)
        raise WeightsError(f"the release does not fit together; use all parts of one complete release:\n  {listed}")
    return networks


def _strangers(sizes: Mapping[str, Any]) -> Iterator[str]:
    """Names the parts whose width is not the one that the transformer takes."""
    if "transformer" not in sizes:
        return
    cfg = sizes["transformer"]
    for name, field, taken, theirs in (
        ("mt5", "d_model", cfg.text_dim, "joint_attention_dim"),
        ("mclip", "hidden_size", cfg.pooled_dim, "pooled_projection_dim"),
        ("vae", "latent_channels", cfg.channels, "in_channels / 4"),
    ):
        given = getattr(sizes.get(name), field, taken)
        if given != taken:
            yield f"{name}: {field} = {given}, but the transformer's {theirs} = {taken}"


DEFAULT_SIDE, DEFAULT_DOWNSCALE = 1024, 8  # of the released NAMI-2B and its autoencoder


def pipeline_config(networks: Mapping[str, Network]) -> PipelineConfig:
    """Returns the settings to sample with: bfloat16, the release's own grid, and the bridge if there is one.

    Paths are relative to the folder that they are written to.

    Raises:
        ConfigError: the bridge is for images that are not square.
    """
    cfg: ModelConfig = networks["transformer"].sizes
    downscale = networks["vae"].sizes.downscale if "vae" in networks else DEFAULT_DOWNSCALE
    side = DEFAULT_SIDE
    if BRIDGE in networks and cfg.num_stages > 1:
        _, _, height, width = networks[BRIDGE].shapes[f"shift.{cfg.num_stages - 2}"]
        if height != width:
            raise ConfigError(f"{BRIDGE}: is for latents of {height}x{width}. Only square bridges are supported.")
        side = height * downscale
    compute = {"dtype": "bfloat16", "scan_blocks": True}
    return PipelineConfig(
        model=ModelConfig(**vars(cfg) | compute),
        flow=FlowConfig(),
        text=TextConfig(encoder="t5_bert", folder=".", max_length=256, mask_padding=False, pooled_length=77),
        sample=SampleConfig(
            steps=(10,) * cfg.num_stages,
            guidance_scale=3.0,
            grid="released",
            transition="bridge" if BRIDGE in networks else "renoise",
        ),
        side=side,
        autoencoder=AutoencoderConfig(folder="vae", downscale=downscale),
        bridge=BridgeConfig(kind="full" if BRIDGE in networks else None),
    )
