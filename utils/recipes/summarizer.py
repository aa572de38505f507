"""The task `summarizer`, embedded: the sentences of a text that say most of it, chosen by MiniLM's embeddings.

    python -m utils.recipes.evaluate summarizer

No weights of our own: a model that writes summaries needs more parameters than fit here, so the embedded one selects (this is
called extractive) and the Hub's writes. A sentence is worth its similarity to the whole text, less its similarity to what was
already chosen (maximal marginal relevance, Carbonell and Goldstein 1998, https://doi.org/10.1145/290941.291025).
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F

from utils.recipes.files import texts
from utils.recipes.training import Result, embed

NAME = "summarizer"
SENTENCES = 3
REDUNDANCY = 0.3
LEAD = 0.1  # a little trust in beginnings: they often say what follows


def split_sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])\s+(?=[A-Z\"“])", text.strip()) if s]


def summarize(path: str, text: str, count: int = SENTENCES) -> str:
    """The `count` sentences that together say most of `text`, in their order."""
    sentences = split_sentences(text)
    vectors = embed(path, sentences)  # (sentences, dim)
    centre = F.normalize(vectors.mean(0), dim=0)
    worth = vectors @ centre + LEAD / (1 + torch.arange(len(sentences)))
    chosen: list[int] = []
    while len(chosen) < min(count, len(sentences)):
        repeated = (vectors @ vectors[chosen].T).amax(1) if chosen else torch.zeros(len(sentences))
        scores = worth - REDUNDANCY * repeated
        scores[chosen] = -torch.inf
        chosen.append(scores.argmax().item())
    return " ".join(sentences[i] for i in sorted(chosen))


def rouge(summary: str, reference: str, n: int = 1) -> float:
    """ROUGE-N F1 (Lin 2004, https://aclanthology.org/W04-1013): shared runs of `n` words."""

    def grams(text: str) -> Counter:
        words = re.findall(r"\w+", text.lower())
        return Counter(zip(*(words[i:] for i in range(n)), strict=False))

    ours, theirs = grams(summary), grams(reference)
    return 2 * sum((ours & theirs).values()) / max(sum(ours.values()) + sum(theirs.values()), 1)


def results(path: str, data: Path | None) -> list[Result]:
    """ROUGE of our selection beside the first three sentences, on texts of ours with a summary written for each."""
    rows = texts("summaries")
    measured = []
    chosen = {
        "selected sentences": [summarize(path, row["text"]) for row in rows],
        "first three sentences": [" ".join(split_sentences(row["text"])[:SENTENCES]) for row in rows],
    }
    for what, summaries in chosen.items():
        for n in (1, 2):
            scores = [rouge(summary, row["summary"], n) for summary, row in zip(summaries, rows, strict=True)]
            measured.append((f"own texts, {len(rows)}: {what}, ROUGE-{n} F1 × 100", 100 * sum(scores) / len(scores)))
    return measured
