"""The frozen text encoders: prompts in, token states and a pooled vector out.

Two kinds with one interface: MiniLM, small and installed as a package, and the pair of the released NAMI, token states
of an mT5 and pooled vector of a BERT. The network attends to the token states and modulates with the
pooled vector.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nami_jax.config import TextConfig, require
from nami_jax.models.bert import Bert
from nami_jax.models.t5 import T5Encoder
from nami_jax.text.encoder_files import bert_sizes, minilm_folder, released_folders, t5_sizes
from nami_jax.text.tokens import Tokenizer, Tokens, bert_tokenizer, t5_tokenizer
from nami_jax.weights import Shardings, open_tensors
from nami_jax.weights.bert_keys import load_bert
from nami_jax.weights.t5_keys import load_t5

# Windows double from the shortest, so that few shapes compile and short prompts stay cheap.
MINILM_SHORTEST, T5_SHORTEST = 8, 32
# A few prompts of a user, and the captions of a data set; mT5-XXL is large enough to give a prompt and its negative one
# a shape of their own.
MINILM_BATCHES, T5_BATCHES = (8, 32), (2, 8, 32)


class TextStates(NamedTuple):
    """What the network receives for B texts."""

    embeds: np.ndarray  # (B, T, D) float32, one state per token
    pooled: np.ndarray  # (B, P) float32, one vector per text


class TextEncoder(Protocol):
    """What every text encoder offers. Its parameters are freed with it: nothing else refers to them."""

    cfg: TextConfig
    embed_dim: int  # D
    pooled_dim: int  # P
    max_length: int  # T

    def __call__(self, prompts: Sequence[str]) -> TextStates:
        """Encodes texts; a prompt's states do not depend on the others, apart from rounding.

        Args:
            prompts: B texts. The empty one is legal: it is the unconditional text of classifier-free guidance. One
                longer than the window is truncated, with a warning.

        Returns:
            Embeds (B, T, D) and pooled (B, P), float32 whatever the type of computation. The states of padding are
            zero if `mask_padding`.

        Raises:
            TypeError: `prompts` is one text rather than a sequence of texts.
        """
        ...


class FrozenNetwork:
    """A network that is run over any number of texts in few shapes, since each is compiled."""

    def __init__(
        self,
        network: nnx.Module,
        read: Callable[[Any, jax.Array, jax.Array], Any],
        *,
        batch_sizes: Sequence[int],
        shortest: int,
    ):
        """Takes over the network.

        Args:
            network: with its parameters.
            read: (network, token ids (B, W) int32, mask (B, W)) -> arrays with B rows, each of its own text alone.
            batch_sizes: the numbers of texts run at once, rising.
            shortest: of the windows W, which double from it until one holds a text's real tokens; that of the tokens
                themselves if what `read` gives depends on padding.
        """
        graphdef, self._params = nnx.split(network)
        self._batch_sizes, self._shortest = batch_sizes, shortest
        self._read = jax.jit(lambda params, *inputs: read(nnx.merge(graphdef, params), *inputs))

    def batches(self, tokens: Tokens) -> Iterator[tuple[np.ndarray, int, Any]]:
        """Yields (b row numbers, the window W they were run in, NumPy arrays with these b rows) until all are done."""
        windows = np.array([self._window(count, tokens.ids.shape[1]) for count in tokens.mask.sum(1)], np.int32)
        for window in np.unique(windows).tolist():
            (rows,) = np.nonzero(windows == window)
            for start in range(0, len(rows), self._batch_sizes[-1]):
                some = rows[start : start + self._batch_sizes[-1]]
                yield some, window, self._run(tokens.ids[some, :window], tokens.mask[some, :window])

    def _window(self, count: int, length: int) -> int:
        window = self._shortest
        while window < count:
            window *= 2
        return min(window, length)

    def _run(self, token_ids: np.ndarray, mask: np.ndarray) -> Any:
        count = len(token_ids)
        fill = next(size for size in self._batch_sizes if size >= count) - count
        # The first text again, not zeros: a row without a real token has no mean.
        inputs = [np.concatenate([x, np.repeat(x[:1], fill, axis=0)]) for x in (token_ids, mask)]
        # Float32 products in full float32 on every platform, so that kept states do not depend on where they were made.
        with jax.default_matmul_precision("float32"):
            outputs = self._read(self._params, *inputs)
        return jax.tree.map(lambda x: np.asarray(x)[:count], outputs)


class MiniLmEncoder:
    """A tokeniser, a frozen BERT and a mean over tokens, as sentence encoders are trained.

    The pooled vector is the mean of the real tokens' states, the two special ones included: MiniLM was trained to put
    a sentence's meaning there (Sentence-BERT, arXiv 1908.10084, sec. 3). NAMI takes the [CLS] state of another BERT
    instead, which in MiniLM no training has shaped.

    Padding never enters attention or the pooled vector; its own states are what BERT computes there, or zero if
    `mask_padding`.
    """

    def __init__(self, cfg: TextConfig, bert: Bert, tokenizer: Tokenizer):
        self.cfg = cfg
        self.embed_dim = self.pooled_dim = bert.cfg.hidden_size
        self.max_length = cfg.max_length
        self._tokenizer = tokenizer

        def read(bert: Bert, token_ids: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
            states = bert(token_ids, mask)  # (B, W, D)
            real = mask[:, :, None].astype(states.dtype)  # (B, W, 1)
            pooled = (states * real).sum(1) / real.sum(1)  # (B, D)
            return states * real if cfg.mask_padding else states, pooled

        shortest = MINILM_SHORTEST if cfg.mask_padding else cfg.max_length
        self._bert = FrozenNetwork(bert, read, batch_sizes=MINILM_BATCHES, shortest=shortest)

    def __call__(self, prompts: Sequence[str]) -> TextStates:
        """See `TextEncoder`."""
        tokens = self._tokenizer(prompts)
        states = _no_states(len(prompts), self)
        for rows, window, (embeds, pooled) in self._bert.batches(tokens):
            states.embeds[rows, :window], states.pooled[rows] = embeds, pooled
        return states


class T5BertEncoder:
    """The text encoder of the released NAMI: token states of a T5, pooled vector of a BERT.

    Embeds are the last states of the T5. In the release (`mask_padding` False) it attends to padding as to any token
    and the states of padding are kept, as FLUX does: the network was trained with them. The pooled vector is the state
    of BERT's [CLS] token; BERT sees `pooled_length` tokens and never attends to padding.
    """

    def __init__(self, cfg: TextConfig, t5: T5Encoder, bert: Bert, tokenizers: tuple[Tokenizer, Tokenizer]):
        """Puts the parts together; `tokenizers` are T5's and BERT's."""
        self.cfg = cfg
        self.embed_dim, self.pooled_dim = t5.cfg.d_model, bert.cfg.hidden_size
        self.max_length = cfg.max_length
        self._t5_tokenizer, self._bert_tokenizer = tokenizers

        def embeds(t5: T5Encoder, token_ids: jax.Array, mask: jax.Array) -> jax.Array:
            states = t5(token_ids, mask if cfg.mask_padding else None)  # (B, W, D)
            return states * mask[:, :, None].astype(states.dtype) if cfg.mask_padding else states

        def pooled(bert: Bert, token_ids: jax.Array, mask: jax.Array) -> jax.Array:
            return bert(token_ids, mask)[:, 0].astype(jnp.float32)  # (B, P)

        shortest = T5_SHORTEST if cfg.mask_padding else cfg.max_length
        self._t5 = FrozenNetwork(t5, embeds, batch_sizes=T5_BATCHES, shortest=shortest)
        # One window: beside mT5-XXL this BERT costs little to run, and a shape more costs as much to compile.
        self._bert = FrozenNetwork(bert, pooled, batch_sizes=T5_BATCHES, shortest=cfg.pooled_length)

    def __call__(self, prompts: Sequence[str]) -> TextStates:
        """See `TextEncoder`."""
        t5_tokens, bert_tokens = self._t5_tokenizer(prompts), self._bert_tokenizer(prompts)
        states = _no_states(len(prompts), self)
        for rows, window, embeds in self._t5.batches(t5_tokens):
            states.embeds[rows, :window] = embeds
        for rows, _, pooled in self._bert.batches(bert_tokens):
            states.pooled[rows] = pooled
        return states


def _no_states(count: int, encoder: TextEncoder) -> TextStates:
    embeds = np.zeros((count, encoder.max_length, encoder.embed_dim), np.float32)
    return TextStates(embeds, np.zeros((count, encoder.pooled_dim), np.float32))


def load_text_encoder(
    cfg: TextConfig, *, dtype: jax.typing.DTypeLike = jnp.float32, shardings: Shardings | None = None
) -> TextEncoder:
    """Loads the encoder that `cfg` names: MiniLM-L6 from its installed package, or T5 and BERT from `cfg.folder`.

    Args:
        cfg: which encoder, and its windows.
        dtype: of the parameters and of computation. mT5-XXL takes 23 GB of memory in float32 and half in bfloat16.
        shardings: where a network's parameters are placed, among devices of this process; None: on the first one.

    Raises:
        ConfigError: files are missing in `cfg.folder` or do not belong together.
        WeightsError: weights do not fit the sizes beside them.
        ModuleNotFoundError: MiniLM's package is not installed, or another version of it is.
    """
    kinds = {"dtype": dtype, "param_dtype": dtype, "shardings": shardings}
    return _load_minilm(cfg, kinds) if cfg.encoder == "minilm" else _load_t5_bert(cfg, kinds)


def _load_minilm(cfg: TextConfig, kinds: Mapping[str, Any]) -> MiniLmEncoder:
    folder = minilm_folder()
    sizes, tokens = bert_sizes(folder), bert_tokenizer(folder, cfg.max_length, "text.max_length")
    _require_rows(tokens, sizes.vocab_size, folder)
    return MiniLmEncoder(cfg, load_bert(sizes, open_tensors(folder / "model.safetensors"), **kinds), tokens)


def _load_t5_bert(cfg: TextConfig, kinds: Mapping[str, Any]) -> T5BertEncoder:
    mt5, mclip = released_folders(cfg)
    t5_cfg, bert_cfg = t5_sizes(mt5), bert_sizes(mclip)
    positions = bert_cfg.max_position_embeddings
    require(
        cfg.pooled_length <= positions,
        field="text.pooled_length",
        value=cfg.pooled_length,
        rule=f"the BERT in {mclip} has {positions} positions",
        remedy=f"Set at most {positions}",
    )
    t5_tokens = t5_tokenizer(mt5, cfg.max_length, "text.max_length")
    bert_tokens = bert_tokenizer(mclip, cfg.pooled_length, "text.pooled_length")
    _require_rows(t5_tokens, t5_cfg.vocab_size, mt5)
    _require_rows(bert_tokens, bert_cfg.vocab_size, mclip)
    t5 = load_t5(t5_cfg, open_tensors(mt5), **kinds)
    return T5BertEncoder(cfg, t5, load_bert(bert_cfg, open_tensors(mclip), **kinds), (t5_tokens, bert_tokens))


def _require_rows(tokens: Tokenizer, rows: int, part: Path) -> None:
    """Checks that a network has an embedding for every token of its tokeniser."""
    require(
        tokens.size <= rows,
        field="text.folder",
        value=str(part),
        rule=f"its tokeniser has {tokens.size} tokens, but its network only {rows}",
        remedy="Use both from the same release",
    )
