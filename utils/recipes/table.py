"""The checkpoint `table`: answers to questions about a small table. A TAPAS on MiniLM's weights, as an adapter.

    python -m utils.recipes.table        # about an hour on two CPU cores, two minutes on a GPU

TAPAS (Herzig et al. 2020, https://arxiv.org/abs/2004.02349) is a BERT that reads question and cells as one text and knows of every token its
row, its column and the rank of its number in the column. It marks the cells that matter and says what to do with them: show,
sum up, average or count. Trained on tables and questions made from the patterns below and on questions written for this
workshop; other tables of ours measure.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import AutoTokenizer, BertModel, TapasConfig, TapasForQuestionAnswering, TapasTokenizer

from utils.catalog import checkpoint
from utils.recipes.files import texts
from utils.recipes.training import Result, fit, options, save_difference

NAME = "table"
OPERATIONS = ["NONE", "SUM", "AVERAGE", "COUNT"]
SMALL, SMALL_ROWS, COMPOSED = 6_400, 5, 6_400
RANK = 64
MAX_LENGTH = 256
Example = tuple[pd.DataFrame, str, list[tuple[int, int]], int]  # table, question, cells (row, column), operation

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


def config_for(base: str) -> TapasConfig:
    """MiniLM's shape, TAPAS's extra embeddings, operations learned from examples that name them."""
    encoder = BertModel.from_pretrained(base).config
    return TapasConfig(
        vocab_size=encoder.vocab_size,
        hidden_size=encoder.hidden_size,
        num_hidden_layers=encoder.num_hidden_layers,
        num_attention_heads=encoder.num_attention_heads,
        intermediate_size=encoder.intermediate_size,
        max_position_embeddings=encoder.max_position_embeddings,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        # segments, columns, rows, earlier answers, ranks, ranks from below, relations to numbers in the question
        type_vocab_sizes=[3, 32, 128, 2, 128, 128, 10],
        reset_position_index_per_cell=False,  # the base already sees who is near: cells of a row, in running text
        select_one_column=True,
        allow_empty_column_selection=False,
        num_aggregation_labels=len(OPERATIONS),
        aggregation_labels=dict(enumerate(OPERATIONS)),
        no_aggregation_label_index=0,
        use_answer_as_supervision=False,
        aggregation_loss_weight=1.0,
        average_logits_per_cell=False,
    )


def features(tokenizer: TapasTokenizer, table: pd.DataFrame, question: str, cells: list, operation: int) -> dict:
    """What the model gets: ids, token types (seq, 7), 1 for every token of a cell that matters, the operation's number."""
    encoding = tokenizer(table=table, queries=question, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    row = {key: value.squeeze(0) for key, value in encoding.items()}
    columns, lines = row["token_type_ids"][:, 1].tolist(), row["token_type_ids"][:, 2].tolist()
    wanted = {(line + 1, column + 1) for line, column in cells}  # 0 is the question
    labels = torch.tensor([int(place in wanted) for place in zip(lines, columns, strict=True)])
    return row | {"labels": labels, "aggregation_labels": operation}


def main() -> None:
    arguments = options(__doc__, NAME, needs_data=False)
    base = checkpoint("minilm")
    # TAPAS marks empty cells with a word of their own: MiniLM's vocabulary has some that are not in use
    tokenizer = TapasTokenizer(str(Path(base) / "vocab.txt"), empty_token="[unused0]", model_max_length=512)
    model = TapasForQuestionAnswering(config_for(base))
    encoder = BertModel.from_pretrained(base)
    state = {k: v for k, v in encoder.state_dict().items() if "token_type" not in k and "position_ids" not in k}
    model.tapas.load_state_dict(state, strict=False)
    embeddings = model.tapas.embeddings
    with torch.no_grad():  # the others begin at random, and as large as words: smaller, a row is hard to see
        embeddings.token_type_embeddings_0.weight[:2] = encoder.embeddings.token_type_embeddings.weight
        for number in (1, 2, 4, 5):
            getattr(embeddings, f"token_type_embeddings_{number}").weight[1:].normal_(0, 0.05)
    embeddings.word_embeddings.requires_grad_(False)
    embeddings.position_embeddings.requires_grad_(False)
    generator = random.Random(0)

    def collate(batch: list[dict]) -> dict:
        keys = [key for key in batch[0] if key != "aggregation_labels"]
        padded = {key: pad_sequence([row[key] for row in batch], batch_first=True) for key in keys}
        return padded | {"aggregation_labels": torch.tensor([row["aggregation_labels"] for row in batch])}

    def train(examples: list[Example], stage: str, epochs: int) -> None:
        rows = [features(tokenizer, *example) for example in tqdm(examples, desc="tables")]
        print(f"{stage}: {len(rows):,} questions")
        new = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("tapas.encoder.")]
        optimizer = torch.optim.AdamW(
            [{"params": model.tapas.encoder.parameters(), "lr": 3e-4}, {"params": new, "lr": 1e-3}], weight_decay=0.01
        )
        fit(model, rows, collate, stage, epochs=epochs, learning_rate=3e-4, batch_size=32, optimizer=optimizer)

    # small tables first: about 300 steps pass before the model sees rows, and these are cheap
    small: list[Example] = []
    while len(small) < SMALL:
        example = compose(generator)
        small += [example] if len(example[0]) <= SMALL_ROWS else []
    train(small, f"{NAME}-small", epochs=2)
    train(own("train") * 6 + [compose(generator) for _ in range(COMPOSED)], NAME, epochs=3)
    save_difference(model, base, arguments.output, RANK)
    tokenizer.save_pretrained(arguments.output)
    (arguments.output / "vocab.txt").unlink()  # the base's


@torch.inference_mode()
def answer(model, tokenizer, table: pd.DataFrame, question: str) -> tuple[list[tuple[int, int]], int]:
    """The cells (row, column) that answer a question, and the number of the operation."""
    inputs = tokenizer(table=table, queries=question, truncation=True, return_tensors="pt")
    output = model(**inputs)
    [cells], [operation] = tokenizer.convert_logits_to_predictions(inputs, output.logits, output.logits_aggregation)
    return cells, operation


def value(table: pd.DataFrame, cells: list[tuple[int, int]], operation: int) -> frozenset[str] | float:
    """What an answer comes to: the cells' texts, or a number."""
    found = [table.iat[row, column] for row, column in cells]
    if operation == 0:
        return frozenset(found)
    if operation == 3:
        return float(len({row for row, _ in cells}))
    try:
        numbers = [float(text.replace(",", "").strip("€$% ")) for text in found]
    except ValueError:
        return frozenset(found)
    return round(sum(numbers) / (1 if operation == 1 else max(len(numbers), 1)), 2)


def results(path: str, data: Path | None) -> list[Result]:
    """How many questions about tables of ours get exactly the right answer."""
    tokenizer, model = AutoTokenizer.from_pretrained(path), TapasForQuestionAnswering.from_pretrained(path).eval()
    measured = []
    generator = random.Random(1)
    for what, examples in (("written", own("test")), ("composed", [compose(generator) for _ in range(100)])):
        right = sum(
            value(table, *answer(model, tokenizer, table, question)) == value(table, cells, operation)
            for table, question, cells, operation in examples
        )
        measured.append((f"{what} questions, {len(examples)}, right, %", 100 * right / len(examples)))
    return measured


if __name__ == "__main__":
    main()
