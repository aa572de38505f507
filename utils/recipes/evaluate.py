"""Measure the embedded checkpoints: `python -m utils.recipes.evaluate [name …] [--data FOLDER]`.

Prints the tables that the model cards carry; `--write` puts them there. Without `--data`, only what this repository holds is
measured; with it, also public benchmarks that are not shipped (see `data/parallel/README.md` and the recipes for the files).
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable
from pathlib import Path

import torch
from scipy.stats import spearmanr
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from utils.catalog import DATA, checkpoint
from utils.recipes import (
    audio,
    coder,
    mask,
    ner,
    nli,
    parallel,
    protein,
    qa,
    reranker,
    reviews,
    sentiment,
    summarizer,
    table,
    translator,
    vision,
)
from utils.recipes.files import read_lines, replace_between
from utils.recipes.training import Result, embed, logits
from utils.workshop import seed_everything


def retrieval(path: str, english: list[str], other: list[str]) -> float:
    """How often a sentence's nearest neighbour in the other language is its translation, both ways, in percent."""
    scores = embed(path, english) @ embed(path, other).T  # (sentences, sentences)
    right = torch.arange(len(english))
    hits = (scores.argmax(1) == right).float().mean() + (scores.argmax(0) == right).float().mean()
    return 50 * hits.item()


def sts(path: str, file: Path) -> float:
    """Spearman's rank correlation (times 100) of cosine similarity with people's judgement, on an STS-B file."""
    rows = list(csv.reader(read_lines(file)))
    first, second = embed(path, [row[0] for row in rows]), embed(path, [row[1] for row in rows])
    return 100 * spearmanr((first * second).sum(-1), [float(row[2]) for row in rows]).statistic


def encoder_results(path: str, data: Path | None) -> list[Result]:
    """Retrieval among translations, and with `data` similarity, of a sentence encoder."""
    rows, results = parallel.own_rows("heldout"), []
    for language in parallel.LANGUAGES:
        pairs = [(row["en"], row[language]) for row in rows if row[language]]
        sides = [list(side) for side in zip(*pairs, strict=True)]
        results.append((f"own held-out en↔{language}, {len(pairs):,} sentences, %", retrieval(path, *sides)))
    if data is None:
        return results
    pud = parallel.pud(data)[parallel.PUD_TRAIN_ROWS :]
    for language in ("de", "fr", "es"):
        pairs = [[row["en"] for row in pud], [row[language] for row in pud]]
        results.append((f"PUD, last {len(pud)}, en↔{language}, %", retrieval(path, *pairs)))
    captions = parallel.multi30k(data)
    for language in ("de", "fr"):
        results.append((f"Multi30k 2016 en↔{language}, %", retrieval(path, captions["en"], captions[language])))
    for language in ("en", "de", "fr", "es", "ja"):
        file = data / "similarity" / f"stsb-{language}-test.csv.gz"
        results.append((f"STS-B test {language}, Spearman × 100", sts(path, file)))
    return results


def star_errors(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[Result]:
    """Mean absolute error in stars of a review classifier on the gold reviews of every language."""
    results = []
    for language in reviews.LANGUAGES:
        gold = reviews.gold(language)
        stars = logits(model, tokenizer, [reviews.text(row) for row in gold]).argmax(-1) + 1  # (reviews,)
        errors = (stars - torch.tensor([row["stars"] for row in gold])).abs()
        results.append(
            (f"gold {language}, {len(gold)} reviews, mean absolute error in stars", errors.float().mean().item())
        )
    return results


def star_results(path: str, data: Path | None) -> list[Result]:
    """`star_errors` of the checkpoint at `path`."""
    return star_errors(AutoModelForSequenceClassification.from_pretrained(path), AutoTokenizer.from_pretrained(path))


RECIPES = (
    audio, coder, mask, ner, nli, protein, qa, reranker, sentiment, summarizer, table, translator, vision
)  # fmt: skip
MEASURES: dict[str, Callable[[str, Path | None], list[Result]]] = {
    "minilm": encoder_results,
    "reviews-base": encoder_results,
    "reviews-stars": star_results,
    **{recipe.NAME: recipe.results for recipe in RECIPES},
}


def as_table(results: dict[str, list[Result]]) -> str:
    """A Markdown table with one column for each checkpoint: {name: its results, the same measures in the same order}."""
    rows = [["", *results], ["---"] * (len(results) + 1)]
    for measures in zip(*results.values(), strict=True):
        rows.append([measures[0][0], *(f"{value:.2f}" for _, value in measures)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MEASURES)}; all by default")
    parser.add_argument("--data", type=Path, help="folder with the benchmarks that are not shipped")
    parser.add_argument("--write", action="store_true", help="write the tables into the model cards")
    options = parser.parse_args()
    if unknown := set(options.names) - set(MEASURES):
        parser.error(f"unknown: {', '.join(unknown)}")
    os.environ["WORKSHOP_SOURCE"] = "embedded"
    seed_everything()
    groups: dict[Callable, dict[str, list[Result]]] = {}
    for name in options.names or MEASURES:
        path = checkpoint("minilm" if name == "summarizer" else name)  # it has no weights of its own
        groups.setdefault(MEASURES[name], {})[name] = MEASURES[name](path, options.data)
    for results in groups.values():
        print("\n" + as_table(results), flush=True)
        for name in results:
            card = DATA / "checkpoints" / name / "README.md"
            if options.write and card.exists():
                text = replace_between(card.read_text(encoding="utf-8"), "measured", as_table(results))
                card.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
