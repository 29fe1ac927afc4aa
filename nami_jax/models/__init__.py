"""Flax NNX modules: the nested DiT (`nami`) from its parts (`rope`, `layers`, `blocks`), the bridge, encoders.

No module here depends on devices, files or flags: sharding is by parameter path in `nami_jax.parallel.sharding`.
"""
