"""Exercises of notebook 11: throughput and waiting times, sorted batches, 8-bit integers, the loss of distillation."""

import math

from utils.exercises import Exercise, Hint, call


def summary(batches):
    """Reviews per second, and the median and 95th percentile of the time that a review waits, in milliseconds."""
    import numpy as np

    waits = [1000 * seconds for reviews, seconds in batches for _ in range(reviews)]
    return {
        "per second": len(waits) / sum(seconds for _, seconds in batches),
        "p50": float(np.percentile(waits, 50)),
        "p95": float(np.percentile(waits, 95)),
    }


def answer_sorted(texts, lengths, size, answer):
    """Answers in the order of `texts`, computed in batches of texts of similar length."""
    order = sorted(range(len(texts)), key=lambda i: lengths[i])
    answers = [None] * len(texts)
    for begin in range(0, len(order), size):
        batch = order[begin : begin + size]
        for i, result in zip(batch, answer([texts[i] for i in batch]), strict=True):
            answers[i] = result
    return answers


def quantize_rows(matrix):
    """Whole numbers from -127 to 127, and the scale of each row: matrix is about integers * scales."""
    scales = matrix.abs().amax(dim=1, keepdim=True) / 127  # (rows, 1)
    return (matrix / scales).round(), scales


def distillation_loss(student, teacher, temperature):
    """The Kullback-Leibler divergence of the softened distributions, times the temperature squared."""
    import torch.nn.functional as F

    return F.kl_div(
        F.log_softmax(student / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        log_target=True,
        reduction="batchmean",
    ) * (temperature**2)


def _test_summary(answer):
    import numpy as np

    for batches in (
        [(1, 0.01), (1, 0.03), (1, 0.02), (1, 0.1)],
        [(8, 0.2), (2, 0.1)],
        [(16, 0.4), (16, 0.3), (4, 0.9)],
    ):
        result = call(answer, batches)
        if not isinstance(result, dict) or set(result) != {"per second", "p50", "p95"}:
            raise Hint('Return a dictionary with the keys "per second", "p50" and "p95".')
        rate, p50, p95 = [float(result[key]) for key in ("per second", "p50", "p95")]
        reviews, seconds = [sum(column) for column in zip(*batches, strict=True)]
        if math.isclose(rate, len(batches) / seconds) and reviews != len(batches):
            raise Hint("That is batches per second: count the reviews in them.")
        if math.isclose(rate, sum(n / s for n, s in batches) / len(batches)):
            raise Hint("A mean of rates is not the rate of the whole: divide all reviews by all seconds.")
        if not math.isclose(rate, reviews / seconds, rel_tol=1e-6):
            raise Hint(f"For {batches} it is {reviews / seconds:.1f} reviews per second, yours is {rate:.1f}.")
        for percent, value in ((50, p50), (95, p95)):
            expected = 1000 * float(np.percentile([s for n, s in batches for _ in range(n)], percent))
            by_batch = 1000 * float(np.percentile([s for _, s in batches], percent))
            if math.isclose(value, expected, rel_tol=1e-6):
                continue
            if math.isclose(value, expected / 1000, rel_tol=1e-6):
                raise Hint("The waiting times are wanted in milliseconds: 1 s is 1000 ms.")
            if math.isclose(value, by_batch, rel_tol=1e-6):
                raise Hint("Every review of a batch waits for the whole batch: its time counts once for each of them.")
            raise Hint(f"For {batches} the p{percent} is {expected:.1f} ms, yours is {value:.1f}.")


def _test_sorted(answer):
    texts = ["dddd", "a", "ccc", "bb", "eeeee", "f", "gg"]
    lengths = [len(text) for text in texts]
    batches = []

    def shout(batch):
        batches.append(list(batch))
        return [text.upper() for text in batch]

    result = call(answer, list(texts), list(lengths), 3, shout)
    try:
        result = list(result)
    except TypeError:
        raise Hint(f"A list with one answer for each text was expected, not {type(result).__name__}.") from None
    if not batches or sorted(text for batch in batches for text in batch) != sorted(texts):
        raise Hint("Give every text to `answer` exactly once, also the last few that do not fill a batch.")
    if max(map(len, batches)) > 3:
        raise Hint("`answer` takes at most `size` texts at a time.")
    if len(batches) > 3:
        raise Hint("Seven texts in batches of three are three batches: fill each before you begin the next.")
    widths = [max(map(len, batch)) * len(batch) for batch in batches]
    if sum(widths) > 24:  # sorted: 6 + 12 + 5 (ascending) or 15 + 6 + 1 (descending)
        raise Hint("The batches still mix short and long texts: sort by `lengths` before you cut.")
    if result == [text.upper() for batch in batches for text in batch] and result != [text.upper() for text in texts]:
        raise Hint("These answers stand in the order of the batches: put each back to the place of its text.")
    if result != [text.upper() for text in texts]:
        raise Hint(f"For the texts {texts} and upper() as `answer` it should return {[t.upper() for t in texts]}.")


def _test_quantize(answer):
    import torch

    matrix = torch.tensor([[1.0, -0.5, 0.25], [-100.0, 50.0, 10.0], [0.01, 0.02, -0.003]])
    result = call(answer, matrix.clone())
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Hint("Return two things: the integers and the scales.")
    integers, scales = result
    if not isinstance(integers, torch.Tensor) or not isinstance(scales, torch.Tensor):
        raise Hint("Both results should be tensors.")
    if tuple(integers.shape) != (3, 3):
        raise Hint(f"The integers should have the shape of the matrix, (3, 3), not {tuple(integers.shape)}.")
    if scales.numel() == 1:
        raise Hint("That is one scale for the whole matrix: take the largest absolute value of each row (dim=1).")
    if tuple(scales.shape) == (1, 3):
        raise Hint("That is a scale for each column: take the largest absolute value along dim=1.")
    if tuple(scales.shape) != (3, 1):
        raise Hint("The scales should have the shape (rows, 1), so that integers * scales works: keepdim=True.")
    integers, scales = integers.double(), scales.double()
    if not torch.equal(integers, integers.round()):
        raise Hint("There are fractions left: round to whole numbers.")
    if torch.allclose(scales, matrix.amax(dim=1, keepdim=True).double() / 127):
        raise Hint("The largest value is not enough, the most negative one may be larger: use absolute values.")
    if integers.abs().max() > 127:
        raise Hint(f"The integers reach {integers.abs().max():.0f}: with a scale of max/127 none exceeds 127.")
    steps = ((integers * scales - matrix.double()) / scales).abs().max()  # half a step is the best that rounding can do
    if not steps < 1.01:
        raise Hint("integers * scales should give back the matrix: divide by the scale, round, return that scale.")
    if steps > 0.51:
        raise Hint("Some values are off by more than half a step: round() to the nearest integer, do not cut off.")
    if not torch.allclose(integers.abs().amax(dim=1), torch.tensor(127.0).double()):
        raise Hint("The largest value of each row should become 127 or -127: otherwise part of the range is wasted.")


def _test_loss(answer):
    import torch
    import torch.nn.functional as F

    student = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0]])
    teacher = torch.tensor([[1.0, 1.0, -2.0], [3.0, -1.0, 0.0]])
    for temperature in (1.0, 2.0, 4.0):
        result = call(answer, student.clone(), teacher.clone(), temperature)
        if isinstance(result, torch.Tensor) and result.numel() != 1:
            raise Hint('One number is wanted, the mean over the texts: reduction="batchmean".')
        value = float(result)
        p, q = F.softmax(teacher / temperature, -1), F.softmax(student / temperature, -1)
        per_text = (p * (p / q).log()).sum(-1)  # (texts,)
        expected = float(per_text.mean()) * temperature**2
        if math.isclose(value, expected, rel_tol=1e-4):
            continue
        if math.isclose(value, float((q * (q / p).log()).sum(-1).mean()) * temperature**2, rel_tol=1e-4):
            raise Hint("Student and teacher are exchanged: F.kl_div wants the student's log-probabilities first.")
        if math.isclose(value, float(per_text.mean()), rel_tol=1e-4):
            raise Hint("Softening divides the gradient by the temperature squared: multiply the loss by it.")
        if math.isclose(value, expected / 3, rel_tol=1e-4) or math.isclose(
            value, expected / 3 / temperature**2, rel_tol=1e-4
        ):
            raise Hint('That is a mean over classes as well: reduction="batchmean" divides by the texts only.')
        p1, q1 = F.softmax(teacher, -1), F.softmax(student, -1)
        if math.isclose(value, float((p1 * (p1 / q1).log()).sum(-1).mean()) * temperature**2, rel_tol=1e-4):
            raise Hint("The temperature does not soften anything yet: divide both logits by it before the softmax.")
        if value < 0:
            raise Hint("A divergence is never negative: the first argument of F.kl_div are log-probabilities.")
        raise Hint(f"At temperature {temperature:g} the test's loss is {expected:.3f}, yours is {value:.3f}.")


def _kl(student, teacher, temperature, swap=False, factor=True, soften=True, mean=lambda loss: loss.sum(-1).mean()):
    import torch.nn.functional as F

    first, second = (teacher, student) if swap else (student, teacher)
    by = temperature if soften else 1.0
    loss = F.kl_div(F.log_softmax(first / by, -1), F.log_softmax(second / by, -1), log_target=True, reduction="none")
    return mean(loss) * temperature**2 if factor else mean(loss)


def _percentiles(rate, batches, waits, unit=1000):
    import numpy as np

    return {
        "per second": rate(batches),
        "p50": unit * np.percentile(waits(batches), 50),
        "p95": unit * np.percentile(waits(batches), 95),
    }


def _rate(batches):
    return sum(n for n, _ in batches) / sum(s for _, s in batches)


def _waits(batches):
    return [s for n, s in batches for _ in range(n)]


EXERCISES = {
    "11.1": Exercise(
        title="throughput and waiting times",
        reference=summary,
        test=_test_summary,
        hint="Make a list with one waiting time for each review, 1000 * seconds, then np.percentile(waits, 95).",
        mistakes=[
            (lambda bs: _percentiles(lambda b: len(b) / sum(s for _, s in b), bs, _waits), "batches per second"),
            (lambda bs: _percentiles(lambda b: sum(n / s for n, s in b) / len(b), bs, _waits), "mean of rates"),
            (lambda bs: _percentiles(_rate, bs, lambda b: [s for _, s in b]), "once for each"),
            (lambda bs: _percentiles(_rate, bs, _waits, unit=1), "milliseconds"),
            (lambda bs: _rate(bs), "a dictionary"),
        ],
    ),
    "11.2": Exercise(
        title="batches sorted by length",
        reference=answer_sorted,
        test=_test_sorted,
        hint="order = sorted(range(len(texts)), key=lambda i: lengths[i]) are the places of the texts, shortest first.",
        mistakes=[
            (lambda t, n, k, f: [a for i in range(0, len(t), k) for a in f(t[i : i + k])], "mix short and long"),
            (
                lambda t, n, k, f: [a for i in range(0, len(t), k) for a in f(sorted(t, key=len)[i : i + k])],
                "put each back",
            ),
            (lambda t, n, k, f: f(t), "at most `size`"),
            (lambda t, n, k, f: [f([text])[0] for text in t], "three batches"),
            (lambda t, n, k, f: [a for i in range(len(t) // k) for a in f(t[i * k : i * k + k])], "exactly once"),
        ],
    ),
    "11.3": Exercise(
        title="8-bit integers with a scale for each row",
        reference=quantize_rows,
        test=_test_quantize,
        hint="The scale of a row is its largest absolute value, abs().amax(dim=1, keepdim=True), divided by 127.",
        mistakes=[
            (lambda m: ((m / (m.abs().max() / 127)).round(), m.abs().max() / 127), "one scale for the whole"),
            (lambda m: ((m / (m.abs().amax(0, True) / 127)).round(), m.abs().amax(0, True) / 127), "each column"),
            (lambda m: (m / (m.abs().amax(1, True) / 127), m.abs().amax(1, True) / 127), "round to whole"),
            (lambda m: ((m / (m.amax(1, True) / 127)).round(), m.amax(1, True) / 127), "absolute values"),
            (lambda m: ((m / (m.abs().amax(1, True) / 127)).trunc(), m.abs().amax(1, True) / 127), "half a step"),
            (lambda m: (m / m.abs().amax(1, True) * 127).round(), "two things"),
        ],
    ),
    "11.4": Exercise(
        title="the loss of distillation",
        reference=distillation_loss,
        test=_test_loss,
        hint="F.kl_div(student's log_softmax, teacher's log_softmax, log_target=True, …), both of logits / temperature.",
        mistakes=[
            (lambda s, t, T: _kl(s, t, T, swap=True), "exchanged"),
            (lambda s, t, T: _kl(s, t, T, factor=False), "temperature squared"),
            (lambda s, t, T: _kl(s, t, T, soften=False), "before the softmax"),
            (lambda s, t, T: _kl(s, t, T, mean=lambda loss: loss.mean()), "the texts only"),
            (lambda s, t, T: _kl(s, t, T, mean=lambda loss: loss), "One number"),
        ],
    ),
}
