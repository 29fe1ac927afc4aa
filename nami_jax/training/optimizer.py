"""AdamW on clipped gradients, and the learning rate of the paper's phases."""

import jax
import jax.numpy as jnp
import optax

from nami_jax.config import TrainConfig


def learning_rate(cfg: TrainConfig) -> optax.Schedule:
    """Returns step -> learning rate: the phase's, times a linear warm-up, times the decay over all steps."""
    rates = jnp.asarray(cfg.phase_learning_rates, jnp.float32)
    firsts = jnp.asarray(cfg.phase_bounds[1:-1], jnp.int32)
    warmup = optax.linear_schedule(0.0 if cfg.warmup_steps else 1.0, 1.0, max(cfg.warmup_steps, 1))
    decay_steps = max(cfg.steps - cfg.warmup_steps, 1)
    decay = optax.cosine_decay_schedule(1.0, decay_steps) if cfg.decay == "cosine" else optax.constant_schedule(1.0)

    def phase(step):
        return rates[jnp.searchsorted(firsts, step, side="right")]

    return lambda step: phase(step) * warmup(step + 1) * decay(step - min(cfg.warmup_steps, cfg.steps))


def make_optimizer(cfg: TrainConfig) -> optax.GradientTransformation:
    """Builds AdamW that decays kernels alone, on gradients clipped to a global norm.

    Its updates are still to be multiplied by -learning_rate: a rate that counted updates by itself would fall behind
    the step wherever one is skipped.
    """

    def kernels(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)

    return optax.chain(
        optax.clip_by_global_norm(cfg.grad_clip),
        optax.scale_by_adam(b1=cfg.adam_b1, b2=cfg.adam_b2),
        optax.add_decayed_weights(cfg.weight_decay, mask=kernels),
    )
