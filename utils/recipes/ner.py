"""The checkpoint `ner`: people, organisations and locations in English text. A LoRA adapter on MiniLM.

    python -m utils.recipes.ner --data FOLDER        # about 20 minutes on two CPU cores, one on a GPU

The folder `ner` in FOLDER holds the files named below. MiniLM does not see upper case, which costs names more than anything else.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, DataCollatorForTokenClassification

from utils.catalog import checkpoint
from utils.recipes.files import read_lines
from utils.recipes.training import Result, batches, fit, options, save_adapter, with_lora

NAME = "ner"
LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
# what the corpora call the three kinds; everything else (products, works, miscellaneous) counts as outside
KINDS = {"PER": "PER", "ORG": "ORG", "LOC": "LOC", "person": "PER", "corporation": "ORG", "location": "LOC"}
WIKIANN_SENTENCES = 12_000
WIKIGOLD_HELD_OUT = 5  # every fifth sentence measures
Sentence = tuple[list[str], list[str]]  # words, tags


def sentences(file: Path) -> list[Sentence]:
    """The sentences of a file with a word and its tag on each line, whatever the column order and the tag scheme."""
    found: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    for line in [*read_lines(file), ""]:
        if line.startswith("# "):
            continue
        columns = line.split("\t") if "\t" in line else line.split(" ")
        if not line.strip() or len(columns) < 2:
            if words:
                found.append((words, tags))
            words, tags = [], []
            continue
        word, tag = columns[1:3] if columns[0].isdigit() and len(columns) > 3 else columns[:2]
        mark, _, kind = tag.partition("-")
        kind = KINDS.get(kind, "")
        begins = mark == "B" or not tags or tags[-1][2:] != kind  # WikiGold marks only the inside of a name
        words.append(word.removeprefix("en:"))
        tags.append(f"{'B' if begins else 'I'}-{kind}" if kind else "O")
    return found


def training_sentences(data: Path) -> list[Sentence]:
    """WikiGold but for a fifth (CC BY 4.0), UNER EWT dev (CC BY-SA 4.0), WNUT-17 (CC BY 4.0), WikiANN (CC BY-SA)."""
    folder = data / "ner"
    wikigold = sentences(folder / "wikigold.conll.txt.gz")
    kept = [sentence for number, sentence in enumerate(wikigold) if number % WIKIGOLD_HELD_OUT]
    wnut = [
        sentence
        for name in ("wnut17train.conll.gz", "emerging.dev.conll.gz", "emerging.test.annotated.gz")
        for sentence in sentences(folder / name)
    ]
    silver = random.Random(0).sample(sentences(folder / "wikiann-en.train.gz"), WIKIANN_SENTENCES)
    # the sources most like running text count more
    return kept * 3 + sentences(folder / "uner-ewt.dev.iob2.gz") * 3 + wnut + silver


def main() -> None:
    arguments = options(__doc__, NAME)
    base = checkpoint("minilm")
    tokenizer = AutoTokenizer.from_pretrained(base)
    names = dict(enumerate(LABELS))
    model = AutoModelForTokenClassification.from_pretrained(
        base, num_labels=len(LABELS), id2label=names, label2id={label: i for i, label in names.items()}
    )
    model = with_lora(model, ("classifier.",))

    def encode(words: list[str], tags: list[str]) -> dict:
        encoding = tokenizer(words, is_split_into_words=True, truncation=True, max_length=160)
        places, labels = encoding.word_ids(), []
        for number, place in enumerate(places):
            first = place is not None and place != places[number - 1]
            labels.append(LABELS.index(tags[place]) if first else -100)  # pieces after a word's first do not count
        return dict(encoding) | {"labels": labels}

    rows = [encode(*sentence) for sentence in training_sentences(arguments.data)]
    print(f"{len(rows):,} sentences")
    collator = DataCollatorForTokenClassification(tokenizer)
    fit(model, rows, collator, NAME, epochs=6, learning_rate=8e-4, batch_size=64)
    save_adapter(model, arguments.output)


def spans(tags: list[str]) -> set[tuple[int, int, str]]:
    """The names in a sequence of tags: {(first word, word after the last, kind)}."""
    found, start = set(), None
    for place, tag in enumerate([*tags, "O"]):
        if start is not None and (not tag.startswith("I-") or tag[2:] != tags[start][2:]):
            found.add((start, place, tags[start][2:]))
            start = None
        if tag != "O" and start is None:
            start = place
    return found


@torch.inference_mode()
def predict(path: str, words: list[list[str]]) -> list[list[str]]:
    """The tags of sentences that are split into words."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForTokenClassification.from_pretrained(path).eval()
    predicted = []
    for chunk in batches(words):
        batch = tokenizer(
            chunk, is_split_into_words=True, padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        best = model(**batch).logits.argmax(-1)  # (batch, seq)
        for number, sentence in enumerate(chunk):
            tags: list[str] = ["O"] * len(sentence)
            for token, place in reversed(list(enumerate(batch.word_ids(number)))):
                if place is not None:  # reversed, so that a word's first piece has the last say
                    tags[place] = LABELS[best[number, token]]
            predicted.append(tags)
    return predicted


def f1(path: str, rows: list[Sentence]) -> float:
    """F1 of whole names in percent: boundaries and kind must both be right."""
    right = found = there = 0
    for tags, (_, gold) in zip(predict(path, [words for words, _ in rows]), rows, strict=True):
        ours, theirs = spans(tags), spans(gold)
        right, found, there = right + len(ours & theirs), found + len(ours), there + len(theirs)
    return 200 * right / (found + there)


def results(path: str, data: Path | None) -> list[Result]:
    """F1 on UNER's test part and on the fifth of WikiGold that was kept apart; without `data`, on sentences of our own."""
    own = [(line.split(" "), tags.split(" ")) for line, tags in OWN]
    measured = [(f"own sentences, {len(own)}, F1 of names, %", f1(path, own))]
    if data:
        uner = sentences(data / "ner" / "uner-ewt.test.iob2.gz")
        held_out = sentences(data / "ner" / "wikigold.conll.txt.gz")[::WIKIGOLD_HELD_OUT]
        measured.append((f"UNER EWT test, {len(uner):,} sentences, F1 of names, %", f1(path, uner)))
        measured.append((f"WikiGold held out, {len(held_out)} sentences, F1 of names, %", f1(path, held_out)))
    return measured


# written for this workshop; they keep a broken checkpoint from going unnoticed
OWN = [
    ("Dear Ms Okafor , I ordered a lamp from Brightwell in Leeds .", "O O B-PER O O O O O O B-ORG O B-LOC O"),
    ("My sister Ingrid flew from Oslo to Lisbon with Norwegian Air .", "O O B-PER O O B-LOC O B-LOC O B-ORG I-ORG O"),
    ("The parcel was sent to Maria Lopez in Madrid .", "O O O O O B-PER I-PER O B-LOC O"),
    ("Nobody at Siemens in Munich could help Mr Tanaka .", "O O B-ORG O B-LOC O O O B-PER O"),
    ("Peter Schmidt works for the University of Vienna .", "B-PER I-PER O O O B-ORG I-ORG I-ORG O"),
    ("We spent two weeks in New Zealand last March .", "O O O O O B-LOC I-LOC O O O"),
    ("Deutsche Bank closed its branch in Cardiff .", "B-ORG I-ORG O O O O B-LOC O"),
    ("Ahmed and Julia met at a conference in Toronto .", "B-PER O B-PER O O O O O B-LOC O"),
    ("The refund has not arrived and the chair still wobbles .", "O O O O O O O O O O O"),
    ("According to the Red Cross , floods hit northern Italy .", "O O O B-ORG I-ORG O O O O B-LOC O"),
]


if __name__ == "__main__":
    main()
