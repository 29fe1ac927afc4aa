"""The config sections for training and sampling a flow, and the config of a whole run."""

import dataclasses
import itertools
import os
from typing import Annotated, Literal, Self

import pydantic

from nami_jax.config.keeping import KEEP_BEST, KEEP_EVERY, KEEP_NEWEST, MAX_LOSS_RISE, require_kept_steps
from nami_jax.config.sampler_settings import SampleConfig
from nami_jax.config.sections import (
    AutoencoderConfig,
    BridgeConfig,
    DataConfig,
    FlowConfig,
    MeshConfig,
    ModelConfig,
    TextConfig,
    require_side,
)
from nami_jax.config.settings import Dtype, Positive, Rate, Seed, Settings, Share, Side, Steps, field, require, settings

TASK = "flow"  # of a config that names none
Images = Annotated[int, pydantic.Field(le=2**20)]  # of one step
MOST_PICTURES = 100_000  # of one prompt


@settings("train")
class TrainConfig(Settings):
    """The joint training of all stages."""

    seed: Seed = field("of parameters, order, noise and times", default=0)
    steps: Steps = field(
        "training steps of the whole run; changed in a run that is continued, they move the phases' beginnings, and "
        "some samples of an epoch may be skipped or repeated",
        default=10_000,
        may_change=True,
    )
    stage_batches: tuple[tuple[Images, ...], ...] = field(
        "per phase: the images of stage 1..K in one step; first many coarse ones, then many fine ones",
        default=((32, 16, 8), (16, 32, 8), (8, 16, 32)),
    )
    accumulation_steps: int = field(
        "parts of each stage's images whose gradients are added up, one after the other, before the parameters change: "
        "less memory, the same step",
        default=1,
        may_change=True,
        ge=1,
        le=10_000,
    )
    phase_starts: tuple[float, ...] = field(
        "share of the steps at which each phase begins; the first is 0", default=(0.0, 1 / 3, 2 / 3)
    )
    phase_learning_rates: tuple[Rate, ...] = field("one per phase", default=(1e-4, 1e-4, 5e-5), may_change=True)
    warmup_steps: int = field(
        "steps of linear warm-up from 0 to the phase's rate", default=500, may_change=True, ge=0, le=10**7
    )
    decay: Literal["constant", "cosine"] = field(
        "schedule that multiplies the phase's learning rate after warm-up; cosine falls to 0 at the end",
        default="constant",
        may_change=True,
    )
    optimizer: Literal["adamw", "muon"] = field(
        "muon: the blocks' matrices by Muon, at AdamW's rate and weight decay, and all other parameters by AdamW",
        default="adamw",
    )
    muon_momentum: Share = field("decay of Muon's momentum", default=0.95, may_change=True)
    weight_decay: float = field("weight decay, of kernels only", default=0.01, may_change=True, ge=0, le=1e4)
    adam_b1: Share = field("decay of Adam's first moment", default=0.9, may_change=True)
    adam_b2: Share = field("decay of Adam's second moment", default=0.99, may_change=True)
    first_moment_dtype: Dtype = field(
        "type that Adam's first moment, and Muon's momentum, is kept in; bfloat16 takes half the memory of it",
        default="float32",
    )
    grad_clip: float = field("largest global gradient norm", default=1.0, may_change=True, gt=0, le=1e30)
    ema_decay: Share = field(
        "decay of the averaged weights, used to validate and sample", default=0.999, may_change=True
    )
    caption_dropout: Share = field(
        "share of captions replaced by the empty one, for guidance", default=0.1, may_change=True
    )
    contrastive_weight: Share = field(
        "of the squared distance to another image's velocity, which is taken off the loss (contrastive flow matching); "
        "0: off, the paper's: 0.05",
        default=0.0,
        example=0.05,
    )
    log_every: Positive = field("steps between logs", default=50, may_change=True)
    eval_every: Positive = field("steps between validations", default=500, may_change=True)
    eval_batch: Positive = field("images of one validation batch, per stage", default=16, may_change=True)
    checkpoint_every: Positive = field("steps between checkpoints", default=500, may_change=True)
    keep_checkpoints: Positive = field(KEEP_NEWEST, default=2, may_change=True)
    keep_best: int = field(KEEP_BEST, default=1, may_change=True, ge=0)
    keep_every: Positive | None = field(KEEP_EVERY, default=None, example=5000, may_change=True)
    sample_every: Positive = field("steps between sample grids", default=500, may_change=True)
    sample_images: Positive = field(
        "training captions in a sample grid; held-out ones are a third of that", default=24, may_change=True
    )
    evaluate_every: Positive | None = field(
        "steps between evaluations of samples of held-out captions (KID, right concepts, ...), as `nami_jax.evaluate` "
        "measures them; None: none",
        default=None,
        example=2000,
        may_change=True,
    )
    evaluate_images: int = field("captions sampled for an evaluation", default=64, may_change=True, ge=2, le=100_000)
    max_skipped_steps: Positive = field(
        "this many steps in a row without a finite gradient, or with a loss out of range, stop the run",
        default=10,
        may_change=True,
    )
    max_loss_rise: float | None = field(MAX_LOSS_RISE, default=4.0, may_change=True, gt=1)
    init_from: str | None = field(
        "what to start from: a run's workdir (its newest checkpoint's EMA weights; WORKDIR@STEP for another one) or a "
        "folder of converted weights, which also says whatever else of the model is None; None: random weights",
        default=None,
    )

    def __post_init__(self) -> None:
        phases = len(self.stage_batches)
        require(
            phases >= 1 and phases == len(self.phase_starts) == len(self.phase_learning_rates),
            field="train.stage_batches",
            value=self.stage_batches,
            rule="stage_batches, phase_starts and phase_learning_rates need one entry per phase",
            remedy="Set all three to the same length",
        )
        starts = self.phase_starts
        rising = all(a < b for a, b in itertools.pairwise(starts))
        require(
            starts[0] == 0.0 and rising and starts[-1] < 1.0,
            field="train.phase_starts",
            value=starts,
            rule="must start at 0.0 and increase, staying below 1.0",
            remedy="Set e.g. (0.0, 0.3, 0.6)",
        )
        require_kept_steps(self.keep_every, self.checkpoint_every)

    @property
    def phase_bounds(self) -> tuple[int, ...]:
        """The first step of each phase and, last, the number of steps: phase p is bounds[p] to bounds[p + 1]."""
        return (*(round(start * self.steps) for start in self.phase_starts), self.steps)


@settings()
class DrawConfig(Settings):
    """What a call of `NamiPipeline` asks for, beside texts, pictures and the sampler's settings."""

    height: Side | None = field("of the pictures, pixels; None: as trained", default=None, example=512)
    width: Side | None = field("of the pictures, pixels; None: as trained", default=None, example=512)
    seed: Seed = field("of the noise", default=0)
    num_images: int = field("pictures per prompt", default=1, ge=1, le=MOST_PICTURES)
    batch_size: int = field("pictures drawn at once", default=32, ge=1, le=MOST_PICTURES)
    output_type: Literal["pil", "np", "latent"] = field(
        "what pictures are returned as: PIL images, arrays (N, H, W, 3) in [0, 1], or latents", default="pil"
    )
    return_stages: bool = field("return what each stage ended in, coarsest first, in place of the last", default=False)
    preset_prompt: bool = field("add the texts of the preset, if it has any, to the prompts", default=True)


@settings()
class PipelineConfig(Settings):
    """What sampling needs to know about a model; stored as `pipeline.json` in a folder of converted weights."""

    model: ModelConfig
    flow: FlowConfig
    text: TextConfig
    sample: SampleConfig
    side: Side  # default height and width of pictures, pixels
    autoencoder: AutoencoderConfig = dataclasses.field(default_factory=AutoencoderConfig)
    bridge: BridgeConfig = dataclasses.field(default_factory=BridgeConfig)


@settings()
class Config(Settings):
    """Everything that defines a run. Made by `Config.from_dict`; saved with every checkpoint."""

    model: ModelConfig
    flow: FlowConfig
    data: DataConfig
    text: TextConfig
    train: TrainConfig
    sample: SampleConfig
    autoencoder: AutoencoderConfig = dataclasses.field(default_factory=AutoencoderConfig)
    bridge: BridgeConfig = dataclasses.field(default_factory=BridgeConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

    @property
    def pipeline(self) -> PipelineConfig:
        """The part of it that sampling needs."""
        return PipelineConfig(
            self.model, self.flow, self.text, self.sample, self.data.side, self.autoencoder, self.bridge
        )

    def located(self) -> Self:
        """See `Settings`: so a run can be sampled from and continued from any current folder."""
        replaced = {}
        for name, field_name in (("text", "folder"), ("autoencoder", "folder"), ("train", "init_from")):
            folder = getattr(getattr(self, name), field_name)
            if folder is not None:
                replaced[name] = dataclasses.replace(getattr(self, name), **{field_name: os.path.abspath(folder)})
        return dataclasses.replace(self, **replaced)

    def __post_init__(self) -> None:
        self._require_stages()
        self._require_data()
        self._require_training()
        self._require_bridge()

    def _require_stages(self) -> None:
        """Checks that all that is set for each stage has as many values as there are stages, and the sampler's grid."""
        stages = self.model.num_stages
        per_stage: list[tuple[str, tuple[float, ...]]] = [("sample.steps", self.sample.steps)]
        per_stage += [("train.stage_batches", b) for b in self.train.stage_batches]
        if self.flow.sigma_ends is not None:
            per_stage.append(("flow.sigma_ends", self.flow.sigma_ends))
        for name, value in per_stage:
            require(
                len(value) == stages,
                field=name,
                value=value,
                rule=f"the model has {stages} stages",
                remedy=f"Set {stages} values, one per stage",
            )
        for batch in self.train.stage_batches:
            require(
                all(b >= 1 for b in batch),
                field="train.stage_batches",
                value=batch,
                rule="each stage needs at least one image in every step",
                remedy=f"Set e.g. {tuple(max(b, 1) for b in batch)}",
            )
        require(
            self.flow.sigma_ends is None or self.sample.grid != "released",
            field="sample.grid",
            value=self.sample.grid,
            rule="the released grid works only with the default flow.sigma_ends",
            remedy="Set 'linear'",
        )

    def _require_data(self) -> None:
        """Checks that the images are what the network and the autoencoder take."""
        require(
            self.autoencoder.folder is not None or self.model.channels == 3,
            field="model.channels",
            value=self.model.channels,
            rule="images have 3 channels",
            remedy="Set 3, or set autoencoder.folder to train on latents",
        )
        require(
            self.data.prepared is not None or self.autoencoder.folder is None,
            field="data.prepared",
            value=self.data.prepared,
            rule="a flow of latents trains on prepared data alone",
            remedy="Set the folder that `python -m nami_jax.prepare` is to create, or autoencoder.folder = None",
        )
        require(
            not self.data.flip or self.autoencoder.folder is None,
            field="data.flip",
            value=self.data.flip,
            rule="latents cannot be mirrored",
            remedy="Set False",
        )
        require(
            self.data.lower_stages == "latents" or self.autoencoder.folder is not None,
            field="data.lower_stages",
            value=self.data.lower_stages,
            rule="a flow of pixels has no latents, and pools pixels in any case",
            remedy="Set 'latents', or autoencoder.folder",
        )
        for side in (self.data.side, *itertools.chain.from_iterable(self.data.bucket_sizes)):
            name = "data.side" if side == self.data.side else "data.buckets"
            require_side(side, self.model, name, self.autoencoder.downscale)

    def _require_training(self) -> None:
        """Checks that LoRA, the optimizer and the contrastive loss have what they need."""
        require(
            self.model.lora_rank is None or self.train.init_from is not None,
            field="model.lora_rank",
            value=self.model.lora_rank,
            rule="LoRA needs a trained network to adapt",
            remedy="Set train.init_from",
        )
        require(
            self.model.lora_rank is None or self.train.optimizer == "adamw",
            field="train.optimizer",
            value=self.train.optimizer,
            rule="Muon trains the blocks' kernels, which LoRA leaves as they are",
            remedy="Set 'adamw', or model.lora_rank = None",
        )
        fewest = min(map(min, self.train.stage_batches))
        require(
            self.train.contrastive_weight == 0 or fewest >= 2 * self.train.accumulation_steps,
            field="train.contrastive_weight",
            value=self.train.contrastive_weight,
            rule="each image needs another one of its stage to be told from, in each of the train.accumulation_steps = "
            f"{self.train.accumulation_steps} parts of a step, and train.stage_batches has a stage of {fewest}",
            remedy=f"Set 0, or {2 * self.train.accumulation_steps} images or more of each stage",
        )

    def _require_bridge(self) -> None:
        """Checks that a bridge fits the stages and the images, and is sampled with if there is one."""
        square = ((self.data.side, self.data.side),)
        require(
            self.bridge.kind != "full" or self.data.bucket_sizes == square,
            field="bridge.kind",
            value=self.bridge.kind,
            rule="a 'full' bridge fits one image size, data.side x data.side",
            remedy="Set 'conv', or use no other bucket",
        )
        require(
            self.bridge.kind is None or self.model.num_stages > 1,
            field="bridge.kind",
            value=self.bridge.kind,
            rule="a single-stage model has no jump between stages",
            remedy="Set None",
        )
        require(
            self.bridge.noise == 0 or self.bridge.kind is not None,
            field="bridge.noise",
            value=self.bridge.noise,
            rule="the model has no bridge, and renoising adds all of this noise",
            remedy="Set 0.0, or set bridge.kind",
        )
        require(
            self.bridge.kind is None or self.sample.transition == "bridge",
            field="sample.transition",
            value=self.sample.transition,
            rule="the stages are trained to start from the bridge's output",
            remedy="Set 'bridge'",
        )
        require(
            self.sample.transition == "renoise" or self.bridge.kind is not None,
            field="sample.transition",
            value=self.sample.transition,
            rule="the model has no bridge",
            remedy="Set 'renoise', or set bridge.kind",
        )
