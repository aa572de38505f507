"""The multilingual base `reviews-base`: MiniLM taught to read German, French, Spanish and Japanese.

    python -m utils.recipes.reviews_base --data FOLDER      # about 40 minutes on two CPU cores; saves, resumes
    python -m utils.recipes.reviews_base --data FOLDER --warm-start data/checkpoints/reviews-base --steps 1400

The student keeps MiniLM's layers and English vocabulary. It gains word pieces of the other languages and a LoRA adapter,
trained so that a translation lands where the teacher puts the English sentence (Reimers and Gurevych 2020,
https://arxiv.org/abs/2004.09813), with a small in-batch contrastive term that keeps different sentences apart. Beside
the pooled sentence vector, the [CLS] state and a middle layer are matched: what is fine-tuned later starts from all of
them, and transfers across languages only where they agree. New rows of the embedding matrix start from the English pieces that they are translated with (IBM model 1, Brown et al. 1993),
in the spirit of WECHSEL (Minixhofer et al. 2022, https://arxiv.org/abs/2112.06598).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoTokenizer, BertModel, PreTrainedTokenizerFast

from utils.catalog import DATA, checkpoint
from utils.recipes import parallel, reviews
from utils.workshop import ROOT, seed_everything

NAME = "reviews-base"
NEW_ROWS = "base_model.model.embeddings.word_embeddings.new_tokens"
NEW_PIECES = 11_000
MIN_PAIR_COUNT = 2  # a piece seen once is spelled out in smaller ones instead
MAX_LENGTH = 96
BATCH_TOKENS = 4_096
LORA = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear")
LEARNING_RATE, EMBEDDING_RATE = 1e-3, 3e-3
CONTRAST, TEMPERATURE = 0.1, 0.05
MIDDLE_LAYER = 3
VIEW_WEIGHTS = (1.0, 0.5, 0.5)  # of the pooled vector, the [CLS] state, the pooled middle layer
ENGLISH_SHARE = 0.25  # of the pairs, also English to itself: what the teacher knew must not fade


class ExtendedEmbedding(nn.Module):
    """A frozen embedding matrix followed by trainable rows for new token ids."""

    def __init__(self, old: nn.Embedding, rows: Tensor):
        super().__init__()
        self.old = old.requires_grad_(False)
        self.new_tokens = nn.Parameter(rows)

    def forward(self, input_ids: Tensor) -> Tensor:
        size = self.old.num_embeddings
        is_new = (input_ids >= size).unsqueeze(-1)  # (batch, seq, 1)
        new = F.embedding((input_ids - size).clamp(min=0), self.new_tokens)
        return torch.where(is_new, new, self.old(input_ids.clamp(max=size - 1)))  # (batch, seq, dim)


def extended_tokenizer(base: str, texts: list[str]) -> PreTrainedTokenizerFast:
    """MiniLM's tokenizer with the `NEW_PIECES` most useful word pieces of `texts` appended.

    Accents stay (the original strips them, and with them the voicing marks of Japanese: が would read か).
    """
    normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False, handle_chinese_chars=True)
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer, learner.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=3 * NEW_PIECES, min_frequency=2, show_progress=False)
    learner.train_from_iterator(texts, trainer)

    spec = json.loads(AutoTokenizer.from_pretrained(base).backend_tokenizer.to_str())
    vocabulary = spec["model"]["vocab"]
    # learned ids rise as frequency falls, so the first ones are the most useful
    learned = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    for piece in [piece for piece, _ in learned if piece not in vocabulary][:NEW_PIECES]:
        vocabulary[piece] = len(vocabulary)
    spec["normalizer"]["strip_accents"] = False
    spec["truncation"] = spec["padding"] = None
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        model_max_length=512,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
    )


def translation_rows(
    pairs: list[tuple[list[int], list[int]]], old: np.ndarray, fallback: np.ndarray, rounds: int = 3
) -> np.ndarray:
    """Starting vectors for new pieces: the mean of the English pieces each one translates to, by IBM model 1.

    Args:
        pairs: token ids of an English sentence and of its translation.
        old: (vocabulary, dim), the embedding matrix; ids from `len(old)` on are new.
        fallback: (new, dim), used for pieces seen in fewer than `MIN_PAIR_COUNT` pairs.

    Returns:
        (new, dim)
    """
    counts = Counter(token for _, target in pairs for token in set(target))
    table: dict[tuple[int, int], float] = defaultdict(lambda: 1.0)
    for _ in range(rounds):
        expected: dict[tuple[int, int], float] = defaultdict(float)
        totals: dict[int, float] = defaultdict(float)
        for source, target in pairs:
            for token in target:
                weights = [table[token, word] for word in source]
                scale = sum(weights)
                for word, weight in zip(source, weights, strict=True):
                    expected[token, word] += weight / scale
                    totals[word] += weight / scale
        table = defaultdict(float, {key: value / totals[key[1]] for key, value in expected.items()})
    rows = fallback.copy()
    best: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for (token, word), weight in expected.items():
        if token >= len(old) and counts[token] >= MIN_PAIR_COUNT:
            best[token].append((weight, word))
    for token, options in best.items():
        top = sorted(options, reverse=True)[:4]
        share = np.array([weight for weight, _ in top]) ** 2  # squared: the clear favourite should dominate
        rows[token - len(old)] = (share / share.sum()) @ old[[word for _, word in top]]
    return rows


def mean_pooling(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean over real tokens: (batch, seq, dim) and (batch, seq) to (batch, dim), as sentence-transformers does."""
    mask = attention_mask.unsqueeze(-1).to(states.dtype)
    return (states * mask).sum(1) / mask.sum(1)


def views(output, attention_mask: Tensor) -> Tensor:
    """The three vectors by which student and teacher are compared: (batch, 3, dim), see `VIEW_WEIGHTS`."""
    last, middle = output.last_hidden_state.float(), output.hidden_states[MIDDLE_LAYER].float()
    return torch.stack([mean_pooling(last, attention_mask), last[:, 0], mean_pooling(middle, attention_mask)], dim=1)


def token_batches(lengths: list[int], generator: random.Random) -> list[list[int]]:
    """Indices in batches of about `BATCH_TOKENS` tokens of similar length, in random order."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] + generator.random() * 4)
    batches: list[list[int]] = [[]]
    for index in order:
        if len(batches[-1]) >= 16 and (len(batches[-1]) + 1) * lengths[index] > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(index)
    generator.shuffle(batches)
    return batches


@torch.inference_mode()
def teacher_vectors(base: str, sentences: list[str]) -> dict[str, Tensor]:
    """What MiniLM makes of each English sentence, before normalisation: {sentence: (3, dim)}."""
    tokenizer, teacher = AutoTokenizer.from_pretrained(base), BertModel.from_pretrained(base).eval()
    ordered, vectors = sorted(set(sentences), key=len), {}
    for start in tqdm(range(0, len(ordered), 128), desc="teacher"):
        chunk = ordered[start : start + 128]
        batch = tokenizer(chunk, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            output = teacher(**batch, output_hidden_states=True)
        vectors.update(zip(chunk, views(output, batch["attention_mask"]), strict=True))
    return vectors


def composed_pairs(count: int, generator: random.Random) -> list[parallel.Pair]:
    """Whole reviews put together from the same fragments in English and in another language."""
    pairs = []
    for number in range(count):
        language = parallel.LANGUAGES[number % len(parallel.LANGUAGES)]
        plan = reviews.plan_review(generator, "train")
        sides = [reviews.write_review(plan, code) for code in ("en", language)]
        pairs.append((language, *(f"{title}. {body}" for title, body in sides)))
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the parallel text")
    parser.add_argument("--steps", type=int, default=1_800, help="optimizer steps")
    parser.add_argument("--warm-start", type=Path, help="begin with the adapter and the word pieces in this folder")
    parser.add_argument("--restart", action="store_true", help="forget a saved state")
    parser.add_argument("--output", type=Path, default=DATA / "checkpoints" / NAME)
    options = parser.parse_args()
    os.environ["WORKSHOP_SOURCE"] = "embedded"
    seed_everything()
    generator = random.Random(0)

    sources = parallel.training_pairs(options.data)
    sources["composed"] = composed_pairs(6_000, generator)
    if options.warm_start:  # has seen the many short ones of Tatoeba
        sources["tatoeba"] = generator.sample(sources["tatoeba"], 20_000)
    for source, pairs in sources.items():
        print(f"{source}: {len(pairs):,} pairs")
    # the few pairs of our own domain count four times
    pairs = sources["own"] * 4 + [pair for source, group in sources.items() if source != "own" for pair in group]
    base = checkpoint("minilm")
    texts = [text for _, _, text in pairs] + [
        text for language in parallel.LANGUAGES for text in reviews.texts(language)
    ]
    tokenizer = extended_tokenizer(base, texts)
    teacher = teacher_vectors(base, [english for _, english, _ in pairs])
    pairs += generator.sample([("en", english, english) for _, english, _ in pairs], int(ENGLISH_SHARE * len(pairs)))

    def encode(sentences: list[str]) -> list[list[int]]:
        return tokenizer(sentences, truncation=True, max_length=MAX_LENGTH)["input_ids"]

    ids = encode([text for _, _, text in pairs])
    student = BertModel.from_pretrained(base, attn_implementation="sdpa")
    old = student.get_input_embeddings()
    matrix = old.weight.detach().numpy()
    plain = AutoTokenizer.from_pretrained(base)
    pieces = tokenizer.convert_ids_to_tokens(range(len(matrix), len(tokenizer)))
    spelled = plain([piece.removeprefix("##") for piece in pieces], add_special_tokens=False)["input_ids"]
    fallback = np.stack([matrix[s or [plain.unk_token_id]].mean(0) for s in spelled])
    # composed reviews say nothing that their fragments do not
    distinct = sorted({pair for source, group in sources.items() if source != "composed" for pair in group})
    english = plain([pair[1] for pair in distinct], truncation=True, max_length=MAX_LENGTH)["input_ids"]
    aligned = zip(english, encode([pair[2] for pair in distinct]), strict=True)
    rows = translation_rows([(a[1:-1], b[1:-1]) for a, b in aligned], matrix, fallback)

    if options.warm_start:
        earlier = load_file(options.warm_start / "adapter_model.safetensors")
        vocabulary = AutoTokenizer.from_pretrained(options.warm_start).get_vocab()
        known = earlier.pop(NEW_ROWS).float().numpy()
        for row, piece in enumerate(pieces):
            if vocabulary.get(piece, -1) >= len(matrix):
                rows[row] = known[vocabulary[piece] - len(matrix)]

    student.set_input_embeddings(ExtendedEmbedding(old, torch.tensor(rows, dtype=torch.float32)))
    student = get_peft_model(student, LORA)
    if options.warm_start:
        set_peft_model_state_dict(student, {key: value.float() for key, value in earlier.items()})
    embedding = student.base_model.model.get_input_embeddings()
    embedding.new_tokens.requires_grad_(True)
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    adapters = [p for n, p in student.named_parameters() if p.requires_grad and "lora_" in n]
    optimizer = torch.optim.AdamW(
        [{"params": adapters, "lr": LEARNING_RATE}, {"params": [embedding.new_tokens], "lr": EMBEDDING_RATE}],
        weight_decay=0.0,
    )
    warmup = 100
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * min(step / options.steps, 1)))),
    )
    # a saved state belongs to one vocabulary and one run
    run = hashlib.sha256(repr((pieces, len(pairs), options.steps, str(options.warm_start))).encode()).hexdigest()
    state_file, step = ROOT / "build" / "recipes" / f"{NAME}.pt", 0
    if state_file.exists() and not options.restart:
        state = torch.load(state_file, weights_only=True)
        if state["run"] != run:
            raise SystemExit("\u2717 the saved state is of another run: add --restart")
        student.load_state_dict(state["student"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        step = state["step"]
        print(f"resumed at step {step}")

    def save_state() -> None:
        state_file.parent.mkdir(parents=True, exist_ok=True)
        trained = {n: p for n, p in student.named_parameters() if p.requires_grad}
        state = {
            "run": run,
            "student": trained,
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "step": step,
        }
        torch.save(state, state_file.with_suffix(".draft"))
        state_file.with_suffix(".draft").replace(state_file)

    bar = tqdm(total=options.steps, initial=step, desc="distil", mininterval=10)
    lengths, losses = [len(i) for i in ids], []
    while step < options.steps:
        for batch in token_batches(lengths, random.Random(step)):
            padded = tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt")
            target = torch.stack([teacher[pairs[i][1]] for i in batch])  # (batch, 3, dim)
            with torch.autocast("cpu", torch.bfloat16):
                output = student(**padded, output_hidden_states=True)
            vectors = views(output, padded["attention_mask"])
            errors = (vectors - target).pow(2).mean((0, 2)) / target.var((0, 2))  # one for each view
            match = (errors * torch.tensor(VIEW_WEIGHTS)).sum()
            ours, theirs = F.normalize(vectors[:, 0]), F.normalize(target[:, 0])
            scores = ours @ theirs.T / TEMPERATURE  # (batch, batch)
            # the same English sentence may occur twice in a batch: both are right
            same = theirs @ theirs.T > 0.999
            contrast = (scores.logsumexp(-1) - scores.masked_fill(~same, -torch.inf).logsumexp(-1)).mean()
            loss = match + CONTRAST * contrast
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            losses.append((errors[0].item(), contrast.item()))
            bar.update()
            if step % 50 == 0:
                match_mean, contrast_mean = np.mean(losses[-50:], axis=0)
                bar.set_postfix(match=f"{match_mean:.4f}", contrast=f"{contrast_mean:.3f}")
            if step % 500 == 0:
                save_state()
            if step >= options.steps:
                break
    save_state()
    save_adapter(student, embedding, tokenizer, base, options.output)
    state_file.unlink()


def save_adapter(student: nn.Module, embedding: ExtendedEmbedding, tokenizer, base: str, folder: Path) -> None:
    """Write what differs from the base, in 16-bit floats: the adapter, the new rows, the tokenizer and the config."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v for k, v in get_peft_model_state_dict(student).items() if "lora_" in k}
    tensors[NEW_ROWS] = embedding.new_tokens.detach()
    save_file({k: v.half().contiguous() for k, v in tensors.items()}, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": LORA.r, "lora_alpha": LORA.lora_alpha, "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    config = json.loads((Path(base) / "config.json").read_text(encoding="utf-8"))
    config |= {"vocab_size": len(tokenizer)}
    del config["_name_or_path"]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    draft = folder / "draft"
    tokenizer.save_pretrained(draft)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.move(draft / file, folder / file)
    shutil.rmtree(draft)


if __name__ == "__main__":
    main()
