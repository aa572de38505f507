"""Parallel text: pairs of an English sentence and its translation, with the terms under which they may be used.

Only sources whose licence allows shipping what was trained on them are returned by `training_pairs`; `multi30k`, the
last rows of `pud`, and the part "heldout" of our own measure.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

from utils.catalog import DATA
from utils.recipes.files import read_lines, read_tsv, texts

LANGUAGES = ("de", "fr", "es", "ja")
PUD_TRAIN_ROWS = 700  # of 1,000; the last 300 measure
Pair = tuple[str, str, str]  # (language, English, translation)
SENTENCE_END = re.compile(r"(?<=[.!?…])\s+(?=[A-ZÄÖÜÁÉÍÓÚÀÇÊ¿¡„«\"“])")


def own_rows(part: str) -> list[dict[str, str]]:
    """Rows of `data/parallel/<part>.tsv`, written for this workshop: {"en": …, "de": …, …}; a language may be empty.

    The parts are "train", "heldout", and "lexicon" (single words and short phrases).
    """
    return read_tsv(DATA / "parallel" / f"{part}.tsv")


def fragments() -> list[dict[str, str]]:
    """The building blocks of the review corpus, which are parallel too; see `utils.recipes.reviews`."""
    return read_tsv(DATA / "reviews" / "fragments.tsv")


def written_pairs(language: str) -> list[tuple[str, str]]:
    """(English, translation) of the written reviews: titles, bodies, and their sentences where both sides have as many."""
    pairs = []
    for row in read_tsv(DATA / "reviews" / "written.tsv"):
        pairs.append((row["en_title"], row[f"{language}_title"]))
        sides = row["en_body"], row[f"{language}_body"]
        sentences = [SENTENCE_END.split(side) for side in sides]
        pairs.append(sides)
        if 1 < len(sentences[0]) == len(sentences[1]):
            pairs += zip(*sentences, strict=True)
    return pairs


def letters(held_out: bool = False) -> list[list[dict[str, str]]]:
    """Invented customer letters, English and German line by line; every tenth is held out."""
    grouped = itertools.groupby(texts("letters"), key=lambda row: row["letter"])
    return [list(rows) for number, (_, rows) in enumerate(grouped) if (number % 10 == 9) == held_out]


def tatoeba(folder: Path) -> list[Pair]:
    """English-German sentences of Tatoeba, CC BY 2.0 FR (https://tatoeba.org/en/terms_of_use)."""
    rows = (line.split("\t")[:2] for line in read_lines(folder / "translation/tatoeba.en-de.tsv.gz")[1:])
    return [("de", english, german) for english, german in rows]


def pud(folder: Path) -> list[dict[str, str]]:
    """The 1,000 sentences of Parallel Universal Dependencies in en, de, fr, es, CC BY-SA 3.0."""
    lines = read_lines(folder / "translation/pud.en-de-fr-es.tsv.gz")
    header = lines[0].split("\t")
    return [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:]]


def multi30k(folder: Path) -> dict[str, list[str]]:
    """Test 2016 of Multi30k: 1,000 captions in en, de, fr. Non-commercial terms: to measure only."""
    return {code: read_lines(folder / f"translation/test_2016_flickr.{code}.gz") for code in ("en", "de", "fr")}


def xquad(folder: Path) -> list[Pair]:
    """Sentences of XQuAD's paragraphs in German and Spanish, CC BY-SA 4.0 (https://huggingface.co/datasets/google/xquad).

    The paragraphs are parallel, their sentences only where both sides split into the same number: others are left out.
    """

    def paragraphs(language: str) -> list[list[str]]:
        articles = json.loads("\n".join(read_lines(folder / f"qa/xquad.{language}.json.gz")))["data"]
        contexts = (paragraph["context"] for article in articles for paragraph in article["paragraphs"])
        return [SENTENCE_END.split(text) for text in contexts]

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

    written = [(code, *pair) for code in ("de", "fr", "es") for pair in written_pairs(code)]
    mail = [("de", row["en"], row["de"]) for letter in letters() for row in letter]
    return {
        "own": spread(own_rows("train")) + spread(own_rows("lexicon")) + spread(fragments()) + written + mail,
        "tatoeba": tatoeba(folder),
        "pud": spread(pud(folder)[:PUD_TRAIN_ROWS]),
        "xquad": xquad(folder),
    }
