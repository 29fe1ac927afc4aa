"""Sizes of the network by name. A config takes one with `dataclasses.asdict(presets.SMALL)`."""

from nami_jax.config import ModelConfig

# The released model: 2.118 B parameters, of which its stages run 1.30, 1.74 and 2.12 B (arXiv 2503.09242, sec. 4.1).
NAMI_2B = ModelConfig(
    channels=16, patch_size=2, num_heads=16, rope_axes=(16, 56, 56), double_blocks=8, stage_single_blocks=(1, 8, 14),
    mlp_ratio=4, text_dim=4096, pooled_dim=1024, dtype="bfloat16", scan_blocks=True, remat="full",
)  # fmt: skip

# 12 layers, 5:4:3. The paper gives no width; this one makes its 0.6 B.
NAMI_0_6B = ModelConfig(
    channels=16, patch_size=2, num_heads=12, rope_axes=(16, 56, 56), double_blocks=4, stage_single_blocks=(1, 5, 8),
    mlp_ratio=4, text_dim=4096, pooled_dim=1024, dtype="bfloat16", scan_blocks=True, remat="full",
)  # fmt: skip

# For pixels at 64x64 and the captions of MiniLM.
SMALL = ModelConfig(
    channels=3, patch_size=4, num_heads=6, rope_axes=(16, 24, 24), double_blocks=2, stage_single_blocks=(2, 4, 8),
    mlp_ratio=4, text_dim=384, pooled_dim=384,
)  # fmt: skip

# For a laptop's CPU.
TINY = ModelConfig(
    channels=3, patch_size=4, num_heads=4, rope_axes=(8, 12, 12), double_blocks=1, stage_single_blocks=(2, 3, 4),
    mlp_ratio=4, text_dim=384, pooled_dim=384,
)  # fmt: skip
