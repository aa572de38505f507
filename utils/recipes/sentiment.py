"""The checkpoint `sentiment`: is an English text for or against what it talks about? A LoRA adapter on MiniLM.

    python -m utils.recipes.sentiment        # about 5 minutes on two CPU cores

Trained on text written for this workshop only: single sentences of invented critics, reviews, letters. SST-2, on which it is
measured, was not used to choose anything.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from utils.catalog import checkpoint
from utils.recipes import parallel, reviews
from utils.recipes.files import read_lines, texts
from utils.recipes.training import Result, fit, logits, options, save_adapter, with_lora

NAME = "sentiment"
LABELS = {0: "negative", 1: "positive"}


def training_rows() -> list[tuple[str, int]]:
    """(text, label) of all that has a clear polarity: opinions, reviews without three stars, letters with a mood."""
    rows = [(row["text"], int(row["label"] == "positive")) for row in texts("opinions")]
    for review in reviews.written("train", "en"):
        if review["stars"] != 3:
            label = int(review["stars"] > 3)
            rows += [(reviews.text(review), label), (review["review_body"], label)]
    for row in parallel.fragments():
        if row["level"] in ("1", "2", "4", "5") and row["role"] not in ("story", "closing"):
            rows.append((row["en"], int(row["level"] > "3")))
    for letter in parallel.letters():
        if letter[0]["topic"] == "praise":
            rows.append((" ".join(row["en"] for row in letter), 1))
        elif letter[0]["mood"] in ("angry", "disappointed"):
            rows.append((" ".join(row["en"] for row in letter), 0))
    return rows


def main() -> None:
    arguments = options(__doc__, NAME, needs_data=False)
    base = checkpoint("minilm")
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=2, id2label=LABELS, label2id={label: i for i, label in LABELS.items()}
    )
    model = with_lora(model, ("classifier.",))
    rows = [tokenizer(text, truncation=True, max_length=160) | {"labels": label} for text, label in training_rows()]
    print(f"{len(rows):,} texts")
    fit(model, rows, DataCollatorWithPadding(tokenizer), NAME, epochs=4, learning_rate=4e-4, batch_size=32)
    save_adapter(model, arguments.output)


def results(path: str, data: Path | None) -> list[Result]:
    """Accuracy on English gold reviews that are not lukewarm and, with `data`, on SST-2's test sentences."""
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForSequenceClassification.from_pretrained(path)

    def accuracy(rows: list[tuple[str, int]]) -> float:
        predicted = logits(model, tokenizer, [text for text, _ in rows]).argmax(-1).tolist()
        return 100 * sum(p == label for p, (_, label) in zip(predicted, rows, strict=True)) / len(rows)

    gold = [(reviews.text(row), int(row["stars"] > 3)) for row in reviews.gold("en") if row["stars"] != 3]
    measured = [(f"English gold reviews, {len(gold)}, accuracy, %", accuracy(gold))]
    if data:
        sst = [line.rsplit("\t", 1) for line in read_lines(data / "sst2" / "test.tsv.gz")]
        rows = [(text, int(label)) for text, label in sst]
        measured.append((f"SST-2 test, {len(rows):,} sentences, accuracy, %", accuracy(rows)))
    return measured


if __name__ == "__main__":
    main()
