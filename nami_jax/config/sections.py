"""The config sections that describe a model, its data and where it runs."""

import itertools
from typing import Annotated, Literal

import pydantic

from nami_jax.config.settings import (
    Depth,
    Dtype,
    Positive,
    Rate,
    Settings,
    Share,
    Side,
    Steps,
    Width,
    field,
    require,
    settings,
)

# True and False are what older runs have; on the command line they come as text.
_REMAT = {"True": "full", "False": "none"}
Remat = Annotated[
    Literal["none", "full", "keep_attention", "keep_matmuls"],
    pydantic.BeforeValidator(lambda value: _REMAT.get(str(value), value) if isinstance(value, bool | str) else value),
]
TextLength = Annotated[int, pydantic.Field(ge=3, le=512)]


@settings("model")
class ModelConfig(Settings):
    """Sizes of the nested DiT. NAMI, arXiv 2503.09242, sec. 3.2."""

    channels: int = field("C of the latents, or 3 for pixels", default=3, ge=1, le=4096)
    patch_size: int = field("side of the square of pixels or latents that makes one token", default=4, ge=1, le=256)
    num_heads: int = field("N; the width D is num_heads * sum(rope_axes)", default=4, ge=1, le=1024)
    rope_axes: tuple[int, ...] = field(
        "head channels rotated by (text position, row, column); their sum is the head size H", default=(8, 12, 12)
    )
    double_blocks: Depth = field("two-stream blocks, run by every stage", default=1)
    stage_single_blocks: tuple[Depth, ...] = field(
        "single-stream blocks run by stage 1..K, a prefix of the last stage's; its length is the number of stages",
        default=(1, 2, 4),
        max_length=10,
    )
    mlp_ratio: int = field("width inside the MLPs, as a multiple of D", default=4, ge=1, le=64)
    text_dim: Width = field("width of the text encoder's token states; 384 is MiniLM-L6's", default=384)
    pooled_dim: Width = field("width of the text encoder's pooled vector", default=384)
    rope_theta: float = field("base of the rotary frequencies", default=10000.0, gt=1, le=1e12)
    dtype: Dtype = field("type of computation; parameters stay float32", default="float32", may_change=True)
    scan_blocks: bool = field(
        "run each stack of blocks as one lax.scan: compile time stops growing with depth; False is faster on CPU",
        default=False,
        may_change=True,
    )
    remat: Remat = field(
        "what the backward pass computes again instead of keeping it: full, each block but for its input; "
        "keep_attention, all but attention's result; keep_matmuls, all but that and the matrix products; none, nothing",
        default="none",
        may_change=True,
    )
    lora_rank: Width | None = field(
        "train low-rank pairs of this rank beside the blocks' kernels, and nothing else; None: everything",
        default=None,
        example=16,
    )

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

    def image_tokens(self, height: int, width: int) -> tuple[int, ...]:
        """Returns the number of image tokens of stage 1..K, given the final latents' height and width."""
        units = [self.patch_size * 2**k for k in range(self.num_stages - 1, -1, -1)]
        return tuple((height // unit) * (width // unit) for unit in units)

    def __post_init__(self) -> None:
        require(
            len(self.rope_axes) == 3 and all(2 <= a <= 1024 and a % 2 == 0 for a in self.rope_axes),
            field="model.rope_axes",
            value=self.rope_axes,
            rule="needs three even sizes in 2..1024",
            remedy="Set e.g. (8, 12, 12)",
        )
        singles = self.stage_single_blocks
        require(
            bool(singles) and list(singles) == sorted(singles),
            field="model.stage_single_blocks",
            value=singles,
            rule="needs one count per stage, not decreasing from stage to stage, since each stage runs a "
            "prefix of the next one's blocks",
            remedy=f"Set e.g. {tuple(sorted(singles)) or (1, 2, 4)}",
        )
        require(
            self.double_blocks + min(singles) >= 1,
            field="model.double_blocks",
            value=self.double_blocks,
            rule="the first stage needs at least one block",
            remedy="Set it to 1 or more",
        )


@settings("flow")
class FlowConfig(Settings):
    """How the rectified flow is cut into stages."""

    sigma_ends: tuple[float, ...] | None = field(
        "noise level at each stage's end, falling to 0; None: (K-k)/K", default=None, example=(0.5, 0.25, 0.0)
    )
    time_sampling: Literal["logit_normal", "uniform", "u_shaped"] = field(
        "density of the training times within a stage, 0 at its end and 1 at its start: logit_normal, "
        "sigmoid(time_mean + time_std * normal); u_shaped, proportional to exp(a t) + exp(a (1 - t)), a = time_slope",
        default="logit_normal",
    )
    time_mean: float = field("of logit_normal: above 0 for more noise", default=0.0, ge=-100, le=100)
    time_std: float = field("of logit_normal", default=1.0, gt=0, le=100)
    time_slope: float = field("of u_shaped: how much more often a stage's ends are drawn", default=4.0, gt=0, le=20)

    def __post_init__(self) -> None:
        for name, density, default in (
            ("time_mean", "logit_normal", 0.0),
            ("time_std", "logit_normal", 1.0),
            ("time_slope", "u_shaped", 4.0),
        ):
            require(
                getattr(self, name) == default or self.time_sampling == density,
                field=f"flow.{name}",
                value=getattr(self, name),
                rule=f"is of flow.time_sampling = {density!r} alone, and this is {self.time_sampling!r}",
                remedy=f"Set {default}, or that density",
            )
        ends = self.sigma_ends
        if ends is not None:
            falling = all(a > b for a, b in itertools.pairwise(ends))
            require(
                len(ends) >= 1 and falling and ends[-1] == 0.0 and all(0.0 <= e < 1.0 for e in ends),
                field="flow.sigma_ends",
                value=ends,
                rule="must be strictly decreasing, within [0, 1), and end at 0.0",
                remedy="Set e.g. (2/3, 1/3, 0.0), or None for the paper's values",
            )


@settings("data")
class DataConfig(Settings):
    """Captioned images: a tensorflow-datasets data set, or what `nami_jax.prepare` made of any source."""

    name: str = field('"name/config:version" of a tensorflow-datasets data set', default="")
    train_split: str = field("split to train on, in tensorflow-datasets' notation", default="train")
    eval_split: str = field("held-out split, in tensorflow-datasets' notation", default="held_out", may_change=True)
    image_key: str = field('feature with the image; "a/b" looks inside', default="image")
    caption_key: str = field(
        'feature with a text, a sequence of texts (one is drawn each time) or a class label; "a/b" looks inside',
        default="captions",
    )
    side: Side = field("height and width of the last stage's images, pixels", default=32)
    prepared: str | None = field(
        "folder that `python -m nami_jax.prepare` creates, of latents or pixels; None: `name`'s pixels",
        default=None,
        may_change=True,
    )
    lower_stages: Literal["latents", "pixels"] = field(
        "what the lower stages of a flow of latents are trained on: latents, those of the last stage pooled; pixels, "
        "those of the image pooled in pixels and then encoded, which `python -m nami_jax.prepare` stores beside them",
        default="latents",
    )
    buckets: tuple[tuple[Side, ...], ...] | None = field(
        "(height, width) of prepared images, pixels; None: side x side alone",
        default=None,
        example=((64, 64), (48, 80)),
    )
    caption_templates: tuple[str, ...] = field(
        "one is drawn each time; {} is the caption or the name of the class", default=("{}",)
    )
    data_dir: str = field("where the data set and the text states are stored", default="data", may_change=True)
    max_corrupt_share: Share = field(
        "unreadable images are skipped; more than this share of the data set stop the run",
        default=0.01,
        may_change=True,
    )
    cache_images: int = field("decoded images kept in memory", default=4096, may_change=True, ge=0, le=10**9)
    flip: bool = field("mirror half of the images, where they are pixels", default=False)

    def __post_init__(self) -> None:
        require(
            bool(self.caption_templates) and all(t.count("{}") == 1 for t in self.caption_templates),
            field="data.caption_templates",
            value=self.caption_templates,
            rule="each template must contain {} exactly once",
            remedy="Set e.g. ('{}', 'a photo of a {}')",
        )
        buckets = self.buckets
        if buckets is not None:
            pairs = len(buckets) >= 1 and all(len(b) == 2 for b in buckets) and len(set(buckets)) == len(buckets)
            require(
                pairs,
                field="data.buckets",
                value=buckets,
                rule="needs distinct pairs of height and width",
                remedy="Set e.g. ((64, 64), (48, 80))",
            )
            require(
                self.prepared is not None,
                field="data.buckets",
                value=buckets,
                rule="images of data.name are cropped to squares",
                remedy="Set data.prepared, or data.buckets = None",
            )

    @property
    def bucket_sizes(self) -> tuple[tuple[int, int], ...]:
        """The closed list of (height, width) that images of the last stage have, pixels."""
        return tuple((height, width) for height, width in self.buckets or ((self.side, self.side),))


@settings("text")
class TextConfig(Settings):
    """The frozen text encoder."""

    encoder: Literal["minilm", "t5_bert"] = field(
        "t5_bert: token states of a T5, pooled vector of a BERT, as the released NAMI", default="minilm"
    )
    max_length: TextLength = field(
        "tokens T of a prompt, special ones included; longer prompts are truncated", default=16
    )
    mask_padding: bool = field("hide padding tokens from the encoder and zero their states", default=True)
    folder: str | None = field(
        "folder of t5_bert's weights and tokenisers, which contains mt5/ and mclip/", default=None, may_change=True
    )
    pooled_length: TextLength = field("tokens that t5_bert's BERT sees of a prompt", default=77)

    def __post_init__(self) -> None:
        require(
            self.encoder == "minilm" or self.folder is not None,
            field="text.folder",
            value=self.folder,
            rule="t5_bert needs a folder of weights",
            remedy="Set the folder that contains mt5/ and mclip/",
        )


@settings("autoencoder")
class AutoencoderConfig(Settings):
    """The frozen autoencoder between pixels and latents."""

    folder: str | None = field(
        "config.json and weights as in diffusers' vae/; None: the flow is of pixels", default=None, may_change=True
    )
    downscale: int = field("pixels per latent, each way", default=1, ge=1, le=1024)

    def __post_init__(self) -> None:
        require(
            self.folder is not None or self.downscale == 1,
            field="autoencoder.downscale",
            value=self.downscale,
            rule="must be 1 without an autoencoder",
            remedy="Set 1, or set autoencoder.folder",
        )


@settings("bridge")
class BridgeConfig(Settings):
    """The learned jump between stages, trained on its own before the stages."""

    kind: Literal["full", "conv"] | None = field(
        "full: the released form, for one image size; conv: for any size; None: no bridge, renoising", default=None
    )
    steps: Steps = field("steps of its own training", default=10_000, may_change=True)
    learning_rate: Rate = field("its learning rate, decaying to 0 as a cosine", default=1e-3, may_change=True)
    noise: float = field(
        "q: how much of the noise that renoising adds inside 2x2 blocks this jump adds; 0: none, as released, 1: all",
        default=0.0,
        ge=0,
        le=1,
    )


@settings("mesh")
class MeshConfig(Settings):
    """How devices are arranged; those left over by these three are data-parallel replicas."""

    fsdp: Positive = field(
        "devices that share parameters, moments and EMA, each with images of its own", default=1, may_change=True
    )
    tensor: Positive = field("devices that share each layer's heads and MLP channels", default=1, may_change=True)
    sequence: Positive = field("devices that share the tokens of an image", default=1, may_change=True)


def require_side(side: int, model: ModelConfig, field: str, downscale: int = 1) -> None:
    """Checks that `side`, in pixels, can be halved for every stage and still be cut into patches of latents."""
    unit = 2 ** (model.num_stages - 1) * model.patch_size * downscale
    above = max(-(-side // unit), 1) * unit
    require(
        side >= unit and side % unit == 0,
        field=field,
        value=side,
        rule=f"{model.num_stages} stages of {model.patch_size}x{model.patch_size} patches need a multiple of {unit}",
        remedy=f"Set {above}",
    )
