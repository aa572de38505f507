"""Exercises of notebook 00: how exercises work, on the similarity of two vectors."""

import math

from utils.exercises import Exercise, Hint, call


def cosine_similarity(a, b):
    """The cosine of the angle between two lists of numbers."""
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def _test_cosine(answer):
    cases = [([1.0, 0.0], [1.0, 0.0], 1.0), ([3.0, 4.0], [4.0, 3.0], 0.96), ([1.0, 2.0], [-2.0, 1.0], 0.0)]
    for a, b, expected in cases:
        result = call(answer, a, b)
        if not isinstance(result, (int, float)):
            raise Hint(f"For {a} and {b} one number is expected, yours is a {type(result).__name__}.")
        if math.isclose(result, expected, abs_tol=1e-6):
            continue
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        if math.isclose(result, dot, abs_tol=1e-6):
            raise Hint("That is the dot product: now divide it by the lengths of both vectors.")
        if math.isclose(result, dot / sum(x * x for x in a) / sum(y * y for y in b), abs_tol=1e-6):
            raise Hint("You divide by the squared lengths: the square root is missing.")
        raise Hint(f"The similarity of {a} and {b} is {expected}, yours is {result:.4g}.")


def _test_pair(answer):
    if not isinstance(answer, (tuple, list, set, frozenset)):
        raise Hint("The answer is a pair of positions, such as (0, 3).")
    numbers = sorted(answer)
    if len(numbers) != 2 or not all(isinstance(number, int) for number in numbers):
        raise Hint("The answer is a pair of two different positions, such as (0, 3).")
    if max(numbers) > 4 or min(numbers) < 0:
        raise Hint("There are five sentences, counted from 0 to 4.")
    if numbers == [0, 2]:
        raise Hint("These two share the word *bank*, but not its meaning: the heat map puts another pair closer.")
    if numbers != [0, 1]:
        raise Hint("Look for the largest number of the heat map off its diagonal.")


EXERCISES = {
    "00.1": Exercise(
        title="read a similarity matrix",
        reference=(0, 1),
        test=_test_pair,
        hint="The diagonal compares each sentence with itself. Which other square has the largest number?",
        mistakes=[
            ((0, 2), "share the word"),
            ((3, 4), "largest number"),
            (0, "a pair of positions"),
            ((0, 5), "five"),
        ],
    ),
    "00.2": Exercise(
        title="cosine similarity",
        reference=cosine_similarity,
        test=_test_cosine,
        hint="Multiply the numbers pairwise and add them up, then divide by both lengths: |a| = sqrt(a1² + a2² + …).",
        mistakes=[
            (lambda a, b: sum(x * y for x, y in zip(a, b, strict=True)), "dot product"),
            (
                lambda a, b: (
                    sum(x * y for x, y in zip(a, b, strict=True)) / sum(x * x for x in a) / sum(y * y for y in b)
                ),
                "square root",
            ),
            (lambda a, b: None, "return"),
            (lambda a, b: [1.0], "one number"),
            (lambda a, b: a / b, "TypeError"),
            (3.0, "A function"),
        ],
    ),
}
