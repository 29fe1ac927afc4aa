"""Fine-tuning of the released NAMI-2B on captioned images of your own: low-rank pairs, or all parameters.

python -m nami_jax.convert --from NAMI-T2I --to weights/nami_2b                # once
make prepare CONFIG=configs/nami_2b_finetune.py SOURCE=my_images              # latents and text states
make train CONFIG=configs/nami_2b_finetune.py                                 # LoRA of rank 16
make train CONFIG=configs/nami_2b_finetune.py:full WORKDIR=runs/nami_2b_full  # all parameters
python -m nami_jax.sample --checkpoint runs/nami_2b_finetune --prompt "…"

Hardware: LoRA holds the network once, in bfloat16 (4.2 GB); training all parameters holds them four times in float32
(34 GB), shared by `mesh.fsdp` devices. Its path runs in the tests at a tiny size; it has not yet been run at this one.
The released bridge is for 1024x1024 only. For other shapes set `bridge.kind=None`, `sample.transition="renoise"` and
`data.buckets`; the network then learns the other jump.
"""

import dataclasses

from ml_collections import ConfigDict

from nami_jax.config import SAMPLE_PRESETS
from nami_jax.configs import base, presets

WEIGHTS = "weights/nami_2b"


def get_config(trained: str = "lora") -> ConfigDict:
    """Returns the run; `trained` is "lora" or "full", given as `configs/nami_2b_finetune.py:full`."""
    if trained not in ("lora", "full"):
        raise ValueError(f"configs/nami_2b_finetune.py:{trained}: use :lora or :full")
    lora = trained == "lora"
    config = base.get_config()
    config.model = ConfigDict(dataclasses.asdict(presets.NAMI_2B))
    config.model.lora_rank = 16 if lora else None
    config.data.update(side=1024, prepared="data/nami_2b_finetune")
    config.text.update(encoder="t5_bert", folder=WEIGHTS, max_length=256, mask_padding=False)
    config.autoencoder.update(folder=f"{WEIGHTS}/vae", downscale=8)
    config.bridge.kind = "full"  # the released one, from WEIGHTS/bridge_flow
    config.train.update(
        init_from=WEIGHTS,
        steps=5000,
        stage_batches=((8, 16, 32),),
        phase_starts=(0.0,),
        phase_learning_rates=(1e-4 if lora else 1e-5,),
        warmup_steps=100,
        eval_batch=8,
        sample_images=6,
    )
    config.sample = ConfigDict(dataclasses.asdict(SAMPLE_PRESETS["released"]))
    return config
