"""The review corpus: made by its recipe, balanced, and gold that shares nothing with training."""

import gzip
import re
from collections import Counter

import pytest

from utils.recipes import parallel, reviews

SENTENCE_ENDS = re.compile(r"[.!?。！？]+\s*")


def plain(text):
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def sentences(text):
    return {plain(part) for part in SENTENCE_ENDS.split(text)} - {""}


def test_the_files_are_what_the_recipe_makes():
    for path, content in reviews.files().items():
        assert gzip.decompress((reviews.FOLDER / path).read_bytes()).decode("utf-8") == content, path


@pytest.mark.parametrize("language", reviews.LANGUAGES)
def test_gold_shares_no_sentence_and_no_fragment_with_training(language):
    gold = reviews.gold(language)
    known = set()
    for row in parallel.fragments():
        known |= sentences(row[language])
    for split in ("train", "validation"):
        for row in reviews.written(split, language):
            known |= sentences(row["review_body"])
    # one or two words ("Never again", "Top") are common property
    long_enough = {s for s in known if (len(s) > 12 if language == "ja" else len(s.split()) > 4)}
    shared = [s for row in gold for s in sentences(row["review_body"]) if s in long_enough]
    assert not shared
    bodies = {
        plain(row["review_body"]) for split in ("train", "validation") for row in reviews.compose(language, split)
    }
    assert not [row for row in gold if plain(row["review_body"]) in bodies]


@pytest.mark.parametrize("language", reviews.LANGUAGES)
def test_sizes_and_balance(language):
    for split in ("train", "validation"):
        rows = reviews.compose(language, split)
        assert len(rows) == reviews.SIZES[split][language]
        assert set(Counter(row["stars"] for row in rows).values()) == {len(rows) // 5}
        assert len({row["review_body"] for row in rows}) == len(rows)
        assert {row["product_category"] for row in rows} == set(reviews.CATEGORIES)
    gold = reviews.gold(language)
    assert len(gold) >= (100 if language == "ja" else 200)
    assert set(Counter(row["stars"] for row in gold).values()) == {len(gold) // 5}


@pytest.mark.parametrize("language", reviews.LANGUAGES)
def test_validation_shares_no_opinion_with_training(language):
    def opinions(split):
        rows = (
            row
            for (_, role, _), rows in reviews.pool(split).items()
            if role not in reviews.SHARED_ROLES
            for row in rows
        )
        return {plain(row[language]) for row in rows}

    train, validation = opinions("train"), opinions("validation")
    assert len(validation) > 200
    assert len(train & validation) <= 2  # two English sentences may have one translation
    assert not {row["review_body"] for row in reviews.compose(language, "train")} & {
        row["review_body"] for row in reviews.compose(language, "validation")
    }


def test_written_reviews_are_whole_and_many():
    for language in ("en", "de", "fr", "es"):
        rows = reviews.written("train", language)
        assert len(rows) >= 2_000
        assert rows == [row for row in reviews.compose(language, "train") if row["origin"] == "written"]
        assert all(row["review_title"].strip() and row["review_body"].strip() for row in rows)
        assert max(Counter(row["stars"] for row in rows).values()) < 0.25 * len(rows)


def test_no_review_gives_its_stars_away():
    number = re.compile(r"\b[1-5]\s*/\s*5\b|\b(one|two|three|four|five|[1-5]) stars?\b", re.IGNORECASE)
    for row in reviews.gold("en") + reviews.compose("en", "train"):
        assert not number.search(row["review_title"] + " " + row["review_body"]), row


def test_parallel_text_held_out_is_held_out():
    held_out, train = parallel.own_rows("heldout"), parallel.own_rows("train")
    assert len(held_out) == 1_000
    known = {plain(row["en"]) for row in train} | {plain(row["en"]) for row in parallel.fragments()}
    assert not [row for row in held_out if plain(row["en"]) in known]
    domain = [row for row in [*train, *parallel.fragments()] if all(row[code] for code in parallel.LANGUAGES)]
    assert len(domain) >= 2_000
