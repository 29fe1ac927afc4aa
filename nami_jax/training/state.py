"""The training state, and the step by which every task trains it: clipped gradients, AdamW or Muon, EMA, skipping."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax

from nami_jax.config import TrainConfig
from nami_jax.models import lora
from nami_jax.training.muon import scale_by_muon_or_adam

TRAIN_PARTS = ("params", "opt", "step", "key")  # what resuming needs and sampling does not


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a training step changes or needs, as arrays, or as ShapeDtypeStructs with or without shardings.

    Attributes:
        params: the parameters that are trained, nested dicts.
        ema: their exponential moving average, the weights to sample with.
        opt: the optimizer's state.
        step: () int32, steps that are done.
        key: the run's random key; see `step_key`.
        frozen: the parameters that are not trained; empty without LoRA.
        bridge: the learned transition's parameters; empty without one.
    """

    params: Any
    ema: Any
    opt: Any
    step: Any
    key: Any
    frozen: Any = dataclasses.field(default_factory=dict)
    bridge: Any = dataclasses.field(default_factory=dict)

    @classmethod
    def begin(cls, params: Any, opt: Any, key: Any, *, frozen: Any = None, bridge: Any = None) -> Self:
        """Returns the state before the first step; `ema` begins as a copy of `params`."""
        ema, step = jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.int32)
        return cls(params, ema, opt, step, key, frozen or {}, bridge or {})

    def items(self) -> dict[str, Any]:
        """Returns what is saved of it, by the checkpoint's items: all but what is frozen, which is stored elsewhere."""
        items = {"ema": self.ema, "train": {name: getattr(self, name) for name in TRAIN_PARTS}}
        return items | ({"bridge": self.bridge} if self.bridge else {})

    @classmethod
    def from_items(cls, items: Mapping[str, Any], frozen: Any = None) -> Self:
        """Undoes `items`."""
        return cls(**items["train"], ema=items["ema"], frozen=frozen or {}, bridge=items.get("bridge", {}))


def sampling_weights(state: TrainState) -> Any:
    """Returns the network's parameters to validate and sample with: the EMA, with what is not trained."""
    return lora.join(state.ema, state.frozen)


class Optimizer(NamedTuple):
    """A direction and a length: an update is to be multiplied by -rate(step).

    A rate that counted updates by itself would fall behind the step wherever one is skipped.
    """

    transform: optax.GradientTransformation
    rate: optax.Schedule


def learning_rate(cfg: TrainConfig) -> optax.Schedule:
    """Returns step -> learning rate: the phase's, times a linear warm-up, times the decay over all steps."""
    rates = jnp.asarray(cfg.phase_learning_rates, jnp.float32)
    firsts = jnp.asarray(cfg.phase_bounds[1:-1], jnp.int32)
    warmup = optax.linear_schedule(0.0 if cfg.warmup_steps else 1.0, 1.0, max(cfg.warmup_steps, 1))
    decay_steps = max(cfg.steps - cfg.warmup_steps, 1)
    decay = optax.cosine_decay_schedule(1.0, decay_steps) if cfg.decay == "cosine" else optax.constant_schedule(1.0)

    def phase(step):
        return rates[jnp.searchsorted(firsts, step, side="right")]

    # Before its first step optax's cosine would run backwards.
    return lambda step: phase(step) * warmup(step + 1) * decay(jnp.maximum(step - cfg.warmup_steps, 0))


def make_optimizer(cfg: TrainConfig) -> Optimizer:
    """Builds AdamW, or Muon with it, that decays kernels alone, on gradients clipped to a global norm."""

    def kernels(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)

    if cfg.optimizer == "muon":
        direction = scale_by_muon_or_adam(cfg)
    else:
        direction = optax.scale_by_adam(b1=cfg.adam_b1, b2=cfg.adam_b2, mu_dtype=jnp.dtype(cfg.first_moment_dtype))
    transform = optax.chain(
        optax.clip_by_global_norm(cfg.grad_clip),
        direction,
        optax.add_decayed_weights(cfg.weight_decay, mask=kernels),
    )
    return Optimizer(transform, learning_rate(cfg))


def ema_decay(limit: float, step: jax.Array) -> jax.Array:
    """Returns the EMA's decay at a step: at first (1 + s) / (10 + s), which forgets the first weights, then `limit`."""
    return jnp.minimum(limit, (1.0 + step) / (10.0 + step))


def step_key(key: jax.Array, step: jax.Array) -> jax.Array:
    """Returns the random key of a step, by threefry: devices draw only their own part of what they share.

    Args:
        key: the run's, by rbg, which draws every array whole on every device; its first half is threefry's key.
        step: () int32.
    """
    return jax.random.wrap_key_data(jax.random.key_data(jax.random.fold_in(key, step))[:2], impl="threefry2x32")


def advance(
    state: TrainState,
    gradients: Callable[[Any, jax.Array], tuple[tuple[jax.Array, dict[str, jax.Array]], Any]],
    optimizer: Optimizer,
    ema_limit: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one training step; to be traced.

    A step whose loss or gradient is not finite is skipped: it changes nothing but the count of steps, so that the next
    one takes the next batch.

    Args:
        state: before the step.
        gradients: (parameters, this step's random key) -> ((the loss (), further metrics), the gradients), as
            `jax.value_and_grad` gives them.
        optimizer: of the run.
        ema_limit: the largest decay of the EMA.

    Returns:
        The state after the step, and the metrics of `gradients`, 0 where it was skipped, with `loss`, `grad_norm`,
        the latter also for each part of the network as `grad_norm/PART`, `learning_rate` and `skipped`, all ().
    """
    (loss, metrics), grads = gradients(state.params, step_key(state.key, state.step))
    rate, grad_norm = optimizer.rate(state.step), optax.tree.norm(grads)
    updates, opt = optimizer.transform.update(grads, state.opt, state.params)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    decay = ema_decay(ema_limit, state.step)
    ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, params)

    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    new, old = {"params": params, "ema": ema, "opt": opt}, {"params": state.params, "ema": state.ema, "opt": state.opt}
    kept = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
    metrics = jax.tree.map(lambda x: jnp.where(finite, x, 0), metrics)  # of a skipped step no image counts
    metrics |= {"loss": loss, "grad_norm": grad_norm, "learning_rate": rate, "skipped": 1.0 - finite}
    metrics |= {f"grad_norm/{part}": optax.tree.norm(of_part) for part, of_part in grads.items()}
    return dataclasses.replace(state, **kept, step=state.step + 1), metrics
