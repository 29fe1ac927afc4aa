"""Prompts that a training set holds already: copied, reordered, reworded, or translated to and fro.

Each caption is compared with every prompt in both languages, by four measures of falling strength. The captions are
read in chunks, and of what is found at most `MOST_PAIRS` of a measure are kept, so that memory does not grow with
their number.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from nami_jax.nami1k.caption_files import Caption, in_chunks
from nami_jax.nami1k.overlap import SHARED, NgramIndex, Shared, is_chinese
from nami_jax.nami1k.prompt_set import PromptSet, plain

Measure = Literal["exact", "normalised", "n-grams", "embedding"]
MEASURES: tuple[Measure, ...] = ("exact", "normalised", "n-grams", "embedding")
MOST_PAIRS = 10_000
CHUNK = 256  # captions at once
LEAST_GRAMS = 4  # of a caption that may count as part of a prompt: "a red door" is in many
LEAST_TOLD = 0.5  # words of a caption to words of a prompt: "a kite" cannot say what a long prompt says
# Cosine of MiniLM's vectors. `python -m benchmarks.prompt_audit` derives it: of the pairs of different prompts of
# NAMI-1K, which are of one hand and style, fewer than FALSE_ALARMS are so near.
ALIKE, FALSE_ALARMS = 0.64, 1e-4

Vectors = Callable[[Sequence[str]], np.ndarray]


def in_vectors(texts: Sequence[str], vectors: Vectors) -> np.ndarray:
    """Returns (n, D), a vector of length 1 for each of n texts, chunk by chunk."""
    return np.concatenate([vectors(texts[i : i + CHUNK]) for i in range(0, len(texts), CHUNK)])


@dataclasses.dataclass(frozen=True)
class Leak:
    """A caption that is a prompt, or near one.

    Attributes:
        prompt: the prompt's id.
        language: in which they meet.
        measure: the strongest that finds them.
        score: share of n-grams, or cosine; 1 for the same text.
        caption: where it stands and what it says.
    """

    prompt: str
    language: str
    measure: Measure
    score: float
    caption: Caption

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        place = {"caption": self.caption.text, "file": self.caption.file, "line": self.caption.line}
        return {"prompt": self.prompt, "language": self.language, "by": self.measure, "score": self.score} | place


class PromptText(NamedTuple):
    """One text of a prompt."""

    prompt: str
    language: str
    text: str


class PromptIndex:
    """The prompts, ready to be compared with captions."""

    def __init__(self, prompts: PromptSet, vectors: Vectors | None):
        """Indexes them; see `audit_texts`."""
        self._texts = [
            PromptText(p.id, language, text) for p in prompts.prompts for language, text in p.texts().items()
        ]
        self._plain = {plain(text.text): number for number, text in enumerate(self._texts)}
        self._ngrams = NgramIndex([text.text for text in self._texts])
        self._english = [number for number, text in enumerate(self._texts) if text.language == "en"]
        self._vectors = vectors
        if vectors is not None:
            english = [self._texts[number].text for number in self._english]
            self._matrix = in_vectors(english, vectors)  # (P, D)
            self._words = np.array([len(text.split()) for text in english])  # (P,)

    def leaks(self, captions: Sequence[Caption]) -> Iterator[Leak]:
        """Yields what a chunk of captions leaks: for a caption and a prompt's text, the strongest measure alone."""
        for caption, near in zip(captions, self._near(captions), strict=True):
            found: dict[int, tuple[Measure, float]] = {number: ("embedding", cosine) for number, cosine in near}
            for shared in self._ngrams.shared(caption.text):
                if (score := containment(shared)) >= SHARED:
                    found[shared.number] = ("n-grams", score)
            if (same := self._plain.get(plain(caption.text))) is not None:
                found[same] = ("exact" if caption.text.strip() == self._texts[same].text else "normalised", 1.0)
            for number, (measure, score) in found.items():
                text = self._texts[number]
                yield Leak(text.prompt, text.language, measure, round(score, 4), caption)

    def _near(self, captions: Sequence[Caption]) -> list[list[tuple[int, float]]]:
        """Returns, for each caption, the English texts near it and their cosines; MiniLM knows no Chinese."""
        found: list[list[tuple[int, float]]] = [[] for _ in captions]
        rows = [row for row, caption in enumerate(captions) if not is_chinese(caption.text)]
        if self._vectors is not None and rows:
            texts = [captions[row].text for row in rows]
            cosines = self._vectors(texts) @ self._matrix.T  # (rows, P)
            told = np.array([len(text.split()) for text in texts])[:, None] >= LEAST_TOLD * self._words  # (rows, P)
            for row, column in np.argwhere((cosines >= ALIKE) & told).tolist():
                found[rows[row]].append((self._english[column], float(cosines[row, column])))
        return found


def containment(shared: Shared) -> float:
    """Returns the share of the prompt's n-grams that the caption has, or of the caption's that the prompt has if more.

    A single n-gram is chance unless it is all of the prompt, and a caption of few n-grams is part of too many texts.
    """
    of_prompt = shared.count / shared.indexed if shared.count >= min(2, shared.indexed) else 0.0
    of_caption = shared.count / shared.text if shared.count >= LEAST_GRAMS else 0.0
    return max(of_prompt, of_caption)


@dataclasses.dataclass
class TextAudit:
    """What an audit found.

    Attributes:
        captions: how many were compared.
        counts: pairs by measure.
        leaks: the pairs themselves, at most `MOST_PAIRS` of a measure.
        prompts: ids of the prompts that leak.
        embedding: whether embeddings were compared.
    """

    captions: int = 0
    counts: dict[Measure, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(MEASURES, 0))
    leaks: list[Leak] = dataclasses.field(default_factory=list)
    prompts: set[str] = dataclasses.field(default_factory=set)
    embedding: bool = True

    def add(self, leak: Leak) -> None:
        """Takes in a leak."""
        self.counts[leak.measure] += 1
        self.prompts.add(leak.prompt)
        if self.counts[leak.measure] <= MOST_PAIRS:
            self.leaks.append(leak)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON, the strongest leaks first."""
        ordered = sorted(self.leaks, key=lambda leak: (MEASURES.index(leak.measure), -leak.score))
        return {
            "captions": self.captions,
            "compared_embeddings": self.embedding,
            "thresholds": {"n-grams": SHARED, "embedding": ALIKE},
            "pairs": dict(self.counts),
            "prompts": sorted(self.prompts),
            "leaks": [leak.to_dict() for leak in ordered],
        }


def audit_texts(prompts: PromptSet, captions: Iterable[Caption], vectors: Vectors | None) -> TextAudit:
    """Compares captions, which are read once, with the prompts.

    Args:
        prompts: whose texts are looked for.
        captions: of a training set.
        vectors: n English texts -> (n, D) of length 1; None: embeddings are not compared.
    """
    index, found = PromptIndex(prompts, vectors), TextAudit(embedding=vectors is not None)
    for some in in_chunks(captions, CHUNK):
        found.captions += len(some)
        for leak in index.leaks(some):
            found.add(leak)
    return found
