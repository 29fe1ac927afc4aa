"""The baseline of styles: ordinary rectified flow, K = 1, by the same code.

make train CONFIG=configs/styles_single_flow.py

The network of styles with all of its blocks on images of full size alone, as many in a step as take the same FLOPs;
the same solver steps, and every other setting. docs/results.md compares the two.
"""

from ml_collections import ConfigDict

from nami_jax.configs import styles


def get_config() -> ConfigDict:
    config = styles.get_config()
    config.model.stage_single_blocks = config.model.stage_single_blocks[-1:]
    config.train.update(
        stage_batches=((25,),), phase_starts=(0.0,), phase_learning_rates=config.train.phase_learning_rates[:1]
    )
    config.sample.steps = (sum(config.sample.steps),)
    return config
