"""What the recipes share: their options, LoRA on an encoder, one way to train, one format on disk.

LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) keeps an adapter at 1 to 2 MB; `utils.catalog` merges it into its base.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from utils.catalog import DATA
from utils.workshop import ROOT, SEED, device, seed_everything

Result = tuple[str, float]  # what was measured, on how much, in which unit; and the value
RANK, ALPHA = 16, 32


def options(doc: str, name: str, needs_data: bool = True, **more: dict[str, Any]) -> argparse.Namespace:
    """The command line of a recipe: --data, --output, --restart and `more`. Sets the seed and the embedded source."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if needs_data:
        parser.add_argument("--data", type=Path, required=True, help="folder with the text that is not shipped")
    parser.add_argument("--output", type=Path, default=DATA / "checkpoints" / name)
    parser.add_argument("--restart", action="store_true", help="forget what an interrupted run has saved")
    for option, settings in more.items():
        parser.add_argument("--" + option.replace("_", "-"), **settings)
    arguments = parser.parse_args()
    os.environ["WORKSHOP_SOURCE"] = "embedded"
    seed_everything()
    if arguments.restart:
        shutil.rmtree(work_folder(name), ignore_errors=True)
    return arguments


def work_folder(name: str) -> Path:
    """Where a run keeps its state until it has finished."""
    return ROOT / "build" / "recipes" / name


def with_lora(model: PreTrainedModel, heads: tuple[str, ...], rank: int = RANK) -> PeftModel:
    """`model` with LoRA on every linear layer of its encoder; of the rest, only what `heads` names is trained.

    Args:
        heads: beginnings of parameter names, such as ("classifier.",).
    """
    targets = r".*(encoder|pooler)\..*(query|key|value|dense)"
    lora = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=ALPHA * rank // RANK, lora_dropout=0.0, target_modules=targets)
    )
    for name, parameter in lora.base_model.model.named_parameters():
        if name.startswith(heads):
            parameter.requires_grad_(True)
    return lora


def fit(
    model: torch.nn.Module,
    rows: list[dict[str, Any]],
    collator: Callable,
    name: str,
    *,
    epochs: float,
    learning_rate: float,
    batch_size: int,
    loss: Callable | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Train with `Trainer`; a run that was interrupted goes on where it last saved.

    Args:
        rows: inputs as the model takes them, not yet padded.
        loss: gets the model's output, the labels and the number of items, instead of the model's own loss.
        optimizer: with its own learning rates, instead of AdamW with `learning_rate`.
    """
    folder = work_folder(name)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.06,
        weight_decay=0.01,
        train_sampling_strategy="group_by_length" if isinstance(rows, list) and "input_ids" in rows[0] else "random",
        remove_unused_columns=False,
        save_steps=250,
        save_total_limit=1,
        logging_steps=50,
        use_cpu=device().type == "cpu",
        bf16=model.num_parameters() > 3e6,  # smaller ones gain nothing by it
        seed=SEED,
    )
    trainer = Trainer(
        # of a PeftModel, Trainer would save the adapter and forget the head
        model=model.get_base_model() if isinstance(model, PeftModel) else model,
        args=arguments,
        train_dataset=rows,
        data_collator=collator,
        compute_loss_func=loss,
        optimizers=(optimizer, None),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.exists() else None)
    shutil.rmtree(folder, ignore_errors=True)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write what was trained, in 16-bit floats, with the config of the merged model. For `utils.catalog.merge_adapter`."""
    trained = {n.replace(".default", ""): half(p) for n, p in model.named_parameters() if p.requires_grad}
    settings = model.peft_config["default"]
    write_adapter(trained, settings.r, settings.lora_alpha, folder)
    write_config(model.base_model.model, folder)


@torch.no_grad()
def save_difference(model: PreTrainedModel, base: str, folder: Path, rank: int) -> None:
    """Write what fine-tuning has changed in a model, as an adapter of its base checkpoint.

    The difference of a matrix is stored as a product of two thin ones, the best of that rank by its singular values (Eckart
    and Young 1936); vectors, small matrices, and what the base does not have are stored whole.
    """
    before = AutoModel.from_pretrained(base).state_dict()
    body, tensors = model.base_model_prefix + ".", {}
    for name, parameter in model.float().cpu().named_parameters():
        old = before.get(name.removeprefix(body))
        if old is not None and torch.equal(parameter, old):
            continue
        if old is None or parameter.dim() == 1 or min(parameter.shape) <= rank:
            tensors[f"base_model.model.{name}"] = parameter
            continue
        u, s, v = torch.linalg.svd(parameter - old, full_matrices=False)
        matrix = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{matrix}.lora_B.weight"] = u[:, :rank] * s[:rank].sqrt()
        tensors[f"{matrix}.lora_A.weight"] = s[:rank].sqrt().unsqueeze(1) * v[:rank]
    write_adapter({name: half(tensor) for name, tensor in tensors.items()}, rank, rank, folder)
    write_config(model, folder)


def half(tensor: Tensor) -> Tensor:
    """`tensor` as it is stored: in 16-bit floats."""
    return tensor.detach().half().cpu().contiguous()


def write_adapter(tensors: dict[str, Tensor], rank: int, alpha: int, folder: Path) -> None:
    """Write an adapter's tensors and settings in the file format of peft, as `utils.catalog.merge_adapter` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "r": rank, "lora_alpha": alpha})


def save_model(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Write a whole checkpoint in 16-bit floats, with its tokenizer or processor."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / "draft"
    model.config.use_cache = True  # Trainer has turned it off
    model.half().cpu().save_pretrained(draft)
    if tokenizer is not None:
        save_tokenizer(tokenizer, draft)
    for file in draft.iterdir():
        if file.name != "config.json":
            shutil.move(file, folder / file.name)
    shutil.rmtree(draft)
    write_config(model.float(), folder)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer or processor, a vocabulary without the indentation that makes up to half of its file."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    if file.exists():
        content = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8", newline="\n")


def write_config(model: PreTrainedModel, folder: Path) -> None:
    """Write the config without paths; it loads in 32-bit floats, which CPUs compute fastest."""
    config = model.config.to_dict()
    for key in ("_name_or_path", "transformers_version"):
        config.pop(key, None)
    config |= {"architectures": [type(model).__name__], "dtype": "float32"}
    write_json(folder / "config.json", config)


def write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")


def batches(items: list, size: int = 64) -> Iterator[list]:
    """`items` in order, `size` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


@torch.inference_mode()
def logits(model: PreTrainedModel, tokenizer: Any, first: list[str], second: list[str] | None = None) -> Tensor:
    """The scores of a sequence classifier for texts or pairs of texts: (len(first), labels)."""
    model.eval()
    rows = []
    for numbers in batches(range(len(first))):
        pair = [second[i] for i in numbers] if second else None
        batch = tokenizer(
            [first[i] for i in numbers], pair, padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        rows.append(model(**batch.to(model.device)).logits.float().cpu())
    return torch.cat(rows)


def mean_pooling(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean over real tokens: (batch, seq, dim) and (batch, seq) to (batch, dim), as sentence-transformers does."""
    mask = attention_mask.unsqueeze(-1).to(states.dtype)
    return (states * mask).sum(1) / mask.sum(1)


@torch.inference_mode()
def embed(path: str, sentences: list[str]) -> Tensor:
    """Normalised sentence embeddings by mean pooling: (len(sentences), dim)."""
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    vectors = torch.empty(len(sentences), model.config.hidden_size)
    for chunk in batches(order):
        batch = tokenizer(
            [sentences[i] for i in chunk], padding=True, truncation=True, max_length=128, return_tensors="pt"
        )
        vectors[chunk] = F.normalize(mean_pooling(model(**batch).last_hidden_state, batch["attention_mask"]))
    return vectors
