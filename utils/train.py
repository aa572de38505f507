"""The training loop of notebook 10 as a script, the same for one process and for many: is a review praise or blame?

    python -m utils.train --output build/run
    accelerate launch --config_file configs/two_processes.yaml -m utils.train --cpu --output build/run

Writes `losses.jsonl` (one line for each step), `checkpoints/step_…` (the newest, for --resume), `metrics.json`, `model/`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from utils import WorkshopError, catalog
from utils.workshop import QUIET, SEED

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

MAX_LENGTH, FROZEN_LAYERS = 32, 3
LORA = {"r": 8, "lora_alpha": 32, "target_modules": "all-linear"}
WRITES = ("losses.jsonl", "settings.json", "metrics.json", "checkpoints", "model")
MAY_CHANGE = ("output", "resume", "cpu", "checkpoint_every")  # between a run and its --resume


def fail(message: str) -> NoReturn:
    """Say in one line what is wrong and leave; of several processes, the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(f"\u2717 {message}", file=sys.stderr)
    sys.exit(2)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked as far as that is possible without loading a library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: fail(f"{message}. `python -m utils.train --help` lists the options.")
    parser.add_argument("--language", default="de", help="of the reviews: en, de, fr, es or ja")
    parser.add_argument("--train-size", type=int, default=512, help="how many reviews")
    parser.add_argument("--steps", type=int, default=32, help="of the optimizer; passes over the reviews as needed")
    parser.add_argument("--batch-size", type=int, default=16, help="reviews in each step, over all processes")
    parser.add_argument("--accumulate", type=int, default=1, help="parts in which a step takes its reviews")
    parser.add_argument("--learning-rate", type=float, help="by default 3e-4, with --lora 1e-3")
    parser.add_argument("--lora", action="store_true", help="train a small adapter instead of the layers themselves")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--checkpoint-every", type=int, default=8, help="steps")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --output")
    parser.add_argument("--cpu", action="store_true", help="also where there is a GPU")
    parser.add_argument("--output", type=Path, required=True, help="folder; replaces what an earlier run has written")
    options = parser.parse_args(arguments)
    if options.learning_rate is None:
        options.learning_rate = 1e-3 if options.lora else 3e-4
    for name in ("train_size", "steps", "batch_size", "accumulate", "checkpoint_every", "learning_rate"):
        if getattr(options, name) <= 0:
            fail(f"--{name.replace('_', '-')} is {getattr(options, name)}: it must be more than 0.")
    languages = catalog.entries()["corpus"]["reviews"]["configs"]
    if options.language not in languages:
        fail(f"--language {options.language}: there are reviews in {', '.join(languages)}.")
    parts = int(os.environ.get("WORLD_SIZE", "1")) * options.accumulate
    if options.batch_size % parts:
        fail(f"--batch-size {options.batch_size} cannot be shared in {parts} equal parts: take a multiple of {parts}.")
    if options.train_size % options.batch_size:
        fail(f"--train-size {options.train_size} is no multiple of --batch-size {options.batch_size}.")
    if options.resume and newest_checkpoint(options.output) is None:
        fail(f"--resume: there is no checkpoint in {options.output}. Start the run without it.")
    if options.resume:
        then = json.loads((options.output / "settings.json").read_text(encoding="utf-8"))
        for name, value in _settings(options).items():
            if then.get(name) != value:
                fail(f"--resume: this run began with {name} = {then.get(name)}, not {value}.")
    return options


def _settings(options: argparse.Namespace) -> dict[str, object]:
    return {name: value for name, value in vars(options).items() if name not in MAY_CHANGE}


def newest_checkpoint(output: Path) -> Path | None:
    """The checkpoint of the largest step, if there is any."""
    return max(output.glob("checkpoints/step_*"), key=lambda folder: int(folder.name.split("_")[1]), default=None)


def open_output(options: argparse.Namespace, done: int) -> None:
    """Make the folder ready: empty for a new run, with the losses of the first `done` steps for one that goes on."""
    file, losses = options.output / "losses.jsonl", []
    if options.resume:
        losses = file.read_text(encoding="utf-8").splitlines(keepends=True)[:done]  # the steps after it come again
    else:
        for path in (options.output / name for name in WRITES):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (options.output / "checkpoints").mkdir(parents=True, exist_ok=True)
    (options.output / "settings.json").write_text(json.dumps(_settings(options)), encoding="utf-8")
    file.write_text("".join(losses), encoding="utf-8")


def encode(reviews: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[dict]:
    """Token ids and a label, 1 for praise and 0 for blame, for each review."""
    texts = [f"{title}. {body}" for title, body in zip(reviews["review_title"], reviews["review_body"], strict=True)]
    ids = tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    return [{"input_ids": row, "labels": int(stars == 5)} for row, stars in zip(ids, reviews["stars"], strict=True)]


def save_checkpoint(accelerator: Accelerator, output: Path, step: int) -> None:
    """Save all that a resumed run needs. The folder gets its name last, so a killed run leaves no half checkpoint."""
    draft, older = output / "checkpoints" / "draft", newest_checkpoint(output)
    accelerator.save_state(draft)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        draft.rename(draft.with_name(f"step_{step}"))
        if older:
            shutil.rmtree(older)
    accelerator.wait_for_everyone()


def train(options: argparse.Namespace) -> dict[str, float]:
    """Train, evaluate and save; returns the metrics."""
    import torch
    from accelerate import Accelerator, DataLoaderConfiguration
    from accelerate.utils import set_seed
    from torch.utils.data import DataLoader
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, get_scheduler

    # the same order of reviews in every process; each takes its share of each batch
    order = DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True, data_seed=options.seed)
    cpu = options.cpu or not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, gradient_accumulation_steps=options.accumulate, dataloader_config=order)
    start = newest_checkpoint(options.output) if options.resume else None
    done = int(start.name.split("_")[1]) if start else 0
    with accelerator.main_process_first():  # one process fills the caches, the others find them full
        if accelerator.is_main_process:
            open_output(options, done)
        base = catalog.checkpoint("reviews-base")
        reviews = catalog.corpus("reviews", options.language).filter(lambda review: review["stars"] in (1, 5))
        rows = reviews["train"].shuffle(seed=options.seed)
    if options.train_size > len(rows):
        fail(f"--train-size {options.train_size}: there are only {len(rows)} such reviews.")
    tokenizer = AutoTokenizer.from_pretrained(base)
    pad = DataCollatorWithPadding(tokenizer)
    rows = encode(rows.select(range(options.train_size)), tokenizer)
    loader = DataLoader(rows, batch_size=options.batch_size // options.accumulate, shuffle=True, collate_fn=pad)
    gold = DataLoader(encode(reviews["gold"], tokenizer), batch_size=64, collate_fn=pad)

    set_seed(options.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    if options.lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", **LORA))
    else:
        model.base_model.embeddings.requires_grad_(False)
        model.base_model.encoder.layer[:FROZEN_LAYERS].requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=0.0, fused=True)
    scheduler = get_scheduler("linear", optimizer, options.steps // 8, options.steps)
    model, optimizer, loader, gold, scheduler = accelerator.prepare(model, optimizer, loader, gold, scheduler)
    if start:
        accelerator.load_state(start)  # pickles among it: our own, from our own folder

    model.train()
    losses, a_pass = [], options.train_size // options.batch_size
    while done < options.steps:
        epoch, skipped = divmod(done, a_pass)
        loader.set_epoch(epoch)  # another order in each pass
        for batch in accelerator.skip_first_batches(loader, skipped * options.accumulate):
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            losses.append(loss.detach())
            if not accelerator.sync_gradients:
                continue
            done += 1
            mean = accelerator.reduce(torch.stack(losses).mean(), reduction="mean").item()
            losses = []
            if accelerator.is_main_process:
                with (options.output / "losses.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": done, "loss": mean}) + "\n")
            if done % options.checkpoint_every == 0:
                save_checkpoint(accelerator, options.output, done)
            if done == options.steps:
                break

    model.eval()
    right = []
    for batch in gold:
        with torch.inference_mode():
            guesses = model(**batch).logits.argmax(dim=-1)  # (batch,)
        right.append(accelerator.gather_for_metrics((guesses == batch["labels"]).float()))
    metrics = {"accuracy": torch.cat(right).mean().item(), "processes": accelerator.num_processes}
    weights = accelerator.get_state_dict(model)  # of all processes, where each holds a part
    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(options.output / "model", state_dict=weights)
        tokenizer.save_pretrained(options.output / "model")
        (options.output / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
        print(f"{done} steps, processes: {metrics['processes']}, accuracy on gold: {metrics['accuracy']:.2f}")
    accelerator.end_training()
    return metrics


def main() -> None:
    """The script: whatever goes wrong is one line and exit status 2."""
    bars = ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
    for name, value in (QUIET | dict.fromkeys(bars, "1") | {"TRANSFORMERS_VERBOSITY": "error"}).items():
        os.environ.setdefault(name, value)
    try:
        if catalog.source() == "embedded":
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        options = parse()
    except WorkshopError as error:
        fail(str(error))
    try:
        train(options)
    except WorkshopError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or options.output}: {error.strerror or error}.")
    except Exception as error:  # safetensors and torch report a full disk with errors of their own
        if "os error" not in str(error) and shutil.disk_usage(options.output).free > 1_000_000:
            raise
        fail(f"{options.output} cannot be written: is the disk full? With some space free, --resume goes on.")
    except KeyboardInterrupt:
        fail("interrupted. The same command with --resume goes on from the newest checkpoint.")


if __name__ == "__main__":
    main()
