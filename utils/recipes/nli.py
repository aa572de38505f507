"""The checkpoint `nli`: does one English sentence follow from another, contradict it, or neither? A LoRA adapter on MiniLM.

    python -m utils.recipes.nli --data FOLDER        # about 15 minutes on two CPU cores, one on a GPU

Trained on SNLI's dev part (Bowman et al. 2015, CC BY-SA 4.0: https://nlp.stanford.edu/projects/snli), in the folder `snli` of
FOLDER, and on pairs written for this workshop. SNLI's test part measures.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from utils.catalog import checkpoint
from utils.recipes.files import read_lines, texts
from utils.recipes.training import Result, embed, fit, logits, options, save_adapter, with_lora

NAME = "nli"
LABELS = ["entailment", "neutral", "contradiction"]
OWN_HELD_OUT = 6  # every sixth premise of our own measures
TEMPLATE = "This text is about {}."


def snli(data: Path, part: str) -> list[tuple[str, str, int]]:
    """(premise, hypothesis, label) of SNLI's "dev" or "test"."""
    columns = [read_lines(data / "snli" / f"{column}.{part}.gz") for column in ("s1", "s2", "labels")]
    return [(a, b, LABELS.index(label)) for a, b, label in zip(*columns, strict=True) if label in LABELS]


def own(held_out: bool) -> list[tuple[str, str, int]]:
    """Our own pairs, split by premise."""
    rows = texts("nli")
    premises = sorted({row["premise"] for row in rows})
    kept = {premise for number, premise in enumerate(premises) if (number % OWN_HELD_OUT == 0) == held_out}
    return [(r["premise"], r["hypothesis"], LABELS.index(r["label"])) for r in rows if r["premise"] in kept]


def main() -> None:
    arguments = options(__doc__, NAME)
    base = checkpoint("minilm")
    tokenizer = AutoTokenizer.from_pretrained(base)
    names = dict(enumerate(LABELS))
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=3, id2label=names, label2id={label: i for i, label in names.items()}
    )
    model = with_lora(model, ("classifier.",))
    pairs = snli(arguments.data, "dev") + own(held_out=False)
    rows = [tokenizer(a, b, truncation=True, max_length=128) | {"labels": label} for a, b, label in pairs]
    print(f"{len(rows):,} pairs")
    fit(model, rows, DataCollatorWithPadding(tokenizer), NAME, epochs=4, learning_rate=6e-4, batch_size=32)
    save_adapter(model, arguments.output)


def results(path: str, data: Path | None) -> list[Result]:
    """Accuracy on pairs, and as a zero-shot classifier of topics beside MiniLM's embeddings."""
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForSequenceClassification.from_pretrained(path)

    def accuracy(rows: list[tuple[str, str, int]]) -> float:
        predicted = logits(model, tokenizer, [a for a, _, _ in rows], [b for _, b, _ in rows]).argmax(-1)
        return 100 * (predicted == torch.tensor([label for _, _, label in rows])).float().mean().item()

    held_out = own(held_out=True)
    measured = [(f"own held-out pairs, {len(held_out)}, accuracy, %", accuracy(held_out))]
    if not data:
        return measured
    test = snli(data, "test")
    measured.append((f"SNLI test, {len(test):,} pairs, accuracy, %", accuracy(test)))
    items = texts("topics")
    topics = sorted({row["topic"] for row in items})
    gold = torch.tensor([topics.index(row["topic"]) for row in items])
    hypotheses = [TEMPLATE.format(topic) for topic in topics]
    pairs = [(row["text"], hypothesis) for row in items for hypothesis in hypotheses]
    entailed = logits(model, tokenizer, [a for a, _ in pairs], [b for _, b in pairs])[:, 0].view(len(items), -1)
    minilm = checkpoint("minilm")
    near = embed(minilm, [row["text"] for row in items]) @ embed(minilm, hypotheses).T
    for what, scores in (("by entailment", entailed), ("by MiniLM's embeddings", near)):
        share = 100 * (scores.argmax(-1) == gold).float().mean().item()
        measured.append((f"zero-shot, {len(items)} texts, {len(topics)} topics, {what}, %", share))
    return measured


if __name__ == "__main__":
    main()
