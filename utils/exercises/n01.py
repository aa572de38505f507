"""Exercises of notebook 01: softmax with temperature, idf, reciprocal rank, masked copies."""

import math

from utils.exercises import Exercise, Hint, call

MASK = "<mask>"


def softmax(scores, temperature):
    """Probabilities from scores: the lower the temperature, the more the largest score wins."""
    largest = max(scores)  # subtracting it changes nothing, but keeps exp() from overflowing
    powers = [math.exp((score - largest) / temperature) for score in scores]
    total = sum(powers)
    return [power / total for power in powers]


def idf(containing, total):
    """How rare a word is: `containing` of `total` passages have it."""
    return math.log(1 + (total - containing + 0.5) / (containing + 0.5))


def reciprocal_rank(ranking, right):
    """1 if the right passage is ranked first, 1/2 if second, …; 0 if it is missing."""
    return 1 / (1 + ranking.index(right)) if right in ranking else 0.0


def masked_copies(sequence, places):
    """One copy of the sequence for each place, with the letter at that place hidden."""
    return [sequence[:place] + MASK + sequence[place + 1 :] for place in places]


def _floats(result, length, what):
    try:
        values = [float(value) for value in result]
    except TypeError:
        raise Hint(f"A list of {what} was expected, not {type(result).__name__}.") from None
    if len(values) != length:
        raise Hint(f"{length} scores must give {length} {what}, not {len(values)}.")
    return values


def _close(values, expected):
    return all(math.isclose(v, e, rel_tol=1e-4, abs_tol=1e-6) for v, e in zip(values, expected, strict=True))


def _test_softmax(answer):
    for scores, temperature in [([2.0, 1.0, 0.0], 1.0), ([2.0, 1.0, 0.0], 0.5), ([1.0, -1.0, 3.0, 0.5], 2.0)]:
        values = _floats(call(answer, list(scores), temperature), len(scores), "probabilities")
        expected = softmax(scores, temperature)
        if _close(values, expected):
            continue
        if _close(values, [math.exp(score / temperature) for score in scores]):
            raise Hint("These do not sum to 1 yet: divide each by their sum.")
        if _close(values, softmax(scores, 1 / temperature)):
            raise Hint("You multiply by the temperature: divide, so that a low temperature makes differences larger.")
        if _close(values, softmax(scores, 1)):
            raise Hint("The temperature has no effect yet: divide the scores by it before exp().")
        if _close(values, [p / temperature for p in softmax(scores, 1)]):
            raise Hint("You divide the probabilities: the temperature must divide the scores, before exp().")
        raise Hint(
            f"For the scores {scores} at temperature {temperature} the first probability is {expected[0]:.3f}, "
            f"yours is {values[0]:.3f}."
        )
    try:
        values = _floats(call(answer, [1000.0, 999.0], 1.0), 2, "probabilities")
    except Hint as hint:
        raise Hint(
            f"Right for small scores, but for scores around 1000 exp() overflows ({hint}). "
            "Subtract the largest score from all first: the probabilities stay the same."
        ) from None
    if not _close(values, softmax([1000.0, 999.0], 1.0)):
        raise Hint("For scores around 1000 exp() overflows: subtract the largest score from all first.")


def _test_idf(answer):
    for containing, total in [(1, 72), (5, 72), (36, 72), (70, 72)]:
        value = float(call(answer, containing, total))
        expected = idf(containing, total)
        odds = (total - containing + 0.5) / (containing + 0.5)
        if math.isclose(value, expected, rel_tol=1e-4):
            continue
        if math.isclose(value, math.log(odds), rel_tol=1e-4):
            raise Hint("The 1 + is missing: without it, a word in more than half of the passages counts against them.")
        if math.isclose(value, 1 + math.log(odds), rel_tol=1e-4):
            raise Hint("The 1 + belongs inside the logarithm.")
        if math.isclose(value, 1 + odds, rel_tol=1e-4):
            raise Hint("The logarithm is missing.")
        if math.isclose(value, math.log(total / containing), rel_tol=1e-4):
            raise Hint("That is the older formula log(N / n): BM25's is the one above.")
        if any(math.isclose(value, expected / math.log(base), rel_tol=1e-4) for base in (2, 10)):
            raise Hint("Take the natural logarithm, math.log.")
        raise Hint(f"For a word in {containing} of {total} passages it is {expected:.3f}, yours is {value:.3f}.")


def _test_rank(answer):
    cases = [(["p3", "p1", "p2"], "p2", 1 / 3), (["p3", "p1", "p2", "p9"], "p1", 0.5), (["p7"], "p7", 1.0)]
    for ranking, right, expected in cases:
        value = float(call(answer, list(ranking), right))
        place = ranking.index(right)
        if math.isclose(value, expected, rel_tol=1e-6):
            continue
        if value == place + 1 or (value == place and place):
            raise Hint("That is the rank itself: return 1 divided by it, so that the best value is 1.")
        if place and math.isclose(value, 1 / place, rel_tol=1e-6):
            raise Hint("Python counts from 0, ranks count from 1: add one to the position.")
        raise Hint(f"With {right!r} in {ranking} it is {expected:.3f}, yours is {value:.3f}.")
    try:
        value = float(call(answer, ["p3", "p1"], "p8"))
    except Hint as hint:
        raise Hint(f"What if the right passage is not in the ranking? It should be 0. ({hint})") from None
    if value != 0:
        raise Hint(f"A ranking without the right passage is worth 0, yours is {value:.3f}.")


def _test_masks(answer):
    for sequence, places in [("MSIQ", [1]), ("MSIQHF", [0, 2, 5]), ("AAA", [2, 0])]:
        copies = call(answer, sequence, list(places))
        if isinstance(copies, str):
            raise Hint("Return a list with one copy for each place, also where there is only one place.")
        if not isinstance(copies, list | tuple) or not all(isinstance(copy, str) for copy in copies):
            raise Hint(f"A list of strings was expected, not {type(copies).__name__}.")
        expected = masked_copies(sequence, places)
        if list(copies) == expected:
            continue
        if len(copies) != len(places):
            raise Hint(f"{len(places)} places must give {len(places)} copies, not {len(copies)}.")
        if list(copies) == [sequence.replace(sequence[place], MASK) for place in places]:
            raise Hint("replace() also hides the same letter elsewhere: cut the string at the place instead.")
        if any(copy.count(MASK) > 1 for copy in copies):
            raise Hint("Hide only one letter in each copy, so that the model can use all others.")
        if list(copies) == [sequence[:place] + MASK + sequence[place:] for place in places]:
            raise Hint("The letter is still there, behind the mask: go on with sequence[place + 1:].")
        raise Hint(f"For {sequence!r} and the places {places} it is {expected}, yours is {list(copies)}.")


EXERCISES = {
    "01.1": Exercise(
        title="softmax with temperature",
        reference=softmax,
        test=_test_softmax,
        hint="Take math.exp(score / temperature) of each score, then divide each by the sum of all.",
        mistakes=[
            (lambda s, t: [math.exp(x / t) for x in s], "sum to 1"),
            (lambda s, t: softmax(s, 1 / t), "multiply"),
            (lambda s, t: softmax(s, 1), "no effect"),
            (lambda s, t: [p / t for p in softmax(s, 1)], "divide the probabilities"),
            (lambda s, t: [math.exp(x / t) / sum(math.exp(y / t) for y in s) for x in s], "overflows"),
            (lambda s, t: max(s), "A list"),
        ],
    ),
    "01.2": Exercise(
        title="inverse document frequency",
        reference=idf,
        test=_test_idf,
        hint="n is `containing`, N is `total`; math.log is the natural logarithm.",
        mistakes=[
            (lambda n, total: math.log((total - n + 0.5) / (n + 0.5)), "1 + is missing"),
            (lambda n, total: 1 + math.log((total - n + 0.5) / (n + 0.5)), "inside"),
            (lambda n, total: 1 + (total - n + 0.5) / (n + 0.5), "logarithm is missing"),
            (lambda n, total: math.log(total / n), "older formula"),
            (lambda n, total: math.log10(1 + (total - n + 0.5) / (n + 0.5)), "natural"),
        ],
    ),
    "01.3": Exercise(
        title="reciprocal rank",
        reference=reciprocal_rank,
        test=_test_rank,
        hint="ranking.index(right) finds the position, counted from 0; `right in ranking` says whether it is there at all.",
        mistakes=[
            (lambda ranking, right: 1 + ranking.index(right), "rank itself"),
            (lambda ranking, right: 1 / (ranking.index(right) or 1), "counts from 0"),
            (lambda ranking, right: 1 / (1 + ranking.index(right)), "not in the ranking"),
            (lambda ranking, right: 1 / (1 + ranking.index(right)) if right in ranking else 1, "is worth 0"),
        ],
    ),
    "01.4": Exercise(
        title="masked copies",
        reference=masked_copies,
        test=_test_masks,
        hint="A string is cut with slices: sequence[:place] is what stands before, sequence[place + 1:] what comes after.",
        mistakes=[
            (lambda s, places: [s[:p] + MASK + s[p:] for p in places], "still there"),
            (lambda s, places: masked_copies(s, places)[0], "one copy for each"),
            (lambda s, places: [s.replace(s[p], MASK) for p in places], "elsewhere"),
            (
                lambda s, places: ["".join(MASK if i in places else c for i, c in enumerate(s)) for _ in places],
                "only one",
            ),
            (lambda s, places: masked_copies(s, places[:1]), "places must give"),
        ],
    ),
}
