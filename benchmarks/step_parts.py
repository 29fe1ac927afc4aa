"""Times the joint step against its stages alone and what follows the gradients: `python -m benchmarks.step_parts`.

Each stage's gradients are computed by a program of their own, and so is what the step does with them: norms, clipping,
AdamW, EMA and the guard against what is not finite. The batches are random numbers in the shapes that the config trains
on, so no data set is needed. All programs take turns in one process.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging
from flax import nnx
from jax.sharding import Mesh
from ml_collections import config_flags

from benchmarks.timing import Timed, clock, interleave
from benchmarks.train_step import Trainer, random_batch, random_text
from nami_jax.config import Config, ConfigError
from nami_jax.parallel.sharding import make_mesh, shard_batch
from nami_jax.planning.tables import table
from nami_jax.terminal.command_line import parse_flags
from nami_jax.training.flow_parts import flow_parts
from nami_jax.training.loss import draw, predict, squared_errors
from nami_jax.training.state import TrainState, advance, ema_decay
from nami_jax.training.step import init_state

JOINT, AFTER = "joint step", "after the gradients"


def stage_gradients(cfg: Config, mesh: Mesh, number: int) -> Callable[..., Any]:
    """Returns the jitted (params, the batch, null, key) -> (loss, gradients) of stage `number` in 1..K alone."""
    parts = flow_parts(cfg, mesh)

    def loss(params, part, null, key):
        drawn = draw(key, part.images.shape, cfg.flow, cfg.train.caption_dropout)
        model, stage = nnx.merge(parts.structure, params), parts.stages[number - 1]
        return squared_errors(*predict(model, stage, part, null, drawn, None, parts.layout)).mean()

    return jax.jit(jax.value_and_grad(loss))


def after_gradients(cfg: Config, mesh: Mesh) -> dict[str, Callable[..., Any]]:
    """Returns jitted (state, gradients) -> ...: all that a step does with its gradients, and parts of it alone.

    The first donates the state, as the step does, and returns the next; the others change nothing.
    """
    optimizer = flow_parts(cfg, mesh).optimizer

    def update(state: TrainState, grads: Any) -> TrainState:
        return advance(state, lambda params, key: ((jnp.float32(0), {}), grads), optimizer, cfg.train.ema_decay)[0]

    def norms(state: TrainState, grads: Any) -> Any:
        return optax.tree.norm(grads), {name: optax.tree.norm(part) for name, part in grads.items()}

    def average(state: TrainState, grads: Any) -> Any:
        decay = ema_decay(cfg.train.ema_decay, state.step)
        return jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, state.params)

    def adam(state: TrainState, grads: Any) -> Any:
        return optimizer.transform.update(grads, state.opt, state.params)

    parts = {"  norms alone": norms, "  clipping and AdamW alone": adam, "  EMA alone": average}
    return {AFTER: jax.jit(update, donate_argnums=0)} | {name: jax.jit(part) for name, part in parts.items()}


def measure(cfg: Config, stage_batch: Sequence[int], mesh: Mesh, *, rounds: int, steps: int) -> dict[str, float]:
    """Times the joint step, each stage's gradients and what follows them, in turns.

    Args:
        cfg: the run; without a bridge and without low-rank pairs.
        stage_batch: images of stage 1..K in a step.
        mesh: as `sharding.make_mesh` arranges it.
        rounds: in which each runs `steps` times.
        steps: of a round.

    Returns:
        Seconds of one run by name, medians.

    Raises:
        ConfigError: images that do not split over the devices.
    """
    trainer = Trainer(cfg, stage_batch, mesh)
    rng, state, key = np.random.default_rng(0), init_state(cfg, mesh), jax.random.key(0, impl="rbg")
    batch, null = shard_batch(random_batch(cfg, stage_batch, rng), mesh), random_text(cfg, 1, rng)
    programs = {JOINT: trainer.program(trainer.compile(cfg)[0], steps)}
    for number, part in enumerate(batch, start=1):
        programs[stage_name(number)] = _repeated(
            stage_gradients(cfg, mesh, number), steps, state.params, part, null, key
        )
    grads = jax.tree.map(lambda p: 1e-3 * jnp.ones_like(p), state.params)
    update, *others = after_gradients(cfg, mesh).items()
    for name, program in others:
        programs[name] = _repeated(program, steps, state, grads)
    programs[update[0]] = _advancing(update[1], steps, init_state(cfg, mesh), grads)
    return {name: float(np.median(values)) for name, values in interleave(programs, rounds, "timing").items()}


def stage_name(number: int) -> str:
    """Returns the name of the program of a stage."""
    return f"stage {number} alone"


def _repeated(program: Callable[..., Any], count: int, *args: Any) -> Timed:
    def run() -> list[float]:
        return [clock(lambda: [program(*args) for _ in range(count)])[1] / count]

    return run


def _advancing(program: Callable[..., Any], count: int, state: TrainState, grads: Any) -> Timed:
    held = [state]

    def run_all() -> Any:
        for _ in range(count):
            held[0] = program(held[0], grads)
        return held[0]

    return lambda: [clock(run_all)[1] / count]


def report(seconds: dict[str, float], stages: int) -> str:
    """Returns the table, and the joint step against the sum of its parts."""
    rows = [(name, f"{took * 1e3:.2f}", f"{took / seconds[JOINT]:.1%}") for name, took in seconds.items()]
    total = sum(seconds[stage_name(k)] for k in range(1, stages + 1)) + seconds[AFTER]
    last = f"joint step: {seconds[JOINT] / total:.3f} of the sum of its stages alone and what follows the gradients"
    return f"{table(('', 'ms', 'of the step'), rows)}\n\n{last}"


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    del argv
    logging.set_verbosity(logging.WARNING)
    args = flags.FLAGS
    try:
        cfg = Config.from_dict(args.config.to_dict())
        stage_batch = cfg.train.stage_batches[0]
        seconds = measure(cfg, stage_batch, make_mesh(cfg.mesh), rounds=args.rounds, steps=args.steps)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{cfg.data.name}, images {stage_batch}, {jax.devices()[0].device_kind}; medians of {args.rounds} rounds\n")
    print(report(seconds, cfg.model.num_stages))


def define_flags() -> None:
    """Defines the command's flags."""
    config_flags.DEFINE_config_file("config", "configs/emoji_tiny.py", "file of the run's config", lock_config=True)
    flags.DEFINE_integer("rounds", 7, "rounds that are timed", lower_bound=1)
    flags.DEFINE_integer("steps", 5, "runs of each program in a round", lower_bound=1)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)
