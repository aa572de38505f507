"""The ready-made review classifier `reviews-stars`: 1 to 5 stars in five languages, a LoRA adapter on `reviews-base`.

    python -m utils.recipes.reviews_stars              # about 5 minutes on two CPU cores
    python -m utils.recipes.reviews_stars --compare    # notebook 09's recipe, German only, on reviews-base and on MiniLM

Notebook 09 teaches this with full fine-tuning on one language; notebook 12 deploys what this makes.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig, TaskType, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from utils.catalog import DATA, checkpoint, corpus
from utils.recipes.evaluate import star_errors
from utils.workshop import ROOT, SEED, seed_everything

NAME = "reviews-stars"
LABELS = {0: "1 star", 1: "2 stars", 2: "3 stars", 3: "4 stars", 4: "5 stars"}
MAX_LENGTH = 96
REVIEWS, RATE = 9_000, 5e-4
NOTEBOOK_REVIEWS, NOTEBOOK_RATE = 2_000, 3e-4  # notebook 09: as many reviews, this learning rate
LORA = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type=TaskType.SEQ_CLS)


def training_reviews(languages: list[str], count: int | None = None) -> Dataset:
    """Shuffled training reviews of some languages, the first `count` of them."""
    parts = [corpus("reviews", language)["train"] for language in languages]
    return concatenate_datasets(parts).shuffle(seed=SEED).select(range(count or sum(map(len, parts))))


def fine_tune(base: str, reviews: Dataset, learning_rate: float, lora: LoraConfig | None) -> PreTrainedModel:
    """One epoch over `reviews`, the word embeddings frozen; with `lora`, only its matrices and the head are trained."""
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
    model.base_model.embeddings.requires_grad_(False)
    if lora:
        model = get_peft_model(model, lora)

    def encode(batch: dict) -> dict:
        texts = [f"{title}. {body}" for title, body in zip(batch["review_title"], batch["review_body"], strict=True)]
        return tokenizer(texts, truncation=True, max_length=MAX_LENGTH) | {"label": [s - 1 for s in batch["stars"]]}

    arguments = TrainingArguments(
        output_dir=str(ROOT / "build" / "recipes" / NAME),
        num_train_epochs=1,
        per_device_train_batch_size=16,
        learning_rate=learning_rate,
        warmup_steps=0.1,
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        logging_steps=100,
        use_cpu=not torch.cuda.is_available(),  # must be said for bf16
        bf16=lora is not None,  # half the time where the processor has bfloat16; the notebook stays in 32 bits
        seed=SEED,
    )
    Trainer(
        model=model,
        args=arguments,
        train_dataset=reviews.map(encode, batched=True, remove_columns=reviews.column_names),
        data_collator=DataCollatorWithPadding(tokenizer),
    ).train()
    return model


def save_adapter(model: PreTrainedModel, base: str, folder: Path) -> None:
    """Write what differs from the base, in 16-bit floats: the adapter, the classification head and the config."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = get_peft_model_state_dict(model)
    save_file({key: value.half().contiguous() for key, value in tensors.items()}, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": LORA.r, "lora_alpha": LORA.lora_alpha, "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    config = json.loads((Path(base) / "config.json").read_text(encoding="utf-8"))
    config |= {
        "architectures": ["BertForSequenceClassification"],
        "id2label": LABELS,
        "label2id": {label: number for number, label in LABELS.items()},
        "problem_type": "single_label_classification",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--compare", action="store_true", help="measure notebook 09's recipe on two bases, save nothing"
    )
    parser.add_argument("--output", type=Path, default=DATA / "checkpoints" / NAME)
    options = parser.parse_args()
    os.environ["WORKSHOP_SOURCE"] = "embedded"
    if options.compare:
        for name in ("reviews-base", "minilm"):
            base = checkpoint(name)
            model = fine_tune(base, training_reviews(["de"], NOTEBOOK_REVIEWS), NOTEBOOK_RATE, lora=None)
            print(f"\n{name}, fine-tuned on {NOTEBOOK_REVIEWS:,} German reviews")
            for measure, value in star_errors(model, AutoTokenizer.from_pretrained(base)):
                print(f"| {measure} | {value:.2f} |")
        return
    base = checkpoint("reviews-base")
    model = fine_tune(base, training_reviews(["en", "de", "fr", "es", "ja"], REVIEWS), RATE, LORA)
    save_adapter(model, base, options.output)
    for measure, value in star_errors(model, AutoTokenizer.from_pretrained(base)):
        print(f"| {measure} | {value:.2f} |")


if __name__ == "__main__":
    main()
