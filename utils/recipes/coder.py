"""The checkpoint `coder`: completes Python, a small Llama trained from scratch on Python's own standard library.

    python -m utils.recipes.coder        # a day on two CPU cores, five minutes on a GPU

The standard library is under the PSF licence. Every thirtieth file was kept apart to measure.
"""

from __future__ import annotations

import ast
import hashlib
import math
import random
import sys
import sysconfig
import tomllib
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    default_data_collator,
)

from utils.catalog import DATA
from utils.recipes.training import Result, batches, fit, options, save_model
from utils.workshop import device

NAME = "coder"
PIECES = 4_096
WINDOW = 512  # tokens
EPOCHS = 12
HELD_OUT = 30
END = "<|endoftext|>"


def files(held_out: bool, folder: Path | None = None) -> list[Path]:
    """The standard library's files for training, or those kept apart; by a checksum of their path, so that all agree."""
    folder = folder or Path(sysconfig.get_paths()["stdlib"])
    found = []
    for file in sorted(folder.rglob("*.py")):
        path = file.relative_to(folder)
        if "site-packages" in path.parts or file.stat().st_size < 200:
            continue
        digest = int(hashlib.sha256(path.as_posix().encode()).hexdigest()[:8], 16)
        if (digest % HELD_OUT == 0) == held_out:
            found.append(file)
    return found


def read(file: Path) -> str:
    """The text of a source file, or "" where it is not UTF-8 (some test files are broken on purpose)."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def tokenizer_for(sources: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE that keeps runs of spaces together, as indentation needs."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n *| ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(sources, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        bos_token=END,
        pad_token=END,
        model_max_length=WINDOW,
        clean_up_tokenization_spaces=False,
    )


def main() -> None:
    arguments = options(__doc__, NAME, needs_data=False)
    sources = [read(file) for file in files(held_out=False)]
    tokenizer = tokenizer_for(sources)
    random.Random(0).shuffle(sources)
    ids: list[int] = []
    for encoding in tokenizer(sources)["input_ids"]:
        ids += [tokenizer.eos_token_id, *encoding]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=2_048,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )
    size = sum(len(source.encode()) for source in sources)
    print(f"{size / 1e6:.1f} MB, {len(ids):,} tokens, {model.num_parameters() / 1e6:.2f} million parameters")
    stream = torch.tensor(ids, dtype=torch.int32)

    class Windows(torch.utils.data.Dataset):
        """Overlapping windows, so that no place in a file is always at a window's beginning."""

        def __len__(self) -> int:
            return 2 * (len(stream) // WINDOW) - 2

        def __getitem__(self, number: int) -> dict:
            window = stream[number * WINDOW // 2 :][:WINDOW].long()
            return {"input_ids": window, "labels": window}

    fit(model, Windows(), default_data_collator, NAME, epochs=EPOCHS / 2, learning_rate=2e-3, batch_size=64)
    save_model(model, tokenizer, arguments.output)


@torch.inference_mode()
def bits_per_byte(path: str, sources: list[str]) -> float:
    """How many bits the model needs for each byte of whole files; half a window of context is always visible."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path).to(device()).eval()
    nats, size, half = 0.0, 0, WINDOW // 2
    for source in sources:
        size += len(source.encode())
        ids = [tokenizer.eos_token_id, *tokenizer(source)["input_ids"]]
        for start in range(0, max(len(ids) - half, 1), half):
            window = torch.tensor(ids[start : start + WINDOW], device=model.device).unsqueeze(0)
            losses = torch.nn.functional.cross_entropy(
                model(window).logits[0, :-1].float(), window[0, 1:], reduction="none"
            )
            nats += (losses if start == 0 else losses[half - 1 :]).sum().item()
    return nats / math.log(2) / size


def prompts() -> list[str]:
    """Signatures with docstrings, written for this workshop: `data/texts/prompts.toml`."""
    return tomllib.loads((DATA / "texts" / "prompts.toml").read_text(encoding="utf-8"))["prompt"]


@torch.inference_mode()
def complete(path: str, starts: list[str], max_new_tokens: int = 96) -> list[str]:
    """Each start with the greedy completion of its function, cut where the function ends."""
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path).eval()
    tokenizer.padding_side = "left"
    made = []
    for chunk in batches(starts, 25):
        batch = tokenizer(chunk, padding=True, return_tensors="pt")
        batch.pop("token_type_ids", None)
        output = model.generate(**batch, do_sample=False, repetition_penalty=1.1, max_new_tokens=max_new_tokens)
        made += [
            start + body_of(tokenizer.decode(row[batch["input_ids"].shape[1] :], skip_special_tokens=True))
            for start, row in zip(chunk, output, strict=True)
        ]
    return made


def body_of(text: str) -> str:
    """The part of a completion that still belongs to the function: up to the first line that is not indented."""
    kept = []
    for line in text.split("\n"):
        if kept and line.strip() and not line.startswith((" ", "\t")):
            break
        kept.append(line)
    if text.count("\n") == len(kept) - 1 and len(kept) > 1:
        kept = kept[:-1]  # the last line may have been cut off in the middle
    return "\n".join(kept)


def parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def results(path: str, data: Path | None) -> list[Result]:
    """How many of our prompts complete to Python that parses; bits per byte on files kept apart, with `data`."""
    starts = prompts()
    share = 100 * sum(parses(text) for text in complete(path, starts)) / len(starts)
    measured = [(f"own prompts, {len(starts)}: completion parses, %", share)]
    if data:
        sources = [read(file) for file in files(held_out=True)]
        size = sum(len(source) for source in sources) / 1e6
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        measured.append(
            (
                f"held-out files of Python {version}, {len(sources)}, {size:.1f} MB, bits per byte",
                bits_per_byte(path, sources),
            )
        )
    return measured


if __name__ == "__main__":
    main()
