"""What an evaluation measures, and on how many pictures."""

from typing import Annotated, Literal

import pydantic

from nami_jax.config.settings import Positive, Seed, Settings, field, settings

Pictures = Annotated[int, pydantic.Field(ge=1, le=100_000)]
FeatureName = Literal["efficientnet_lite0", "inception_v3", "dinov2", "clip"]


@settings()
class EvaluationConfig(Settings):
    """What a call of `evaluate` measures."""

    split: str | None = field(
        "whose captions are sampled, in tensorflow-datasets' notation; None: data.eval_split", default=None
    )
    num_images: Pictures = field("captions sampled, one of each picture; all of the split if it has fewer", default=256)
    seeds: int = field("how often each is sampled, with other noise", default=3, ge=1, le=1000)
    seed: Seed = field("first seed of the noise, and seed of what is chosen", default=0)
    features: tuple[FeatureName, ...] = field(
        "networks whose features are compared; the first one judges", default=("efficientnet_lite0",), min_length=1
    )
    weights: str | None = field(
        "file or folder with the weights of a network that is in no package, or a folder of these by name",
        default=None,
    )
    references: Positive = field("real pictures of a split that are compared with, at most", default=10_000)
    batch_size: Pictures = field("pictures drawn at once", default=32)
    concept_key: str = field("feature of the data set that names what is shown", default="emoji")
    style_key: str = field("feature of the data set that names how it is drawn", default="style")
