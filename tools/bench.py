"""How fast, and against what: ratios measured in one run, for the table in README.md. `make bench` calls it.

    python -m tools.bench                 all rows, and the table is written; under 12 minutes on two idle cores
    python -m tools.bench peak bytes      these rows only
    python -m tools.bench --quick peak    a trial with small numbers: prints them, writes nothing

Both sides of a row take turns, under `torch.utils.benchmark`; the row has the median of the rounds and their range.
The load on the server comes from httpx, as in notebook 12: 32 clients that wait for their answers are all that is needed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from utils.catalog import checkpoint, corpus, entries
from utils.recipes import reviews
from utils.recipes.files import replace_between
from utils.workshop import OFFLINE, QUIET, ROOT, SEED, seed_everything

HEAD = ["what", "against", "target", "reached", "how it was measured"]
THREADS = 2
OLD_MODELS = 6_000_000_000  # bytes that the notebooks of 2021 fetched from the Hub: "over 6 GB" in the notes on them
Row = list[str]  # against what, the target, what was reached, how it was measured


def rounds(sides: dict[str, Callable[[], Any]], number: int, name: str) -> dict[str, list[float]]:
    """Seconds of each side in each round; the sides take turns."""
    from torch.utils.benchmark import Timer

    timers = {side: Timer("run()", globals={"run": run}, num_threads=THREADS) for side, run in sides.items()}
    seconds = {side: [] for side in sides}
    for _ in tqdm(range(number), desc=name, leave=False):
        for side, timer in timers.items():
            seconds[side].append(timer.timeit(1).median)
    return seconds


def times(ratios: list[float]) -> str:
    """The median, and the range where there is one."""
    text = f"{statistics.median(ratios):.1f}×"
    return text if len(ratios) == 1 else f"{text} ({min(ratios):.1f} to {max(ratios):.1f})"


def german(length: int, padding: str | bool) -> tuple[Any, Any]:
    """Tokenized German reviews: to train on, those of notebook 09; and 200 of validation."""
    from transformers import AutoTokenizer

    from utils.recipes.reviews_stars import notebook_reviews

    tokenizer = AutoTokenizer.from_pretrained(checkpoint("reviews-base"))

    def encode(row: dict) -> dict:
        encoded = tokenizer(reviews.text(row), truncation=True, max_length=length, padding=padding)
        return {**encoded, "label": row["stars"] - 1}

    return notebook_reviews().map(encode), corpus("reviews", "de")["validation"].select(range(200)).map(encode)


def bf16_pays() -> bool:
    """Is a product in bf16 much faster here than one in fp32? Notebook 09 asks in the same way."""
    import torch
    from torch.utils.benchmark import Timer

    times = []
    for dtype in (torch.bfloat16, torch.float32):
        a, b = torch.randn(768, 384, dtype=dtype), torch.randn(384, 1536, dtype=dtype)
        timer = Timer("a @ b", globals={"a": a, "b": b}, num_threads=THREADS)
        times.append(timer.blocked_autorange(min_run_time=0.2).median)
    return times[0] < 0.7 * times[1]


def train(ours: bool, target: float, steps: int = -1, bf16: bool = False) -> list[tuple[float, int, float]]:
    """Train until an evaluation on 200 validation reviews reaches the target.

    Returns:
        for each evaluation, one every 25 steps: seconds in training steps so far, steps, and the error in stars.
    """
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from utils.recipes.reviews_stars import MAX_LENGTH, NOTEBOOK_EPOCHS, notebook_model

    base = checkpoint("reviews-base")
    rows, validation = german(MAX_LENGTH, False) if ours else german(180, "max_length")
    if ours:
        model, optimizer = notebook_model(base)
    else:
        seed_everything()
        model, optimizer = AutoModelForSequenceClassification.from_pretrained(base, num_labels=5), None
    if steps > 0:
        validation = validation.select(range(20))  # a trial
    bar = tqdm(desc=f"fine-tuning, {'ours' if ours else '2021'}", unit=" steps", leave=False)
    seconds, found = [], []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.begun)
            bar.update()

        def on_evaluate(self, arguments: Any, state: Any, control: Any, metrics: dict, **_: Any) -> None:
            found.append((sum(seconds), len(seconds), metrics["eval_mae"]))
            bar.set_postfix(mae=metrics["eval_mae"])
            control.should_training_stop |= metrics["eval_mae"] <= target  # or Trainer has counted enough steps

    settings = {"warmup_steps": 0.1, "train_sampling_strategy": "group_by_length"} if ours else {}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, num_train_epochs=NOTEBOOK_EPOCHS if ours else 1, max_steps=steps, per_device_train_batch_size=16,
            per_device_eval_batch_size=40, eval_strategy="steps", eval_steps=steps if steps > 0 else 25,
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, seed=SEED,
            bf16=bf16, **settings,
        )  # fmt: skip
        trainer = Trainer(
            model=model, args=arguments, train_dataset=rows, eval_dataset=validation, callbacks=[Clock()],
            processing_class=AutoTokenizer.from_pretrained(base), optimizers=(optimizer, None),
            compute_metrics=lambda e: {"mae": float(abs(e.predictions.argmax(axis=-1) - e.label_ids).mean())},
        )  # fmt: skip
        trainer.train()
    bar.close()
    return found


def fine_tuning(quick: bool) -> Row:
    import torch

    torch.set_num_threads(THREADS)
    steps = 2 if quick else -1
    # the target, stated before the run: the best error that one pass of the old recipe over 2,000 reviews reaches
    old, old_steps, target = min(train(False, 0, steps), key=lambda evaluation: evaluation[2])
    bf16 = bf16_pays()
    new, new_steps, error = train(True, target, steps, bf16)[-1]
    reached = times([old / new]) if error <= target else f"0× (the error stays at {error:.2f})"
    how = (
        f"2,000 German reviews, 16 in a step, one run each, ours in {'bf16' if bf16 else 'fp32'}; "
        "until the error of 200 validation reviews, seen every 25 steps, "
        f"is at most {target:.2f} stars, the best of one old pass: {old:.0f} s in {old_steps} steps against {new:.0f} s "
        f"in {new_steps}; time in training steps"
    )
    what = "the recipe of 2021: all weights, fp32, padded to 180 tokens"
    return [what, "≥ 3×", reached, how]


def quantized(folder: Path) -> Callable[[list[str]], list[int]]:
    """Stars by the classifier in 8 bits, in sorted batches, on as many cores as there are threads (notebook 11)."""
    import onnxruntime
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    name = checkpoint("reviews-stars")
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32).eval()
    example = dict(tokenizer(["two", "of different length"], padding=True, return_tensors="pt"))
    shapes = {key: {0: "batch", 1: "length"} for key in example}
    torch.onnx.export(
        model, kwargs=example, dynamo=True, dynamic_shapes=shapes, output_names=["logits"], verbose=False
    ).save(folder / "fp32.onnx")
    overflows = not any(torch.cpu.get_capabilities().get(unit, False) for unit in ("avx512_vnni", "avx_vnni"))
    quantize_dynamic(
        folder / "fp32.onnx", folder / "int8.onnx", per_channel=True, weight_type=QuantType.QInt8,
        reduce_range=overflows,
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a batch to each core: no core waits for another one within a batch
    session = onnxruntime.InferenceSession(folder / "int8.onnx", options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def rate(texts: list[str]) -> list[int]:
        encoded = tokenizer(texts, truncation=True)  # all at once
        order = sorted(range(len(texts)), key=lambda i: -len(encoded["input_ids"][i]))  # long ones first

        def answer(numbers: list[int]) -> Any:
            batch = tokenizer.pad({key: [encoded[key][i] for i in numbers] for key in names}, return_tensors="np")
            return session.run(["logits"], dict(batch))[0].argmax(axis=1) + 1

        batches = [order[begin : begin + 8] for begin in range(0, len(order), 8)]
        with ThreadPoolExecutor(THREADS) as pool:
            found = [stars for answered in pool.map(answer, batches) for stars in answered.tolist()]
        return [stars for _, stars in sorted(zip(order, found, strict=True))]

    return rate


def serving(quick: bool) -> Row:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import pipeline

    torch.set_num_threads(THREADS)
    plain = pipeline("text-classification", model=checkpoint("reviews-stars"), device="cpu", truncation=True)

    def one_at_a_time(texts: list[str]) -> list[int]:
        return [int(plain(text)[0]["label"][0]) for text in texts]

    with tempfile.TemporaryDirectory() as folder:
        sides = {"plain": one_at_a_time, "ours": quantized(Path(folder))}
        texts, stars = [], []
        for language in entries()["corpus"]["reviews"]["configs"]:
            gold = corpus("reviews", language)["gold"]
            texts, stars = texts + [reviews.text(row) for row in gold], stars + gold["stars"][:]
        step = 50 if quick else 1
        texts, stars = texts[::step], stars[::step]
        errors = {}
        for side, rate in sides.items():  # warms up as well
            answers = rate(texts)
            errors[side] = statistics.mean(abs(a - b) for a, b in zip(answers, stars, strict=True))
        part = texts if quick else texts[::4]
        encoded = plain.tokenizer(sorted(part, key=len), truncation=True)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            for begin in range(0, len(part), 8):
                rows = {key: values[begin : begin + 8] for key, values in encoded.items()}
                plain.model(**plain.tokenizer.pad(rows, return_tensors="pt"))
        seconds = rounds(
            {side: lambda rate=rate: rate(part) for side, rate in sides.items()}, 2 if quick else 7, "serving"
        )
    ratios = [old / new for old, new in zip(seconds["plain"], seconds["ours"], strict=True)]
    bound = statistics.median(seconds["plain"]) * 4 * matrix_peak(quick) / counter.get_total_flops()
    how = (
        f"{len(part)} gold reviews, {len(ratios)} rounds; error on {len(texts)} of them {errors['plain']:.3f} against "
        f"{errors['ours']:.3f} stars; int8 in ONNX Runtime, sorted batches of 8, one for each of {THREADS} threads; if nothing "
        f"but its matrix products took time, and these ran at four times the peak of fp32, it would be {bound:.1f}×"
    )
    return ["`pipeline`, one text at a time", "≥ 8× at ± 0.01 MAE", times(ratios), how]


def load(url: str, texts: list[str], clients: int = 32) -> None:
    """Send all texts; each client sends its next one when it has its answer."""
    import httpx

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    with (
        httpx.Client(base_url=url, timeout=60, limits=limits, trust_env=False) as connection,
        ThreadPoolExecutor(clients) as pool,
    ):
        for reply in pool.map(lambda text: connection.post("/predict", json={"inputs": text}), texts):
            reply.raise_for_status()


def batching(quick: bool) -> Row:
    from utils import serve

    titles = corpus("reviews", "en")["gold"]["review_title"][: 32 if quick else 200]
    servers = {batch: serve.start(checkpoint("reviews-stars"), batch=batch) for batch in (1, 16)}
    sides = {str(batch): lambda server=server: load(server.url, titles) for batch, server in servers.items()}
    for warm_up in sides.values():
        warm_up()
    seconds = rounds(sides, 2 if quick else 7, "batching")
    serve.stop()
    ratios = [single / batched for single, batched in zip(seconds["1"], seconds["16"], strict=True)]
    rates = " against ".join(f"{len(titles) / statistics.median(s):.0f}" for s in seconds.values())
    how = f"{len(titles)} titles from 32 clients, {len(ratios)} rounds; {rates} requests per second"
    return ["the same server, one at a time", "≥ 2×", times(ratios), how]


def matrix_peak(quick: bool) -> float:
    """The rate of the fastest fp32 matrix product here, in FLOP/s."""
    import torch
    from torch.utils.benchmark import Timer

    rates = []
    for size in (512,) if quick else (512, 1024, 2048, 4096):
        a, b = torch.randn(2, size, size)
        timer = Timer("a @ b", globals={"a": a, "b": b}, num_threads=THREADS)
        rates.append(2 * size**3 / timer.blocked_autorange(min_run_time=0.1 if quick else 2).median)
    return max(rates)


def peak(quick: bool) -> Row:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoTokenizer, DataCollatorWithPadding

    from utils.recipes.reviews_stars import MAX_LENGTH, notebook_model

    torch.set_num_threads(THREADS)
    best = matrix_peak(quick)
    base = checkpoint("reviews-base")
    train, _ = german(MAX_LENGTH, False)
    model, optimizer = notebook_model(base)
    pad = DataCollatorWithPadding(AutoTokenizer.from_pretrained(base))
    rows = sorted(train.select_columns(["input_ids", "attention_mask", "label"]), key=lambda r: len(r["input_ids"]))
    number = 1 if quick else 8  # batches, from the shortest reviews to the longest
    batches = [pad(rows[begin : begin + 16]) for begin in range(0, len(rows) - 16, len(rows) // number)]

    def steps() -> None:
        for batch in batches:
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    model.train()
    with FlopCounterMode(display=False) as counter:
        steps()
    seconds = rounds({"steps": steps}, 2 if quick else 7, "peak")["steps"]
    shares = [100 * counter.get_total_flops() / each / best for each in seconds]
    how = (
        f"fp32, {len(batches)} training steps of notebook 09, {len(shares)} rounds; the fastest product reaches "
        f"{best / 1e9:.0f} GFLOP/s; the rest is optimizer, norms, GELU and small products"
    )
    reached = f"{statistics.median(shares):.0f} % ({min(shares):.0f} to {max(shares):.0f})"
    return ["the fastest matrix product here", "≥ 50 %", reached, how]


def size(quick: bool) -> Row:
    package = entries()["checkpoint"]["minilm"]["package"]
    base = sum(Path(str(file.locate())).stat().st_size for file in importlib.metadata.files(package) if file.size)
    data = sum(file.stat().st_size for file in (ROOT / "data").rglob("*") if file.is_file())
    how = (
        f"computed: {data / 1e6:.0f} MB in data/ and {base / 1e6:.0f} MB in the package of the base model; "
        "6 GB is what was noted of the models in 2021, not measured"
    )
    reached = f"1/{OLD_MODELS / (data + base):.0f}"
    return ["the workshop of 2021, over 6 GB", "≤ 1/30", reached, how]


ROWS: dict[str, tuple[str, Callable[[bool], Row]]] = {
    "finetuning": ("fine-tuning to the same error (notebook 09)", fine_tuning),
    "serving": ("serving (notebook 11)", serving),
    "batching": ("server with batching (notebook 12)", batching),
    "peak": ("arithmetic in training (notebook 09)", peak),
    "bytes": ("models and data to download", size),
}


def line(cells: Row) -> str:
    return "| " + " | ".join(cells) + " |"


def table(readme: str, rows: dict[str, Row]) -> str:
    """The table of the README, where rows that were not measured now stay as they are."""
    old = readme.split("<!-- bench -->")[1].split("<!-- /bench -->")[0].splitlines()
    lines = [line(HEAD), line(["---"] * len(HEAD))]
    for name, (title, _) in ROWS.items():
        kept = next((row for row in old if row.startswith(f"| {title} |")), line([title, "", "", "not measured", ""]))
        lines.append(line([title, *rows[name]]) if name in rows else kept)
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="by default all")
    parser.add_argument(
        "--quick", action="store_true", help="small numbers, to see whether it runs; nothing is written"
    )
    options = parser.parse_args(arguments)
    os.environ.update(QUIET | OFFLINE | {"TRANSFORMERS_VERBOSITY": "error", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"})
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows = {}
    for name in options.rows or ROWS:
        title, measure = ROWS[name]
        rows[name] = measure(options.quick)
        print(line([title, *rows[name]]))
    if not options.quick:
        readme = ROOT / "README.md"
        text = readme.read_text(encoding="utf-8")
        readme.write_text(replace_between(text, "bench", table(text, rows)), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
