"""Every embedded checkpoint loads by the library's own means and is about as good as its card says.

The floors lie a few points below what was measured, on data of our own only, so that a broken checkpoint cannot land.
"""

import re

import pytest
from transformers import pipeline

from utils import catalog
from utils.recipes import audio, coder, evaluate, ner, seal, translator, vision

FLOORS = {  # name: (which of its results, the least that it must reach)
    "sentiment": (0, 88),
    "ner": (0, 80),
    "qa": (1, 60),
    "nli": (0, 62),
    "reranker": (0, 66),
    "mask": (1, 38),
    "protein": (0, 25),
    "vision": (0, 95),
    "audio": (0, 95),
    "coder": (0, 60),
    "table": (1, 90),
}


@pytest.mark.parametrize("name", FLOORS)
def test_a_checkpoint_is_as_good_as_its_card_says(name):
    number, least = FLOORS[name]
    what, value = evaluate.MEASURES[name](catalog.checkpoint(name), None)[number]
    assert value >= least, what


def test_every_checkpoint_is_measured():
    embedded = {name for name, entry in catalog.entries()["checkpoint"].items() if "path" in entry}
    assert set(evaluate.MEASURES) == embedded | {"summarizer"}  # which selects sentences with minilm


QUALITIES = {name: entry["quality"] for name, entry in catalog.entries()["checkpoint"].items() if "quality" in entry}


@pytest.mark.parametrize(("name", "quality"), QUALITIES.items())
def test_every_figure_of_the_catalog_stands_in_the_card(name, quality):
    card = (catalog.DATA / "checkpoints" / name / "README.md").read_text(encoding="utf-8")
    measured = card.split("<!-- measured -->")[1].split("<!-- /measured -->")[0]
    values = [float(value) for value in re.findall(r"\| (\d+\.\d+)", measured)]
    for figure in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?", quality.replace("F1", "")):
        decimals = len(figure.partition(".")[2])
        assert figure in measured or figure in [f"{value:.{decimals}f}" for value in values], figure


def test_the_table_of_checkpoints_is_generated():
    assert seal.table() in (catalog.DATA / "README.md").read_text(encoding="utf-8"), "python -m utils.recipes.seal"


def test_the_translator_translates_everyday_sentences():
    pairs = {
        "The parcel has not arrived.": "Das Paket ist nicht angekommen.",
        "The soup is too hot.": "Die Suppe ist zu heiß.",
        "My sister bought a new bicycle yesterday.": "Meine Schwester hat gestern ein neues Fahrrad gekauft.",
    }
    assert translator.translate(catalog.checkpoint("translator"), list(pairs)) == list(pairs.values())


def test_pipelines_load_them():
    (mood,) = pipeline("text-classification", model=catalog.checkpoint("sentiment"))("A delight from start to finish.")
    assert mood["label"] == "positive"
    find = pipeline("token-classification", model=catalog.checkpoint("ner"), aggregation_strategy="simple")
    kinds = {name["word"]: name["entity_group"] for name in find("Maria Lopez moved from Madrid to Oslo.")}
    assert kinds == {"maria lopez": "PER", "madrid": "LOC", "oslo": "LOC"}
    (pictures, digits) = vision.images(held_out=True)
    (best, *_) = pipeline("image-classification", model=catalog.checkpoint("vision"))(pictures[0])
    assert best["label"] == str(digits[0])
    (best, *_) = pipeline("audio-classification", model=catalog.checkpoint("audio"))(audio.sound("bell", 70, 0))
    assert best["label"] == "bell"
    write = pipeline("text-generation", model=catalog.checkpoint("coder"))
    (made,) = write("import os\n\ndef size(path):\n", max_new_tokens=16, do_sample=False, return_full_text=False)
    assert made["generated_text"].lstrip("\n").startswith("    ")  # it goes on inside the function


def test_a_completion_ends_where_its_function_ends():
    assert coder.body_of("    return 1\n\nclass A:\n    pass") == "    return 1\n"
    assert coder.body_of("    a = 1\n    b =") == "    a = 1"
    assert coder.parses("def f():\n    return 1\n") and not coder.parses("def f(:")


def test_names_are_found_in_tags():
    assert ner.spans(["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]) == {(0, 2, "PER"), (3, 4, "LOC"), (4, 5, "LOC")}
    assert ner.spans(["B-ORG", "I-LOC"]) == {(0, 1, "ORG"), (1, 2, "LOC")}
