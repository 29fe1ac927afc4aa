"""The training step of an autoencoder, and the state that it begins with.

Parameters are replicated on every device, the batch is split over them.
"""

import functools
from collections.abc import Callable

import jax
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nami_jax.config.autoencoder_run import AutoencoderRun, AutoencoderTrainConfig
from nami_jax.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from nami_jax.models.initialisation import parameter_rngs
from nami_jax.models.vgg import Vgg
from nami_jax.parallel.sharding import BATCH
from nami_jax.training.autoencoder.reconstruction_loss import autoencoder_loss
from nami_jax.training.state import Optimizer, TrainState, advance


def network_config(cfg: AutoencoderRun) -> AutoencoderKLConfig:
    """Returns the network's sizes under the names of diffusers, still without factors of the latents."""
    sizes = cfg.model
    return AutoencoderKLConfig(
        sizes.block_out_channels,
        sizes.latent_channels,
        sizes.layers_per_block,
        sizes.norm_num_groups,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=sizes.mid_attention,
        sample_size=cfg.data.side,
    )


def init_state(cfg: AutoencoderRun, mesh: Mesh) -> TrainState:
    """Creates the training state, on every device."""
    return jax.jit(_new_state, static_argnums=0, out_shardings=_replicated(mesh))(cfg)


@functools.cache
def state_shapes(cfg: AutoencoderRun) -> TrainState:
    """Returns the training state as ShapeDtypeStructs."""
    return jax.eval_shape(lambda: _new_state(cfg))


def abstract_state(cfg: AutoencoderRun, mesh: Mesh) -> TrainState:
    """Returns the training state as ShapeDtypeStructs with their sharding, for restoring into it."""
    sharding = _replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state_shapes(cfg))


def _replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def _new_state(cfg: AutoencoderRun) -> TrainState:
    # rbg compiles faster than threefry and draws the same numbers on any number of devices.
    key = jax.random.key(cfg.train.seed, impl="rbg")
    params = nnx.to_pure_dict(nnx.state(AutoencoderKL(network_config(cfg), rngs=parameter_rngs(key))))
    return TrainState.begin(params, make_optimizer(cfg.train).transform.init(params), key)


def make_optimizer(cfg: AutoencoderTrainConfig) -> Optimizer:
    """Builds Adam on gradients clipped to a global norm; its rate is a linear warm-up, then a cosine to 0."""
    adam = optax.chain(
        optax.scale_by_adam(b1=cfg.adam_b1, b2=cfg.adam_b2),
        optax.scale_by_schedule(lambda count: 1.0),  # changes nothing, but checkpoints hold its count
    )
    rate = optax.warmup_cosine_decay_schedule(
        cfg.learning_rate / (cfg.warmup_steps + 1), cfg.learning_rate, cfg.warmup_steps, cfg.steps
    )
    return Optimizer(optax.chain(optax.clip_by_global_norm(cfg.grad_clip), adam), rate)


@functools.cache
def autoencoder_structure(network: AutoencoderKLConfig) -> nnx.GraphDef:
    """Returns what `nnx.merge` turns into the network together with the state's `params` or `ema`."""
    return nnx.split(nnx.eval_shape(lambda: AutoencoderKL(network, rngs=nnx.Rngs(0))))[0]


@functools.lru_cache(maxsize=8)  # each keeps what was compiled for a run
def make_train_step(
    cfg: AutoencoderRun, mesh: Mesh
) -> Callable[[TrainState, Vgg | None, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the jitted step (state, vgg, images) -> (state, metrics); the given state is donated.

    The frozen network of the perceptual part is passed each time, None for a loss without it. Images are
    (B, crop, crop, 3) float32 in [-1, 1]. Metrics are those of `advance`, and the loss's parts as `loss/pixel`, ...

    Args:
        cfg: the run.
        mesh: as `sharding.make_mesh` arranges it; the batch is spread over data and fsdp.
    """
    graphdef, optimizer = autoencoder_structure(network_config(cfg)), make_optimizer(cfg.train)

    def step(state: TrainState, vgg: Vgg | None, images: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        batch, *sides, _ = images.shape
        latents_shape = (batch, *(side // cfg.model.downscale for side in sides), cfg.model.latent_channels)

        def loss_fn(params, noise_key):
            noise = jax.random.normal(noise_key, latents_shape)
            loss, parts = autoencoder_loss(nnx.merge(graphdef, params), vgg, images, noise, cfg.loss)
            return loss, {f"loss/{name}": value for name, value in parts.items()}

        return advance(state, jax.value_and_grad(loss_fn, has_aux=True), optimizer, cfg.train.ema_decay)

    replicated = _replicated(mesh)
    in_shardings = (replicated, replicated, NamedSharding(mesh, BATCH))
    return jax.jit(step, donate_argnums=0, in_shardings=in_shardings, out_shardings=(replicated, replicated))
