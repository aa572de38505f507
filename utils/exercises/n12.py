"""Exercises of notebook 12: what a demo shows, what a server refuses, what a load test measures."""

import math

from utils.exercises import Exercise, Hint, call

LIMIT = 5_000  # characters that the server of the notebook accepts


def label_scores(results):
    """What gr.Label expects, from what a text-classification pipeline returns for one text."""
    return {result["label"]: result["score"] for result in results}


def problem(text):
    """Why a request is refused, as a sentence; an empty string if it is fine."""
    if not isinstance(text, str):
        return "Send a text."
    if not text.strip():
        return "The text is empty: write a review."
    if len(text) > 5_000:
        return f"The text has {len(text):,} characters; at most 5,000 are accepted."
    return ""


def requests_per_second(finished):
    """Throughput of a load test, from the times (in seconds, since its start) at which its requests were answered."""
    return len(finished) / max(finished)


def _test_scores(answer):
    results = [{"label": "5 stars", "score": 0.7}, {"label": "4 stars", "score": 0.3}]
    result = call(answer, results)
    if result == results or isinstance(result, (list, tuple)):
        raise Hint("gr.Label wants one dictionary, {label: score}, not a list.")
    if not isinstance(result, dict):
        raise Hint(f"gr.Label wants a dictionary, yours is a {type(result).__name__}.")
    if result == {0.7: "5 stars", 0.3: "4 stars"}:
        raise Hint("The other way round: labels are the keys, scores the values.")
    if set(result) == {"label", "score"}:
        raise Hint('The keys are the labels themselves, such as "5 stars", not the word "label".')
    if len(result) == 1:
        raise Hint("Give all labels with their scores: gr.Label itself picks how many to show.")
    if result != {"5 stars": 0.7, "4 stars": 0.3}:
        raise Hint(f"For {results} the result should be {{'5 stars': 0.7, '4 stars': 0.3}}, yours is {result}.")


def _test_problem(answer):
    # a sentence is expected for each of these, an empty text for what is fine
    for text in ("Fine product.", "好", "a" * LIMIT, "  spaces around  "):
        result = call(answer, text)
        if not isinstance(result, str):
            raise Hint(f"Return a sentence, or an empty string; yours is a {type(result).__name__}.")
        if result and len(text) == LIMIT:
            raise Hint("Exactly 5,000 characters are still fine: refuse more than that.")
        if result:
            raise Hint(f"The text {text!r} is fine, so the answer is an empty string.")
    wrong = [("", "an empty text"), (" \n\t ", "a text of blanks only"), ("a" * 1_000_000, "a million characters")]
    wrong.append(("a" * (LIMIT + 1), "a text of 5,001 characters"))
    for text, what in [*wrong, (None, "None"), (5, "a number"), (["a"], "a list")]:
        try:
            result = call(answer, text)
        except Hint as hint:
            if "raised" in str(hint):
                raise Hint(f"It breaks on {what}: test the type first, with isinstance(text, str).") from None
            raise
        if not result:
            raise Hint(f"{what[0].upper() + what[1:]} must be refused.")
        if not isinstance(result, str):
            raise Hint(f"Return a sentence; yours is a {type(result).__name__}.")


def _test_throughput(answer):
    for finished, expected in (([0.5, 1.0, 1.5, 2.0], 2.0), ([4.0, 2.0, 1.0], 0.75)):
        result = float(call(answer, finished))
        if math.isclose(result, expected, rel_tol=1e-6):
            continue
        if math.isclose(result, len(finished) / sum(finished), rel_tol=1e-6):
            raise Hint("Requests overlap: divide by the time when the last one finished, not by the sum of all times.")
        if math.isclose(result, 1 / expected, rel_tol=1e-6):
            raise Hint("That is seconds per request: turn the fraction round.")
        if math.isclose(result, len(finished) / finished[-1], rel_tol=1e-6):
            raise Hint("The last in the list need not be the last to finish: use max().")
        raise Hint(f"For {finished} it is {expected} requests per second, yours is {result:.3f}.")


EXERCISES = {
    "12.1": Exercise(
        title="what the demo shows",
        reference=label_scores,
        test=_test_scores,
        hint='Build a dictionary: {result["label"]: result["score"] for result in …}.',
        mistakes=[
            (lambda results: results, "not a list"),
            (lambda results: {r["score"]: r["label"] for r in results}, "other way round"),
            (lambda results: results[0], 'not the word "label"'),
            (lambda results: {results[0]["label"]: results[0]["score"]}, "all labels"),
            (lambda results: results[0]["label"], "dictionary"),
        ],
    ),
    "12.2": Exercise(
        title="what a server refuses",
        reference=problem,
        test=_test_problem,
        hint="Three things can be wrong: it is no text, it is blank, it is too long. Test them in this order.",
        mistakes=[
            (lambda text: "empty" if not text.strip() else "", "million characters"),
            (lambda text: "long" if len(text) > LIMIT else ("" if text.strip() else "empty"), "isinstance"),
            (lambda text: "" if isinstance(text, str) and 0 < len(text.strip()) < LIMIT else "no", "still fine"),
            (lambda text: bool(text), "Return a sentence"),
            (lambda text: "" if isinstance(text, str) and 0 < len(text) <= LIMIT else "no", "blanks only"),
        ],
    ),
    "12.3": Exercise(
        title="throughput",
        reference=requests_per_second,
        test=_test_throughput,
        hint="How many requests were answered, and when was the last one?",
        mistakes=[
            (lambda finished: len(finished) / sum(finished), "overlap"),
            (lambda finished: max(finished) / len(finished), "turn the fraction"),
            (lambda finished: len(finished) / finished[-1], "max()"),
        ],
    ),
}
