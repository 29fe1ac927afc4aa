"""A trained model with all that it draws with: loaded, saved, adapted; texts to states, and latents to pictures."""

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.checkpoints.fingerprints import fingerprint_arrays, fingerprint_json
from nami_jax.checkpoints.same_run import AUTOENCODER, TEXT_ENCODER, require_same_networks
from nami_jax.config import MeshConfig, require
from nami_jax.models.layout import ONE_DEVICE, Layout
from nami_jax.parallel.activations import MeshLayout
from nami_jax.parallel.sharding import make_mesh, state_shardings
from nami_jax.release.network_folders import tensors_by_part, write_network
from nami_jax.sampling.adapters import Adapters
from nami_jax.sampling.parts import REMEDY, Parts, load_parts
from nami_jax.sampling.pictures import to_images
from nami_jax.sampling.sampler import make_sampler
from nami_jax.text.encoder_files import encoder_id
from nami_jax.text.encoders import TextEncoder, TextStates, load_text_encoder
from nami_jax.weights import WeightsError


class LoadedModel:
    """A model and its parts.

    Attributes:
        model: the network.
        cfg: its settings.
        bridge: the learned transition, if the model has one.
        autoencoder: between pixels and latents; None for a model of pixels.
        source: where all this comes from, for the pictures' metadata.
        keep_encoder: whether the text encoder stays in memory once it has encoded.
        sampler: of the network.
    """

    def __init__(
        self,
        parts: Parts,
        load_encoder: Callable[[], TextEncoder],
        *,
        autoencoder: Autoencoder | None = None,
        keep_encoder: bool = True,
        layout: Layout = ONE_DEVICE,
    ):
        """Puts the parts together.

        Args:
            parts: the network and what is known of it.
            load_encoder: makes the text encoder, when prompts are first encoded.
            autoencoder: between pixels and latents; None for a model of pixels.
            keep_encoder: whether the text encoder stays in memory once it has encoded.
            layout: how pictures and the network are spread over devices.
        """
        self.model, self.cfg, self.bridge, self.source, _ = parts
        self.autoencoder, self.keep_encoder = autoencoder, keep_encoder
        self._load_encoder, self._encoder, self._encoder_lock = load_encoder, None, threading.Lock()
        self._adapters, self._adapters_lock = Adapters(), threading.Lock()
        self.sampler = make_sampler(self.model.cfg, self.cfg.flow.sigma_ends, layout)

    def __repr__(self) -> str:
        """Says what it draws, and with what."""
        cfg, sizes = self.cfg, [leaf.size for leaf in jax.tree.leaves(nnx.state(self.model, nnx.Param))]
        return (
            f"{type(self).__name__}({self.source or 'no source'}: {sum(sizes):,} parameters, "
            f"{cfg.model.num_stages} stages, "
            f"{cfg.side}x{cfg.side} pixels, text by {cfg.text.encoder}, {cfg.sample})"
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        step: int | None = None,
        *,
        dtype: str | None = None,
        keep_encoder: bool = True,
        mesh: MeshConfig | None = None,
    ) -> Self:
        """Loads a training run, a folder of converted weights or a model that comes with nami_jax, and reads no more.

        Args:
            path: a run's workdir, a folder that `nami_jax.convert` wrote, or a name: "emoji". A folder of that name in
                the current one comes first.
            step: which checkpoint of a run; None takes the newest.
            dtype: compute type of all networks, "float32" or "bfloat16", in which converted weights are also held;
                None: as configured.
            keep_encoder: False frees the text encoder after each use, which leaves its memory to the network.
            mesh: draw on all devices, arranged so; pictures go to (data, fsdp), a picture's tokens to `sequence`. None:
                on the first device.

        Raises:
            CheckpointError: a run has no finished checkpoint, or it cannot be read.
            ConfigError: a part is missing, or the autoencoder is another than the run was trained with; of the text
                encoder this is raised when prompts are first encoded.
            WeightsError: weights are missing or damaged.
        """
        require(
            isinstance(path, str | Path),
            field="path",
            value=path,
            rule="must be a path",
            remedy=REMEDY,
        )
        path = Path(path)
        devices = make_mesh(devices=jax.devices()[:1]) if mesh is None else make_mesh(mesh)
        shardings = None if mesh is None else functools.partial(state_shardings, mesh=devices)
        parts = load_parts(path, step, dtype, shardings)
        cfg, frozen = parts.cfg, parts.frozen
        autoencoder = None if cfg.autoencoder.folder is None else Autoencoder.from_config(cfg.autoencoder, cfg.model)
        if autoencoder is not None and AUTOENCODER in frozen:
            require_same_networks(frozen, {AUTOENCODER: autoencoder.fingerprint}, path)

        def load_encoder() -> TextEncoder:
            if TEXT_ENCODER in frozen:
                require_same_networks(frozen, {TEXT_ENCODER: encoder_id(cfg.text)}, path)
            return load_text_encoder(cfg.text, dtype=jnp.dtype(cfg.model.dtype))

        return cls(parts, load_encoder, autoencoder=autoencoder, keep_encoder=keep_encoder, layout=MeshLayout(devices))

    def fingerprints(self) -> dict[str, Any]:
        """Returns what makes pictures beside a call's own settings, as JSON can hold it: all networks, and their types.

        Raises:
            ConfigError: files of the text encoder are missing.
        """
        networks = [network for network in (self.model, self.bridge) if network is not None]
        weights = [fingerprint_arrays(nnx.to_pure_dict(nnx.state(network))) for network in networks]
        return {
            "checkpoint": self.source,
            "weights": fingerprint_json(weights),
            "dtype": self.cfg.model.dtype,
            AUTOENCODER: self.autoencoder and self.autoencoder.fingerprint,
            TEXT_ENCODER: encoder_id(self.cfg.text),
            "bridge_noise": self.cfg.bridge.noise,
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a folder that `from_pretrained` reads: the network as it draws now, adapters merged in, and all else.

        Args:
            folder: new, or empty. It names no place outside itself, and draws the same pictures wherever it is copied.

        Raises:
            ConfigError: there is something at `folder`, or what it is to be made of is no longer there.
            WeightsError: the disk is full, or cannot be written.
        """
        write_network(tensors_by_part(self.model, self.bridge), self.cfg, self.source, Path(folder))

    def load_lora(self, path: str | Path, scale: float = 1.0, *, name: str | None = None) -> None:
        """Adds low-rank pairs to the network, beside those that are loaded; drawing costs what it did.

        Args:
            path: the workdir of a run with `model.lora_rank`, or an adapter's safetensors file or folder, by the keys
                of diffusers and PEFT.
            scale: of what is added; 1 is as it was trained.
            name: of this adapter, by default the file's or the folder's; one of the same name is replaced.

        Raises:
            CheckpointError, ConfigError, WeightsError: it is none of these, or of another network.
        """
        with self._adapters_lock:
            self.model = self._adapters.add(self.model, Path(path), scale, name)

    def set_lora_scale(self, name: str, scale: float) -> None:
        """Adds a loaded adapter with another scale; raises `ConfigError` if there is none of that name."""
        with self._adapters_lock:
            self.model = self._adapters.rescale(self.model, name, scale)

    def unload_lora(self, name: str | None = None) -> None:
        """Takes an adapter off again; None: all of them, after which the network is, bit for bit, what it was.

        Raises:
            ConfigError: there is no adapter of that name.
        """
        with self._adapters_lock:
            self.model = self._adapters.remove(self.model, name)

    def save_lora(self, path: str | Path, name: str) -> None:
        """Writes a loaded adapter, unscaled, as a safetensors file that `load_lora` and diffusers read.

        Args:
            path: a file that ends in .safetensors, or a folder.
            name: of the adapter.

        Raises:
            ConfigError: there is no adapter of that name.
        """
        self._adapters.save(Path(path), name)

    @property
    def loras(self) -> dict[str, float]:
        """The scales of the loaded adapters, by name."""
        return self._adapters.scales

    def encode(self, prompts: Sequence[str], split: int) -> tuple[TextStates, TextStates]:
        """Encodes prompts, loading the text encoder if it is not in memory; returns the first `split` and the rest."""
        with self._encoder_lock:  # threads that draw by one pipeline load it once
            encoder = self._encoder or self._load_encoder()
            self._encoder = encoder if self.keep_encoder else None
        states = encoder(prompts)
        if not all(np.isfinite(part).all() for part in states):
            raise WeightsError(
                "the text encoder gives states that are not finite: its weights are damaged, or too large for the "
                "compute type. Fetch them again, or set another dtype."
            )
        return TextStates(*(x[:split] for x in states)), TextStates(*(x[split:] for x in states))

    def free_encoder(self) -> None:
        """Drops the text encoder from memory; the next prompts load it again."""
        self._encoder = None

    def decode(self, latents: Any) -> list[Image.Image]:
        """Turns latents (B, h, w, C) into pictures; raises as `pixels`."""
        return to_images(self.pixels(latents))

    def pixels(self, latents: Any) -> np.ndarray:
        """Turns latents (B, h, w, C) into pixels (B, H, W, 3), about in [-1, 1].

        Raises:
            WeightsError: the latents, or the pixels made of them, are not finite.
        """
        what, pixels = "latents", np.asarray(latents)
        if self.autoencoder is not None and np.isfinite(pixels).all():
            what, pixels = "pixels", np.asarray(self.autoencoder.decode(pixels))
        if not np.isfinite(pixels).all():
            network = "network" if what == "latents" else "autoencoder"
            raise WeightsError(
                f"the {network} of {self.source or 'this pipeline'} gives {what} that are not finite, and no picture: "
                "its weights are damaged or diverged, or guidance_scale is too large. Use an earlier checkpoint "
                "(step), fetch the weights again, or set guidance_scale = 3."
            )
        return pixels
