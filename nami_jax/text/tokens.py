"""Texts to token ids of one length, by the tokeniser files that a text encoder is released with."""

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import numpy as np
import pydantic
import sentencepiece
import tokenizers
from absl import logging
from tokenizers import models, normalizers, pre_tokenizers, processors

from nami_jax.config import ConfigError, Settings, require
from nami_jax.config.settings import settings
from nami_jax.files.json_files import parse_json, read_bytes, read_json

T5_FILES, BERT_FILES = ("tokenizer.json", "spiece.model"), ("tokenizer.json", "vocab.txt")  # the first found is read
AGAIN = "Convert the release again"
PAD_ID = 0  # in all of T5's and BERT's vocabularies
AnySettings = TypeVar("AnySettings", bound=Settings)
MOST_WARNINGS = 3  # of one tokeniser: a whole data set would repeat itself batch by batch


class Tokens(NamedTuple):
    """B texts as T tokens each."""

    ids: np.ndarray  # (B, T) int32, `PAD_ID` after the end of the text
    mask: np.ndarray  # (B, T) int32, 1 at real tokens, special ones included


@settings(remedy="Use the file of the release")
class T5TokenizerConfig(Settings):
    """What is read of T5's `tokenizer_config.json`."""

    extra_ids: Annotated[int, pydantic.Field(ge=0, le=10_000)] = 0  # sentinels beyond the vocabulary's own


@settings(remedy="Use the file of the release")
class BertTokenizerConfig(Settings):
    """What is read of BERT's `tokenizer_config.json`."""

    tokenize_chinese_chars: bool = True
    strip_accents: bool | None = None  # None: where letters are lowered
    do_lower_case: bool = True


class Tokenizer:
    """Cuts texts into tokens and fits them into a window of one length."""

    def __init__(self, encode: Callable[[list[str]], list[list[int]]], size: int, length: int, field: str):
        """Takes what it needs of a tokeniser.

        Args:
            encode: texts -> token ids of their own length, special ones included, of which one is at the end.
            size: of the vocabulary.
            length: T, the window, tokens.
            field: the setting that gives the length, for messages.
        """
        self.size = size
        self.length = length
        self._encode, self._field, self._warnings = encode, field, 0

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        """Returns the tokens of B texts; a longer one is truncated before its last special token, with a warning.

        Raises:
            TypeError: `prompts` is one text rather than a sequence of texts.
        """
        if isinstance(prompts, str):
            raise TypeError(f"prompts = {prompts!r}: must be a sequence of texts. Pass [{prompts!r}].")
        rows = self._encode(list(prompts))
        self._warn_of_cut(prompts, [len(row) for row in rows])
        ids = np.full((len(rows), self.length), PAD_ID, np.int32)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            kept = row if len(row) <= self.length else [*row[: self.length - 1], row[-1]]
            ids[i, : len(kept)], mask[i, : len(kept)] = kept, 1
        return Tokens(ids, mask)

    def _warn_of_cut(self, prompts: Sequence[str], lengths: Sequence[int]) -> None:
        cut = [i for i, length in enumerate(lengths) if length > self.length]
        if cut and self._warnings < MOST_WARNINGS:
            self._warnings += 1
            logging.warning(
                "%d of %d prompts are longer than the text window of %d tokens (%s) and were truncated. "
                "The first, of %d tokens, begins %r.",
                len(cut),
                len(prompts),
                self.length,
                self._field,
                lengths[cut[0]],
                prompts[cut[0]][:60],
            )


def t5_tokenizer(folder: Path, length: int, field: str) -> Tokenizer:
    """Reads T5's tokeniser, `tokenizer.json` or else `spiece.model`; each text ends in `</s>`.

    A text may name special tokens, as with transformers' MT5Tokenizer, by which the release was made: `</s>` (after one
    at its end no other is added), `<pad>`, `<unk>`, and the sentinels `<extra_id_0>`, ..., of the vocabulary or, where
    `tokenizer_config.json` has `extra_ids`, beyond it. What is between them is cut into tokens by itself.

    Characters that mT5's vocabulary lacks become their bytes by `spiece.model`, as mT5 was trained; `tokenizer.json` as
    transformers writes it, and transformers 5 itself, make them unknown tokens.

    Raises:
        ConfigError: the file is damaged, or its vocabulary has no `</s>`.
    """
    if (folder / "tokenizer.json").is_file():
        fast = _read_fast(folder / "tokenizer.json")
        end = fast.token_to_id("</s>")
        _require_special(end is not None, folder / "tokenizer.json", "</s>")
        # Whatever the file says: T5 was trained with this end and no beginning.
        fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
        return fast_tokenizer(fast, length, field)
    try:
        content = read_bytes(folder / "spiece.model", AGAIN)
        pieces = sentencepiece.SentencePieceProcessor(model_proto=content or b"\0")  # empty ones count as not given
    except RuntimeError as error:
        raise _damaged(folder / "spiece.model", error) from error
    end = pieces.eos_id()
    _require_special(end >= 0, folder / "spiece.model", "</s>")
    count, extra = pieces.vocab_size(), _read_settings(folder, T5TokenizerConfig).extra_ids
    special = {pieces.id_to_piece(i): i for i in (pieces.pad_id(), pieces.unk_id(), end) if i >= 0}
    special |= {f"<extra_id_{i}>": count + extra - 1 - i for i in range(extra)}
    named = re.compile(f"({'|'.join(map(re.escape, special))})")

    def encode(text: str) -> list[int]:
        parts = named.split(text)  # every other one is a special token
        ids = [[special[part]] if i % 2 else pieces.encode(part) for i, part in enumerate(parts)]
        flat = [*itertools.chain.from_iterable(ids)]
        return flat if flat[-1:] == [end] else [*flat, end]

    return Tokenizer(lambda texts: list(map(encode, texts)), count + extra, length, field)


def bert_tokenizer(folder: Path, length: int, field: str) -> Tokenizer:
    """Reads BERT's tokeniser, `tokenizer.json` or else `vocab.txt`; each text is set between `[CLS]` and `[SEP]`.

    With `vocab.txt`, `tokenizer_config.json` says whether letters are lowered, accents taken off and Chinese characters
    split; by default all three are done.

    Raises:
        ConfigError: a file is damaged, or the vocabulary has no `[CLS]` or `[SEP]`.
    """
    if (folder / "tokenizer.json").is_file():
        return fast_tokenizer(_read_fast(folder / "tokenizer.json"), length, field)
    says = _read_settings(folder, BertTokenizerConfig)
    fast = tokenizers.Tokenizer(models.WordPiece(_read_vocabulary(folder / "vocab.txt"), unk_token="[UNK]"))
    special = {token: fast.token_to_id(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
    for token in ("[UNK]", "[CLS]", "[SEP]"):
        _require_special(special[token] is not None, folder / "vocab.txt", token)
    fast.add_special_tokens([token for token, number in special.items() if number is not None])
    fast.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=says.tokenize_chinese_chars,
        strip_accents=says.strip_accents,
        lowercase=says.do_lower_case,
    )
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, special[token]) for token in ("[CLS]", "[SEP]")]
    fast.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return fast_tokenizer(fast, length, field)


def clip_tokenizer(folder: Path, length: int, field: str) -> Tokenizer:
    """Reads CLIP's `tokenizer.json`; each text is set between `<|startoftext|>` and `<|endoftext|>`.

    Raises:
        ConfigError: the file is missing or damaged, or its vocabulary lacks one of the two.
    """
    path = folder / "tokenizer.json"
    fast = _read_fast(path)
    ends = [(token, fast.token_to_id(token)) for token in ("<|startoftext|>", "<|endoftext|>")]
    for token, number in ends:
        _require_special(number is not None, path, token)
    fast.post_processor = processors.TemplateProcessing(single=f"{ends[0][0]} $A {ends[1][0]}", special_tokens=ends)
    return fast_tokenizer(fast, length, field)


def fast_tokenizer(fast: tokenizers.Tokenizer, length: int, field: str) -> Tokenizer:
    """Wraps a tokeniser of the `tokenizers` package, and takes over `fast`: turns off its padding and truncation."""
    fast.no_padding()
    fast.no_truncation()

    def encode(texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in fast.encode_batch(texts)]

    # Not the number of tokens: their ids may have gaps.
    return Tokenizer(encode, max(fast.get_vocab().values(), default=-1) + 1, length, field)


def _read_settings(folder: Path, kind: type[AnySettings]) -> AnySettings:
    """Reads what is needed of a `tokenizer_config.json`, if there is one."""
    path = folder / "tokenizer_config.json"
    fields = read_json(path, AGAIN) if path.exists() else {}
    try:
        return kind.pick(fields)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _read_fast(path: Path) -> tokenizers.Tokenizer:
    content = read_bytes(path, AGAIN)
    model = parse_json(content, str(path), AGAIN).get("model")
    try:
        fast = tokenizers.Tokenizer.from_buffer(content)  # `from_file` raises Exception itself
    except ValueError as error:
        raise _damaged(path, error) from error
    # Without it, the first text with a letter that the vocabulary lacks is an error.
    unknown = model.get("unk_token", model.get("unk_id")) if isinstance(model, dict) else None
    known = fast.token_to_id(unknown) is not None if isinstance(unknown, str) else unknown is not None
    _require_special(
        known or (isinstance(fast.model, models.BPE) and unknown is None), path, "token for what is unknown"
    )
    return fast


def _read_vocabulary(path: Path) -> dict[str, int]:
    """Reads one token a line; raises `ConfigError` if the file is damaged."""
    try:
        lines = read_bytes(path, AGAIN).decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise _damaged(path, error) from error
    return {token.rstrip(): number for number, token in enumerate(lines)}


def _damaged(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path} is damaged: {str(error)[:300]}. {AGAIN}.")


def _require_special(found: bool, path: Path, token: str) -> None:
    require(
        found,
        field="text.folder",
        value=str(path),
        rule=f"the vocabulary has no {token}",
        remedy="Use the file of the release",
    )
