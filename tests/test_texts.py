"""The texts written for this workshop have the form that the recipes expect, and what measures is not what trains."""

from collections import Counter

from utils.recipes import coder, parallel, table
from utils.recipes.files import texts


def test_opinions_are_balanced_and_distinct():
    rows = texts("opinions")
    assert Counter(row["label"] for row in rows) == {"positive": len(rows) // 2, "negative": len(rows) // 2}
    assert len({row["text"] for row in rows}) == len(rows)


def test_letters_are_whole_and_some_are_held_out():
    train, held_out = parallel.letters(), parallel.letters(held_out=True)
    assert len(held_out) == (len(train) + len(held_out)) // 10
    assert not {letter[0]["letter"] for letter in train} & {letter[0]["letter"] for letter in held_out}
    for letter in train + held_out:
        assert len({(row["topic"], row["mood"], row["action"]) for row in letter}) == 1


def test_every_premise_has_three_hypotheses():
    rows = texts("nli")
    labels = {"entailment", "neutral", "contradiction"}
    premises = Counter(row["premise"] for row in rows)
    assert set(premises.values()) == {3}
    assert {row["label"] for row in rows} == labels
    assert len({(row["premise"], row["label"]) for row in rows}) == len(rows)


def test_direction_pairs_differ_and_tests_are_not_trained_on():
    rows = texts("direction")
    assert all(row["right"] != row["wrong"] for row in rows)
    test, train = ({row["query"].lower() for row in rows if row["split"] == part} for part in ("test", "train"))
    assert len(test) >= 200
    assert not test & train


def test_queries_have_their_passage():
    passages = {row["passage_id"] for row in texts("search")}
    assert len(passages) >= 60
    assert {row["passage_id"] for row in texts("search_queries")} <= passages


def test_questions_about_tables_point_to_cells_that_exist():
    for split, least in (("train", 150), ("test", 60)):
        questions = table.own(split)
        assert len(questions) >= least
        for frame, question, cells, operation in questions:
            values = [frame.iat[row, column] for row, column in cells]
            assert values, question
            if operation in (1, 2):
                assert all(float(value) is not None for value in values), question
    train, test = ({row["table_id"] for row in texts("table_questions", split=part)} for part in ("train", "test"))
    assert not train & test


def test_prompts_are_python_without_a_body():
    prompts = coder.prompts()
    assert len(prompts) == 50
    assert all(coder.parses(prompt + "    pass\n") for prompt in prompts)
