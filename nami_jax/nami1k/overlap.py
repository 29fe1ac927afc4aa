"""Word sequences that texts share: near-duplicates among a set, and prompts that stand in a caption.

An n-gram is three words that follow each other in `plain` text, or three Chinese characters. Of two texts that share
half of them one was made from the other.
"""

import collections
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from datasketch import MinHash, MinHashLSH

from nami_jax.nami1k.prompt_set import plain

WORDS, CHARACTERS = 3, 3
CHINESE = re.compile(r"[\u3400-\u9fff]")
PERMUTATIONS = 128
SHARED = 0.5  # of the n-grams


def is_chinese(text: str) -> bool:
    """Says whether at least a third of a text's letters are Chinese."""
    letters = [letter for letter in text if letter.isalnum()]
    return 3 * len(CHINESE.findall(text)) >= max(len(letters), 1)


def ngrams(text: str) -> frozenset[str]:
    """Returns a text's n-grams; of one that is shorter, the whole."""
    words = list(plain(text).replace(" ", "")) if is_chinese(text) else plain(text).split()
    size, gap = (CHARACTERS, "") if is_chinese(text) else (WORDS, " ")
    return frozenset(gap.join(words[i : i + size]) for i in range(max(len(words) - size + 1, 1))) - {""}


class Shared(NamedTuple):
    """The n-grams that a text shares with one of the index."""

    number: int  # of the indexed text
    count: int  # of shared n-grams
    indexed: int  # n-grams of the indexed text
    text: int  # n-grams of the text


class NgramIndex:
    """Texts by their n-grams: which of them share how much with another text, exactly.

    A thousand prompts need no estimate: looking a caption's n-grams up costs no more than its MinHash, and a short
    prompt within a long caption, whose Jaccard index is small, is found as surely as any.
    """

    def __init__(self, texts: Sequence[str]):
        """Indexes the texts."""
        grams = [ngrams(text) for text in texts]
        self._sizes = [len(found) for found in grams]
        self._texts: dict[str, list[int]] = collections.defaultdict(list)
        for number, found in enumerate(grams):
            for gram in found:
                self._texts[gram].append(number)

    def shared(self, text: str) -> Iterator[Shared]:
        """Yields what a text shares with each indexed text that has an n-gram of it."""
        grams = ngrams(text)
        counts = collections.Counter(number for gram in grams for number in self._texts.get(gram, ()))
        for number, count in counts.items():
            yield Shared(number, count, self._sizes[number], len(grams))


def near_duplicates(texts: Iterable[str], threshold: float = SHARED) -> list[tuple[int, int]]:
    """Returns the pairs of texts whose n-grams have a Jaccard index of at least `threshold`, found by MinHash.

    MinHash and its index by bands (Broder 1997; `datasketch`) find what is far above the threshold nearly always, and
    the exact index of what they find decides.
    """
    grams = [ngrams(text) for text in texts]
    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
    pairs = []
    for number, found in enumerate(grams):
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([gram.encode() for gram in found])
        for other in index.query(sketch):
            other_grams = grams[int(str(other))]
            if len(found & other_grams) >= threshold * len(found | other_grams):
                pairs.append((int(str(other)), number))
        index.insert(str(number), sketch)
    return sorted(pairs)
