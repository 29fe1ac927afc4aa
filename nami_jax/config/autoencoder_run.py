"""Settings of an autoencoder's training run: what a config file whose `task` is "autoencoder" contains."""

import itertools
from typing import Annotated, Literal

import pydantic

from nami_jax.config.keeping import KEEP_BEST, KEEP_EVERY, KEEP_NEWEST, MAX_LOSS_RISE, require_kept_steps
from nami_jax.config.sections import DataConfig
from nami_jax.config.settings import (
    Positive,
    Rate,
    Seed,
    Settings,
    Share,
    Side,
    Steps,
    Width,
    field,
    require,
    settings,
)

TASK = "autoencoder"
Weight = Annotated[float, pydantic.Field(ge=0, le=1e6)]


@settings("model")
class SizesConfig(Settings):
    """Sizes of the AutoencoderKL."""

    block_out_channels: tuple[Width, ...] = field(
        "channels at each resolution; each but the first halves the sides",
        default=(16, 32, 64),
        min_length=1,
        max_length=8,
    )
    latent_channels: int = field("C, channels of the latents", default=4, ge=1, le=4096)
    layers_per_block: int = field("residual blocks at each resolution; the decoder has one more", default=1, ge=1, le=8)
    norm_num_groups: Width = field("groups of each group norm", default=8)
    mid_attention: bool = field("self-attention of all latents in the middle of encoder and decoder", default=True)

    def __post_init__(self) -> None:
        channels, groups = self.block_out_channels, self.norm_num_groups
        require(
            all(c % groups == 0 for c in channels),
            field="model.block_out_channels",
            value=channels,
            rule=f"each must be a multiple of model.norm_num_groups = {groups}",
            remedy=f"Set e.g. {tuple(groups * 2**i for i in range(len(channels)))}",
        )

    @property
    def downscale(self) -> int:
        """Pixels per latent, each way."""
        return 2 ** (len(self.block_out_channels) - 1)


@settings("loss")
class LossConfig(Settings):
    """Weights of the parts of the loss."""

    pixel: Weight = field("weight of the mean absolute difference, images in [-1, 1]", default=1.0)
    perceptual: Weight = field("weight of the distance of features; 0 leaves it out", default=0.2)
    perceptual_blocks: int = field("blocks of VGG16 whose features are compared", default=3, ge=1, le=5)
    kl: Weight = field(
        "weight of the mean divergence of a latent's posterior from a standard normal, nats", default=1e-4
    )

    def __post_init__(self) -> None:
        require(
            self.pixel > 0 or self.perceptual > 0,
            field="loss.pixel",
            value=self.pixel,
            rule="loss.pixel and loss.perceptual cannot both be 0",
            remedy="Set e.g. 1.0",
        )


@settings("train")
class AutoencoderTrainConfig(Settings):
    """The training of an autoencoder."""

    seed: Seed = field("of parameters, order, crops and noise", default=0)
    steps: Steps = field("training steps of the whole run", default=3000, may_change=True)
    batch: int = field("images of one step", default=8, ge=1, le=2**20)
    crop: Side = field(
        "side of the squares that are cut from them at random, pixels: convolutions carry over to whole images",
        default=32,
    )
    learning_rate: Rate = field("after warm-up; then it falls to 0 as a cosine", default=4e-3, may_change=True)
    warmup_steps: int = field(
        "steps of linear warm-up from 0 to the learning rate", default=50, may_change=True, ge=0, le=10**7
    )
    adam_b1: Share = field("decay of Adam's first moment", default=0.9, may_change=True)
    adam_b2: Share = field("decay of Adam's second moment", default=0.99, may_change=True)
    grad_clip: float = field("largest global gradient norm", default=1.0, may_change=True, gt=0, le=1e30)
    ema_decay: Share = field("decay of the averaged weights, which are kept", default=0.99, may_change=True)
    log_every: Positive = field("steps between logs", default=50, may_change=True)
    eval_every: Positive = field("steps between validations", default=250, may_change=True)
    checkpoint_every: Positive = field("steps between checkpoints", default=250, may_change=True)
    keep_checkpoints: Positive = field(KEEP_NEWEST, default=2, may_change=True)
    keep_best: int = field(KEEP_BEST, default=1, may_change=True, ge=0)
    keep_every: Positive | None = field(KEEP_EVERY, default=None, example=5000, may_change=True)
    sample_every: Positive = field("steps between grids", default=500, may_change=True)
    sample_images: Positive = field(
        "in a grid of originals and reconstructions, all held out", default=16, may_change=True
    )
    max_skipped_steps: Positive = field(
        "this many steps in a row without a finite gradient, or with a loss out of range, stop the run",
        default=10,
        may_change=True,
    )
    max_loss_rise: float | None = field(MAX_LOSS_RISE, default=4.0, may_change=True, gt=1)

    def __post_init__(self) -> None:
        require(
            self.warmup_steps < self.steps,
            field="train.warmup_steps",
            value=self.warmup_steps,
            rule=f"must be in 0..{self.steps - 1}, below train.steps",
            remedy="Set e.g. a tenth of train.steps",
        )
        require_kept_steps(self.keep_every, self.checkpoint_every)


@settings()
class AutoencoderRun(Settings):
    """Everything that defines the training of an autoencoder. Made by `from_dict`; saved with every checkpoint."""

    model: SizesConfig
    data: DataConfig
    loss: LossConfig
    train: AutoencoderTrainConfig
    task: Literal["autoencoder"] = TASK

    def __post_init__(self) -> None:
        require(
            self.data.lower_stages == "latents",
            field="data.lower_stages",
            value=self.data.lower_stages,
            rule="an autoencoder has no stages",
            remedy="Set 'latents'",
        )
        unit, crop = self.model.downscale, self.train.crop
        sides = tuple(itertools.chain.from_iterable(self.data.bucket_sizes))
        where = "data.side" if self.data.buckets is None else "data.buckets"
        for name, value in (("train.crop", crop), *((where, side) for side in sides)):
            require(
                value % unit == 0,
                field=name,
                value=value,
                rule=f"the autoencoder needs a multiple of {unit}",
                remedy=f"Set {-(-value // unit) * unit}",
            )
        require(
            crop <= min(sides),
            field="train.crop",
            value=crop,
            rule=f"must be at most {where} = {min(sides)}",
            remedy=f"Set {min(sides)}",
        )
