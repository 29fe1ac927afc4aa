"""Progressive rectified-flow image generators (NAMI, arXiv 2503.09242) in JAX: training, sampling, evidence."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nami_jax.sampling.pipeline import NamiPipeline

__all__ = ["NamiPipeline"]


def __getattr__(name: str) -> Any:
    """Imports the pipeline at its first use, so that `import nami_jax.config` stays light."""
    if name == "NamiPipeline":
        from nami_jax.sampling.pipeline import NamiPipeline

        return NamiPipeline
    raise AttributeError(f"module 'nami_jax' has no attribute {name!r}")
