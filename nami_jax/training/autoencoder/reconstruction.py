"""The training step of an autoencoder, and the state it turns into the next one.

Before it: `data.crops` gives one batch of squares. After it: `autoencoder_trainer` logs the metrics and saves the
state. Parameters lie whole on every device, the batch is spread over them.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nami_jax.config.autoencoder_run import AutoencoderRun, AutoencoderTrainConfig
from nami_jax.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from nami_jax.models.vgg import Vgg
from nami_jax.parallel.sharding import BATCH
from nami_jax.training.autoencoder.reconstruction_loss import autoencoder_loss
from nami_jax.training.step import State, ema_decay


def init_state(cfg: AutoencoderRun, mesh: Mesh) -> State:
    """Creates the training state: a dict of `params`, `ema`, `opt`, `step` () int32 and `key`."""
    return jax.jit(_new_state, static_argnums=0, out_shardings=_replicated(mesh))(cfg)


def abstract_state(cfg: AutoencoderRun, mesh: Mesh) -> State:
    """Returns the training state as ShapeDtypeStructs with their sharding, for restoring into it."""
    shapes = jax.eval_shape(lambda: _new_state(cfg))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_replicated(mesh)), shapes)


def _replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def _new_state(cfg: AutoencoderRun) -> State:
    # rbg compiles faster than threefry and draws the same numbers on any number of devices.
    key = jax.random.key(cfg.train.seed, impl="rbg")
    params = nnx.to_pure_dict(nnx.state(AutoencoderKL(cfg.network, rngs=nnx.Rngs(key))))
    return {
        "params": params,
        "ema": jax.tree.map(jnp.copy, params),
        "opt": _optimizer(cfg.train)[0].init(params),
        "step": jnp.zeros((), jnp.int32),
        "key": key,
    }


def _optimizer(cfg: AutoencoderTrainConfig) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns Adam with clipped gradients, and its learning rate: a linear warm-up, then a cosine to 0."""
    schedule = optax.warmup_cosine_decay_schedule(
        cfg.learning_rate / (cfg.warmup_steps + 1), cfg.learning_rate, cfg.warmup_steps, cfg.steps
    )
    adam = optax.adam(schedule, b1=cfg.adam_b1, b2=cfg.adam_b2)
    return optax.chain(optax.clip_by_global_norm(cfg.grad_clip), adam), schedule


@functools.cache
def autoencoder_structure(network: AutoencoderKLConfig) -> nnx.GraphDef:
    """Returns what `nnx.merge` turns into the network together with the state's `params` or `ema`."""
    return nnx.split(nnx.eval_shape(lambda: AutoencoderKL(network, rngs=nnx.Rngs(0))))[0]


@functools.cache
def make_train_step(
    cfg: AutoencoderRun, mesh: Mesh
) -> Callable[[State, Vgg | None, jax.Array], tuple[State, dict[str, jax.Array]]]:
    """Returns the jitted step (state, vgg, images) -> (state, metrics); the given state is donated.

    The frozen network of the perceptual part is given anew each time, None for a loss without it. Images are
    (B, crop, crop, 3) float32 in [-1, 1]. Metrics, all (): `loss`, its parts as `loss/pixel`, ..., `grad_norm`,
    `learning_rate`.

    Args:
        cfg: the run.
        mesh: as `sharding.make_mesh` arranges it; the batch is spread over data and fsdp.
    """
    graphdef, (optimizer, schedule) = autoencoder_structure(cfg.network), _optimizer(cfg.train)

    def step(state: State, vgg: Vgg | None, images: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        noise_key = jax.random.fold_in(state["key"], state["step"])
        batch, *sides, _ = images.shape
        latents_shape = (batch, *(side // cfg.model.downscale for side in sides), cfg.model.latent_channels)
        noise = jax.random.normal(noise_key, latents_shape)

        def loss_fn(params):
            return autoencoder_loss(nnx.merge(graphdef, params), vgg, images, noise, cfg.loss)

        (loss, parts), grads = jax.value_and_grad(loss_fn, has_aux=True)(state["params"])
        updates, opt = optimizer.update(grads, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        decay = ema_decay(cfg.train.ema_decay, state["step"])
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state["ema"], params)
        metrics = {"loss": loss, **{f"loss/{name}": value for name, value in parts.items()}}
        metrics |= {"grad_norm": optax.tree.norm(grads), "learning_rate": schedule(state["step"])}
        return state | {"params": params, "ema": ema, "opt": opt, "step": state["step"] + 1}, metrics

    replicated = _replicated(mesh)
    in_shardings = (replicated, replicated, NamedSharding(mesh, BATCH))
    return jax.jit(step, donate_argnums=0, in_shardings=in_shardings, out_shardings=(replicated, replicated))
