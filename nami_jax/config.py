"""Settings of a run: frozen dataclasses made from an ml_collections file, and every check of what a user sets.

First in the data flow. `configs/*.py` say what a run is, `Config.from_dict` checks it before any device is touched or
anything is compiled, and all other modules receive the dataclasses (never a ConfigDict, never flags).
"""

import dataclasses
import difflib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import dacite


class ConfigError(ValueError):
    """A setting that cannot work. The message names the field, its value, the rule and what to set instead."""


def require(condition: bool, field: str, value: Any, rule: str, remedy: str) -> None:
    """Raises `ConfigError` with one uniform message unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{field} = {value!r}: {rule}. {remedy}.")


def nearest(name: str, names: Sequence[str]) -> str:
    """Returns a hint such as " Did you mean 'steps'?" for an unknown name, or the list of what exists."""
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else f" Known: {', '.join(sorted(names))}."


class Settings:
    """A dataclass of sections that is made from nested dicts and turned back into them."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Builds and checks the whole configuration.

        Args:
            fields: nested mapping with the sections of this class, as `ConfigDict.to_dict()` or JSON gives it (lists
                count as tuples). Sections that have defaults may be left out.

        Raises:
            ConfigError: a field is unknown (its nearest names are given), missing, of the wrong type or out of range.
        """
        sections = {f.name: f.type for f in dataclasses.fields(cls) if dataclasses.is_dataclass(f.type)}  # pyright: ignore[reportArgumentType]
        for name, section in sections.items():
            given = fields.get(name, {})
            require(isinstance(given, Mapping), name, given, "must be a section of fields", "See configs/base.py")
            known = [f.name for f in dataclasses.fields(section)]  # pyright: ignore[reportArgumentType]
            for field in given:
                if field not in known:
                    raise ConfigError(f"{name}.{field}: no such config field.{nearest(field, known)}")
        try:
            return dacite.from_dict(cls, fields, dacite.Config(strict=True, cast=[tuple]))  # pyright: ignore[reportArgumentType]
        except dacite.UnexpectedDataError as error:
            unknown = min(map(str, error.keys))
            raise ConfigError(f"{unknown}: no such config section.{nearest(unknown, list(sections))}") from error
        except (dacite.WrongTypeError, dacite.MissingValueError) as error:
            raise ConfigError(f"{error}. Compare with configs/base.py, which lists every field.") from error

    def to_dict(self) -> dict[str, Any]:
        """Returns nested plain dicts that `from_dict` takes back and JSON can hold."""
        return dataclasses.asdict(self)  # pyright: ignore[reportArgumentType]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of the nested DiT (`nami_jax.models.nami`). NAMI, arXiv 2503.09242, sec. 3.2."""

    channels: int  # C of the latents (or 3 for pixels)
    patch_size: int  # side of the square patch that makes one token
    num_heads: int  # N
    rope_axes: tuple[int, ...]  # head channels rotated by (text position, row, column); their sum is the head size
    double_blocks: int  # two-stream blocks, run by every stage
    stage_single_blocks: tuple[int, ...]  # single-stream blocks run by stage 1..K, a prefix of the last stage's
    mlp_ratio: int
    text_dim: int  # width of the text encoder's token states
    pooled_dim: int  # width of the text encoder's pooled vector
    rope_theta: float = 10000.0
    dtype: str = "float32"  # compute type; parameters are float32
    scan_blocks: bool = False  # run each stack of blocks as one lax.scan: compile time stops growing with depth
    remat: bool = False  # recompute each block in the backward pass instead of keeping its activations

    @property
    def head_dim(self) -> int:
        """H, channels of one attention head."""
        return sum(self.rope_axes)

    @property
    def width(self) -> int:
        """D, channels of a token."""
        return self.num_heads * self.head_dim

    @property
    def num_stages(self) -> int:
        """K."""
        return len(self.stage_single_blocks)

    def __post_init__(self) -> None:
        for name in ("channels", "patch_size", "num_heads", "mlp_ratio", "text_dim", "pooled_dim"):
            value = getattr(self, name)
            require(value >= 1, f"model.{name}", value, "must be at least 1", "Set a positive integer")
        require(len(self.rope_axes) == 3 and all(a >= 2 and a % 2 == 0 for a in self.rope_axes), "model.rope_axes",
                self.rope_axes, "needs three even sizes of at least 2", "Set e.g. (8, 12, 12)")  # fmt: skip
        singles = self.stage_single_blocks
        require(
            len(singles) >= 1, "model.stage_single_blocks", singles, "needs one count per stage", "Set e.g. (1, 2, 4)"
        )
        require(all(b >= 0 for b in singles) and list(singles) == sorted(singles), "model.stage_single_blocks", singles,
                "counts must not fall from stage to stage, since each stage runs a prefix of the next one's blocks",
                f"Set e.g. {tuple(sorted(abs(b) for b in singles))}")  # fmt: skip
        require(self.double_blocks >= 0 and self.double_blocks + singles[0] >= 1, "model.double_blocks",
                self.double_blocks, "the first stage needs at least one block", "Set it to 1 or more")  # fmt: skip
        require(self.rope_theta > 1, "model.rope_theta", self.rope_theta, "must be above 1", "Set 10000.0")
        require(self.dtype in ("float32", "bfloat16"), "model.dtype", self.dtype, "is not a compute type",
                "Set 'float32' or 'bfloat16'")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """How the rectified flow is cut into stages (`nami_jax.flow`)."""

    sigma_ends: tuple[float, ...] | None = None  # noise level at each stage's end; None: (K-k)/K
    time_mean: float = 0.0  # training times are sigmoid(time_mean + time_std * normal)
    time_std: float = 1.0

    def __post_init__(self) -> None:
        ends = self.sigma_ends
        if ends is not None:
            falling = all(a > b for a, b in itertools.pairwise(ends))
            require(len(ends) >= 1 and falling and ends[-1] == 0.0 and all(0.0 <= e < 1.0 for e in ends),
                    "flow.sigma_ends", ends, "must fall strictly within [0, 1) and end in 0.0",
                    "Set e.g. (2/3, 1/3, 0.0), or None for the paper's")  # fmt: skip
        require(self.time_std > 0, "flow.time_std", self.time_std, "must be positive", "Set e.g. 1.0")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """A tensorflow-datasets data set with images and captions (`nami_jax.data`)."""

    name: str  # "name/config:version" as tfds.data_source takes it
    train_split: str
    eval_split: str
    image_key: str
    caption_key: str  # a text, a sequence of texts (one is drawn each time), or a class label; "a/b" looks inside
    side: int  # height and width of the final images, pixels
    prepared: str | None = None  # folder that `nami_jax.prepare` made, to train on latents; None: `name`'s pixels
    buckets: tuple[tuple[int, int], ...] | None = None  # (height, width) of prepared images, pixels; None: side x side
    caption_templates: tuple[str, ...] = ("{}",)  # one is drawn each time; {} is the caption or class name
    data_dir: str = "data"  # where the prepared data set and the text states lie
    max_corrupt_share: float = 0.01  # more unreadable images than this share of the data set stop the run
    cache_images: int = 0  # keep up to this many decoded images in memory
    flip: bool = False  # mirror half of the images

    def __post_init__(self) -> None:
        require(bool(self.caption_templates) and all(t.count("{}") == 1 for t in self.caption_templates),
                "data.caption_templates", self.caption_templates, "each template must hold {} once",
                "Set e.g. ('{}', 'a photo of a {}')")  # fmt: skip
        require(self.side >= 1, "data.side", self.side, "must be positive", "Set the final images' side in pixels")
        buckets = self.buckets
        if buckets is not None:
            require(len(buckets) >= 1 and all(len(b) == 2 for b in buckets) and len(set(buckets)) == len(buckets),
                    "data.buckets", buckets, "needs distinct pairs of height and width",
                    "Set e.g. ((64, 64), (48, 80))")  # fmt: skip
            require(self.prepared is not None, "data.buckets", buckets, "images of data.name are cut to squares",
                    "Set data.prepared, or data.buckets = None")  # fmt: skip
        require(not (self.flip and self.prepared), "data.flip", self.flip, "prepared latents cannot be mirrored",
                "Set False")  # fmt: skip
        require(0.0 <= self.max_corrupt_share < 1.0, "data.max_corrupt_share", self.max_corrupt_share,
                "must be in [0, 1)", "Set e.g. 0.01")  # fmt: skip

    @property
    def bucket_sizes(self) -> tuple[tuple[int, int], ...]:
        """The closed list of (height, width) that images of the last stage have, pixels."""
        return self.buckets or ((self.side, self.side),)


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The frozen text encoder (`nami_jax.text`)."""

    encoder: str = "minilm"  # or "t5_bert": token states of a T5, pooled vector of a BERT, as the released NAMI
    max_length: int = 16  # tokens T of a prompt, special ones included; longer prompts are cut
    mask_padding: bool = True  # hide padding tokens from the encoder and zero their states
    folder: str | None = None  # of t5_bert's weights and tokenisers: `mt5/` and `mclip/` lie in it
    pooled_length: int = 77  # tokens that t5_bert's BERT sees of a prompt

    def __post_init__(self) -> None:
        require(self.encoder in ("minilm", "t5_bert"), "text.encoder", self.encoder, "is not a text encoder",
                "Set 'minilm' or 't5_bert'")  # fmt: skip
        for name in ("max_length", "pooled_length"):
            value = getattr(self, name)
            require(3 <= value <= 512, f"text.{name}", value, "must be in 3..512", "Set e.g. 16")
        require(self.encoder == "minilm" or self.folder is not None, "text.folder", self.folder,
                "t5_bert needs its weights", "Set the folder that holds mt5/ and mclip/")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The frozen autoencoder between pixels and latents (`nami_jax.autoencoder`)."""

    folder: str | None = None  # its config.json and weights, as diffusers lays out a vae; None: the flow is of pixels
    downscale: int = 1  # pixels per latent, each way

    def __post_init__(self) -> None:
        require(self.downscale >= 1 and (self.folder is not None or self.downscale == 1), "autoencoder.downscale",
                self.downscale, "must be 1 without an autoencoder", "Set 1, or autoencoder.folder")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class BridgeConfig:
    """The learned jump between stages (`nami_jax.models.bridge`), trained on its own before the stages."""

    kind: str | None = None  # "full": the released form, for one size; "conv": for any size; None: renoising, no bridge
    steps: int = 10_000
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        require(self.kind in (None, "full", "conv"), "bridge.kind", self.kind, "is not a bridge",
                "Set 'full', 'conv' or None")  # fmt: skip
        require(self.steps >= 1, "bridge.steps", self.steps, "must be at least 1", "Set e.g. 10000")
        require(self.learning_rate > 0, "bridge.learning_rate", self.learning_rate, "must be positive", "Set 1e-3")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The joint training of all stages (`nami_jax.train_step`)."""

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
    fsdp: int = 1  # devices over which parameters, moments and EMA are sharded; the others hold copies

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "eval_every", "eval_batch", "checkpoint_every", "keep_checkpoints",
                     "sample_every", "sample_images", "fsdp"):  # fmt: skip
            value = getattr(self, name)
            require(value >= 1, f"train.{name}", value, "must be at least 1", "Set a positive integer")
        require(0 <= self.warmup_steps, "train.warmup_steps", self.warmup_steps, "must not be negative", "Set e.g. 100")
        phases = len(self.stage_batches)
        require(phases >= 1 and phases == len(self.phase_starts) == len(self.phase_learning_rates),
                "train.stage_batches", self.stage_batches,
                "stage_batches, phase_starts and phase_learning_rates need one entry per phase",
                "Give all three the same length")  # fmt: skip
        starts = self.phase_starts
        rising = all(a < b for a, b in itertools.pairwise(starts))
        require(starts[0] == 0.0 and rising and starts[-1] < 1.0, "train.phase_starts", starts,
                "must begin with 0.0 and rise below 1.0", "Set e.g. (0.0, 0.3, 0.6)")  # fmt: skip
        require(all(lr > 0 for lr in self.phase_learning_rates), "train.phase_learning_rates",
                self.phase_learning_rates, "must be positive", "Set e.g. (1e-4, 1e-4, 5e-5)")  # fmt: skip
        require(self.decay in ("constant", "cosine"), "train.decay", self.decay, "is not a decay",
                "Set 'constant' or 'cosine'")  # fmt: skip
        require(
            self.weight_decay >= 0, "train.weight_decay", self.weight_decay, "must not be negative", "Set e.g. 0.01"
        )
        require(self.grad_clip > 0, "train.grad_clip", self.grad_clip, "must be positive", "Set e.g. 1.0")
        for name in ("ema_decay", "caption_dropout", "adam_b1", "adam_b2"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, f"train.{name}", value, "must be in [0, 1)", "Set a share below 1")


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """Defaults of the sampler (`nami_jax.sampler`), also used for the grids made during training."""

    steps: tuple[int, ...]  # solver steps per stage
    guidance_scale: float = 3.0
    grid: str = "linear"  # "linear" or "released"
    solver: str = "euler"  # "euler" or "heun"
    transition: str = "renoise"  # the jump between stages: "renoise" or, for a model that has one, "bridge"

    def __post_init__(self) -> None:
        require(self.transition in ("renoise", "bridge"), "sample.transition", self.transition, "is not a transition",
                "Set 'renoise' or 'bridge'")  # fmt: skip
        require(
            all(n >= 1 for n in self.steps),
            "sample.steps",
            self.steps,
            "each stage needs a step",
            "Set e.g. (10, 10, 10)",
        )
        require(
            self.guidance_scale >= 0,
            "sample.guidance_scale",
            self.guidance_scale,
            "must not be negative",
            "Set e.g. 3.0",
        )
        require(self.grid in ("linear", "released"), "sample.grid", self.grid, "is not a time grid",
                "Set 'linear' or 'released'")  # fmt: skip
        require(
            self.solver in ("euler", "heun"), "sample.solver", self.solver, "is not a solver", "Set 'euler' or 'heun'"
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
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    bridge: BridgeConfig = BridgeConfig()


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Everything that defines a run. Made by `Config.from_dict`; saved with every checkpoint."""

    model: ModelConfig
    flow: FlowConfig
    data: DataConfig
    text: TextConfig
    train: TrainConfig
    sample: SampleConfig
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    bridge: BridgeConfig = BridgeConfig()

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
            require(len(value) == stages, field, value, f"the model has {stages} stages",
                    f"Give {stages} values, one per stage")  # fmt: skip
        for batch in self.train.stage_batches:
            require(all(b >= 1 for b in batch), "train.stage_batches", batch, "each stage needs an image in every step",
                    f"Set e.g. {tuple(max(b, 1) for b in batch)}")  # fmt: skip
        require(self.autoencoder.folder is not None or self.model.channels == 3, "model.channels", self.model.channels,
                "the images have 3", "Set 3, or autoencoder.folder for a flow of latents")  # fmt: skip
        require((self.data.prepared is None) == (self.autoencoder.folder is None), "data.prepared", self.data.prepared,
                "a flow of latents needs both prepared data and an autoencoder, one of pixels neither",
                "Set data.prepared and autoencoder.folder, or neither")  # fmt: skip
        require(self.flow.sigma_ends is None or self.sample.grid != "released", "sample.grid", self.sample.grid,
                "the released grid knows the default flow.sigma_ends only", "Set 'linear'")  # fmt: skip
        require(self.sample.transition == "renoise" or self.bridge.kind is not None, "sample.transition",
                self.sample.transition, "the model has no bridge", "Set 'renoise', or bridge.kind")  # fmt: skip
        require_side(self.data.side, self.model, "data.side", self.autoencoder.downscale)
        for side in itertools.chain.from_iterable(self.data.bucket_sizes):
            require_side(side, self.model, "data.buckets", self.autoencoder.downscale)


def require_side(side: int, model: ModelConfig, field: str, downscale: int = 1) -> None:
    """Checks that `side`, in pixels, can be halved for every stage and still be cut into patches of latents."""
    unit = 2 ** (model.num_stages - 1) * model.patch_size * downscale
    above = -(-side // unit) * unit
    require(side >= unit and side % unit == 0, field, side,
            f"{model.num_stages} stages of {model.patch_size}x{model.patch_size} patches need a multiple of {unit}",
            f"Set {above}")  # fmt: skip


def parse_steps(steps: Sequence[str]) -> tuple[int, ...]:
    """Reads a flag such as "10,10,10", as absl splits it; raises `ConfigError` unless all are whole numbers."""
    whole = bool(steps) and all(step.strip().isdecimal() for step in steps)
    require(whole, "steps", ",".join(steps), "must be whole numbers", "Set e.g. --steps 10,10,10")
    return tuple(map(int, steps))
