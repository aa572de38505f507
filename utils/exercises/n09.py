"""Exercises of notebook 09: labels, the error in stars, the expected rating."""

import math

from utils.exercises import Exercise, Hint, call


def add_label(review):
    """A review's class for the model: 1 to 5 stars become 0 to 4."""
    return {"label": review["stars"] - 1}


def mean_absolute_error(predictions, references):
    """How many stars the predictions are off on average."""
    return sum(abs(p - r) for p, r in zip(predictions, references, strict=True)) / len(references)


def expected_stars(probabilities):
    """The mean of the stars 1 to 5, weighted by their probabilities."""
    return sum(stars * probability for stars, probability in enumerate(probabilities, start=1))


def _test_label(answer):
    for stars in (1, 3, 5):
        result = call(answer, {"stars": stars, "review_body": "…"})
        if not isinstance(result, dict):
            raise Hint('map() expects a dictionary with the new column: {"label": …}.')
        if "label" not in result:
            raise Hint('The new column must be called "label": Trainer looks for that name.')
        if result["label"] == stars:
            raise Hint("Classes are counted from 0: five stars are class 4.")
        if result["label"] != stars - 1:
            raise Hint(f"{stars} stars must become class {stars - 1}, yours is {result['label']!r}.")
        if not isinstance(result["label"], int):
            raise Hint("Classes are whole numbers: float labels would mean several classes at once to transformers.")


def _test_error(answer):
    cases = [([5, 1], [5, 1], 0.0), ([5, 1, 3], [4, 2, 3], 2 / 3), ([1, 1, 5, 5], [5, 5, 1, 2], 15 / 4)]
    for predictions, references, expected in cases:
        result = float(call(answer, predictions, references))
        if math.isclose(result, expected, abs_tol=1e-6):
            continue
        differences = [p - r for p, r in zip(predictions, references, strict=True)]
        if math.isclose(result, sum(differences) / len(differences), abs_tol=1e-6):
            raise Hint("One star too many and one too few must not cancel out: take absolute values.")
        if math.isclose(result, sum(d * d for d in differences) / len(differences), abs_tol=1e-6):
            raise Hint("That is the mean squared error: use the absolute value, not the square.")
        if math.isclose(result, sum(map(abs, differences)), abs_tol=1e-6):
            raise Hint("That is the sum of the errors: divide by their number.")
        raise Hint(
            f"For predictions {predictions} and references {references} it is {expected:.3f}, yours is {result:.3f}."
        )


def _test_expected(answer):
    cases = [([0, 0, 0, 0, 1], 5.0), ([0.5, 0, 0, 0, 0.5], 3.0), ([0.1, 0.1, 0.2, 0.4, 0.2], 3.5)]
    for probabilities, expected in cases:
        result = float(call(answer, probabilities))
        if math.isclose(result, expected, abs_tol=1e-6):
            continue
        if math.isclose(result, expected - 1, abs_tol=1e-6):
            raise Hint("You count stars from 0: the first probability belongs to one star.")
        if result == max(range(5), key=lambda i: probabilities[i]) + 1:
            raise Hint(
                "That is the likeliest rating; the expected one lies between: weight every rating by its probability."
            )
        if math.isclose(result, expected / 5, abs_tol=1e-6):
            raise Hint("The probabilities sum to 1 already: do not divide by 5.")
        raise Hint(f"For the probabilities {probabilities} it is {expected}, yours is {result:.3f}.")


EXERCISES = {
    "09.1": Exercise(
        title="labels from stars",
        reference=add_label,
        test=_test_label,
        hint='The function gets one review as a dictionary and returns {"label": …}, a class between 0 and 4.',
        mistakes=[
            (lambda review: {"label": review["stars"]}, "from 0"),
            (lambda review: review["stars"] - 1, "a dictionary"),
            (lambda review: {"labels": review["stars"] - 1}, 'called "label"'),
            (lambda review: {"label": float(review["stars"] - 1)}, "whole numbers"),
            (lambda review: {"label": review["rating"]}, "KeyError"),
        ],
    ),
    "09.2": Exercise(
        title="mean absolute error",
        reference=mean_absolute_error,
        test=_test_error,
        hint="Go through both lists with zip(), take abs() of each difference, and divide the sum by their number.",
        mistakes=[
            (lambda p, r: sum(a - b for a, b in zip(p, r, strict=True)) / len(r), "absolute values"),
            (lambda p, r: sum((a - b) ** 2 for a, b in zip(p, r, strict=True)) / len(r), "squared error"),
            (lambda p, r: sum(abs(a - b) for a, b in zip(p, r, strict=True)), "divide by"),
            (lambda p, r: None, "return"),
        ],
    ),
    "09.3": Exercise(
        title="expected stars",
        reference=expected_stars,
        test=_test_expected,
        hint="Multiply 1, 2, 3, 4 and 5 by their probabilities and add up; enumerate(…, start=1) counts for you.",
        mistakes=[
            (lambda ps: sum(i * p for i, p in enumerate(ps)), "from 0"),
            (lambda ps: max(range(5), key=lambda i: ps[i]) + 1, "likeliest"),
            (lambda ps: sum(i * p for i, p in enumerate(ps, 1)) / 5, "divide by 5"),
            (lambda ps: "four", "ValueError"),
        ],
    ),
}
