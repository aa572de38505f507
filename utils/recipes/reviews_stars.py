"""The ready-made review classifier `reviews-stars`: 1 to 5 stars in five languages, a LoRA adapter on `reviews-base`.

    python -m utils.recipes.reviews_stars              # about 5 minutes on two CPU cores
    python -m utils.recipes.reviews_stars --compare    # notebook 09's recipe, German only, on reviews-base and on MiniLM

Notebook 09 teaches this with full fine-tuning on one language; notebook 12 deploys what this makes.
"""

from __future__ import annotations

import random

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, PreTrainedModel

from utils.catalog import checkpoint
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


def training_reviews() -> list[dict]:
    """Training reviews of all languages: every written one, some composed."""
    chosen = []
    for language in reviews.LANGUAGES:
        composed = [row for row in reviews.compose(language, "train") if row["origin"] == "composed"]
        chosen += reviews.written("train", language) + composed[: COMPOSED[language]]
    return chosen


def fine_tune(base: str, rows: list[dict], lora: bool) -> PreTrainedModel:
    """Fine-tune on reviews: an adapter and the head, one epoch; or without `lora`, as notebook 09 does."""
    seed_everything()
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(
        base,
        num_labels=5,
        id2label=LABELS,
        label2id={label: number for number, label in LABELS.items()},
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    if lora:
        model, optimizer = with_lora(model, ("classifier.",)), None
    else:
        model.bert.embeddings.requires_grad_(False)
        model.bert.encoder.layer[:NOTEBOOK_FROZEN].requires_grad_(False)
        layers = [parameter for parameter in model.bert.encoder.parameters() if parameter.requires_grad]
        head = [*model.bert.pooler.parameters(), *model.classifier.parameters()]
        groups = zip((layers, head), NOTEBOOK_RATES, strict=True)
        optimizer = torch.optim.AdamW([{"params": group, "lr": rate} for group, rate in groups], weight_decay=0.01)
    texts = [reviews.text(row) for row in rows]
    encoded = [
        {"input_ids": ids, "labels": row["stars"] - 1}
        for ids, row in zip(tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"], rows, strict=True)
    ]
    fit(
        model,
        encoded,
        DataCollatorWithPadding(tokenizer),
        NAME,
        epochs=1 if lora else NOTEBOOK_EPOCHS,
        learning_rate=RATE,
        batch_size=16,
        optimizer=optimizer,
    )
    return model


def main() -> None:
    compare = {"action": "store_true", "help": "measure notebook 09's recipe on two bases, save nothing"}
    arguments = options(__doc__, NAME, needs_data=False, compare=compare)
    if arguments.compare:
        german = [row for row in reviews.compose("de", "train") if len(row["review_body"].split()) >= 10]
        random.Random(SEED).shuffle(german)
        german.sort(key=lambda row: row["origin"], reverse=True)  # the written ones first
        for name in ("reviews-base", "minilm"):
            base = checkpoint(name)
            model = fine_tune(base, german[:NOTEBOOK_REVIEWS], lora=False)
            print(f"\n{name}, fine-tuned on {NOTEBOOK_REVIEWS:,} German reviews")
            for measure, value in star_errors(model, AutoTokenizer.from_pretrained(base)):
                print(f"| {measure} | {value:.2f} |")
        return
    base = checkpoint("reviews-base")
    model = fine_tune(base, training_reviews(), lora=True)
    save_adapter(model, arguments.output)
    for measure, value in star_errors(model, AutoTokenizer.from_pretrained(base)):
        print(f"| {measure} | {value:.2f} |")


if __name__ == "__main__":
    main()
