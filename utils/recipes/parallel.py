"""Parallel text: pairs of an English sentence and its translation, with the terms under which they may be used.

Only sources whose licence allows shipping what was trained on them are returned by `training_pairs`; `multi30k`, the
last rows of `pud`, and the part "heldout" of our own measure.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from pathlib import Path

from utils.catalog import DATA

LANGUAGES = ("de", "fr", "es", "ja")
PUD_TRAIN_ROWS = 700  # of 1,000; the last 300 measure
Pair = tuple[str, str, str]  # (language, English, translation)


def own_rows(part: str) -> list[dict[str, str]]:
    """Rows of `data/parallel/<part>.tsv`, written for this workshop: {"en": …, "de": …, …}; a language may be empty.

    The parts are "train", "heldout", and "lexicon" (single words and short phrases).
    """
    with (DATA / "parallel" / f"{part}.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def fragments() -> list[dict[str, str]]:
    """The building blocks of the review corpus, which are parallel too; see `utils.recipes.reviews`."""
    with (DATA / "reviews" / "fragments.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _read(folder: Path, name: str) -> list[str]:
    with gzip.open(folder / name, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def tatoeba(folder: Path) -> list[Pair]:
    """English-German sentences of Tatoeba, CC BY 2.0 FR (https://tatoeba.org/en/terms_of_use)."""
    rows = (line.split("\t")[:2] for line in _read(folder, "translation/tatoeba.en-de.tsv.gz")[1:])
    return [("de", english, german) for english, german in rows]


def pud(folder: Path) -> list[dict[str, str]]:
    """The 1,000 sentences of Parallel Universal Dependencies in en, de, fr, es, CC BY-SA 3.0."""
    lines = _read(folder, "translation/pud.en-de-fr-es.tsv.gz")
    header = lines[0].split("\t")
    return [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:]]


def multi30k(folder: Path) -> dict[str, list[str]]:
    """Test 2016 of Multi30k: 1,000 captions in en, de, fr. Non-commercial terms: to measure only."""
    return {code: _read(folder, f"translation/test_2016_flickr.{code}.gz") for code in ("en", "de", "fr")}


def xquad(folder: Path) -> list[Pair]:
    """Sentences of XQuAD's paragraphs in German and Spanish, CC BY-SA 4.0 (https://huggingface.co/datasets/google/xquad).

    The paragraphs are parallel, their sentences only where both sides split into the same number: others are left out.
    """

    def paragraphs(language: str) -> list[list[str]]:
        articles = json.loads("\n".join(_read(folder, f"qa/xquad.{language}.json.gz")))["data"]
        texts = (paragraph["context"] for article in articles for paragraph in article["paragraphs"])
        return [re.split(r"(?<=[.!?])\s+(?=[A-ZÄÖÜÁÉÍÓÚ¿¡„\"])", text) for text in texts]

    english, pairs = paragraphs("en"), []
    for language in ("de", "es"):
        for source, target in zip(english, paragraphs(language), strict=True):
            if len(source) == len(target):
                pairs += [(language, a, b) for a, b in zip(source, target, strict=True)]
    return pairs


def training_pairs(folder: Path) -> dict[str, list[Pair]]:
    """All pairs that may train an embedded checkpoint, by source.

    Args:
        folder: holds the files of Tatoeba, PUD and XQuAD, see `data/parallel/README.md`.
    """

    def spread(rows: list[dict[str, str]]) -> list[Pair]:
        return [(code, row["en"], row[code]) for row in rows for code in LANGUAGES if row.get(code)]

    return {
        "own": spread(own_rows("train")) + spread(own_rows("lexicon")) + spread(fragments()),
        "tatoeba": tatoeba(folder),
        "pud": spread(pud(folder)[:PUD_TRAIN_ROWS]),
        "xquad": xquad(folder),
    }
