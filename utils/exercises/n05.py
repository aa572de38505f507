"""Exercises of notebook 05: how sure a measurement is, which candidates to keep, a merge of BPE, a file's checksum."""

import hashlib
import itertools
import math
import tempfile
from collections import Counter
from pathlib import Path

from utils.exercises import Exercise, Hint, call


def bootstrap_interval(right, generator):
    """Where 95 % of the accuracies of resampled test sets lie: (low, high)."""
    means = [generator.choice(right, size=len(right), replace=True).mean() for _ in range(1_000)]
    low, high = sorted(means)[25], sorted(means)[-26]
    return low, high


def worth_considering(candidates):
    """The names of those that no other candidate beats: as good and as fast, and better in one of the two."""

    def beats(a, b):
        (_, quality_a, cost_a), (_, quality_b, cost_b) = a, b
        return quality_a >= quality_b and cost_a <= cost_b and (quality_a, cost_a) != (quality_b, cost_b)

    return [one[0] for one in candidates if not any(beats(other, one) for other in candidates)]


def merge_step(words):
    """One step of BPE: the most frequent pair of neighbours, and the words with this pair merged."""
    pairs = Counter()
    for symbols, count in words.items():
        for pair in itertools.pairwise(symbols):
            pairs[pair] += count
    best = max(pairs, key=pairs.get)
    merged = {}
    for symbols, count in words.items():
        result, position = [], 0
        while position < len(symbols):
            width = 2 if tuple(symbols[position : position + 2]) == best else 1
            result.append("".join(symbols[position : position + width]))
            position += width
        merged[tuple(result)] = count
    return best, merged


def is_unchanged(path, expected):
    """Whether the file has the expected sha256 checksum."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() == expected


def _pair(result, what):
    try:
        first, second = result
    except (TypeError, ValueError):
        raise Hint(f"Return two things: {what}.") from None
    return first, second


def _test_bootstrap(answer):
    import numpy as np

    right = np.array([1] * 160 + [0] * 40)  # accuracy 0.8: the interval is about 0.745 to 0.855
    low, high = _pair(call(answer, right.copy(), np.random.default_rng(5)), "the lower and the upper end")
    low, high = float(low), float(high)
    width = high - low
    if low > high:
        raise Hint("The lower end comes first.")
    if width < 0.002 and math.isclose(low, 0.8, abs_tol=0.002):
        raise Hint("All your means are equal: draw with replacement (replace=True), so that some answers come twice.")
    if width > 0.5:
        raise Hint("That is the spread of single answers: take the mean of each resampled test set first.")
    if high < 0.76:
        raise Hint("np.percentile counts from 0 to 100: the ends are 2.5 and 97.5, not 0.025 and 0.975.")
    if not low < 0.8 < high:
        raise Hint(f"The measured accuracy, 0.8, should lie inside, but your interval is {low:.3f} to {high:.3f}.")
    if width > 0.135:
        raise Hint("Too wide: each resampled test set must be as large as the original one.")
    if width < 0.099:
        raise Hint("Too narrow: leave out 2.5 % at either end, 5 % together.")
    if abs(low - 0.745) > 0.015 or abs(high - 0.855) > 0.015:
        raise Hint(f"For 160 right answers of 200 about 0.745 to 0.855 is expected, yours is {low:.3f} to {high:.3f}.")


def _test_worth(answer):
    small, large, bad = ("small", 0.80, 1.0), ("large", 0.90, 10.0), ("bad", 0.70, 20.0)
    cases = [
        ([small, large, bad], ["small", "large"]),
        ([bad, large, small], ["large", "small"]),
        ([small, ("same speed, worse", 0.75, 1.0)], ["small"]),
        ([("slow", 0.90, 11.0), large], ["large"]),
        ([small, ("twin", 0.80, 1.0)], ["small", "twin"]),
    ]
    for candidates, expected in cases:
        result = list(call(answer, list(candidates)))
        if result == expected:
            continue
        if result and not all(isinstance(name, str) for name in result):
            raise Hint("Return the names alone, as a list.")
        if set(result) == {one[0] for one in candidates} - set(expected) and len(expected) < len(candidates):
            raise Hint("These are the beaten ones: keep the others.")
        if len(expected) == 2 and len(result) == 1 and "twin" not in expected:
            raise Hint(
                "Not only the best one: a faster one that is less good stays, because someone may need the speed."
            )
        if expected == ["small", "twin"]:
            raise Hint(
                "Two equal candidates do not beat each other: to beat, one must be better in quality or in cost."
            )
        if set(result) == set(expected):
            raise Hint("Keep the order in which they came.")
        if len(expected) == 1 and len(result) == 2:
            raise Hint(
                "As good and faster is enough to beat another, and as fast and better too: compare with >= and <=."
            )
        raise Hint(f"Of {candidates} the list {expected} remains, yours is {result}.")


def _test_merge(answer):
    cases = [
        # "lo" stands in three of these words, "ew" in two only, but in 10 places against 7
        {("l", "o", "w"): 4, ("l", "o", "t"): 2, ("l", "o", "g"): 1, ("n", "e", "w"): 9, ("f", "e", "w"): 1},
        {("b", "a", "n", "a", "n"): 3, ("c", "a", "n"): 2, ("a", "n", "y"): 1},
        {("a", "a", "a"): 2, ("b",): 5},
        {("Ġt", "he"): 5, ("Ġt", "o"): 3, ("he", "n"): 4},
    ]
    for words in cases:
        pair, merged = merge_step(words)
        result = _pair(call(answer, dict(words)), "the pair, and the dictionary of merged words")
        if isinstance(result[1], tuple) and isinstance(result[0], dict):
            raise Hint("The pair comes first, then the dictionary.")
        their_pair, theirs = result
        if their_pair == "".join(pair):
            raise Hint("Return the pair as two symbols in a tuple, not joined.")
        if not isinstance(their_pair, (tuple, list)) or len(their_pair) != 2:
            raise Hint("The first thing that you return is a pair of symbols.")
        if tuple(their_pair) != pair:
            unweighted = Counter(p for symbols in words for p in itertools.pairwise(symbols))
            if unweighted[tuple(their_pair)] > unweighted[pair]:
                raise Hint("A pair counts as often as its word occurs: add the word's count, not 1.")
            raise Hint(f"In {words} the most frequent pair is {pair}, yours is {their_pair}.")
        if not isinstance(theirs, dict):
            raise Hint("The second thing that you return is a dictionary: the words as tuples, with their counts.")
        if theirs == words:
            raise Hint("The pair is right, but the words are as before: join the two symbols wherever they stand.")
        if theirs == merged:
            continue
        if set(theirs) == set(merged):
            raise Hint("The counts of the words must stay as they are.")
        if any(isinstance(key, str) for key in theirs):
            raise Hint("A word stays a tuple of symbols: only the two that merge are joined.")
        if len(theirs) < len(merged):
            raise Hint("Words without the pair must stay in the dictionary, unchanged.")
        if any("".join(key) not in {"".join(symbols) for symbols in words} for key in theirs):
            raise Hint(
                "A symbol was used twice, or lost: after a merge go on two symbols further, so that a a a becomes aa a."
            )
        raise Hint("Merge the pair everywhere in a word, from left to right, not only once: b a n a n becomes b an an.")


def _test_unchanged(answer):
    content = b"weights\r\n\xff\x00 of a model\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(content)
        expected = hashlib.sha256(content).hexdigest()
        same = call(answer, path, expected)
        if same == expected:
            raise Hint("That is the checksum itself: compare it with the expected one.")
        if not isinstance(same, bool):
            raise Hint(f"Return True or False, not {type(same).__name__}.")
        if not same:
            if call(answer, path, hashlib.md5(content).hexdigest()) is True:
                raise Hint("That is md5, for which two files with one checksum can be made: take sha256.")
            if call(answer, path, hashlib.sha256(str(path).encode()).hexdigest()) is True:
                raise Hint("That is the checksum of the file's name: read what is inside, with read_bytes().")
            if call(answer, path, hashlib.sha256(content).digest()) is True:
                raise Hint("digest() gives bytes; the catalogue has hexadecimal digits: hexdigest().")
            raise Hint("The file is unchanged, but your function says it is not.")
        path.write_bytes(content.replace(b"w", b"v"))
        if call(answer, path, expected):
            raise Hint("A byte has changed (the file is as long as before), and your function did not notice.")


def _merge_once(words):
    pair, _ = merge_step(words)
    merged = {}
    for symbols, count in words.items():
        symbols = list(symbols)
        for position in range(len(symbols) - 1):
            if tuple(symbols[position : position + 2]) == pair:
                symbols[position : position + 2] = ["".join(pair)]
                break
        merged[tuple(symbols)] = count
    return pair, merged


def _unweighted(words):
    pairs = Counter(pair for symbols in words for pair in itertools.pairwise(symbols))
    return max(pairs, key=pairs.get), words


def _percentiles(*ends, size=None, of_means=True):
    def interval(right, generator):
        import numpy as np

        means = [generator.choice(right, size=size or len(right)).mean() for _ in range(1_000)]
        return np.percentile(means if of_means else right, ends)

    return interval


EXERCISES = {
    "05.1": Exercise(
        title="bootstrap interval",
        reference=bootstrap_interval,
        test=_test_bootstrap,
        hint="generator.choice(right, size=len(right), replace=True).mean() is one resampled accuracy. Make 1,000 of "
        "them in a list; np.percentile(means, [2.5, 97.5]) gives the two ends.",
        mistakes=[
            (
                lambda right, generator: (generator.choice(right, len(right), replace=False).mean(),) * 2,
                "with replacement",
            ),
            (_percentiles(0.025, 0.975), "from 0 to 100"),
            (_percentiles(2.5, 97.5, of_means=False), "single answers"),
            (_percentiles(2.5, 97.5, size=50), "as large as"),
            (_percentiles(10, 90), "Too narrow"),
            (lambda right, generator: right.mean(), "two things"),
        ],
    ),
    "05.2": Exercise(
        title="candidates that are not beaten",
        reference=worth_considering,
        test=_test_worth,
        hint="For each candidate, go through all the others: it is out if one of them has quality >= its own and cost <= "
        "its own, and is not equal in both.",
        mistakes=[
            (lambda cs: [max(cs, key=lambda c: c[1])[0]], "Not only the best"),
            (
                lambda cs: [c[0] for c in cs if any(o[1] >= c[1] and o[2] <= c[2] and o[1:] != c[1:] for o in cs)],
                "beaten",
            ),
            (lambda cs: [c[0] for c in cs if not any(o[1] > c[1] and o[2] < c[2] for o in cs)], ">= and <="),
            (
                lambda cs: [c[0] for c in cs if not any(o[1] >= c[1] and o[2] <= c[2] and o is not c for o in cs)],
                "Two equal",
            ),
            (lambda cs: [c for c in cs if not any(o[1] > c[1] and o[2] < c[2] for o in cs)], "names alone"),
        ],
    ),
    "05.3": Exercise(
        title="a merge of BPE",
        reference=merge_step,
        test=_test_merge,
        hint="First count: itertools.pairwise(symbols) gives the pairs of neighbours of a word; add the word's count to each. "
        "Then go through every word with a while loop: if the next two symbols are the pair, append them joined and go "
        "two on, otherwise append one and go one on.",
        mistakes=[
            (_unweighted, "not 1"),
            (lambda words: (merge_step(words)[0], words), "as before"),
            (_merge_once, "everywhere"),
            (lambda words: merge_step(words)[0], "a pair of symbols"),
            (lambda words: ("".join(merge_step(words)[0]), merge_step(words)[1]), "not joined"),
            (
                lambda words: (merge_step(words)[0], {"".join(k): v for k, v in merge_step(words)[1].items()}),
                "stays a tuple",
            ),
        ],
    ),
    "05.4": Exercise(
        title="is the file unchanged?",
        reference=is_unchanged,
        test=_test_unchanged,
        hint="Path(path).read_bytes() gives the content, hashlib.sha256(…).hexdigest() its checksum; compare with ==.",
        mistakes=[
            (lambda path, expected: hashlib.sha256(Path(path).read_bytes()).hexdigest(), "compare it"),
            (lambda path, expected: hashlib.sha256(str(path).encode()).hexdigest() == expected, "name"),
            (lambda path, expected: hashlib.md5(Path(path).read_bytes()).hexdigest() == expected, "md5"),
            (lambda path, expected: hashlib.sha256(Path(path).read_bytes()).digest() == expected, "hexdigest"),
            (lambda path, expected: Path(path).exists(), "did not notice"),
            (
                lambda path, expected: hashlib.sha256(Path(path).read_text("utf-8").encode()).hexdigest() == expected,
                "UnicodeDecodeError",
            ),
        ],
    ),
}
