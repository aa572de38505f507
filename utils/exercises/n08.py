"""Exercises of notebook 08: fertility of a tokenizer, integrated gradients, a bootstrap interval."""

import math

from utils.exercises import Exercise, Hint, call


def fertility(tokenizer, text):
    """How many tokens a word costs on average, where words are what spaces separate."""
    return len(tokenizer.tokenize(text)) / len(text.split())


def integrated_gradients(score, x, baseline, steps):
    """The difference from the baseline times the mean gradient on the straight path from there (steps, seq, dim)."""
    import torch

    fractions = (torch.arange(steps, device=x.device) + 0.5) / steps  # the middle of each step
    path = baseline + fractions.view(-1, 1, 1) * (x - baseline)  # (steps, seq, dim)
    path = path.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(score(path).sum(), path)  # (steps, seq, dim)
    return (x - baseline) * gradients.mean(dim=0)  # (seq, dim)


def bootstrap_interval(values, draws=2000):
    """The middle 95 % of the means of samples that are drawn from the values with replacement."""
    import numpy as np

    rng = np.random.default_rng(0)
    means = rng.choice(values, size=(draws, len(values)), replace=True).mean(axis=1)  # (draws,)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


class _Encoding(dict):
    @property
    def input_ids(self):
        return self["input_ids"]


class _Pieces:
    """A tokenizer in miniature: pieces of three letters, two special tokens around a text."""

    def tokenize(self, text, **_):
        words = text.split()
        return [("##" if start else "") + word[start : start + 3] for word in words for start in range(0, len(word), 3)]

    def encode(self, text, add_special_tokens=True, **_):
        ids = [5 + len(piece) for piece in self.tokenize(text)]
        return [1, *ids, 2] if add_special_tokens else ids

    def __call__(self, text, add_special_tokens=True, **_):
        ids = self.encode(text, add_special_tokens)
        return _Encoding(input_ids=ids, attention_mask=[1] * len(ids))


def _test_fertility(answer):
    tokenizer = _Pieces()
    for text in ("the cat sat down", "understatement", "an extraordinary anniversary present"):
        pieces, words = len(tokenizer.tokenize(text)), len(text.split())
        result = float(call(answer, tokenizer, text))
        if math.isclose(result, pieces / words, abs_tol=1e-6):
            continue
        if math.isclose(result, (pieces + 2) / words, abs_tol=1e-6):
            raise Hint("You count the special tokens at both ends too: they are the same for every text.")
        if math.isclose(result, words / pieces, abs_tol=1e-6):
            raise Hint("The other way round: tokens divided by words.")
        if math.isclose(result, pieces / len(text), abs_tol=1e-6):
            raise Hint("You divide by the number of characters: text.split() gives the words.")
        if math.isclose(result, pieces, abs_tol=1e-6):
            raise Hint("That is the number of tokens: divide it by the number of words.")
        raise Hint(f'For "{text}" in {pieces} pieces it is {pieces / words:.3f}, yours is {result:.3f}.')


def _test_integrated_gradients(answer):
    import torch

    x = torch.tensor([[1.0, -2.0, 0.5], [2.0, 1.5, -1.0]])  # (seq, dim)
    for baseline in (torch.zeros_like(x), torch.tensor([[0.5, 1.0, -0.5], [1.0, -0.5, 0.5]])):
        # a sum of cubes: what each entry contributes is known without any path
        expected, steps = x**3 - baseline**3, 200
        result = torch.as_tensor(call(answer, lambda z: (z**3).sum(dim=(-2, -1)), x, baseline, steps)).detach()
        if result.shape != x.shape:
            raise Hint(f"One value for each entry of x was expected, {tuple(x.shape)}; yours is {tuple(result.shape)}.")

        def close(other, result=result):
            return torch.allclose(result, other, rtol=0.02, atol=0.05)

        mean = x**2 + x * baseline + baseline**2  # the mean of 3 z² between baseline and x
        if close(expected):
            continue
        if close(mean):
            raise Hint("These are the mean gradients: multiply them by x - baseline, how far each entry has moved.")
        if close(3 * x**2 * (x - baseline)):
            raise Hint("This is the gradient at x only: take it at many points between baseline and x, and average.")
        if close(3 * x**2):
            raise Hint("This is the plain gradient at x: average it along the path, and multiply by x - baseline.")
        if close(expected * steps):
            raise Hint("You add up the gradients of all steps: take their mean.")
        if close(mean * x):
            raise Hint("Multiply by the difference x - baseline, not by x: the path does not begin at zero.")
        if close(-expected):
            raise Hint("The sign is reversed: the path leads from the baseline to x.")
        raise Hint(
            "For the sum of the cubes of all entries, the contributions must be x³ - baseline³, yours are not. "
            "Does the path begin at the baseline and end at x?"
        )


def _test_bootstrap(answer):
    import numpy as np

    for seed, size in ((1, 30), (2, 80)):
        values = np.random.default_rng(seed).normal(0.3, 2.0, size)
        low, high = bootstrap_interval(values, 4000)
        result = call(answer, values.copy(), 4000)
        try:
            your_low, your_high = (float(end) for end in result)
        except (TypeError, ValueError):
            raise Hint("Return two numbers: where the interval begins, and where it ends.") from None
        if not (math.isfinite(your_low) and math.isfinite(your_high)):
            raise Hint("Both ends must be finite numbers.")
        if your_low > your_high:
            raise Hint("The lower end comes first.")
        width = (your_high - your_low) / (high - low)
        if width < 0.01:
            raise Hint("Your interval has no width: draw with replacement, so that every sample is a different one.")
        if width > 2.5:
            raise Hint("Much too wide: take the percentiles of the means of the samples, not of single values.")
        if 0.76 < width < 0.9:
            raise Hint("Somewhat narrow: 95 % in the middle leave 2.5 % on each side, not 5 %.")
        if not 0.93 < width < 1.07 or abs(your_low - low) > 0.1 * (high - low):
            raise Hint(
                f"For {size} values with the mean {values.mean():.2f} it is about {low:.2f} to {high:.2f}, "
                f"yours is {your_low:.2f} to {your_high:.2f}. Is every sample as large as the list of values?"
            )


def _gradient_times_difference(score, x, baseline, steps):
    import torch

    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(score(x.unsqueeze(0)).sum(), x)
    return (x - baseline) * gradient


def _without_difference(score, x, baseline, steps):
    return integrated_gradients(score, x, baseline, steps) / (x - baseline)


def _resampled(replace, low, high):
    def interval(values, draws=2000):
        import numpy as np

        rng = np.random.default_rng(3)
        means = [rng.choice(values, len(values), replace=replace).mean() for _ in range(draws)]
        return np.percentile(means, low), np.percentile(means, high)

    return interval


def _of_single_values(values, draws=2000):
    import numpy as np

    return np.percentile(values, 2.5), np.percentile(values, 97.5)


EXERCISES = {
    "08.1": Exercise(
        title="fertility of a tokenizer",
        reference=fertility,
        test=_test_fertility,
        hint="tokenizer.tokenize(text) gives the tokens without special ones, text.split() the words: divide their numbers.",
        mistakes=[
            (lambda tokenizer, text: len(tokenizer(text)["input_ids"]) / len(text.split()), "special tokens"),
            (lambda tokenizer, text: len(text.split()) / len(tokenizer.tokenize(text)), "other way round"),
            (lambda tokenizer, text: len(tokenizer.tokenize(text)) / len(text), "characters"),
            (lambda tokenizer, text: len(tokenizer.tokenize(text)), "divide it by"),
        ],
    ),
    "08.2": Exercise(
        title="integrated gradients",
        reference=integrated_gradients,
        test=_test_integrated_gradients,
        hint="Make a tensor (steps, seq, dim) of points between baseline and x, call requires_grad_() on it, get the "
        "gradient of score(path).sum() with torch.autograd.grad, average it over the steps, multiply by x - baseline.",
        mistakes=[
            (_without_difference, "multiply them by x - baseline"),
            (_gradient_times_difference, "at x only"),
            (lambda s, x, b, n: integrated_gradients(s, x, b, n) * n, "take their mean"),
            (lambda s, x, b, n: integrated_gradients(s, x, 0 * x, n), "begin at the baseline"),
            (lambda s, x, b, n: integrated_gradients(s, x, b, n).sum(-1), "each entry of x"),
        ],
    ),
    "08.3": Exercise(
        title="a bootstrap interval",
        reference=bootstrap_interval,
        test=_test_bootstrap,
        hint="np.random.default_rng(0).choice(values, size=(draws, len(values))) draws all samples at once; take the mean "
        "of each row, then np.percentile(means, 2.5) and np.percentile(means, 97.5).",
        mistakes=[
            (_resampled(False, 2.5, 97.5), "with replacement"),
            (_of_single_values, "means of the samples"),
            (_resampled(True, 5, 95), "2.5 % on each side"),
            (lambda values, draws=2000: sum(values) / len(values), "two numbers"),
            (lambda values, draws=2000: bootstrap_interval(values, draws)[::-1], "lower end"),
        ],
    ),
}
