"""The vector of a sentence by MiniLM, alike for sentences of like meaning; run as a process of its own by `RowProcess`.

all-MiniLM-L6-v2 was trained on pairs of English sentences with windows of 128 tokens and more (Sentence-BERT,
arXiv 1908.10084): nearness is the cosine of means over tokens. It does not know Chinese.
"""

import numpy as np

from nami_jax.config import TextConfig
from nami_jax.files.row_pipe import answer_rows
from nami_jax.parallel.kept_programs import keep_on_disk
from nami_jax.text.encoders import load_text_encoder

LENGTH = 256  # tokens of a text that are read


def main() -> None:
    """Answers texts with vectors of length 1; ends with one line if the weights are not installed."""
    keep_on_disk()
    try:
        encoder = load_text_encoder(TextConfig(max_length=LENGTH))
    except ModuleNotFoundError as error:
        raise SystemExit(f"error: {error}") from error

    def encode(texts: list[str]) -> np.ndarray:
        pooled = encoder(texts).pooled
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    answer_rows(encode, encoder.pooled_dim)
