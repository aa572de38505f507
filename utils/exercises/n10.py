"""Exercises of notebook 10: gradients of parts, LoRA's layer, the share of a process, bytes for each process."""

import math

from utils.exercises import Exercise, Hint, call


def combine(gradients, sizes):
    """The gradient of the mean loss over all reviews, from those of parts with `sizes` reviews."""
    return sum(gradient * size for gradient, size in zip(gradients, sizes, strict=True)) / sum(sizes)


def lora_linear(x, weight, a, b, alpha):
    """A linear layer with LoRA: x (batch, in), weight (out, in), a (rank, in), b (out, rank)."""
    rank = a.shape[0]
    return x @ weight.T + alpha / rank * (x @ a.T @ b.T)  # (batch, out)


def share(batch, process, processes):
    """The part of a global batch that belongs to one process: equal parts, in order."""
    size = len(batch) // processes
    return batch[process * size : (process + 1) * size]


def bytes_per_process(parameters, processes, sharded):
    """Bytes for weights, gradients and AdamW's two numbers, all in 32-bit floats."""
    return 16 * parameters / (processes if sharded else 1)


def _test_combine(answer):
    cases = [([1.0, 3.0], [8, 8]), ([1.0, 4.0], [12, 4]), ([2.0, -1.0, 0.5], [6, 6, 4])]
    for gradients, sizes in cases:
        expected = combine(gradients, sizes)
        result = float(call(answer, list(gradients), list(sizes)))
        if math.isclose(result, expected, abs_tol=1e-9):
            continue
        if math.isclose(result, sum(gradients)):
            raise Hint("The loss is a mean over reviews, so its gradient is a mean as well, not a sum.")
        if math.isclose(result, sum(gradients) / len(gradients)):
            raise Hint("That is right for parts of equal size only: a part with more reviews must count more.")
        if math.isclose(result, sum(g * n for g, n in zip(gradients, sizes, strict=True))):
            raise Hint("The weights are right; now divide by the number of all reviews.")
        raise Hint(f"For gradients {gradients} of {sizes} reviews it is {expected:.3f}, yours is {result:.3f}.")


def _test_lora(answer):
    import torch

    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5), (3, 5), (2, 5), (3, 2)]
    x, weight, a, b = (torch.randn(shape, generator=generator) for shape in shapes)
    for alpha in (2, 16):
        result = call(answer, x, weight, a, b, alpha)
        if not isinstance(result, torch.Tensor):
            raise Hint(f"A tensor was expected, not {type(result).__name__}.")
        if result.shape != (2, 3):
            raise Hint(f"The result must be (batch, out), here (2, 3); yours is {tuple(result.shape)}.")
        plain, update = x @ weight.T, x @ a.T @ b.T
        if torch.allclose(result, plain + alpha / 2 * update, atol=1e-4):
            continue
        if torch.allclose(result, plain, atol=1e-4):
            raise Hint("That is the frozen layer alone: add what the adapter says.")
        if torch.allclose(result, alpha / 2 * update, atol=1e-4):
            raise Hint("That is the adapter alone: it is added to the frozen layer, it does not replace it.")
        if torch.allclose(result, plain + alpha * update, atol=1e-4):
            raise Hint("alpha is divided by the rank, which is the number of rows of a.")
        if alpha != 2 and torch.allclose(result, plain + update, atol=1e-4):
            raise Hint("The adapter is scaled by alpha / rank before it is added.")
        raise Hint("It is x @ weight.T plus alpha / rank times x through a, then through b.")


def _test_share(answer):
    for processes in (2, 4, 1):
        batch = [f"review {number}" for number in range(8)]
        parts = [call(answer, list(batch), process, processes) for process in range(processes)]
        if any(isinstance(part, (str, dict)) or not hasattr(part, "__len__") for part in parts):
            raise Hint("Return a part of the batch: a list of reviews.")
        parts = [list(part) for part in parts]
        if parts == [share(batch, process, processes) for process in range(processes)]:
            continue
        if all(part == batch for part in parts):
            raise Hint("Every process would do all the work: each needs a part of its own.")
        if any(len(part) != 8 // processes for part in parts):
            raise Hint(
                f"8 reviews for {processes} processes are {8 // processes} each; yours: {list(map(len, parts))}."
            )
        if parts == [batch[process::processes] for process in range(processes)]:
            raise Hint("Dealt like cards: fair as well, but here each process takes neighbours, in order.")
        if sorted(item for part in parts for item in part) != batch:
            raise Hint("Some review is left out or taken twice: process 0 begins at the first one.")
        raise Hint(f"Of {processes} processes, number 0 takes the first part and number {processes - 1} the last one.")


def _test_bytes(answer):
    for parameters, processes, sharded in [(1000, 1, False), (1000, 4, False), (1000, 4, True), (4000, 8, True)]:
        expected = bytes_per_process(parameters, processes, sharded)
        result = float(call(answer, parameters, processes, sharded))
        if math.isclose(result, expected):
            continue
        each = result / expected * 16
        if not sharded and processes > 1 and math.isclose(each, 16 / processes):
            raise Hint("Without sharding each process holds everything, however many there are.")
        if math.isclose(each, 8):
            raise Hint("8 bytes are missing for each parameter: AdamW keeps two numbers of its own.")
        if math.isclose(each, 12):
            raise Hint("4 bytes are missing for each parameter: weight, gradient, and two numbers of AdamW are four.")
        if math.isclose(each, 4):
            raise Hint("Four numbers of 4 bytes for each parameter, not 4 bytes.")
        if sharded and math.isclose(each, 16 * processes):
            raise Hint("With sharding the processes divide everything among themselves.")
        raise Hint(f"For {parameters}, {processes}, {sharded} it is {expected:.0f}, yours is {result:.0f}.")


EXERCISES = {
    "10.1": Exercise(
        title="gradients of parts",
        reference=combine,
        test=_test_combine,
        hint="A weighted mean: multiply each gradient by the size of its part, add up, divide by the number of all reviews.",
        mistakes=[
            (lambda gradients, sizes: sum(gradients), "not a sum"),
            (lambda gradients, sizes: sum(gradients) / len(gradients), "equal size"),
            (lambda gradients, sizes: sum(g * n for g, n in zip(gradients, sizes, strict=True)), "divide by"),
            (lambda gradients, sizes: max(gradients), "yours is"),
        ],
    ),
    "10.2": Exercise(
        title="a linear layer with LoRA",
        reference=lora_linear,
        test=_test_lora,
        hint="The frozen layer is x @ weight.T. The adapter sends x through a (to rank numbers), then through b (to out numbers).",
        mistakes=[
            (lambda x, weight, a, b, alpha: x @ weight.T, "frozen layer alone"),
            (lambda x, weight, a, b, alpha: alpha / a.shape[0] * x @ a.T @ b.T, "adapter alone"),
            (lambda x, weight, a, b, alpha: x @ weight.T + alpha * x @ a.T @ b.T, "divided by the rank"),
            (lambda x, weight, a, b, alpha: x @ weight.T + x @ a.T @ b.T, "scaled by"),
            (lambda x, weight, a, b, alpha: x @ weight, "RuntimeError"),
        ],
    ),
    "10.3": Exercise(
        title="the share of a process",
        reference=share,
        test=_test_share,
        hint="Each part has len(batch) // processes reviews; process 0 begins at 0, process 1 where that part ends.",
        mistakes=[
            (lambda batch, process, processes: batch, "all the work"),
            (lambda batch, process, processes: batch[process::processes], "like cards"),
            (lambda batch, process, processes: batch[process : process + len(batch) // processes], "left out"),
            (lambda batch, process, processes: batch[: process + 1], "each; yours"),
        ],
    ),
    "10.4": Exercise(
        title="bytes for each process",
        reference=bytes_per_process,
        test=_test_bytes,
        hint="Four numbers of 4 bytes for each parameter: weight, gradient, two of AdamW. Sharded, they are divided.",
        mistakes=[
            (lambda n, processes, sharded: 8 * n, "two numbers of its own"),
            (lambda n, processes, sharded: 12 * n, "4 bytes are missing"),
            (lambda n, processes, sharded: 16 * n / processes, "Without sharding"),
            (lambda n, processes, sharded: 16 * n, "With sharding"),
        ],
    ),
}
