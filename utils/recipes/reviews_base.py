"""The multilingual base `reviews-base`: MiniLM taught to read German, French, Spanish and Japanese.

    python -m utils.recipes.dictionary                        # once, 3 minutes
    python -m utils.recipes.reviews_base --data FOLDER        # a day on two CPU cores, four minutes on a GPU

The student keeps MiniLM's layers and English vocabulary. It gains word pieces of the other languages and a LoRA adapter,
trained so that a translation lands where the teacher puts the English sentence (Reimers and Gurevych 2020,
https://arxiv.org/abs/2004.09813), with a small in-batch contrastive term that keeps different sentences apart. Beside
the pooled sentence vector, the [CLS] state and middle layers are matched: what is fine-tuned later starts from all of
them, and transfers across languages only where they agree. New rows of the embedding matrix start from English: a word's
from its neighbours in a dictionary (see `dictionary`), in the spirit of WECHSEL (Minixhofer et al. 2022,
https://arxiv.org/abs/2112.06598), a piece's from the English pieces that it is translated with (IBM model 1, Brown et al. 1993).
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import AutoTokenizer, BertModel, PreTrainedTokenizerFast

from utils.catalog import checkpoint
from utils.recipes import dictionary, parallel, reviews
from utils.recipes.training import (
    batches,
    half,
    mean_pooling,
    options,
    save_tokenizer,
    work_folder,
    write_adapter,
    write_json,
)
from utils.workshop import budget, device

NAME = "reviews-base"
NEW_ROWS = "base_model.model.embeddings.word_embeddings.new_tokens"
NEW_PIECES = 20_000
STEPS = 1_600
MIN_PAIR_COUNT = 2  # a piece seen once is spelled out in smaller ones instead
MAX_LENGTH = 96
LORA = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear")
LEARNING_RATE, EMBEDDING_RATE = 1e-3, 3e-3
CONTRAST, TEMPERATURE = 0.1, 0.05
MIDDLE_LAYERS = (2, 4)
VIEW_WEIGHTS = (1.0, 0.5, 0.25, 0.25)  # of the pooled vector, the [CLS] state, the pooled middle layers
ENGLISH_SHARE = 0.25  # of the pairs, also English to itself: what the teacher knew must not fade
COMPOSED = 12_000
WARM = {"tatoeba": 15_000, "dictionary": 15_000, "composed": 4_000}  # pairs of these after a warm start
OWN_WEIGHT = 3
CERTAIN = 0.75  # dictionary entries at least this similar are pairs to train on
WORD_COUNT = 0.3  # how much a word's frequency counts beside running text when pieces are chosen


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
    for token, candidates in best.items():
        top = sorted(candidates, reverse=True)[:4]
        share = np.array([weight for weight, _ in top]) ** 2  # squared: the clear favourite should dominate
        rows[token - len(old)] = (share / share.sum()) @ old[[word for _, word in top]]
    return rows


def views(output, attention_mask: Tensor) -> Tensor:
    """The vectors by which student and teacher are compared: (batch, 4, dim), see `VIEW_WEIGHTS`."""
    last = output.last_hidden_state.float()
    middle = [mean_pooling(output.hidden_states[layer].float(), attention_mask) for layer in MIDDLE_LAYERS]
    return torch.stack([mean_pooling(last, attention_mask), last[:, 0], *middle], dim=1)


def dictionary_rows(pieces: list[str], entries: list[dictionary.Entry], ids: dict[str, int], old: np.ndarray):
    """Starting vectors for whole words: the mean of their English neighbours' rows, weighted by similarity: {place: (dim,)}.

    Args:
        pieces: the new vocabulary.
        ids: of English pieces.
        old: (vocabulary, dim), the embedding matrix.
    """
    known: dict[str, list[tuple[float, np.ndarray]]] = defaultdict(list)
    for entry in entries:
        weights = np.exp(np.array(entry.similarity) / 0.1)
        row = (weights / weights.sum()) @ old[[ids[word] for word in entry.english]]
        known[entry.word.lower()].append((entry.per_million * entry.similarity[0], row))
    rows = {}
    for place, piece in enumerate(pieces):
        if found := known.get(piece):  # a word of two languages is the mean of both
            weights = np.array([weight for weight, _ in found]) + 1e-9
            rows[place] = (weights / weights.sum()) @ np.stack([row for _, row in found])
    return rows


def token_batches(lengths: list[int], size: int, generator: random.Random) -> list[list[int]]:
    """Indices in batches of about `size` tokens of similar length, in random order."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] + generator.random() * 4)
    found: list[list[int]] = [[]]
    for index in order:
        if len(found[-1]) >= 16 and (len(found[-1]) + 1) * lengths[index] > size:
            found.append([])
        found[-1].append(index)
    generator.shuffle(found)
    return found


@torch.inference_mode()
def teacher_vectors(base: str, sentences: list[str]) -> tuple[dict[str, int], Tensor]:
    """What MiniLM makes of each English sentence, before normalisation: {sentence: row} and (rows, 4, dim)."""
    tokenizer, teacher = AutoTokenizer.from_pretrained(base), BertModel.from_pretrained(base).to(device()).eval()
    ordered, vectors = sorted(set(sentences), key=len), []
    for chunk in tqdm(list(batches(ordered, budget(cpu=128, gpu=512))), desc="teacher"):
        batch = tokenizer(chunk, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        batch = batch.to(device())
        with torch.autocast(device().type, torch.bfloat16):
            output = teacher(**batch, output_hidden_states=True)
        vectors.append(views(output, batch["attention_mask"]))
    return {sentence: row for row, sentence in enumerate(ordered)}, torch.cat(vectors)


def composed_pairs(count: int, generator: random.Random) -> list[parallel.Pair]:
    """Whole reviews put together from the same fragments in English and in another language."""
    pairs = []
    for number in range(count):
        language = parallel.LANGUAGES[number % len(parallel.LANGUAGES)]
        plan = reviews.plan_review(generator, "train", generator.randint(1, 5))
        sides = [reviews.write_review(plan, code) for code in ("en", language)]
        pairs.append((language, *(f"{title}. {body}" for title, body in sides)))
    return pairs


def student_of(base: str, rows: np.ndarray) -> PeftModel:
    """MiniLM with rows for new pieces and a LoRA adapter, both to be trained, and no dropout."""
    student = BertModel.from_pretrained(base, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    embedding = ExtendedEmbedding(student.get_input_embeddings(), torch.tensor(rows, dtype=torch.float32))
    student.set_input_embeddings(embedding)
    student = get_peft_model(student, LORA)
    embedding.new_tokens.requires_grad_(True)
    return student.to(device())


def main() -> None:
    arguments = options(
        __doc__,
        NAME,
        steps={"type": int, "default": STEPS, "help": "optimizer steps"},
        warm_start={"type": Path, "help": "begin with the adapter and the word pieces in this folder"},
    )
    generator = random.Random(0)
    sources = parallel.training_pairs(arguments.data)
    sources["composed"] = composed_pairs(COMPOSED, generator)
    entries = dictionary.entries()
    sources["dictionary"] = [(e.language, e.english[0], e.word) for e in entries if e.similarity[0] >= CERTAIN]
    if arguments.warm_start:  # has seen much of this already; what is new should count
        for source, count in WARM.items():
            sources[source] = generator.sample(sources[source], count)
    for source, pairs in sources.items():
        print(f"{source}: {len(pairs):,} pairs")
    # the few pairs of our own domain count several times
    pairs = sources["own"] * OWN_WEIGHT + [p for source, group in sources.items() if source != "own" for p in group]
    base = checkpoint("minilm")
    texts = [text for source, group in sources.items() if source != "dictionary" for _, _, text in group]
    frequencies = [e.word for e in entries for _ in range(1 + min(int(WORD_COUNT * e.per_million), 300))]
    tokenizer = extended_tokenizer(base, texts + frequencies)

    plain = AutoTokenizer.from_pretrained(base)
    matrix = BertModel.from_pretrained(base).get_input_embeddings().weight.detach().numpy()
    pieces = tokenizer.convert_ids_to_tokens(range(len(matrix), len(tokenizer)))
    spelled = plain([piece.removeprefix("##") for piece in pieces], add_special_tokens=False)["input_ids"]
    fallback = np.stack([matrix[s or [plain.unk_token_id]].mean(0) for s in spelled])
    # composed reviews say nothing that their fragments do not
    distinct = sorted({pair for name in ("own", "tatoeba", "pud", "xquad") for pair in sources[name]})
    english = plain([pair[1] for pair in distinct], truncation=True, max_length=MAX_LENGTH)["input_ids"]
    foreign = tokenizer([pair[2] for pair in distinct], truncation=True, max_length=MAX_LENGTH)["input_ids"]
    aligned = [(a[1:-1], b[1:-1]) for a, b in zip(english, foreign, strict=True)]
    rows = translation_rows(aligned, matrix, fallback)
    from_dictionary = dictionary_rows(pieces, entries, plain.get_vocab(), matrix)
    for place, row in from_dictionary.items():
        rows[place] = row
    print(f"{len(from_dictionary):,} of {len(pieces):,} new pieces are in the dictionary")

    index, teacher = teacher_vectors(base, [english for _, english, _ in pairs])
    pairs += generator.sample([("en", english, english) for _, english, _ in pairs], int(ENGLISH_SHARE * len(pairs)))
    ids = tokenizer([text for _, _, text in pairs], truncation=True, max_length=MAX_LENGTH)["input_ids"]
    wanted = torch.tensor([index[english] for _, english, _ in pairs])

    student = student_of(base, rows)
    if arguments.warm_start:
        warm_start(student, arguments.warm_start, pieces, len(matrix))
    distil(student, [torch.tensor(i) for i in ids], wanted, teacher, tokenizer.pad_token_id, arguments.steps)
    save(student, tokenizer, base, arguments.output)


@torch.no_grad()
def warm_start(student: PeftModel, folder: Path, pieces: list[str], first_new: int) -> None:
    """Take over an earlier adapter, and its rows for the word pieces that it had."""
    earlier = load_file(folder / "adapter_model.safetensors")
    scale = earlier.pop(NEW_ROWS + "_scale", torch.ones(1))
    known, vocabulary = earlier.pop(NEW_ROWS).float() * scale.float(), AutoTokenizer.from_pretrained(folder).get_vocab()
    set_peft_model_state_dict(student, {key: value.float() for key, value in earlier.items()})
    new_tokens = student.base_model.model.get_input_embeddings().new_tokens
    for place, piece in enumerate(pieces):
        if vocabulary.get(piece, -1) >= first_new:
            new_tokens[place] = known[vocabulary[piece] - first_new]


def distil(student: PeftModel, ids: list[Tensor], wanted: Tensor, teacher: Tensor, pad: int, steps: int) -> None:
    """Move the student's vectors of `ids` towards the rows `wanted` of the teacher's. Saves, and goes on after a stop."""
    new_tokens = student.base_model.model.get_input_embeddings().new_tokens
    adapters = [p for n, p in student.named_parameters() if p.requires_grad and "lora_" in n]
    optimizer = torch.optim.AdamW(
        [{"params": adapters, "lr": LEARNING_RATE}, {"params": [new_tokens], "lr": EMBEDDING_RATE}], weight_decay=0.0
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 100, 0.5 * (1 + math.cos(math.pi * min(step / steps, 1))))
    )
    # a saved state belongs to one vocabulary and one run
    run = hashlib.sha256(repr((new_tokens.shape, len(ids), steps)).encode()).hexdigest()
    state_file, step = work_folder(NAME) / "state.pt", 0
    if state_file.exists():
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
        state = {"run": run, "student": trained, "step": step}
        state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        torch.save(state, state_file.with_suffix(".draft"))
        state_file.with_suffix(".draft").replace(state_file)

    spread = teacher.var((0, 2))
    importance = torch.tensor(VIEW_WEIGHTS, device=teacher.device)
    lengths, losses = [len(i) for i in ids], []
    bar = tqdm(total=steps, initial=step, desc="distil", mininterval=10)
    while step < steps:
        for batch in token_batches(lengths, budget(cpu=4_096, gpu=32_768), random.Random(step)):
            padded = pad_sequence([ids[i] for i in batch], batch_first=True, padding_value=pad).to(teacher.device)
            mask = (padded != pad).long()
            target = teacher[wanted[batch].to(teacher.device)]  # (batch, 4, dim)
            with torch.autocast(teacher.device.type, torch.bfloat16):
                output = student(input_ids=padded, attention_mask=mask, output_hidden_states=True)
            vectors = views(output, mask)
            errors = (vectors - target).pow(2).mean((0, 2)) / spread  # one for each view
            ours, theirs = F.normalize(vectors[:, 0]), F.normalize(target[:, 0])
            scores = ours @ theirs.T / TEMPERATURE  # (batch, batch)
            # the same English sentence may occur twice in a batch: both are right
            same = theirs @ theirs.T > 0.999
            contrast = (scores.logsumexp(-1) - scores.masked_fill(~same, -torch.inf).logsumexp(-1)).mean()
            loss = (errors * importance).sum() + CONTRAST * contrast
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            bar.update()
            if step % 50 == 0:
                losses.append((errors[0].item(), contrast.item()))
                bar.set_postfix(match=f"{losses[-1][0]:.4f}", contrast=f"{losses[-1][1]:.3f}")
            if step % 500 == 0:
                save_state()
            if step >= steps:
                break
    shutil.rmtree(work_folder(NAME), ignore_errors=True)


def save(student: PeftModel, tokenizer: PreTrainedTokenizerFast, base: str, folder: Path) -> None:
    """Write what differs from the base: the adapter in 16-bit floats, the new rows in 8-bit integers, tokenizer, config."""
    tensors = {n.replace(".default", ""): half(p) for n, p in student.named_parameters() if "lora_" in n}
    rows = student.base_model.model.get_input_embeddings().new_tokens.detach().float().cpu()
    scale = (rows.abs().amax(1, keepdim=True) / 127).half()
    tensors[NEW_ROWS] = (rows / scale.float()).round().clamp(-127, 127).to(torch.int8)
    tensors[NEW_ROWS + "_scale"] = scale
    write_adapter(tensors, LORA.r, LORA.lora_alpha, folder)
    config = json.loads((Path(base) / "config.json").read_text(encoding="utf-8"))
    config |= {"vocab_size": len(tokenizer)}
    config.pop("_name_or_path", None)
    write_json(folder / "config.json", config)
    draft = folder / "draft"
    save_tokenizer(tokenizer, draft)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.move(draft / file, folder / file)
    shutil.rmtree(draft)


if __name__ == "__main__":
    main()
