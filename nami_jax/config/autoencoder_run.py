"""Settings of the training of an autoencoder, and every check of them. `config` has those of a flow.

A config file whose `task` is "autoencoder" is of this kind: `train` tells by it which trainer to call.
"""

import dataclasses
from collections.abc import Mapping

from nami_jax.config import DataConfig, Settings, require
from nami_jax.models.autoencoder_kl import AutoencoderKLConfig
from nami_jax.models.vgg import BLOCKS

TASK = "autoencoder"

# What a run cannot change on its way: the shapes of its state, its loss, and the order of its samples.
SAME: Mapping[str, tuple[str, ...]] = {
    "model": ("block_out_channels", "latent_channels", "layers_per_block", "norm_num_groups", "mid_attention"),
    "data": ("name", "train_split", "image_key", "side", "flip"),
    "loss": ("pixel", "perceptual", "perceptual_blocks", "kl"),
    "train": ("seed", "batch", "crop"),
}


@dataclasses.dataclass(frozen=True)
class SizesConfig:
    """Sizes of the AutoencoderKL (`nami_jax.models.autoencoder_kl`)."""

    block_out_channels: tuple[int, ...]  # channels at each resolution; each but the first halves the sides
    latent_channels: int  # C
    layers_per_block: int  # residual blocks at each resolution; the decoder has one more
    norm_num_groups: int
    mid_attention: bool  # self-attention of all latents in the middle of encoder and decoder

    def __post_init__(self) -> None:
        for name in ("latent_channels", "layers_per_block", "norm_num_groups"):
            value = getattr(self, name)
            require(
                value >= 1,
                field=f"model.{name}",
                value=value,
                rule="must be at least 1",
                remedy="Set a positive integer",
            )
        channels, groups = self.block_out_channels, self.norm_num_groups
        require(
            len(channels) >= 1 and all(c >= 1 and c % groups == 0 for c in channels),
            field="model.block_out_channels",
            value=channels,
            rule=f"each must be a multiple of model.norm_num_groups = {groups}",
            remedy=f"Set e.g. {tuple(groups * 2**i for i in range(max(len(channels), 1)))}",
        )

    @property
    def downscale(self) -> int:
        """Pixels per latent, each way."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the parts of the loss (`nami_jax.training.autoencoder.reconstruction_loss`)."""

    pixel: float  # of the mean absolute difference, images in [-1, 1]
    perceptual: float  # of the distance of features
    perceptual_blocks: int  # of VGG16 whose features are compared: 1 to 5
    kl: float  # of the mean divergence of a latent's posterior from a standard normal

    def __post_init__(self) -> None:
        for name in ("pixel", "perceptual", "kl"):
            value = getattr(self, name)
            require(
                value >= 0,
                field=f"loss.{name}",
                value=value,
                rule="must not be negative",
                remedy="Set 0 to leave this part out",
            )
        require(
            self.pixel > 0 or self.perceptual > 0,
            field="loss.pixel",
            value=self.pixel,
            rule="nothing would ask for a likeness of the images",
            remedy="Set e.g. 1.0",
        )
        require(
            1 <= self.perceptual_blocks <= len(BLOCKS),
            field="loss.perceptual_blocks",
            value=self.perceptual_blocks,
            rule=f"VGG16 has {len(BLOCKS)} blocks",
            remedy="Set e.g. 3; loss.perceptual = 0 leaves the part out",
        )


@dataclasses.dataclass(frozen=True)
class AutoencoderTrainConfig:
    """The training of an autoencoder (`nami_jax.training.autoencoder.autoencoder_task`)."""

    seed: int
    steps: int
    batch: int  # images of one step
    crop: int  # height and width of the squares that are cut from them at random, pixels
    learning_rate: float
    warmup_steps: int  # from 0 to the learning rate, which then falls to 0 as a cosine
    adam_b1: float
    adam_b2: float
    grad_clip: float  # largest global gradient norm
    ema_decay: float
    log_every: int
    eval_every: int
    checkpoint_every: int
    keep_checkpoints: int
    sample_every: int
    sample_images: int  # in a grid of originals and reconstructions, all held out

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch",
            "crop",
            "log_every",
            "eval_every",
            "checkpoint_every",
            "keep_checkpoints",
            "sample_every",
            "sample_images",
        ):
            value = getattr(self, name)
            require(
                value >= 1,
                field=f"train.{name}",
                value=value,
                rule="must be at least 1",
                remedy="Set a positive integer",
            )
        require(
            0 <= self.warmup_steps < self.steps,
            field="train.warmup_steps",
            value=self.warmup_steps,
            rule=f"must be in 0..{self.steps - 1}, below train.steps",
            remedy="Set e.g. a tenth of train.steps",
        )
        for name in ("learning_rate", "grad_clip"):
            value = getattr(self, name)
            require(value > 0, field=f"train.{name}", value=value, rule="must be positive", remedy="Set e.g. 1e-3")
        for name in ("ema_decay", "adam_b1", "adam_b2"):
            value = getattr(self, name)
            require(
                0.0 <= value < 1.0,
                field=f"train.{name}",
                value=value,
                rule="must be in [0, 1)",
                remedy="Set a share below 1",
            )


@dataclasses.dataclass(frozen=True)
class AutoencoderRun(Settings):
    """Everything that defines the training of an autoencoder. Made by `from_dict`; saved with every checkpoint."""

    model: SizesConfig
    data: DataConfig
    loss: LossConfig
    train: AutoencoderTrainConfig
    task: str = TASK

    def __post_init__(self) -> None:
        require(
            self.task == TASK, field="task", value=self.task, rule="is not this kind of run", remedy=f"Set {TASK!r}"
        )
        require(
            self.data.prepared is None,
            field="data.prepared",
            value=self.data.prepared,
            rule="an autoencoder is trained on pixels",
            remedy="Set None, and data.name",
        )
        unit, crop, side = self.model.downscale, self.train.crop, self.data.side
        for field, value in (("data.side", side), ("train.crop", crop)):
            require(
                value % unit == 0,
                field=field,
                value=value,
                rule=f"the autoencoder needs a multiple of {unit}",
                remedy=f"Set {-(-value // unit) * unit}",
            )
        require(
            crop <= side,
            field="train.crop",
            value=crop,
            rule=f"is larger than the images, data.side = {side}",
            remedy=f"Set {side}",
        )

    @property
    def network(self) -> AutoencoderKLConfig:
        """The network's sizes under the names of diffusers, still without factors of the latents."""
        sizes = self.model
        return AutoencoderKLConfig(
            sizes.block_out_channels,
            sizes.latent_channels,
            sizes.layers_per_block,
            sizes.norm_num_groups,
            scaling_factor=1.0,
            shift_factor=0.0,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=sizes.mid_attention,
            sample_size=self.data.side,
        )
