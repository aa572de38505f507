"""Exercises of notebook 06: the best span, ROUGE-1, top-p, a vote of neighbours."""

import math

from utils.exercises import Exercise, Hint, call


def best_span(start, end, longest=24):
    """The pair (first, last) with the largest start[first] + end[last] that may be an answer."""
    legal = ((i, j) for i in range(len(start)) for j in range(i, min(i + longest, len(end))))
    return max(legal, key=lambda span: start[span[0]] + end[span[1]])


def rouge_1(summary, reference):
    """F1 of the words that two texts share, each word counted as often as both have it."""
    ours, theirs = summary.lower().split(), reference.lower().split()
    shared = sum(min(ours.count(word), theirs.count(word)) for word in set(ours))
    if not shared:
        return 0.0
    precision, recall = shared / len(ours), shared / len(theirs)
    return 2 * precision * recall / (precision + recall)


def top_p(probabilities, p):
    """The likeliest tokens that together reach p share all probability; the others get 0."""
    order = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    kept, mass = set(), 0.0
    for i in order:
        kept.add(i)
        mass += probabilities[i]
        if mass >= p:
            break
    return [probabilities[i] / mass if i in kept else 0.0 for i in range(len(probabilities))]


def vote(labels, similarities):
    """The label whose neighbours have the largest sum of similarities."""
    total = {}
    for label, similarity in zip(labels, similarities, strict=True):
        total[label] = total.get(label, 0) + similarity
    return max(total, key=total.get)


def _test_span(answer):
    nothing = -math.inf
    cases = [  # start, end, longest
        ([1, 5, 2, 0], [0, 1, 6, 1], 24),
        ([2, 1, 9, 0], [8, 5, 1, 4], 24),  # the largest end stands before the largest start
        ([9, 0, 0, 4, 0], [0, 1, 0, 3, 8], 3),  # the largest of both are too far apart
        ([nothing, nothing, 3, 1], [nothing, nothing, 7, 2], 24),  # an answer of one token
        ([-9, -5, -7], [-8, -6, -4], 24),  # negative scores are normal
    ]
    for start, end, longest in cases:
        result = call(answer, start, end, longest)
        expected = best_span(start, end, longest)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise Hint("Return two positions, first and last token: (i, j).")
        first, last = (int(place) for place in result)
        if (first, last) == expected:
            continue
        if last == expected[1] + 1 and first == expected[0]:
            raise Hint("The second number is the last token of the answer itself, not the one after it.")
        if last < first:
            raise Hint("An answer cannot end before it begins: consider only pairs with first <= last.")
        if last - first >= longest:
            raise Hint(f"That answer has {last - first + 1} tokens, but only {longest} are allowed.")
        raise Hint(
            f"For start {start}, end {end}, longest {longest} it is {expected}, yours is {(first, last)}: "
            "maximise the sum of the two scores over all legal pairs, also where scores are negative."
        )


def _test_rouge(answer):
    cases = [
        ("the hose arrived", "the hose arrived"),
        ("the hose arrived", "the machine arrived late yesterday"),
        ("no no no", "no it is not"),
        ("The hose", "the hose"),
        ("blue", "green and red"),
    ]
    for summary, reference in cases:
        expected = rouge_1(summary, reference)
        try:
            result = float(call(answer, summary, reference))
        except Hint as hint:
            if "ZeroDivisionError" in str(hint):
                raise Hint("Two texts may share no word at all: return 0 before you divide by zero.") from None
            raise
        if math.isclose(result, expected, abs_tol=1e-6):
            continue
        ours, theirs = summary.lower().split(), reference.lower().split()
        shared = sum(min(ours.count(word), theirs.count(word)) for word in set(ours))
        if math.isclose(result, shared / len(theirs), abs_tol=1e-6):
            raise Hint("That is recall: a summary that repeats the whole text would win. Combine it with precision.")
        if math.isclose(result, shared / len(ours), abs_tol=1e-6):
            raise Hint("That is precision: a summary of one right word would win. Combine it with recall.")
        if summary == "no no no":
            raise Hint('A word counts at most as often as it stands in both texts: "no no no" shares one "no".')
        if summary == "The hose":
            raise Hint("Upper and lower case must not matter: use lower().")
        raise Hint(f"For {summary!r} and {reference!r} it is {expected:.3f}, yours is {result:.3f}.")


def _test_top_p(answer):
    cases = [
        ([0.5, 0.25, 0.125, 0.125], 0.7),
        ([0.125, 0.5, 0.25, 0.125], 0.7),  # not sorted
        ([0.5, 0.25, 0.25], 0.4),
        ([0.25, 0.75], 1.0),
    ]
    for probabilities, p in cases:
        expected = top_p(probabilities, p)
        result = [float(value) for value in call(answer, list(probabilities), p)]
        if len(result) != len(probabilities):
            raise Hint("Return one probability for each token, in the old order; those left out get 0.")
        if all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(result, expected, strict=True)):
            continue
        if not any(result):
            raise Hint("At least one token must be left: the likeliest is always kept.")
        if not math.isclose(sum(result), 1, abs_tol=1e-6):
            raise Hint(f"The new probabilities must sum to 1, yours sum to {sum(result):.3f}: divide by what is left.")
        kept, right = sum(value > 0 for value in result), sum(value > 0 for value in expected)
        if kept < right:
            raise Hint("The token with which the sum reaches p still belongs to the nucleus.")
        if kept > right:
            raise Hint("You keep too many: stop as soon as the sum has reached p.")
        raise Hint(
            f"For {probabilities} and p = {p} it is {expected}, yours is {result}. Go by probability, not by place."
        )


def _test_vote(answer):
    cases = [
        (["refund", "refund", "praise"], [0.9, 0.8, 0.7]),
        (["praise", "refund", "refund"], [0.9, 0.5, 0.6]),
        (["praise", "refund", "refund"], [0.9, 0.3, 0.2]),
        (["invoice", "account", "praise", "account"], [0.5, 0.4, 0.3, 0.2]),
    ]
    for labels, similarities in cases:
        expected = vote(labels, similarities)
        result = call(answer, list(labels), list(similarities))
        if isinstance(result, str) and result == expected:
            continue
        if not isinstance(result, str) or result not in labels:
            raise Hint(f"Return one of the labels, such as {labels[0]!r}; yours is {result!r}.")
        if result == labels[0] and expected != labels[0]:
            raise Hint("That is the nearest neighbour alone: let all of them vote.")
        raise Hint("A near neighbour should weigh more: add up similarities for each label instead of counting heads.")


def _harmonic(shared, ours, theirs):
    return 2 * shared / (len(ours) + len(theirs))


def _unclipped(summary, reference):
    ours, theirs = summary.lower().split(), reference.lower().split()
    return _harmonic(sum(word in theirs for word in ours), ours, theirs)


def _case_sensitive(summary, reference):
    ours, theirs = summary.split(), reference.split()
    return _harmonic(sum(min(ours.count(word), theirs.count(word)) for word in set(ours)), ours, theirs)


def _stops_early(probabilities, p):
    kept, mass = [0.0] * len(probabilities), 0.0
    for i in sorted(range(len(probabilities)), key=lambda i: -probabilities[i]):
        if mass and mass + probabilities[i] > p:
            break
        mass += probabilities[i]
        kept[i] = probabilities[i]
    return [value / mass for value in kept]


EXERCISES = {
    "06.1": Exercise(
        title="the best legal span",
        reference=best_span,
        test=_test_span,
        hint="Two loops: i over all starts, j from i to i + longest - 1, or to the last token. Remember the pair with the largest start[i] + end[j].",
        mistakes=[
            (
                lambda s, e, n: (max(range(len(s)), key=s.__getitem__), max(range(len(e)), key=e.__getitem__)),
                "before it begins",
            ),
            (lambda s, e, n: best_span(s, e, len(s)), "are allowed"),
            (lambda s, e, n: (best_span(s, e, n)[0], best_span(s, e, n)[1] + 1), "the last token"),
            (lambda s, e, n: (0, 0), "maximise the sum"),
            (lambda s, e, n: max(a + b for a, b in zip(s, e, strict=True)), "two positions"),
        ],
    ),
    "06.2": Exercise(
        title="ROUGE-1",
        reference=rouge_1,
        test=_test_rouge,
        hint="Split both texts into lower-case words; shared = sum of min(count here, count there) over the different words.",
        mistakes=[
            (lambda s, r: len(set(s.split()) & set(r.split())) / len(r.split()), "recall"),
            (lambda s, r: len(set(s.split()) & set(r.split())) / len(s.split()), "precision"),
            (_unclipped, "at most as often"),
            (_case_sensitive, "lower()"),
            (lambda s, r: None, "return"),
        ],
    ),
    "06.3": Exercise(
        title="top-p",
        reference=top_p,
        test=_test_top_p,
        hint="Visit the tokens from the likeliest down, add up until p is reached, and divide what you kept by its sum.",
        mistakes=[
            (lambda ps, p: [x if x >= 0.25 else 0.0 for x in ps], "sum to 1"),
            (_stops_early, "still belongs"),
            (lambda ps, p: [x / sum(ps) for x in ps], "too many"),
            (lambda ps, p: sorted(ps, reverse=True)[:2], "one probability for each"),
        ],
    ),
    "06.4": Exercise(
        title="a vote of neighbours",
        reference=vote,
        test=_test_vote,
        hint="Keep a dictionary from label to sum; add each neighbour's similarity; return the label with the largest sum.",
        mistakes=[
            (lambda labels, weights: labels[0], "nearest neighbour alone"),
            (lambda labels, weights: max(labels, key=labels.count), "counting heads"),
            (lambda labels, weights: max(weights), "one of the labels"),
        ],
    ),
}
