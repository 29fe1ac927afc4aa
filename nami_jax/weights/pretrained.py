"""Networks as they were released for PyTorch: sizes from config.json, parameters by the release's key names."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nami_jax.config import ConfigError
from nami_jax.files.json_files import read_json
from nami_jax.weights.slots import expected_shapes, export_tensors, load_module, slots_by_name
from nami_jax.weights.tensors import Tensor, TensorShapes

SizesT = TypeVar("SizesT")
NetworkT = TypeVar("NetworkT")
AGAIN = "Copy it from the release again"


def read_sizes(folder: Path, read: Callable[[Mapping[str, Any]], SizesT]) -> SizesT:
    """Reads the config.json in `folder`; raises `ConfigError` if it is damaged or of another network than `read`'s."""
    fields = read_json(folder / "config.json", AGAIN)
    try:
        return read(fields)
    except ConfigError as error:
        raise ConfigError(f"{folder / 'config.json'}: {error}") from error


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained(Generic[SizesT, NetworkT]):
    """A kind of network whose parameters correspond one to one to the tensors of its PyTorch release.

    Attributes:
        network: (sizes, dtype=, rngs=) -> the network.
        names: our name of a module -> its released name, where they differ.
        known_as: a key that a file may use -> the release's own.
        is_unused: says whether a tensor, by the release's own key, may be there and is not used.
    """

    network: Callable[..., NetworkT]
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    known_as: Callable[[str], str] = str
    is_unused: Callable[[str], bool] = lambda _: False

    def load(
        self,
        cfg: SizesT,
        tensors: Mapping[str, Tensor],
        dtype: jax.typing.DTypeLike = jnp.float32,
        *,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
        shardings: Callable[[Any], Any] | None = None,
    ) -> NetworkT:
        """Builds the network around released weights, without drawing random ones first.

        Args:
            cfg: the sizes of the checkpoint.
            tensors: the weights by their key, with or without those that are not used.
            dtype: compute type.
            param_dtype: type of the parameters, whatever type they are stored in.
            shardings: abstract parameters -> shardings; None puts all on the first device.

        Raises:
            WeightsError: keys are missing, unexpected or of another shape than `cfg` says; all of them are listed.
        """
        tensors = {self.known_as(key): tensor for key, tensor in tensors.items()}
        return load_module(
            lambda: self.network(cfg, dtype=dtype, rngs=nnx.Rngs(0)),
            lambda abstract: slots_by_name(abstract, self.names),
            tensors,
            param_dtype=param_dtype,
            shardings=shardings,
            unused=[key for key in tensors if self.is_unused(key)],
        )

    def export(self, model: NetworkT) -> dict[str, np.ndarray]:
        """Returns the network's parameters under the released keys and in their layout; undoes `load` bit for bit."""
        params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        return export_tensors(params, slots_by_name(params, self.names))

    def shapes(self, cfg: SizesT) -> TensorShapes:
        """Returns the shape of every tensor that a release of these sizes must have, by its key."""
        return _shapes(self, cfg)


@functools.lru_cache(maxsize=8)  # tracing a network of full size takes seconds
def _shapes(kind: Pretrained[Any, Any], cfg: Any) -> TensorShapes:
    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: kind.network(cfg, rngs=nnx.Rngs(0)))))
    return expected_shapes(slots_by_name(params, kind.names), params)
