"""What the training of a flow is made of: derived once from the run and its devices, for all programs of the run."""

import dataclasses
import functools
from typing import Any

from flax import nnx
from jax.sharding import Mesh

from nami_jax.config import Config
from nami_jax.flow.stages import Stage
from nami_jax.flow.transition import Transition, make_transition
from nami_jax.models.bridge import bridge_structure
from nami_jax.models.layout import Layout
from nami_jax.models.nami import abstract_model
from nami_jax.parallel.activations import MeshLayout
from nami_jax.sampling.sampler import Sampler, make_sampler
from nami_jax.sampling.stage_programs import Networks
from nami_jax.training.state import Optimizer, TrainState, make_optimizer, sampling_weights


@dataclasses.dataclass(frozen=True)
class FlowParts:
    """The parts of a run that its config and mesh say, and no array.

    Attributes:
        structure: of the network: `nnx.merge(structure, params)` is the model.
        bridge: likewise of the learned transition; None without one.
        share: of the noise that this transition adds.
        optimizer: of the network's parameters.
        sampler: draws the pictures that show the run's progress; its stages and layout are the run's.
    """

    structure: nnx.GraphDef
    bridge: nnx.GraphDef | None
    share: float
    optimizer: Optimizer
    sampler: Sampler

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The flow's stages, coarsest first."""
        return self.sampler.stages

    @property
    def layout(self) -> Layout:
        """How activations are spread over the devices."""
        return self.sampler.layout

    def transition(self, bridge: Any) -> Transition:
        """Returns the jump between stages; `bridge` are the parameters of the learned one, if the run has one."""
        return make_transition(None if self.bridge is None else nnx.merge(self.bridge, bridge), self.share)

    def networks(self, state: TrainState) -> Networks:
        """Returns what a state samples with: the EMA network, and its transition."""
        return Networks(nnx.merge(self.structure, sampling_weights(state)), self.transition(state.bridge))


@functools.lru_cache(maxsize=8)
def flow_parts(cfg: Config, mesh: Mesh) -> FlowParts:
    """Builds the parts of a run, or returns those built before.

    Args:
        cfg: the run.
        mesh: as `sharding.make_mesh` arranges it.
    """
    return FlowParts(
        abstract_model(cfg.model)[0],
        bridge_structure(cfg),
        cfg.bridge.noise,
        make_optimizer(cfg.train),
        make_sampler(cfg.model, cfg.flow.sigma_ends, MeshLayout(mesh)),
    )
