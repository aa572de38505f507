"""The checkpoint `qa`: the answer to an English question as a span of a text, or none. A LoRA adapter on MiniLM.

    python -m utils.recipes.qa --data FOLDER        # about an hour on two CPU cores, two minutes on a GPU

Trained on SQuADShifts (new Wikipedia articles and Reddit, CC BY 4.0: https://github.com/modestyachts/squadshifts-website), in
the folder `qa` of FOLDER. A fifth of its questions is also asked of another paragraph, where the answer is: none. XQuAD measures.
"""

from __future__ import annotations

import collections
import gzip
import json
import random
import re
import string
from pathlib import Path

import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, default_data_collator

from utils.catalog import checkpoint
from utils.recipes.training import Result, batches, fit, options, save_adapter, with_lora

NAME = "qa"
MAX_LENGTH, STRIDE = 320, 96
NO_ANSWER_SHARE = 0.2
LONGEST_ANSWER = 24  # tokens
Example = tuple[str, str, list[tuple[str, int]]]  # question, paragraph, answers with their first character


def examples(file: Path) -> list[list[Example]]:
    """The questions of a file in SQuAD's format, by article."""
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        articles = json.load(stream)["data"]
    return [
        [
            (question["question"], paragraph["context"], [(a["text"], a["answer_start"]) for a in question["answers"]])
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
        for article in articles
    ]


def training_examples(data: Path) -> list[Example]:
    """All questions with one of their answers, and some asked of another paragraph, with no answer."""
    generator, rows = random.Random(0), []
    for name in ("new_wiki_v1.0.json.gz", "reddit_v1.0.json.gz"):
        articles = [article for article in examples(data / "qa" / name) if article]
        everything = [example for article in articles for example in article]
        for article in articles:
            for question, context, answers in article:
                rows.append((question, context, answers[:1]))
                if generator.random() < NO_ANSWER_SHARE:
                    # from the same article where it has other paragraphs: harder to tell apart
                    others = [other for _, other, _ in article if other != context] or [generator.choice(everything)[1]]
                    rows.append((question, generator.choice(others), []))
    return rows


def features(tokenizer, rows: list[Example]) -> list[dict]:
    """Windows of `MAX_LENGTH` tokens with the places of the answer's first and last token; [CLS] (0) means none."""
    made = []
    for chunk in batches(rows, 1_000):
        encoding = tokenizer(
            [question for question, _, _ in chunk],
            [context for _, context, _ in chunk],
            truncation="only_second",
            max_length=MAX_LENGTH,
            stride=STRIDE,
            padding="max_length",
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for window, source in enumerate(encoding["overflow_to_sample_mapping"]):
            first = last = 0
            parts = encoding.sequence_ids(window)
            for text, begin in chunk[source][2]:
                inside = [
                    place
                    for place, (a, b) in enumerate(encoding["offset_mapping"][window])
                    if parts[place] == 1 and a < begin + len(text) and b > begin
                ]
                whole = inside and encoding["offset_mapping"][window][inside[0]][0] <= begin
                if whole and encoding["offset_mapping"][window][inside[-1]][1] >= begin + len(text):
                    first, last = inside[0], inside[-1]
            made.append(
                {key: encoding[key][window] for key in ("input_ids", "attention_mask", "token_type_ids")}
                | {"start_positions": first, "end_positions": last}
            )
    return made


def main() -> None:
    arguments = options(__doc__, NAME)
    base = checkpoint("minilm")
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = with_lora(AutoModelForQuestionAnswering.from_pretrained(base), ("qa_outputs.",))
    rows = features(tokenizer, training_examples(arguments.data))
    print(f"{len(rows):,} windows")

    def collate(batch: list[dict]) -> dict:
        longest = max(sum(row["attention_mask"]) for row in batch)  # padding beyond it is wasted
        return default_data_collator(
            [{k: v[:longest] if isinstance(v, list) else v for k, v in row.items()} for row in batch]
        )

    fit(model, rows, collate, NAME, epochs=4, learning_rate=6e-4, batch_size=32)
    save_adapter(model, arguments.output)


@torch.inference_mode()
def answer(model, tokenizer, questions: list[str], contexts: list[str]) -> list[tuple[str, float]]:
    """The best span of each context, and by how much its score beats that of "no answer"."""
    found = []
    for numbers in batches(range(len(questions)), 32):
        encoding = tokenizer(
            [questions[i] for i in numbers],
            [contexts[i] for i in numbers],
            padding=True,
            truncation="only_second",
            max_length=512,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        offsets = encoding.pop("offset_mapping")
        output = model(**encoding)
        for row, number in enumerate(numbers):
            outside = torch.tensor([part != 1 for part in encoding.sequence_ids(row)])
            start = output.start_logits[row].masked_fill(outside, -1e4)
            end = output.end_logits[row].masked_fill(outside, -1e4)
            scores = (start[:, None] + end[None, :]).triu().tril(LONGEST_ANSWER - 1)
            scores = scores.masked_fill(scores == 0, -1e4)
            first, last = divmod(scores.argmax().item(), len(end))
            nothing = (output.start_logits[row, 0] + output.end_logits[row, 0]).item()
            a, b = offsets[row, first, 0].item(), offsets[row, last, 1].item()
            found.append((contexts[number][a:b], scores.max().item() - nothing))
    return found


def normalised(text: str) -> list[str]:
    """Words in lower case without punctuation and articles, as SQuAD's measure compares them (Rajpurkar et al. 2016)."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def agreement(prediction: str, answers: list[str]) -> tuple[float, float]:
    """Exact match and F1 of words with the closest answer."""
    best = (0.0, 0.0)
    for right in answers:
        ours, theirs = normalised(prediction), normalised(right)
        shared = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
        best = max(best, (float(ours == theirs), 2 * shared / max(len(ours) + len(theirs), 1)), key=lambda s: s[1])
    return best


def results(path: str, data: Path | None) -> list[Result]:
    """Exact match and F1 on our own questions and, with `data`, on XQuAD; and how well it knows when there is no answer."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForQuestionAnswering.from_pretrained(path).eval()

    def measure(what: str, rows: list[Example]) -> list[Result]:
        found = answer(model, tokenizer, [r[0] for r in rows], [r[1] for r in rows])
        scores = [agreement(text, [a for a, _ in r[2]]) for (text, _), r in zip(found, rows, strict=True)]
        exact, shared = (100 * sum(column) / len(rows) for column in zip(*scores, strict=True))
        # the same questions asked of the next article's paragraph: none of them has an answer there
        elsewhere = [rows[(number + len(rows) // 2) % len(rows)][1] for number in range(len(rows))]
        strange = answer(model, tokenizer, [r[0] for r in rows], elsewhere)
        refused = 100 * sum(margin < 0 for _, margin in strange) / len(rows)
        missed = 100 * sum(margin < 0 for _, margin in found) / len(rows)
        return [
            (f"{what}, {len(rows):,} questions, exact match, %", exact),
            (f"{what}, F1 of words, %", shared),
            (f"{what}, asked of a strange paragraph: says none, %", refused),
            (f"{what}, has an answer: says none, %", missed),
        ]

    measured = measure("own", [(q, OWN[c], [(a, OWN[c].index(a))]) for c, q, a in OWN_QUESTIONS])
    if data:
        articles = examples(data / "qa" / "xquad.en.json.gz")
        measured += measure("XQuAD en", [example for article in articles for example in article])
    return measured


# written for this workshop; they keep a broken checkpoint from going unnoticed
OWN = [
    "Nadia Petrova opened her bakery in Gothenburg in 2014 with money borrowed from her aunt. It sells forty kinds of bread, "
    "of which the walnut loaf is the most popular. On Sundays the shop closes at noon.",
    "The ferry to the island leaves from pier seven at six in the morning and needs fifty minutes. Bicycles travel free; "
    "a car costs 24 euros. In winter there is only one crossing a day.",
    "Because a sensor had frozen, the satellite lost contact with the ground station in Nairobi for nine hours. Engineers "
    "restarted it on Thursday and no data were lost.",
]
OWN_QUESTIONS = [
    (0, "Where is the bakery?", "Gothenburg"),
    (0, "When did Nadia Petrova open her bakery?", "2014"),
    (0, "Who lent her the money?", "her aunt"),
    (0, "How many kinds of bread does it sell?", "forty"),
    (1, "Where does the ferry leave from?", "pier seven"),
    (1, "How long does the crossing take?", "fifty minutes"),
    (1, "How much does a car cost?", "24 euros"),
    (2, "Where is the ground station?", "Nairobi"),
    (2, "For how long was contact lost?", "nine hours"),
    (2, "When did the engineers restart it?", "Thursday"),
]


if __name__ == "__main__":
    main()
