"""The ready-made review classifier `reviews-stars`: 1 to 5 stars in five languages, a LoRA adapter on `reviews-base`.

    python -m utils.recipes.reviews_stars              # about 5 minutes on two CPU cores
    python -m utils.recipes.reviews_stars --compare    # notebook 09's recipe, German only, on reviews-base and on MiniLM

Notebook 09 teaches this with full fine-tuning on one language; notebook 12 deploys what this makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, PreTrainedModel

from utils.catalog import checkpoint, corpus
from utils.recipes import reviews
from utils.recipes.evaluate import star_errors
from utils.recipes.training import fit, options, save_adapter, with_lora
from utils.workshop import SEED, seed_everything

NAME = "reviews-stars"
LABELS = {0: "1 star", 1: "2 stars", 2: "3 stars", 3: "4 stars", 4: "5 stars"}
MAX_LENGTH = 96
COMPOSED = {"en": 300, "de": 300, "fr": 300, "es": 300, "ja": 2_000}  # beside all written reviews; Japanese has none
RATE = 5e-4
# notebook 09: so many reviews, passes, layers left as they are, and the learning rates of the encoder and of the head
NOTEBOOK_REVIEWS, NOTEBOOK_EPOCHS, NOTEBOOK_FROZEN, NOTEBOOK_RATES = 2_000, 2, 2, (1.5e-4, 1e-3)
FAST = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # short runs do well without dropout


def training_reviews() -> list[dict]:
    """Training reviews of all languages: every written one, some composed."""
    chosen = []
    for language in reviews.LANGUAGES:
        composed = [row for row in reviews.compose(language, "train") if row["origin"] == "composed"]
        chosen += reviews.written("train", language) + composed[: COMPOSED[language]]
    return chosen


def notebook_reviews() -> Dataset:
    """The German reviews that notebook 09 trains on."""
    reviews_of_training = corpus("reviews", "de")["train"].filter(lambda row: len(row["review_body"].split()) >= 10)
    written_first = reviews_of_training.shuffle(seed=SEED).sort("origin", reverse=True)
    return written_first.select(range(NOTEBOOK_REVIEWS))


def notebook_model(base: str) -> tuple[PreTrainedModel, torch.optim.Optimizer]:
    """The model that notebook 09 trains, its lower part frozen, and the optimizer."""
    seed_everything()
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=5, **FAST)
    model.bert.embeddings.requires_grad_(False)
    model.bert.encoder.layer[:NOTEBOOK_FROZEN].requires_grad_(False)
    layers = [parameter for parameter in model.bert.encoder.parameters() if parameter.requires_grad]
    head = [*model.bert.pooler.parameters(), *model.classifier.parameters()]
    groups = [{"params": group, "lr": rate} for group, rate in zip((layers, head), NOTEBOOK_RATES, strict=True)]
    return model, torch.optim.AdamW(groups, weight_decay=0.01)


def train(model: PreTrainedModel, base: str, rows: Iterable[dict], **settings: Any) -> None:
    """Train on reviews; `settings` go to `fit`."""
    tokenizer, rows = AutoTokenizer.from_pretrained(base), list(rows)
    ids = tokenizer([reviews.text(row) for row in rows], truncation=True, max_length=MAX_LENGTH)["input_ids"]
    encoded = [{"input_ids": one, "labels": row["stars"] - 1} for one, row in zip(ids, rows, strict=True)]
    fit(model, encoded, DataCollatorWithPadding(tokenizer), NAME, learning_rate=RATE, batch_size=16, **settings)
    for measure, value in star_errors(model, tokenizer):
        print(f"| {measure} | {value:.2f} |")


def main() -> None:
    compare = {"action": "store_true", "help": "measure notebook 09's recipe on two bases, save nothing"}
    arguments = options(__doc__, NAME, needs_data=False, compare=compare)
    if arguments.compare:
        for base in map(checkpoint, ("reviews-base", "minilm")):
            model, optimizer = notebook_model(base)
            print(f"\n{base}, fine-tuned on {NOTEBOOK_REVIEWS:,} German reviews")
            train(model, base, notebook_reviews(), epochs=NOTEBOOK_EPOCHS, optimizer=optimizer)
        return
    base = checkpoint("reviews-base")
    names = {"id2label": LABELS, "label2id": {label: number for number, label in LABELS.items()}}
    seed_everything()
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=5, **names, **FAST)
    model = with_lora(plain, ("classifier.",))
    train(model, base, training_reviews(), epochs=1)
    save_adapter(model, arguments.output)


if __name__ == "__main__":
    main()
