"""The checkpoint `mask`: which word belongs in the gap? A masked-language-model head and a LoRA adapter on MiniLM.

    python -m utils.recipes.mask --data FOLDER        # hours on two CPU cores, three minutes on a GPU

all-MiniLM-L6-v2 was published without such a head. This one turns a token's vector into scores through the word embeddings
themselves (Devlin et al. 2019, https://arxiv.org/abs/1810.04805), so that only a small transformation and a bias are new.
"""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM, DataCollatorForLanguageModeling
from transformers.modeling_outputs import MaskedLMOutput

from utils.catalog import checkpoint
from utils.recipes import ner, nli, parallel, qa, reviews
from utils.recipes.files import texts
from utils.recipes.training import Result, batches, fit, options, save_adapter, with_lora

NAME = "mask"
RANK = 32
EPOCHS = 1
MAX_LENGTH = 128
TEST_WORDS = 3_000


def docstrings() -> list[str]:
    """The documentation strings of Python's standard library (PSF licence): English prose, if of one kind."""
    found = set()
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        try:
            nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        except (SyntaxError, UnicodeDecodeError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        found |= {" ".join((ast.get_docstring(n) or "").split()) for n in nodes if isinstance(n, kinds)}
    return sorted(text for text in found if len(text) > 80)


def english(data: Path) -> list[str]:
    """English text whose terms allow training, one passage each. UNER's test part is not among them."""
    shifts = [qa.examples(data / "qa" / f"{name}_v1.0.json.gz") for name in ("new_wiki", "reddit")]
    paragraphs = sorted({context for articles in shifts for article in articles for _, context, _ in article})
    questions = [question for articles in shifts for article in articles for question, _, _ in article]
    names = [file for file in sorted((data / "ner").glob("*.gz")) if "uner-ewt.test" not in file.name]
    tagged = [" ".join(words) for file in names for words, _ in ner.sentences(file)]
    captions = [sentence for part in ("dev", "test") for pair in nli.snli(data, part) for sentence in pair[:2]]
    own = [row["en"] for row in [*parallel.own_rows("train"), *parallel.fragments()]]
    own += [row["review_body"] for row in reviews.written("train", "en")]
    own += [" ".join(row["en"] for row in letter) for letter in parallel.letters()]
    own += [row["passage"] for row in texts("search")] + [row["text"] for row in texts("topics")]
    own += [row["text"] for row in texts("opinions")]
    short = [pair[1] for pair in parallel.tatoeba(data)[::3]]
    pud = [row["en"] for row in parallel.pud(data)]
    return paragraphs * 2 + questions + tagged + sorted(set(captions)) + own * 2 + short + pud + docstrings()


def score_masked_only(model: BertForMaskedLM) -> None:
    """Let `model` score the masked tokens alone while it is trained: for all tokens, that costs more than the encoder."""

    def forward(input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **_: object) -> MaskedLMOutput:
        states = model.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # (batch, seq, dim)
        masked = labels != -100
        scores = model.cls(states[masked])  # (masked tokens, vocabulary)
        return MaskedLMOutput(loss=F.cross_entropy(scores.float(), labels[masked]))

    model.forward = forward


def main() -> None:
    arguments = options(__doc__, NAME)
    base = checkpoint("minilm")
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForMaskedLM.from_pretrained(base)
    with torch.no_grad():  # begin as the identity: a token's vector should resemble its word's
        model.cls.predictions.transform.dense.weight.copy_(torch.eye(model.config.hidden_size))
        model.cls.predictions.transform.dense.bias.zero_()
    score_masked_only(model)
    model = with_lora(model, ("cls.predictions.transform.", "cls.predictions.bias"), rank=RANK)
    passages = english(arguments.data)
    encoding = tokenizer(
        passages, truncation=True, max_length=MAX_LENGTH, return_overflowing_tokens=True, return_token_type_ids=False
    )
    rows = [{"input_ids": ids} for ids in encoding["input_ids"] if len(ids) >= 8]
    print(f"{len(rows):,} passages, {sum(len(row['input_ids']) for row in rows):,} tokens")
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.2)
    fit(model, rows, collator, NAME, epochs=EPOCHS, learning_rate=1e-3, batch_size=96)
    save_adapter(model, arguments.output)


def gaps(tokenizer, sentences: list[list[str]], count: int) -> list[tuple[str, str]]:
    """(text with one [MASK], the word that stood there): every seventh word that is a whole piece of the vocabulary."""
    found, seen = [], 0
    for words in sentences:
        if len(words) < 6:
            continue
        for place, word in enumerate(words):
            if word.isalpha() and word.lower() in tokenizer.vocab:
                seen += 1
                if seen % 7 == 0:
                    gap = [*words[:place], tokenizer.mask_token, *words[place + 1 :]]
                    found.append((" ".join(gap), word.lower()))
    return found[:count]


@torch.inference_mode()
def accuracies(path: str, rows: list[tuple[str, str]]) -> tuple[float, float]:
    """How often the missing word comes first, and is among the first five, in percent."""
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForMaskedLM.from_pretrained(path).eval()
    first = five = 0
    for chunk in batches(rows):
        batch = tokenizer(
            [text for text, _ in chunk], padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        at = batch["input_ids"] == tokenizer.mask_token_id  # (batch, seq)
        best = model(**batch).logits[at].topk(5).indices  # (batch, 5)
        right = torch.tensor([tokenizer.convert_tokens_to_ids(word) for _, word in chunk]).unsqueeze(1)
        first += (best[:, :1] == right).sum().item()
        five += (best == right).sum().item()
    return 100 * first / len(rows), 100 * five / len(rows)


def results(path: str, data: Path | None) -> list[Result]:
    """Accuracy on our own gold reviews and, with `data`, on UNER EWT's test part."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    measured = []
    sources = {"English gold reviews": [row["review_body"].split() for row in reviews.gold("en")]}
    if data:
        sources["UNER EWT test"] = [words for words, _ in ner.sentences(data / "ner" / "uner-ewt.test.iob2.gz")]
    for what, sentences in sources.items():
        rows = gaps(tokenizer, sentences, TEST_WORDS)
        first, five = accuracies(path, rows)
        measured.append((f"{what}, {len(rows):,} masked words, the first guess, %", first))
        measured.append((f"{what}, among the first five, %", five))
    return measured


if __name__ == "__main__":
    main()
