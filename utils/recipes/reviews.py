"""The review corpus `data/reviews`: composed training reviews, and the gold reviews put into the same form.

    python -m utils.recipes.reviews            # writes data/reviews/<language>/{train,validation,gold}.jsonl.gz
    python -m utils.recipes.reviews --check    # exit status 1 if the files are not what this makes

`data/reviews/written.tsv` holds whole reviews, each written individually and in parallel in four languages. As there are not enough
of them, others are composed: `data/reviews/fragments.tsv` holds hand-written sentences in five languages, each with the number of stars that it suggests
alone. A review is a plan (category, stars, which fragments in which order) that is written out in one language: adjacent
stars share fragments, praise and blame mix, and some reviews get the slips of people in a hurry. Gold reviews
(`gold.tsv`) were written one by one and share no sentence with either.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import random
import sys
from collections import Counter
from dataclasses import dataclass

from utils.catalog import DATA
from utils.recipes.files import read_tsv

FOLDER = DATA / "reviews"
LANGUAGES = ("en", "de", "fr", "es", "ja")
CATEGORIES = ("apparel", "beauty", "book", "electronics", "grocery", "kitchen", "shoes", "toy")
SIZES = {"train": {"en": 6_000, "de": 6_000, "fr": 2_500, "es": 2_500, "ja": 2_000}}
SIZES["validation"] = {language: 600 if language in ("en", "de") else 400 for language in LANGUAGES}
SEEDS = {"train": 1, "validation": 2}

# how many stars a sentence in a review of so many stars suggests: neighbours overlap, as they do among real shoppers
LEVELS = {
    1: {1: 76, 2: 21, 3: 3},
    2: {1: 18, 2: 56, 3: 20, 4: 6},
    3: {1: 3, 2: 21, 3: 50, 4: 21, 5: 5},
    4: {2: 3, 3: 15, 4: 56, 5: 26},
    5: {3: 3, 4: 21, 5: 76},
}
# a review either reports one incident and comments on it, or goes through aspects
INCIDENT_SHARE = 0.6
CERTAINTY = 0.7  # an incident alone mostly settles the rating
ROLES = {"aspect": 50, "opinion": 22, "contrast": 8, "negation": 8, "hedge": 6, "sarcasm": 6}
COMMENTS = {"opinion": 45, "negation": 20, "hedge": 15, "contrast": 10, "sarcasm": 10}
SHARED_ROLES = {"title", "story", "closing"}
HELD_OUT = 6
# set before a sentence whose tone turns against the one before
TURNS = {
    "en": {"up": ("On the plus side: ", "Still: ", "To be fair: "), "down": ("But: ", "On the downside: ", "Sadly: ")},
    "de": {"up": ("Positiv: ", "Immerhin: ", "Man muss sagen: "), "down": ("Aber: ", "Leider: ", "Minuspunkt: ")},
    "fr": {"up": ("Point positif : ", "Malgré tout : ", "Bon point : "), "down": ("Mais : ", "Bémol : ", "Hélas : ")},
    "es": {"up": ("Lo bueno: ", "Eso sí: ", "A su favor: "), "down": ("Pero: ", "Lo malo: ", "Una pega: ")},
    "ja": {"up": ("良い点は、", "ただ良かったのは、", "それでも、"), "down": ("でも、", "残念なのは、", "ただ、")},
}
PLAIN_LETTERS = str.maketrans("áàâéèêíîóôúùûçñ", "aaaeeeiioouuucn")


@dataclass(frozen=True)
class Plan:
    """A review before it has a language: its stars and category, the fragments in order, and where the tone turns."""

    stars: int
    category: str
    title: dict[str, str]
    body: tuple[dict[str, str], ...]
    turns: tuple[str, ...]  # "", "up" or "down" for each fragment of the body


@functools.cache
def pool(split: str) -> dict[tuple[str, str, int], list[dict[str, str]]]:
    """The fragments of "train" or "validation" by (category, role, level).

    Every sixth fragment that carries an opinion is kept for validation; titles, stories and closings serve both.
    """
    groups: dict[tuple[str, str, int], list[dict[str, str]]] = {}
    for row in read_tsv(FOLDER / "fragments.tsv"):
        groups.setdefault((row["category"], row["role"], int(row["level"])), []).append(row)
    for (_, role, _), rows in groups.items():
        if role not in SHARED_ROLES:
            rows[:] = [row for place, row in enumerate(rows) if (place % HELD_OUT == 0) == (split == "validation")]
    return groups


def _draw(generator: random.Random, weights: dict) -> int | str:
    return generator.choices(list(weights), weights=list(weights.values()))[0]


def _fragment(generator: random.Random, split: str, category: str, role: str, level: int) -> dict[str, str] | None:
    own, common = (pool(split).get((where, role, level), []) for where in (category, "any"))
    # where a role has both kinds, they count alike
    options = own if own and (not common or generator.random() < 0.5) else common
    return generator.choice(options) if options else None


def plan_review(generator: random.Random, split: str, stars: int | None = None) -> Plan:
    """Draw a review's stars (unless given), category and fragments, these from the pool of "train" or "validation"."""
    stars = stars or generator.randint(1, 5)
    category = generator.choice(CATEGORIES)
    title = None
    while title is None:
        title = _fragment(generator, split, category, "title", _draw(generator, LEVELS[stars]))
    body: list[dict[str, str]] = []
    if generator.random() < INCIDENT_SHARE:
        roles, wanted = COMMENTS, 1 + generator.choices((0, 1, 2), weights=(40, 40, 20))[0]
        while not body:
            level = stars if generator.random() < CERTAINTY else _draw(generator, LEVELS[stars])
            part = _fragment(generator, split, category, "incident", level)
            body += [part] if part else []
    else:
        roles, wanted = ROLES, generator.choices((1, 2, 3, 4, 5), weights=(15, 30, 30, 17, 8))[0]
        if generator.random() < 0.3:
            body.append(_fragment(generator, split, category, "story", 0))
            wanted += 1
    while len(body) < wanted:
        part = _fragment(generator, split, category, _draw(generator, roles), _draw(generator, LEVELS[stars]))
        if part and part not in body:
            body.append(part)
    if generator.random() < 0.3:
        body.append(_fragment(generator, split, category, "closing", _draw(generator, LEVELS[stars])))
    turns, before = [], 0
    for part in body:
        level = int(part["level"])
        jump = level - before if level and before else 0
        turned = abs(jump) >= 2 and part["role"] in ("aspect", "opinion", "incident") and generator.random() < 0.7
        turns.append(("up" if jump > 0 else "down") if turned else "")
        before = level or before
    return Plan(stars, category, title, tuple(body), tuple(turns))


def write_review(plan: Plan, language: str, generator: random.Random | None = None) -> tuple[str, str]:
    """Title and body of a plan in one language; with a generator, with wording and slips that vary."""
    leads = [
        (generator.choice(TURNS[language][t]) if generator else TURNS[language][t][0]) if t else "" for t in plan.turns
    ]
    sentences = [lead + part[language] for lead, part in zip(leads, plan.body, strict=True)]
    title, body = plan.title[language], ("" if language == "ja" else " ").join(sentences)
    if generator and generator.random() < 0.25:
        title, body = title.rstrip(".。"), _slip(generator, language, body)
    return title, body


def _slip(generator: random.Random, language: str, text: str) -> str:
    """What people in a hurry do to a text: one habit of typing."""
    habits = ["shout", "no full stop"] if language == "ja" else ["shout", "no full stop", "lower case", "typo", "typo"]
    habits += {"fr": ["accents"], "es": ["accents"], "de": ["umlauts"]}.get(language, [])
    habit = generator.choice(habits)
    if habit == "shout":
        return text.rstrip(".。") + ("！！" if language == "ja" else "!!")
    if habit == "no full stop":
        return text.rstrip(".。")
    if habit == "lower case":
        return text.lower()
    if habit == "accents":
        return text.translate(PLAIN_LETTERS)
    if habit == "umlauts":
        return text.replace("ä", "ae").replace("ö", "oe").replace("ü", "ue").replace("ß", "ss")
    words = text.split(" ")
    for _ in range(generator.choice((1, 1, 2))):
        place = generator.randrange(len(words))
        word = words[place]
        if len(word) >= 5:
            at = generator.randrange(1, len(word) - 2)
            swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
            words[place] = generator.choice((swapped, word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:]))
    return " ".join(words)


def _row(language: str, split: str, number: int, stars: int, category: str, title: str, body: str, origin: str) -> dict:
    return {
        "review_id": f"{language}_{split}_{number:05d}",
        "product_category": category,
        "stars": stars,
        "review_title": title,
        "review_body": body,
        "language": language,
        "origin": origin,
    }


@functools.cache
def written(split: str, language: str) -> list[dict]:
    """The individually written reviews of a split in one language; every tenth is for validation. None in Japanese."""
    if language == "ja":
        return []
    rows = read_tsv(FOLDER / "written.tsv")
    chosen = [row for number, row in enumerate(rows) if (number % 10 == 9) == (split == "validation")]
    return [
        _row(
            language, split, number, int(row["stars"]), row["category"],
            row[f"{language}_title"], row[f"{language}_body"], "written",
        )
        for number, row in enumerate(chosen)
    ]  # fmt: skip


@functools.cache
def compose(language: str, split: str) -> list[dict]:
    """The reviews of one language and split: the written ones, then composed ones until all stars are equally many."""
    generator = random.Random(f"{SEEDS[split]} {language}")
    seen = {row["review_body"] for row in compose(language, "train")} if split == "validation" else set()
    rows = list(written(split, language))
    there = Counter(row["stars"] for row in rows)
    missing = [stars for stars in range(1, 6) for _ in range(SIZES[split][language] // 5 - there[stars])]
    generator.shuffle(missing)
    for stars in missing:
        while True:
            plan = plan_review(generator, split, stars)
            title, body = write_review(plan, language, generator)
            if body not in seen:
                break
        seen.add(body)
        rows.append(_row(language, split, len(rows), plan.stars, plan.category, title, body, "composed"))
    return rows


def gold(language: str) -> list[dict]:
    """The reviews of one language from `gold.tsv`, which measure."""
    rows = [row for row in read_tsv(FOLDER / "gold.tsv") if row["language"] == language]
    return [
        _row(language, "gold", number, int(row["stars"]), row["category"], row["title"], row["body"], "written")
        for number, row in enumerate(rows)
    ]


def text(row: dict) -> str:
    """A review as models read it: its title and its body."""
    return f"{row['review_title']}. {row['review_body']}"


def files() -> dict[str, str]:
    """What this recipe makes: {path below `data/reviews`: content}."""
    made = {}
    for language in LANGUAGES:
        for split in ("train", "validation", "gold"):
            rows = gold(language) if split == "gold" else compose(language, split)
            made[f"{language}/{split}.jsonl.gz"] = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args()
    differing = []
    for path, content in files().items():
        file = FOLDER / path
        if options.check:
            if not file.exists() or gzip.decompress(file.read_bytes()).decode("utf-8") != content:
                differing.append(path)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(content.encode("utf-8"), mtime=0))
        print(f"{path}: {content.count(chr(10)):,} reviews")
    if differing:
        print("not what the recipe makes:", ", ".join(differing))
    return bool(differing)


if __name__ == "__main__":
    sys.exit(main())
