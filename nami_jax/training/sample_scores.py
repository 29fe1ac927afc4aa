"""How good a run's samples are while it trains: the main scores of `nami_jax.evaluate`, of few samples."""

from collections.abc import Mapping

import numpy as np

from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.config import Config, EvaluationConfig
from nami_jax.data.examples import Data
from nami_jax.evaluation.drawing import draw_all
from nami_jax.evaluation.evaluator import Evaluation
from nami_jax.evaluation.features import FeatureNetwork
from nami_jax.evaluation.real_pictures import as_levels, splits_of
from nami_jax.sampling.sampler import Request, Sampler
from nami_jax.sampling.stage_programs import Networks
from nami_jax.text.encoders import TextStates


class SampleScores:
    """Samples the same held-out captions with the same noise each time, or training ones where none are held out."""

    def __init__(
        self,
        cfg: Config,
        data: Data,
        codec: Autoencoder | None,
        sampler: Sampler,
        networks: Mapping[str, FeatureNetwork] | None = None,
    ):
        """Chooses `train.evaluate_images` captions, and loads the feature network.

        Args:
            cfg: the run.
            data: what it trains on.
            codec: makes pixels of the model's latents; None for a model of pixels.
            sampler: of the networks.
            networks: whose features are compared; None: EfficientNet-Lite0.

        Raises:
            ConfigError: there are too few pictures to measure anything.
            ModuleNotFoundError: the package with the feature network's weights is not installed.
        """
        trained, held_out = splits_of(cfg.data)
        settings = EvaluationConfig(
            split=held_out if data.held_out else trained, num_images=cfg.train.evaluate_images, seeds=1
        )
        self._evaluation = Evaluation(cfg.data, settings, codec and codec.decode, networks=networks)
        _ = self._evaluation.networks  # what is missing is said before the first step
        source = (data.held_out or data.train)[0]
        places = [self._evaluation.real.places[i] for i in self._evaluation.chosen]
        examples = [source.example(source[place], None) for place in places]
        # The states at hand are those of the first captions: samples are judged by these too.
        self._evaluation.captions = [example.caption for example in examples]
        self._text = TextStates(np.stack([v.embeds for v in examples]), np.stack([v.pooled for v in examples]))
        self._cfg, self._empty, self._codec, self._sampler = cfg, data.empty, codec, sampler

    def measure(self, networks: Networks) -> dict[str, float]:
        """Samples with some networks and returns the scores, named `samples/...`."""
        height, width = (side // self._cfg.autoencoder.downscale for side in self._evaluation.originals.shape[1:3])

        def draw(numbers: np.ndarray, seed: int) -> np.ndarray:
            text = TextStates(self._text.embeds[numbers], self._text.pooled[numbers])
            request = Request(height, width, seed, numbers.tolist())
            latents = self._sampler(networks, text, self._empty, self._cfg.sample, request)
            return as_levels(latents if self._codec is None else self._codec.decode(latents))

        count, settings = len(self._text.pooled), self._evaluation.settings
        samples = draw_all(draw, count, [settings.seed], settings.batch_size)
        scores = self._evaluation.measure(samples).scores
        return {f"samples/{name}": found.value for name, found in scores.items()}
