"""The sections that say how a model is trained and sampled, and the whole of a run."""

import dataclasses
import itertools

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
from nami_jax.config.settings import Settings, require


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The joint training of all stages (`nami_jax.training.step`)."""

    seed: int
    steps: int
    stage_batches: tuple[tuple[int, ...], ...]  # per phase: the images of stage 1..K in one step
    phase_starts: tuple[float, ...]  # share of the steps at which each phase begins; the first is 0
    phase_learning_rates: tuple[float, ...]
    warmup_steps: int
    decay: str  # "constant" or "cosine": what multiplies the phase's learning rate after warm-up
    weight_decay: float
    adam_b1: float
    adam_b2: float
    grad_clip: float  # largest global gradient norm
    ema_decay: float
    caption_dropout: float  # share of captions replaced by the empty one, for guidance
    log_every: int
    eval_every: int
    eval_batch: int  # images of one validation batch, per stage
    checkpoint_every: int
    keep_checkpoints: int
    sample_every: int
    sample_images: int  # training captions in a sample grid; held-out ones are a third of that
    max_skipped_steps: int = 10  # steps without a finite gradient, which change nothing, in a row before the run stops
    init_from: str | None = None  # folder of converted weights to start from; None: random ones

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "log_every",
            "eval_every",
            "eval_batch",
            "checkpoint_every",
            "keep_checkpoints",
            "sample_every",
            "sample_images",
            "max_skipped_steps",
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
            0 <= self.warmup_steps,
            field="train.warmup_steps",
            value=self.warmup_steps,
            rule="must not be negative",
            remedy="Set e.g. 100",
        )
        phases = len(self.stage_batches)
        require(
            phases >= 1 and phases == len(self.phase_starts) == len(self.phase_learning_rates),
            field="train.stage_batches",
            value=self.stage_batches,
            rule="stage_batches, phase_starts and phase_learning_rates need one entry per phase",
            remedy="Give all three the same length",
        )
        starts = self.phase_starts
        rising = all(a < b for a, b in itertools.pairwise(starts))
        require(
            starts[0] == 0.0 and rising and starts[-1] < 1.0,
            field="train.phase_starts",
            value=starts,
            rule="must begin with 0.0 and rise below 1.0",
            remedy="Set e.g. (0.0, 0.3, 0.6)",
        )
        require(
            all(lr > 0 for lr in self.phase_learning_rates),
            field="train.phase_learning_rates",
            value=self.phase_learning_rates,
            rule="must be positive",
            remedy="Set e.g. (1e-4, 1e-4, 5e-5)",
        )
        require(
            self.decay in ("constant", "cosine"),
            field="train.decay",
            value=self.decay,
            rule="is not a decay",
            remedy="Set 'constant' or 'cosine'",
        )
        require(
            self.weight_decay >= 0,
            field="train.weight_decay",
            value=self.weight_decay,
            rule="must not be negative",
            remedy="Set e.g. 0.01",
        )
        require(
            self.grad_clip > 0,
            field="train.grad_clip",
            value=self.grad_clip,
            rule="must be positive",
            remedy="Set e.g. 1.0",
        )
        for name in ("ema_decay", "caption_dropout", "adam_b1", "adam_b2"):
            value = getattr(self, name)
            require(
                0.0 <= value < 1.0,
                field=f"train.{name}",
                value=value,
                rule="must be in [0, 1)",
                remedy="Set a share below 1",
            )


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """Defaults of the sampler (`nami_jax.sampling.sampler`), also used for the grids made during training."""

    steps: tuple[int, ...]  # solver steps per stage
    guidance_scale: float = 3.0
    grid: str = "linear"  # "linear" or "released"
    solver: str = "euler"  # "euler" or "heun"
    transition: str = "renoise"  # the jump between stages: "renoise" or, for a model that has one, "bridge"

    def __post_init__(self) -> None:
        require(
            self.transition in ("renoise", "bridge"),
            field="sample.transition",
            value=self.transition,
            rule="is not a transition",
            remedy="Set 'renoise' or 'bridge'",
        )
        require(
            all(n >= 1 for n in self.steps),
            field="sample.steps",
            value=self.steps,
            rule="each stage needs a step",
            remedy="Set e.g. (10, 10, 10)",
        )
        require(
            self.guidance_scale >= 0,
            field="sample.guidance_scale",
            value=self.guidance_scale,
            rule="must not be negative",
            remedy="Set e.g. 3.0",
        )
        require(
            self.grid in ("linear", "released"),
            field="sample.grid",
            value=self.grid,
            rule="is not a time grid",
            remedy="Set 'linear' or 'released'",
        )
        require(
            self.solver in ("euler", "heun"),
            field="sample.solver",
            value=self.solver,
            rule="is not a solver",
            remedy="Set 'euler' or 'heun'",
        )


# Sampler settings by name. "released": what the demo of the released NAMI-2B uses.
SAMPLE_PRESETS = {"released": SampleConfig((10, 10, 10), 3.0, grid="released", solver="euler", transition="bridge")}


@dataclasses.dataclass(frozen=True)
class PipelineConfig(Settings):
    """What sampling needs to know of a model; kept as `pipeline.json` in a folder of converted weights."""

    model: ModelConfig
    flow: FlowConfig
    text: TextConfig
    sample: SampleConfig
    side: int  # height and width of pictures where none are asked for, pixels
    autoencoder: AutoencoderConfig = dataclasses.field(default_factory=AutoencoderConfig)
    bridge: BridgeConfig = dataclasses.field(default_factory=BridgeConfig)


@dataclasses.dataclass(frozen=True)
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

    def __post_init__(self) -> None:
        stages = self.model.num_stages
        per_stage: list[tuple[str, tuple[float, ...]]] = [("sample.steps", self.sample.steps)]
        per_stage += [("train.stage_batches", b) for b in self.train.stage_batches]
        if self.flow.sigma_ends is not None:
            per_stage.append(("flow.sigma_ends", self.flow.sigma_ends))
        for field, value in per_stage:
            require(
                len(value) == stages,
                field=field,
                value=value,
                rule=f"the model has {stages} stages",
                remedy=f"Give {stages} values, one per stage",
            )
        for batch in self.train.stage_batches:
            require(
                all(b >= 1 for b in batch),
                field="train.stage_batches",
                value=batch,
                rule="each stage needs an image in every step",
                remedy=f"Set e.g. {tuple(max(b, 1) for b in batch)}",
            )
        require(
            self.autoencoder.folder is not None or self.model.channels == 3,
            field="model.channels",
            value=self.model.channels,
            rule="the images have 3",
            remedy="Set 3, or autoencoder.folder for a flow of latents",
        )
        require(
            (self.data.prepared is None) == (self.autoencoder.folder is None),
            field="data.prepared",
            value=self.data.prepared,
            rule="a flow of latents needs both prepared data and an autoencoder, one of pixels neither",
            remedy="Set data.prepared and autoencoder.folder, or neither",
        )
        require(
            self.flow.sigma_ends is None or self.sample.grid != "released",
            field="sample.grid",
            value=self.sample.grid,
            rule="the released grid knows the default flow.sigma_ends only",
            remedy="Set 'linear'",
        )
        require(
            self.model.lora_rank is None or self.train.init_from is not None,
            field="model.lora_rank",
            value=self.model.lora_rank,
            rule="low-rank pairs need a trained network beneath",
            remedy="Set train.init_from",
        )
        square = ((self.data.side, self.data.side),)
        require(
            self.bridge.kind != "full" or self.data.bucket_sizes == square,
            field="bridge.kind",
            value=self.bridge.kind,
            rule="the released form of bridge fits one image size, data.side x data.side",
            remedy="Set 'conv', or no other bucket",
        )
        require(
            self.bridge.kind is None or stages > 1,
            field="bridge.kind",
            value=self.bridge.kind,
            rule="a model of one stage has no jump",
            remedy="Set None",
        )
        require(
            self.bridge.kind is None or self.sample.transition == "bridge",
            field="sample.transition",
            value=self.sample.transition,
            rule="the stages are trained behind the bridge",
            remedy="Set 'bridge'",
        )
        require(
            self.sample.transition == "renoise" or self.bridge.kind is not None,
            field="sample.transition",
            value=self.sample.transition,
            rule="the model has no bridge",
            remedy="Set 'renoise', or bridge.kind",
        )
        require_side(self.data.side, self.model, "data.side", self.autoencoder.downscale)
        for side in itertools.chain.from_iterable(self.data.bucket_sizes):
            require_side(side, self.model, "data.buckets", self.autoencoder.downscale)
