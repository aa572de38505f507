"""The checkpoint `table`: answers to questions about a small table, read row by row. A LoRA adapter on `nli`.

    python -m utils.recipes.table        # about half an hour on one CPU core

TAPAS (Herzig et al. 2020, https://arxiv.org/abs/2004.02349) reads a table as one text, marks the cells that matter, and says what
to do with them: show, add up, average or count. It learns what a row is from millions of tables. This model marks and says the same,
but reads one row at a time, so that nothing has to be learned about rows; what only a comparison with the other rows could
tell is computed and written into the text. It begins as our `nli`, which has learned to compare two texts. After the training,
a linear classifier on it learns whether a question asks for one row, some, or all: rows that are read alone cannot agree on that.
Trained on tables and questions made from the patterns below and on questions written for this workshop; other tables of ours measure.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BatchEncoding,
    DataCollatorForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from utils import WorkshopError
from utils.catalog import checkpoint
from utils.recipes.files import texts
from utils.recipes.training import Result, fit, options, save_adapter, with_lora

NAME = "table"
OPERATIONS = ["NONE", "SUM", "AVERAGE", "COUNT"]  # as TAPAS calls them
SIZES = ["one", "some", "all"]  # rows that an answer takes
LABELS = ["outside", "cell", *OPERATIONS, *SIZES]  # the first two are for values, the others for the first token, [CLS]
BASE = "nli"  # it compares two texts already: here a question and a row
QUESTIONS, OWN = 40_000, 0.5  # read in training; the share of those that were written, again and again
OTHERS = 2  # rows without an answer, beside one with it
ELSEWHERE = 0.3  # how often a cell outside the column of the answer counts: the column is easy, the row is not
RANK = 12
MAX_LENGTH = 160
Example = tuple[pd.DataFrame, str, list[tuple[int, int]], int]  # table, question, cells (row, column), operation
Row = tuple[list[str], list[int | None]]  # the words of a row; for each, the column whose value it belongs to

COUNTED = {
    word: float(n)
    for n, word in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])
}
COUNTED |= {"eleven": 11.0, "twelve": 12.0, "dozen": 12.0, "thousand": 1e3, "million": 1e6}
COUNTED |= {
    word: 10.0 * n
    for n, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred"], start=2
    )
}
NAMES = {
    "person": "Amara Bode|Lena Fuchs|Tomás Ruiz|Wei Zhang|Nadia Haddad|Ole Berg|Priya Nair|Jack Doyle|Mina Park|Igor Petrov|Sara Conti|Ken Ito",
    "city": "Lagos|Bremen|Sevilla|Wuhan|Beirut|Bergen|Pune|Cork|Busan|Omsk|Turin|Kobe|Leeds|Graz|Nantes|Quito",
    "product": "kettle|toaster|desk lamp|office chair|rain jacket|backpack|headphones|blender|yoga mat|tent|bookshelf|razor|drill|rug",
    "book": "The Salt Road|Winter Harbour|Glass Orchard|A Quiet Engine|Paper Boats|Nine Lanterns|The Ninth Gate Keeper|Low Tide|Red Clay",
    "animal": "otter|moose|heron|lynx|badger|seal|raven|pike|hedgehog|stoat|crane|hare",
    "team": "Falcons|Rovers|Comets|Harbour United|Lions|Northside|Athletic|Wanderers|Pirates|Bears",
    "course": "Statistics|Drawing|Chemistry|Spanish|Cooking|Robotics|Photography|History|Yoga|Economics",
    "dish": "lentil soup|fish pie|veggie burger|pancakes|risotto|chicken curry|apple cake|ramen|omelette|tacos",
    "hotel": "Hotel Adler|Sea View|The Anchor|Pine Lodge|Grand Central|Villa Rosa|Old Mill|Park Inn",
    "order": "A-1041|A-1042|A-1057|B-2001|B-2010|B-2044|C-3107|C-3120|C-3188|D-4003",
    "film": "Blue Static|The Long Ferry|Hollow Crown Street|Marigold|Second Moon|Dust and Honey|Night Shift|Snow Line",
}
CATEGORIES = {
    "country": "Nigeria|Germany|Spain|China|Lebanon|Norway|India|Ireland",
    "colour": "red|blue|green|black|white",
    "department": "sales|research|support|logistics|finance",
    "status": "delivered|cancelled|pending|returned",
    "genre": "crime|fantasy|history|romance|comedy",
    "habitat": "forest|lake|river|coast",
    "level": "beginner|intermediate|advanced",
    "day": "Monday|Tuesday|Wednesday|Friday|Saturday",
    "type": "vegetarian|vegan|meat|fish",
}
# name of a number column: lowest, highest, decimals; asked by value; adjectives for the highest and the lowest
NUMBERS: dict[str, tuple[float, float, int, list[str], list[str], list[str]]] = {
    "price": (
        3,
        400,
        2,
        ["how much does {e} cost", "what is the price of {e}", "price of {e}"],
        ["most expensive", "dearest"],
        ["cheapest", "least expensive"],
    ),
    "age": (18, 70, 0, ["how old is {e}", "what is the age of {e}"], ["oldest"], ["youngest"]),
    "population": (
        40_000,
        9_000_000,
        0,
        ["how many people live in {e}", "what is the population of {e}"],
        ["largest", "most populous"],
        ["smallest", "least populous"],
    ),
    "weight": (1, 120, 1, ["how heavy is {e}", "what does {e} weigh", "weight of {e}"], ["heaviest"], ["lightest"]),
    "pages": (
        90,
        800,
        0,
        ["how many pages does {e} have", "how long is {e}"],
        ["longest", "thickest"],
        ["shortest", "thinnest"],
    ),
    "stock": (0, 90, 0, ["how many of {e} are in stock", "what is the stock of {e}", "how many {e} are left"], [], []),
    "rating": (
        1,
        5,
        1,
        ["what rating does {e} have", "how is {e} rated"],
        ["best rated", "best"],
        ["worst rated", "worst"],
    ),
    "year": (
        1950,
        2024,
        0,
        ["when was {e} made", "what year is {e} from", "which year is {e} from"],
        ["newest", "latest", "most recent"],
        ["oldest", "earliest"],
    ),
    "points": (3, 80, 0, ["how many points does {e} have", "points of {e}"], ["best"], ["worst"]),
    "goals": (5, 90, 0, ["how many goals did {e} score", "goals of {e}"], [], []),
    "salary": (
        1_900,
        8_000,
        0,
        ["what does {e} earn", "how much does {e} earn", "salary of {e}"],
        ["best paid"],
        ["worst paid"],
    ),
    "minutes": (
        5,
        180,
        0,
        ["how long does {e} take", "how many minutes does {e} take"],
        ["longest"],
        ["quickest", "fastest", "shortest"],
    ),
    "calories": (90, 900, 0, ["how many calories does {e} have", "calories of {e}"], [], []),
    "rooms": (6, 300, 0, ["how many rooms does {e} have"], ["largest", "biggest"], ["smallest"]),
    "students": (
        4,
        60,
        0,
        ["how many students are in {e}", "how many people take {e}"],
        ["most popular"],
        ["least popular"],
    ),
    "amount": (8, 900, 2, ["what is the amount of {e}", "how much was {e}"], ["largest", "biggest"], ["smallest"]),
    "height": (10, 250, 0, ["how tall is {e}", "what is the height of {e}"], ["tallest"], ["shortest", "smallest"]),
}
SCHEMAS = [
    ("product", ["colour"], ["price", "stock", "rating", "weight"]),
    ("person", ["department", "country"], ["age", "salary", "height"]),
    ("city", ["country"], ["population", "rating"]),
    ("book", ["genre"], ["pages", "year", "price", "rating"]),
    ("animal", ["habitat"], ["weight", "height", "age"]),
    ("team", ["country"], ["points", "goals"]),
    ("course", ["level", "day"], ["students", "price", "minutes"]),
    ("dish", ["type"], ["calories", "minutes", "price"]),
    ("hotel", ["country"], ["rooms", "price", "rating"]),
    ("order", ["status", "country"], ["amount", "weight"]),
    ("film", ["genre", "country"], ["minutes", "year", "rating"]),
]  # fmt: skip
WORDS = {  # other words for the column headers
    "price": ["cost"], "stock": ["in stock", "quantity"], "minutes": ["duration", "time (min)"], "amount": ["total", "sum"],
    "colour": ["color"], "salary": ["pay", "income"], "person": ["name", "employee"], "product": ["item", "article"],
    "film": ["title", "movie"], "book": ["title"], "order": ["order number"], "students": ["participants"], "year": ["released"],
}  # fmt: skip


def _plural(word: str) -> str:
    irregular = {"person": "people", "dish": "dishes", "city": "cities", "country": "countries"}
    return irregular.get(word, word + "s")


def compose(generator: random.Random) -> Example:
    """A table of 3 to 9 rows and a question about it."""
    entity, kinds, numbers = generator.choice(SCHEMAS)
    kinds = generator.sample(kinds, generator.randint(1, len(kinds)))
    numbers = generator.sample(numbers, generator.randint(1, min(3, len(numbers))))
    options = NAMES[entity].split("|")
    count = generator.randint(3, min(9, len(options)))
    keys = generator.sample(options, count)
    columns: dict[str, list[Any]] = {entity: keys}
    for kind in kinds:
        few = generator.sample(
            CATEGORIES[kind].split("|"), min(generator.randint(2, 4), len(CATEGORIES[kind].split("|")))
        )
        columns[kind] = [generator.choice(few) for _ in keys]
    for number in numbers:
        low, high, digits, *_ = NUMBERS[number]
        drawn = [
            round(low * (high / max(low, 1)) ** generator.random() if low > 1 else generator.uniform(low, high), digits)
            for _ in keys
        ]
        columns[number] = [int(value) if digits == 0 else value for value in drawn]
    rest = [*kinds, *numbers]
    generator.shuffle(rest)
    order = [entity, *rest] if generator.random() < 0.8 else [*rest, entity]
    place = {name: order.index(name) for name in order}
    kind, number = generator.choice(kinds), generator.choice(numbers)
    value, row = generator.choice(columns[kind]), generator.randrange(count)
    here = [r for r in range(count) if columns[kind][r] == value]
    figures, name = columns[number], generator.choice([number, *WORDS.get(number, [])])
    things, of = (
        _plural(entity),
        generator.choice([f"with {kind} {value}", f"whose {kind} is {value}", f"that are {value}"]),
    )
    if kind in ("country", "department", "habitat"):
        of = generator.choice([f"from {value}", f"in {value}", f"of {value}"])
    if kind in ("status", "colour", "type", "genre", "level") and generator.random() < 0.5:
        things, of = f"{value} {things}", ""
    some, operation = f"{things} {of}".strip(), 0
    asks, highest, lowest = NUMBERS[number][3:]
    pattern = generator.choices(
        ["look up", "category", "reverse", "superlative", "count", "count all", "sum", "sum some", "average", "list", "more"],
        weights=[22, 12, 6, 18, 12, 3, 7, 5, 6, 7, 6],
    )[0]  # fmt: skip
    if pattern == "look up":
        question, cells = generator.choice(asks).format(e=keys[row]), [(row, place[number])]
    elif pattern == "category":
        asked = generator.choice(
            [
                f"what {kind} is {keys[row]}",
                f"what is the {kind} of {keys[row]}",
                f"which {kind} does {keys[row]} have",
                f"where is {keys[row]} from" if kind == "country" else f"{kind} of {keys[row]}",
            ]
        )
        question, cells = asked, [(row, place[kind])]
    elif pattern == "reverse":
        question = generator.choice(
            [f"which {entity} has a {name} of {figures[row]}", f"what has {figures[row]} {name}"]
        )
        cells = [(r, place[entity]) for r in range(count) if figures[r] == figures[row]]
    elif pattern == "superlative":
        up = generator.random() < 0.5
        best = max(figures) if up else min(figures)
        adjectives = (highest if up else lowest) + [
            f"{w} {name}" for w in (("highest", "most", "largest") if up else ("lowest", "least", "fewest", "smallest"))
        ]
        adjective = generator.choice(adjectives)
        asked = [
            f"which {entity} has the {adjective}",
            f"what {entity} has the {adjective}",
            f"{entity} with the {adjective}",
        ]
        if name not in adjective:
            asked = [
                f"which {entity} is the {adjective}",
                f"what is the {adjective} {entity}",
                f"the {adjective} {entity}",
                f"which is the {adjective}",
            ]
        question, cells = generator.choice(asked), [(r, place[entity]) for r in range(count) if figures[r] == best]
        if generator.random() < 0.15:
            word = generator.choice(["highest", "maximum"] if up else ["lowest", "minimum"])
            question, cells = (
                f"what is the {word} {name}",
                [(r, place[number]) for r in range(count) if figures[r] == best],
            )
    elif pattern == "count":
        question = generator.choice(
            [f"how many {some} are there", f"number of {some}", f"how many {some}", f"count the {some}"]
        )
        cells, operation = [(r, place[entity]) for r in here], 3
    elif pattern == "count all":
        question = generator.choice(
            [
                f"how many {_plural(entity)} are there",
                f"how many {_plural(entity)} are listed",
                f"number of {_plural(entity)}",
            ]
        )
        cells, operation = [(r, place[entity]) for r in range(count)], 3
    elif pattern == "sum":
        question = generator.choice(
            [
                f"what is the total {name}",
                f"total {name} of all {_plural(entity)}",
                f"how much {name} in total",
                f"sum of the {name}",
                f"what is the {name} of all {_plural(entity)} together",
            ]
        )
        cells, operation = [(r, place[number]) for r in range(count)], 1
    elif pattern == "sum some":
        question = generator.choice(
            [f"total {name} of {some}", f"what is the {name} of {some} together", f"sum of the {name} of {some}"]
        )
        cells, operation = [(r, place[number]) for r in here], 1
    elif pattern == "average":
        part, rows_ = (f" of {some}", here) if generator.random() < 0.4 else ("", list(range(count)))
        question = generator.choice(
            [
                f"what is the average {name}{part}",
                f"average {name}{part}",
                f"mean {name}{part}",
                f"how high is the {name}{part} on average",
            ]
        )
        cells, operation = [(r, place[number]) for r in rows_], 2
    elif pattern == "list":
        question = generator.choice(
            [f"which {some} are there", f"list the {some}", f"which are the {some}", f"show {some}"]
        )
        cells = [(r, place[entity]) for r in here]
    else:
        limit = sorted(figures)[generator.randrange(count - 1)]
        up = generator.random() < 0.5
        word = generator.choice(["more than", "over", "above"] if up else ["less than", "under", "below"])
        limit = limit if up else sorted(figures)[-1]
        cells = [(r, place[entity]) for r in range(count) if (figures[r] > limit if up else figures[r] < limit)]
        question = generator.choice(
            [f"which {_plural(entity)} have a {name} {word} {limit}", f"{_plural(entity)} with {name} {word} {limit}"]
        )
        if not cells:
            return compose(generator)
        if generator.random() < 0.3:
            question, operation = f"how many {_plural(entity)} have a {name} {word} {limit}", 3
    question += generator.choice(["?", "?", ""])
    table = pd.DataFrame(columns)[order].astype(str)
    table.columns = [generator.choice([c, c, *WORDS.get(c, [])]) for c in order]
    if generator.random() < 0.5:
        question, table.columns = question[0].upper() + question[1:], [c[0].upper() + c[1:] for c in table.columns]
    return table, question, cells, operation


def own(split: str) -> list[Example]:
    """Questions written for this workshop: `data/texts/tables.tsv` and `table_questions.tsv`."""
    tables = {}
    for row in texts("tables"):
        header, *rows = (line.split(" | ") for line in row["table"].split(" || "))
        tables[row["table_id"]] = pd.DataFrame(rows, columns=header)
    examples = []
    for row in texts("table_questions", split=split):
        cells = [tuple(int(n) for n in cell.split(",")) for cell in row["cells"].split(" ")]
        examples.append((tables[row["table_id"]], row["question"], cells, OPERATIONS.index(row["operation"])))
    return examples


def number(text: str) -> float | None:
    """The number in a cell, if it is one: with a currency, a unit or thousands separators, or a time of day (in hours)."""
    found = re.fullmatch(r"[€$£]?\s?(-?[\d,]*\.?\d+)(?::(\d\d))?\s?[€%°]?\s?[a-zA-Z]{0,3}", text.strip())
    return float(found[1].replace(",", "")) + int(found[2] or 0) / 60 if found else None


def asked(question: str) -> list[float]:
    """The numbers in a question, in digits or as a word."""
    words = re.findall(r"[\d,]*\.?\d+|[a-z]+", question.lower().replace("-", " "))
    return [n for word in words if (n := COUNTED.get(word, number(word))) is not None]


def as_text(table: pd.DataFrame, question: str) -> list[Row]:
    """Every row as words: each column's name, its value, and how a number compares: with its column, with the question's."""
    columns = [[number(text) for text in table.iloc[:, column]] for column in range(table.shape[1])]
    present = [{n for n in column if n is not None} for column in columns]
    others = asked(question)
    rows: list[Row] = []
    for row in range(len(table)):
        words, owners = [], []
        for column, name in enumerate(table.columns):
            here, there = columns[column][row], present[column]
            compares = here is not None and len(there) > 1
            extreme = ["highest"] * (here == max(there)) + ["lowest"] * (here == min(there)) if compares else []
            against = [
                word
                for other in (others if compares else [])
                for word in ("above" if here > other else "below" if here < other else "equal", f"{other:g}")
            ]
            before = [*extreme, *name.split(), *against, ":"]  # as people speak: highest price, age above 40
            value = table.iat[row, column].split() or ["-"]
            words += [*before, *value, ";"]
            owners += [None] * len(before) + [column] * len(value) + [None]
        rows.append((words, owners))
    return rows


def encode(tokenizer: PreTrainedTokenizerBase, question: str, rows: list[Row]) -> tuple[BatchEncoding, list[dict]]:
    """Pairs of question and row, and for each {column: place of the first token of its value}.

    Raises:
        WorkshopError: the question leaves too little room for a row.
    """
    length = len(tokenizer(question, add_special_tokens=False)["input_ids"])
    if length > MAX_LENGTH // 2:
        raise WorkshopError(
            f"The question has {length} tokens: ask in {MAX_LENGTH // 2} at most, to leave room for a row."
        )
    encoding = tokenizer(
        [question.split() or ["?"]] * len(rows),
        [words for words, _ in rows],
        is_split_into_words=True,
        truncation="only_second",
        max_length=MAX_LENGTH,
    )
    places: list[dict] = []
    for row, (_, owners) in enumerate(rows):
        found: dict[int, int] = {}
        for place, (word, part) in enumerate(zip(encoding.word_ids(row), encoding.sequence_ids(row), strict=True)):
            if part == 1 and owners[word] is not None:
                found.setdefault(owners[word], place)
        places.append(found)
    return encoding, places


def features(tokenizer: PreTrainedTokenizerBase, example: Example, generator: random.Random) -> list[dict]:
    """A row with a cell that answers and some without, as the model gets them. Tokens that decide nothing have no label."""
    table, question, cells, operation = example
    rows, wanted = as_text(table, question), {row for row, _ in cells}
    others = sorted(set(range(len(table))) - wanted)
    chosen = [generator.choice(sorted(wanted)), *generator.sample(others, min(OTHERS, len(others)))]
    encoding, places = encode(tokenizer, question, [rows[row] for row in chosen])
    found = []
    for at, row in enumerate(chosen):
        labels = [-100] * len(encoding["input_ids"][at])
        labels[0] = LABELS.index(OPERATIONS[operation])
        for column, place in places[at].items():
            if column == cells[0][1] or generator.random() < ELSEWHERE:
                labels[place] = int((row, column) in cells)
        found.append({key: values[at] for key, values in encoding.items()} | {"labels": labels})
    return found


def main() -> None:
    arguments = options(__doc__, NAME, needs_data=False)
    base = checkpoint(BASE)
    tokenizer = AutoTokenizer.from_pretrained(base)
    names = dict(enumerate(LABELS))
    model = AutoModelForTokenClassification.from_pretrained(
        base,
        num_labels=len(LABELS),
        id2label=names,
        label2id={label: i for i, label in names.items()},
        ignore_mismatched_sizes=True,  # the head is a new one
    )
    model = with_lora(model, ("classifier.",), RANK)
    generator, written = random.Random(0), own("train")
    examples = [generator.choice(written) if generator.random() < OWN else compose(generator) for _ in range(QUESTIONS)]
    rows = [row for example in examples for row in features(tokenizer, example, generator)]
    print(f"{len(rows):,} rows for {QUESTIONS:,} questions")
    collator = DataCollatorForTokenClassification(tokenizer)
    fit(model, rows, collator, NAME, epochs=1, learning_rate=1e-3, batch_size=48)
    learn_sizes(model, tokenizer, written + [compose(generator) for _ in range(300)])
    save_adapter(model, arguments.output)


@torch.inference_mode()
def learn_sizes(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[Example]) -> None:
    """Fit the last rows of the head, which tell how many rows answer, on the mean of the states of [CLS]."""
    model.eval()
    states, sizes = [], []
    for table, question, cells, _ in examples:
        encoding, _ = encode(tokenizer, question, as_text(table, question))
        batch = tokenizer.pad(encoding, return_tensors="pt").to(model.device)
        states.append(model(**batch, output_hidden_states=True).hidden_states[-1][:, 0].mean(0).cpu().numpy())  # (dim,)
        sizes.append("one" if len(cells) == 1 else "all" if len(cells) == len(table) else "some")
    found = LogisticRegression(max_iter=3_000).fit(states, sizes)
    order = [list(found.classes_).index(size) for size in SIZES]
    model.classifier.weight[-len(SIZES) :] = torch.tensor(found.coef_[order])
    model.classifier.bias[-len(SIZES) :] = torch.tensor(found.intercept_[order])


@torch.inference_mode()
def answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame, question: str
) -> tuple[list[tuple[int, int]], int]:
    """The cells (row, column) that answer a question, all in one column, and the number of the operation."""
    encoding, places = encode(tokenizer, question, as_text(table, question))
    batch = tokenizer.pad(encoding, return_tensors="pt").to(model.device)
    logits = model(**batch).logits  # (rows, seq, labels)
    first = logits[:, 0].mean(0)
    _, operations, sizes = first.split([2, len(OPERATIONS), len(SIZES)])
    operation, size = operations.argmax().item(), SIZES[sizes.argmax().item()]
    scores = {
        (row, column): (logits[row, place, 1] - logits[row, place, 0]).item()
        for row, found in enumerate(places)
        for column, place in found.items()
    }
    best = max(scores, key=scores.__getitem__)
    column = sorted(cell for cell in scores if cell[1] == best[1])
    if size == "some":
        column = [cell for cell in column if scores[cell] > 0 or cell == best]
    return ([best] if size == "one" else column), operation


def value(table: pd.DataFrame, cells: list[tuple[int, int]], operation: int) -> frozenset[str] | float:
    """What an answer comes to: the cells' texts, or a number."""
    found = [table.iat[row, column] for row, column in cells]
    if operation == OPERATIONS.index("COUNT"):
        return float(len(found))
    numbers = [number(text) for text in found]
    if operation == OPERATIONS.index("NONE") or None in numbers:
        return frozenset(found)
    return round(sum(numbers) / (len(numbers) if operation == OPERATIONS.index("AVERAGE") else 1), 2)


def results(path: str, data: Path | None) -> list[Result]:
    """How many questions about tables of ours get exactly the right answer."""
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForTokenClassification.from_pretrained(path).eval()
    measured, generator = [], random.Random(1)
    for what, examples in (("written", own("test")), ("composed", [compose(generator) for _ in range(100)])):
        right = sum(
            value(table, *answer(model, tokenizer, table, question)) == value(table, cells, operation)
            for table, question, cells, operation in examples
        )
        measured.append((f"{what} questions, {len(examples)}, right, %", 100 * right / len(examples)))
    return measured


if __name__ == "__main__":
    main()
