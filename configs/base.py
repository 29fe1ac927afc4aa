"""Every field of a run, explained, with the values that the other configs start from. Not a run of its own.

Other files take `get_config()` from here and set only what differs. `nami_jax.config` checks all of it.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Returns the defaults: the paper's three stages, phases and times; sizes and data are for others to set."""
    model = ConfigDict(
        {
            "channels": 3,  # of the images (pixels) or latents
            "patch_size": 4,  # side of the square of pixels that makes a token
            "num_heads": 4,  # width = num_heads * sum(rope_axes)
            "rope_axes": (8, 12, 12),  # head channels that encode text position, row and column
            "double_blocks": 1,  # two-stream blocks, run by every stage
            "stage_single_blocks": (
                1,
                2,
                4,
            ),  # single-stream blocks run by each stage; its length is the number of stages
            "mlp_ratio": 4,
            "text_dim": 384,  # sizes of the text encoder: MiniLM-L6
            "pooled_dim": 384,
            "rope_theta": 10000.0,
            "dtype": "float32",  # compute type; "bfloat16" on accelerators. Parameters stay float32
            "scan_blocks": False,  # True on accelerators: compile time does not grow with depth. False is faster on CPU
            "remat": False,  # True saves memory: activations of a block are computed again in the backward pass
            "lora_rank": placeholder(int),  # train low-rank pairs beside the blocks' kernels alone; None: everything
        }
    )
    flow = ConfigDict(
        {
            "sigma_ends": placeholder(tuple),  # noise level at each stage's end; None: (K-k)/K
            "time_mean": 0.0,  # of the logit-normal training times
            "time_std": 1.0,
        }
    )
    data = ConfigDict(
        {
            "name": "",  # tensorflow-datasets name, e.g. "emoji_captions/food_animals_32"
            "train_split": "train",
            "eval_split": "held_out",
            "image_key": "image",
            "caption_key": "captions",  # a text, a sequence of texts or a class label; "a/b" looks inside
            "side": 32,  # of the last stage, pixels
            "caption_templates": ("{}",),
            "data_dir": "data",
            "max_corrupt_share": 0.01,  # unreadable images are skipped; more than this share stop the run
            "cache_images": 4096,  # decoded images kept in memory
            "flip": False,  # mirror half of the images
            "prepared": placeholder(str),  # folder made by `python -m nami_jax.prepare`, for a flow of latents
            "buckets": placeholder(tuple),  # (height, width) of prepared images, pixels; None: side x side alone
        }
    )
    autoencoder = ConfigDict(
        {
            "folder": placeholder(str),  # config.json and weights as in diffusers' vae/; None: the flow is of pixels
            "downscale": 1,  # pixels per latent, each way
        }
    )
    bridge = ConfigDict(
        {
            "kind": placeholder(str),  # "full": the released form, for one size; "conv": for any size; None: no bridge
            "steps": 10_000,  # trained on its own, before the stages
            "learning_rate": 1e-3,
        }
    )
    text = ConfigDict(
        {
            "encoder": "minilm",  # or "t5_bert", as the released NAMI
            "max_length": 16,  # tokens, the special ones included
            "mask_padding": True,  # hide padding tokens from the encoder and zero their states
            "folder": placeholder(str),  # of t5_bert's weights: mt5/ and mclip/ lie in it
            "pooled_length": 77,  # tokens that t5_bert's BERT sees
        }
    )
    train = ConfigDict(
        {
            "seed": 0,
            "steps": 10_000,
            # Images of stage 1, 2, 3 in one step, phase by phase: first many coarse ones, then many fine ones.
            "stage_batches": ((32, 16, 8), (16, 32, 8), (8, 16, 32)),
            "phase_starts": (0.0, 1 / 3, 2 / 3),  # share of the steps at which each phase begins
            "phase_learning_rates": (1e-4, 1e-4, 5e-5),
            "warmup_steps": 500,
            "decay": "constant",  # or "cosine", to 0 at the end
            "weight_decay": 0.01,  # of kernels only
            "adam_b1": 0.9,
            "adam_b2": 0.99,
            "grad_clip": 1.0,  # largest global norm
            "ema_decay": 0.999,
            "caption_dropout": 0.1,
            "log_every": 50,
            "eval_every": 500,
            "eval_batch": 16,
            "checkpoint_every": 500,
            "keep_checkpoints": 2,
            "sample_every": 500,
            "sample_images": 24,
            "max_skipped_steps": 10,  # steps in a row without a finite gradient (they change nothing) that stop the run
            "init_from": placeholder(str),  # folder of converted weights to start from; None: random ones
        }
    )
    mesh = ConfigDict(
        {
            "fsdp": 1,  # devices that share parameters and moments; 1: every device holds all
            "tensor": 1,  # devices that share each layer's heads and channels
            "sequence": 1,  # devices that share the tokens of an image
        }
    )
    sample = ConfigDict(
        {
            "steps": (10, 10, 10),
            "guidance_scale": 3.0,
            "grid": "linear",
            "solver": "euler",
            "transition": "renoise",  # or "bridge", for a run that has one
        }
    )
    return ConfigDict(
        {
            "model": model,
            "flow": flow,
            "data": data,
            "text": text,
            "autoencoder": autoencoder,
            "bridge": bridge,
            "train": train,
            "sample": sample,
            "mesh": mesh,
        }
    )
