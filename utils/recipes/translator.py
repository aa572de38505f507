"""The checkpoint `translator`: English to German, an encoder-decoder trained from scratch.

    python -m utils.recipes.translator --data FOLDER        # three hours on one CPU core
    pip install sacrebleu                                   # to measure it

Trained on text written for this workshop (letters, reviews, everyday sentences), Tatoeba (CC BY 2.0 FR), the first rows of
Parallel Universal Dependencies and XQuAD's paragraphs (both CC BY-SA). What measures was kept apart: whole letters, own
sentences, a part of Tatoeba without near-duplicates. The model is a small Pegasus.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tqdm.auto import tqdm
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from utils import WorkshopError
from utils.catalog import WEIGHTS
from utils.recipes import parallel
from utils.recipes.training import Result, batches, fit, options, save_model

NAME = "translator"
PIECES = 5_000
MAX_LENGTH = 128
TRAINING_LENGTH = 48  # longer pairs are few, and cost the most
RUNS = ((3, 1e-3), (8, 8e-4))  # epochs and highest learning rate; the second begins where the first has ended
TATOEBA_HELD_OUT = 500
Pair = tuple[str, str]  # English, German


def tokenizer_for(pairs: list[Pair]) -> PreTrainedTokenizerFast:
    """One byte-level BPE vocabulary for both languages (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909)."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([text for pair in pairs for text in pair], trainer)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def _plain(text: str) -> str:
    return re.sub(r"[\W\d_]+", " ", text.lower()).strip()


def tatoeba(data: Path) -> tuple[list[Pair], list[Pair]]:
    """Tatoeba for training, and a part that shares neither side with it, nor all but one word in the same place."""

    def gapped(text: str) -> set[str]:
        words = _plain(text).split()
        return {" ".join([*words[:i], "*", *words[i + 1 :]]) for i in range(len(words))}

    pairs = sorted({(english, german) for _, english, german in parallel.tatoeba(data)})
    random.Random(0).shuffle(pairs)
    counts: dict[str, int] = {}
    for pair in pairs:
        for side, text in enumerate(pair):
            for key in gapped(text):
                counts[f"{side} {key}"] = counts.get(f"{side} {key}", 0) + 1
    held_out, train = [], []
    for pair in pairs:
        alone = all(counts[f"{side} {key}"] == 1 for side, text in enumerate(pair) for key in gapped(text))
        (held_out if alone and len(held_out) < TATOEBA_HELD_OUT else train).append(pair)
    return train, held_out


def own_held_out() -> list[Pair]:
    """Pairs of our own that nothing was trained on: letters kept apart, and sentences from the held-out parallel text."""
    letters = [(row["en"], row["de"]) for letter in parallel.letters(held_out=True) for row in letter]
    return sorted(set(letters)) + [(row["en"], row["de"]) for row in parallel.own_rows("heldout")[:200]]


def training_pairs(data: Path) -> list[Pair]:
    """All that may train, the sentences of our own domain three times."""
    own = [(row["en"], row["de"]) for row in [*parallel.own_rows("train"), *parallel.fragments()]]
    letters = [[(row["en"], row["de"]) for row in letter] for letter in parallel.letters()]
    own += [pair for letter in letters for pair in letter]
    own += [tuple(" ".join(side) for side in zip(*letter[1:4], strict=True)) for letter in letters]
    own += parallel.written_pairs("de")
    rest = tatoeba(data)[0] + [(row["en"], row["de"]) for row in parallel.own_rows("lexicon") if row["de"]]
    rest += [(row["en"], row["de"]) for row in parallel.pud(data)[: parallel.PUD_TRAIN_ROWS]]
    rest += [(english, german) for language, english, german in parallel.xquad(data) if language == "de"]
    held_out = {text for pair in own_held_out() for text in pair}
    return [pair for pair in own * 3 + rest if not held_out & set(pair)]


def main() -> None:
    arguments = options(__doc__, NAME)
    pairs = training_pairs(arguments.data)
    tokenizer = tokenizer_for(pairs)
    # Pegasus normalises before each sublayer: Marian, which does so afterwards, collapsed here and ignored its source
    config = PegasusConfig(
        vocab_size=len(tokenizer),
        d_model=256,
        encoder_layers=3,
        decoder_layers=3,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
        max_position_embeddings=256,
        dropout=0.1,
        attention_dropout=0.0,
        scale_embedding=True,
        init_std=0.06,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        forced_eos_token_id=None,
    )
    model = PegasusForConditionalGeneration(config)
    rows = []
    for english, german in pairs:
        source, target = tokenizer([english, german])["input_ids"]
        if max(len(source), len(target)) <= TRAINING_LENGTH:
            rows.append({"input_ids": source, "labels": target})
    print(f"{len(rows):,} pairs, {model.num_parameters() / 1e6:.2f} million parameters")
    collator = DataCollatorForSeq2Seq(tokenizer, model=model)

    def smoothed(output, labels, num_items_in_batch=None):
        return torch.nn.functional.cross_entropy(
            output.logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, label_smoothing=0.1
        )

    for epochs, rate in RUNS:
        fit(model, rows, collator, NAME, epochs=epochs, learning_rate=rate, batch_size=128, loss=smoothed)
    model.generation_config.update(max_new_tokens=MAX_LENGTH, num_beams=4, max_length=None)
    save_model(model, tokenizer, arguments.output)
    # the waves of the positions stay exact: in 16 bits, they moved the logits by 1e-3
    fresh = PegasusForConditionalGeneration(config).state_dict()
    stored = load_file(arguments.output / WEIGHTS)
    save_file(
        {name: fresh[name] if "embed_positions" in name else stored[name] for name in stored},
        arguments.output / WEIGHTS,
        metadata={"format": "pt"},
    )


@torch.inference_mode()
def translate(path: str, sentences: list[str], num_beams: int = 4) -> list[str]:
    """The German for English sentences, in order."""
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForSeq2SeqLM.from_pretrained(path).eval()
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    german = [""] * len(sentences)
    for chunk in tqdm(list(batches(order, 32)), desc="translate"):
        batch = tokenizer([sentences[i] for i in chunk], padding=True, truncation=True, return_tensors="pt")
        made = model.generate(**batch, num_beams=num_beams, max_new_tokens=MAX_LENGTH)
        for i, text in zip(chunk, tokenizer.batch_decode(made, skip_special_tokens=True), strict=True):
            german[i] = text.strip()
    return german


def results(path: str, data: Path | None) -> list[Result]:
    """chrF on pairs of our own and, with `data`, on Tatoeba; BLEU on Multi30k, which lies outside its domain."""
    try:
        from sacrebleu import corpus_bleu, corpus_chrf
    except ImportError:
        raise WorkshopError("The translator is measured with sacrebleu: pip install sacrebleu") from None

    def score(pairs: list[Pair], measure=corpus_chrf) -> float:
        made = translate(path, [english for english, _ in pairs])
        return measure(made, [[german for _, german in pairs]]).score

    own = own_held_out()
    letters = len(own) - 200
    measured = [
        (f"own held-out letters, {letters} sentences, chrF", score(own[:letters])),
        ("own held-out sentences, 200, chrF", score(own[letters:])),
    ]
    if data:
        held_out = tatoeba(data)[1]
        measured.append((f"Tatoeba held out, {len(held_out)} sentences, chrF", score(held_out)))
        captions = parallel.multi30k(data)
        pairs = list(zip(captions["en"], captions["de"], strict=True))
        measured.append((f"Multi30k 2016, {len(pairs):,} captions, BLEU", score(pairs, corpus_bleu)))
    return measured


if __name__ == "__main__":
    main()
