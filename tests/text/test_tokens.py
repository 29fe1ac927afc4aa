import json
import logging
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers

from nami_jax.config import ConfigError
from nami_jax.text.tokens import Tokenizer, bert_tokenizer, fast_tokenizer, t5_tokenizer
from tests.support.text_release import golden_facts, golden_tensors, write_release


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture
def letters() -> Tokenizer:
    """Each letter is a token, its code, with 0 and 1 at the ends."""
    return Tokenizer(lambda texts: [[0, *map(ord, text), 1] for text in texts], 128, 5, "text.max_length")


def vocabulary(tmp_path: Path, words: str, says: dict | None = None) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words.split()]) + "\n")
    if says is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(says))
    return tmp_path


def test_spiece_model_gives_the_ids_of_transformers(release):
    exact, facts = golden_tensors(), golden_facts()
    tokens = t5_tokenizer(release / "mt5", facts["max_length"], "text.max_length")(facts["prompts"])
    np.testing.assert_array_equal(tokens.ids, exact["t5_token_ids"])
    np.testing.assert_array_equal(tokens.mask, exact["t5_mask"])
    assert tokens.ids.dtype == tokens.mask.dtype == np.int32


def test_special_tokens_in_a_text_are_read_as_such_and_the_end_is_not_doubled(release):
    tokenizer = t5_tokenizer(release / "mt5", 12, "text.max_length")
    whole, first, second = (
        row[: count.sum()].tolist() for row, count in zip(*tokenizer(["red</s> apple", "red", "apple"]), strict=True)
    )
    assert whole == [*first, *second]  # each ends in </s>
    assert tokenizer(["red</s>"]).ids[0].tolist() == tokenizer(["red"]).ids[0].tolist()


def test_sentinels_beyond_the_vocabulary_count_down_from_its_end(release, tmp_path):
    (tmp_path / "spiece.model").write_bytes((release / "mt5" / "spiece.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": 3}')
    tokenizer = t5_tokenizer(tmp_path, 6, "text.max_length")
    assert tokenizer.size == 53
    assert tokenizer(["<extra_id_0><extra_id_2>"]).ids[0].tolist() == [52, 50, 1, 0, 0, 0]


def test_vocab_txt_gives_the_ids_of_transformers(release):
    exact, facts = golden_tensors()["bert_token_ids"], golden_facts()
    tokens = bert_tokenizer(release / "mclip", facts["pooled_length"], "text.pooled_length")(facts["prompts"])
    np.testing.assert_array_equal(tokens.ids, exact)
    np.testing.assert_array_equal(tokens.mask, exact != 0)


def test_t5_text_ends_in_its_end_token_whatever_tokenizer_json_says(release, tmp_path):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(release / "mt5" / "spiece.model"))
    scores = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.vocab_size())]
    fast = tokenizers.Tokenizer(tokenizers.models.Unigram(scores, unk_id=2))  # adds no special token
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    fast.save(str(tmp_path / "tokenizer.json"))
    prompts = ["a red apple", "an old lighthouse on a cliff"]
    tokens = t5_tokenizer(tmp_path, 12, "text.max_length")(prompts)
    np.testing.assert_array_equal(tokens.ids, t5_tokenizer(release / "mt5", 12, "text.max_length")(prompts).ids)
    assert (tokens.ids[np.arange(2), tokens.mask.sum(1) - 1] == 1).all()


def test_tokenizer_json_is_preferred_to_the_older_file(release, tmp_path):
    folder = vocabulary(tmp_path, "apple red")
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel({"apple": 7, "[UNK]": 1}, unk_token="[UNK]"))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast.enable_padding(length=50)
    fast.enable_truncation(2)
    fast.save(str(folder / "tokenizer.json"))
    tokens = bert_tokenizer(folder, 4, "text.pooled_length")(["apple apple apple"])
    assert tokens.ids.tolist() == [[7, 7, 7, 0]]  # its own padding and cutting are put off
    assert tokens.mask.tolist() == [[1, 1, 1, 0]]


@pytest.mark.parametrize(
    ("says", "ids"),
    [
        (None, [[2, 4, 5, 6, 3]]),
        ({"do_lower_case": False}, [[2, 1, 5, 6, 3]]),  # neither lowered nor without its accent: not in the vocabulary
        ({"tokenize_chinese_chars": False}, [[2, 4, 1, 3, 0]]),
    ],
)
def test_tokenizer_config_says_how_vocab_txt_is_used(tmp_path, says, ids):
    folder = vocabulary(tmp_path, "cafe 灯 塔", says)
    assert bert_tokenizer(folder, 5, "text.pooled_length")(["Café 灯塔"]).ids.tolist() == ids


def test_text_is_padded_with_0_to_the_window(letters):
    tokens = letters(["ab", ""])
    assert tokens.ids.tolist() == [[0, 97, 98, 1, 0], [0, 1, 0, 0, 0]]
    assert tokens.mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]


def test_longer_text_is_cut_before_its_end_token_with_a_warning(letters, caplog):
    with caplog.at_level(logging.WARNING):
        tokens = letters(["ab", "abcdef"])
    assert tokens.ids[1].tolist() == [0, 97, 98, 99, 1]
    assert tokens.mask[1].all()
    [record] = caplog.records
    assert "1 of 2 prompts are longer than the text window of 5 tokens (text.max_length)" in record.message
    assert "of 8 tokens, begins 'abcdef'" in record.message


def test_text_that_just_fits_is_not_warned_of(letters, caplog):
    assert letters(["abc"]).mask.all()
    assert not caplog.records


def test_no_texts_give_no_rows(letters):
    assert letters([]).ids.shape == (0, 5)


def test_one_text_instead_of_a_list_is_refused(letters):
    with pytest.raises(TypeError, match=r"Pass \['red apple'\]"):
        letters("red apple")


def test_vocabulary_without_special_tokens_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\napple\n")
    with pytest.raises(ConfigError, match=r"vocab\.txt.*the vocabulary has no \[SEP\]"):
        bert_tokenizer(tmp_path, 8, "text.pooled_length")
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel({"apple": 0, "[UNK]": 1}, unk_token="[UNK]"))
    fast.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match=r"tokenizer\.json.*the vocabulary has no </s>"):
        t5_tokenizer(tmp_path, 8, "text.max_length")


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("tokenizer.json", t5_tokenizer),
        ("spiece.model", t5_tokenizer),
        ("tokenizer.json", bert_tokenizer),
        ("tokenizer_config.json", bert_tokenizer),
    ],
)
@pytest.mark.parametrize("content", ["", '{"cut": '])
def test_damaged_file_is_named_with_the_remedy(tmp_path, file, read, content):
    (tmp_path / file).write_text(content)
    with pytest.raises(ConfigError, match=rf"{file} is damaged: .*\. Convert the release again\."):
        read(tmp_path, 8, "text.max_length")


def test_size_is_that_of_the_vocabulary(release):
    assert t5_tokenizer(release / "mt5", 8, "text.max_length").size == 50
    assert bert_tokenizer(release / "mclip", 8, "text.pooled_length").size == len(golden_facts()["vocabulary"])
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel({"apple": 0, "pear": 1}, unk_token="pear"))
    assert fast_tokenizer(fast, 8, "text.max_length").size == 2
