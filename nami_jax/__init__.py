"""Progressive rectified-flow image generators (NAMI, arXiv 2503.09242) in JAX: training, sampling, evidence."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nami_jax.config import Config, ConfigError
    from nami_jax.sampling.pipeline import NamiPipeline

__version__ = "0.1.0"
__all__ = ["Config", "ConfigError", "NamiPipeline", "__version__"]

_HOMES = {"Config": "nami_jax.config", "ConfigError": "nami_jax.config", "NamiPipeline": "nami_jax.sampling.pipeline"}


def __getattr__(name: str) -> Any:
    """Imports what the package offers at its first use, so that `import nami_jax` stays light."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'nami_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Lists what the package offers."""
    return [*__all__, "__doc__"]
