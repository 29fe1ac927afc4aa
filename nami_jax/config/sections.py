"""The sections of a configuration that say what a model is and what data it takes."""

import dataclasses
import itertools

from nami_jax.config.settings import require


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
    lora_rank: int | None = None  # train low-rank pairs of this rank beside the blocks' kernels, and nothing else

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
            require(
                value >= 1,
                field=f"model.{name}",
                value=value,
                rule="must be at least 1",
                remedy="Set a positive integer",
            )
        require(
            len(self.rope_axes) == 3 and all(a >= 2 and a % 2 == 0 for a in self.rope_axes),
            field="model.rope_axes",
            value=self.rope_axes,
            rule="needs three even sizes of at least 2",
            remedy="Set e.g. (8, 12, 12)",
        )
        singles = self.stage_single_blocks
        require(
            len(singles) >= 1,
            field="model.stage_single_blocks",
            value=singles,
            rule="needs one count per stage",
            remedy="Set e.g. (1, 2, 4)",
        )
        require(
            all(b >= 0 for b in singles) and list(singles) == sorted(singles),
            field="model.stage_single_blocks",
            value=singles,
            rule="counts must not fall from stage to stage, since each stage runs a prefix of the next one's blocks",
            remedy=f"Set e.g. {tuple(sorted(abs(b) for b in singles))}",
        )
        require(
            self.double_blocks >= 0 and self.double_blocks + singles[0] >= 1,
            field="model.double_blocks",
            value=self.double_blocks,
            rule="the first stage needs at least one block",
            remedy="Set it to 1 or more",
        )
        require(
            self.lora_rank is None or self.lora_rank >= 1,
            field="model.lora_rank",
            value=self.lora_rank,
            rule="must be at least 1",
            remedy="Set e.g. 16, or None to train all parameters",
        )
        require(
            self.rope_theta > 1,
            field="model.rope_theta",
            value=self.rope_theta,
            rule="must be above 1",
            remedy="Set 10000.0",
        )
        require(
            self.dtype in ("float32", "bfloat16"),
            field="model.dtype",
            value=self.dtype,
            rule="is not a compute type",
            remedy="Set 'float32' or 'bfloat16'",
        )


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
            require(
                len(ends) >= 1 and falling and ends[-1] == 0.0 and all(0.0 <= e < 1.0 for e in ends),
                field="flow.sigma_ends",
                value=ends,
                rule="must fall strictly within [0, 1) and end in 0.0",
                remedy="Set e.g. (2/3, 1/3, 0.0), or None for the paper's",
            )
        require(
            self.time_std > 0,
            field="flow.time_std",
            value=self.time_std,
            rule="must be positive",
            remedy="Set e.g. 1.0",
        )


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
        require(
            bool(self.caption_templates) and all(t.count("{}") == 1 for t in self.caption_templates),
            field="data.caption_templates",
            value=self.caption_templates,
            rule="each template must hold {} once",
            remedy="Set e.g. ('{}', 'a photo of a {}')",
        )
        require(
            self.side >= 1,
            field="data.side",
            value=self.side,
            rule="must be positive",
            remedy="Set the final images' side in pixels",
        )
        buckets = self.buckets
        if buckets is not None:
            require(
                len(buckets) >= 1 and all(len(b) == 2 for b in buckets) and len(set(buckets)) == len(buckets),
                field="data.buckets",
                value=buckets,
                rule="needs distinct pairs of height and width",
                remedy="Set e.g. ((64, 64), (48, 80))",
            )
            require(
                self.prepared is not None,
                field="data.buckets",
                value=buckets,
                rule="images of data.name are cut to squares",
                remedy="Set data.prepared, or data.buckets = None",
            )
        require(
            not (self.flip and self.prepared),
            field="data.flip",
            value=self.flip,
            rule="prepared latents cannot be mirrored",
            remedy="Set False",
        )
        require(
            0.0 <= self.max_corrupt_share < 1.0,
            field="data.max_corrupt_share",
            value=self.max_corrupt_share,
            rule="must be in [0, 1)",
            remedy="Set e.g. 0.01",
        )

    @property
    def bucket_sizes(self) -> tuple[tuple[int, int], ...]:
        """The closed list of (height, width) that images of the last stage have, pixels."""
        return self.buckets or ((self.side, self.side),)


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The frozen text encoder (`nami_jax.text.caption_table`)."""

    encoder: str = "minilm"  # or "t5_bert": token states of a T5, pooled vector of a BERT, as the released NAMI
    max_length: int = 16  # tokens T of a prompt, special ones included; longer prompts are cut
    mask_padding: bool = True  # hide padding tokens from the encoder and zero their states
    folder: str | None = None  # of t5_bert's weights and tokenisers: `mt5/` and `mclip/` lie in it
    pooled_length: int = 77  # tokens that t5_bert's BERT sees of a prompt

    def __post_init__(self) -> None:
        require(
            self.encoder in ("minilm", "t5_bert"),
            field="text.encoder",
            value=self.encoder,
            rule="is not a text encoder",
            remedy="Set 'minilm' or 't5_bert'",
        )
        for name in ("max_length", "pooled_length"):
            value = getattr(self, name)
            require(
                3 <= value <= 512, field=f"text.{name}", value=value, rule="must be in 3..512", remedy="Set e.g. 16"
            )
        require(
            self.encoder == "minilm" or self.folder is not None,
            field="text.folder",
            value=self.folder,
            rule="t5_bert needs its weights",
            remedy="Set the folder that holds mt5/ and mclip/",
        )


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The frozen autoencoder between pixels and latents (`nami_jax.autoencoder.codec`)."""

    folder: str | None = None  # its config.json and weights, as diffusers lays out a vae; None: the flow is of pixels
    downscale: int = 1  # pixels per latent, each way

    def __post_init__(self) -> None:
        require(
            self.downscale >= 1 and (self.folder is not None or self.downscale == 1),
            field="autoencoder.downscale",
            value=self.downscale,
            rule="must be 1 without an autoencoder",
            remedy="Set 1, or autoencoder.folder",
        )


@dataclasses.dataclass(frozen=True)
class BridgeConfig:
    """The learned jump between stages (`nami_jax.models.bridge`), trained on its own before the stages."""

    kind: str | None = None  # "full": the released form, for one size; "conv": for any size; None: renoising, no bridge
    steps: int = 10_000
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        require(
            self.kind in (None, "full", "conv"),
            field="bridge.kind",
            value=self.kind,
            rule="is not a bridge",
            remedy="Set 'full', 'conv' or None",
        )
        require(
            self.steps >= 1, field="bridge.steps", value=self.steps, rule="must be at least 1", remedy="Set e.g. 10000"
        )
        require(
            self.learning_rate > 0,
            field="bridge.learning_rate",
            value=self.learning_rate,
            rule="must be positive",
            remedy="Set 1e-3",
        )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged; those that these three leave over are copies, for more images."""

    fsdp: int = 1  # devices that share parameters, moments and EMA, each with images of its own
    tensor: int = 1  # devices that share each layer: heads and MLP channels
    sequence: int = 1  # devices that share the tokens of an image

    def __post_init__(self) -> None:
        for name in ("fsdp", "tensor", "sequence"):
            value = getattr(self, name)
            require(
                value >= 1,
                field=f"mesh.{name}",
                value=value,
                rule="must be at least 1",
                remedy="Set a positive integer",
            )


def require_side(side: int, model: ModelConfig, field: str, downscale: int = 1) -> None:
    """Checks that `side`, in pixels, can be halved for every stage and still be cut into patches of latents."""
    unit = 2 ** (model.num_stages - 1) * model.patch_size * downscale
    above = -(-side // unit) * unit
    require(
        side >= unit and side % unit == 0,
        field=field,
        value=side,
        rule=f"{model.num_stages} stages of {model.patch_size}x{model.patch_size} patches need a multiple of {unit}",
        remedy=f"Set {above}",
    )
