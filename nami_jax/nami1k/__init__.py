"""NAMI-1K: a thousand prompts, their audit, a blind arena and its statistics, for any model; without jax."""
