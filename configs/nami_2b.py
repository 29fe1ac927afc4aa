"""Pretraining of NAMI-2B at 1024x1024 from random parameters, on latents of captioned images of your own.

python -m nami_jax.convert --from NAMI-T2I --to weights/nami_2b                 # its text encoder and autoencoder
make prepare CONFIG=configs/nami_2b.py SOURCE=my_images ARGS=--dtype=bfloat16   # into data/nami_2b
make plan CONFIG=configs/nami_2b.py TOPOLOGY=v5e:16x16                          # memory, time and cost; needs no TPU
python -m nami_jax.train --config configs/nami_2b.py --workdir runs/nami_2b --distributed   # on every host
python -m nami_jax.sample --checkpoint runs/nami_2b --prompt "…"

Hardware: 256 chips of TPU v5e, 64 of v6e or 32 of v5p, 64 H100, or 8 with a quarter of the batch
(docs/nami_2b_plans.md). It has not been run.
"""

import dataclasses

from ml_collections import ConfigDict

from nami_jax.configs import base, presets

WEIGHTS = "weights/nami_2b"


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model = ConfigDict(dataclasses.asdict(presets.NAMI_2B))
    config.data.update(side=1024, prepared="data/nami_2b")
    config.text.update(encoder="t5_bert", folder=WEIGHTS, max_length=256, mask_padding=False)
    config.autoencoder.update(folder=f"{WEIGHTS}/vae", downscale=8)
    config.mesh.fsdp = 16  # 2.1 GB of state a chip; along one side of a 16x16 torus
    config.train.update(
        steps=100_000,
        # A whole number of images for each of 256 chips; the paper's ratios of the stages.
        stage_batches=((1024, 512, 256), (512, 1024, 256), (256, 512, 1024)),
        phase_learning_rates=(1e-4, 1e-4, 5e-5),
        warmup_steps=2000,
        ema_decay=0.9999,
        eval_every=2500,
        eval_batch=256,
        checkpoint_every=1000,
        sample_every=2500,
    )
    return config
