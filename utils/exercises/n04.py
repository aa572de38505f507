"""Exercises of notebook 04: perplexity, masked tokens, a LoRA layer by hand."""

from __future__ import annotations

import math

from utils.exercises import Exercise, Hint, call


def perplexity(logits, input_ids):
    """exp of the mean loss of each token, predicted from the position before it."""
    import torch.nn.functional as F

    predicted = logits[:, :-1].flatten(0, 1)  # (batch * (seq - 1), vocab)
    following = input_ids[:, 1:].flatten()  # (batch * (seq - 1),)
    return F.cross_entropy(predicted, following).exp().item()


def mask_tokens(input_ids, chosen, dice, random_ids, mask_id):
    """BERT's recipe for the chosen tokens: 80 % hidden, 10 % exchanged, 10 % left as they are; all others are no task."""
    labels = input_ids.clone()
    labels[~chosen] = -100
    inputs = input_ids.clone()
    hidden = chosen & (dice < 0.8)
    exchanged = chosen & (dice >= 0.8) & (dice < 0.9)
    inputs[hidden] = mask_id
    inputs[exchanged] = random_ids[exchanged]
    return inputs, labels


def lora_linear(x, weight, bias, A, B, alpha):
    """A linear layer with a low-rank update: x (W + alpha / r B A)^T + bias."""
    rank = A.shape[0]
    return x @ weight.T + bias + (x @ A.T) @ B.T * (alpha / rank)


def _test_perplexity(answer):
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 5, generator=generator) * 2
    input_ids = torch.randint(5, (2, 6), generator=generator)
    for scores in (torch.zeros(2, 6, 5), logits):
        expected = perplexity(scores, input_ids)
        result = _number(call(answer, scores.clone(), input_ids.clone()))
        if math.isclose(result, expected, rel_tol=1e-4):
            continue
        loss = F.cross_entropy(scores[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())
        unshifted = F.cross_entropy(scores.flatten(0, 1), input_ids.flatten())
        backwards = F.cross_entropy(scores[:, 1:].flatten(0, 1), input_ids[:, :-1].flatten())
        if math.isclose(result, loss.item(), rel_tol=1e-4):
            raise Hint("That is the loss itself: the perplexity is exp(loss).")
        if any(math.isclose(result, 2 ** value.item(), rel_tol=1e-4) for value in (loss, unshifted)):
            raise Hint("cross_entropy uses natural logarithms: take exp(loss), not 2 ** loss.")
        if any(math.isclose(result, exp(unshifted), rel_tol=1e-4) for exp in (torch.exp, lambda value: value.item())):
            raise Hint(
                "Position t predicts token t + 1: drop the last prediction and the first token before you compare."
            )
        if any(math.isclose(result, exp(backwards), rel_tol=1e-4) for exp in (torch.exp, lambda value: value.item())):
            raise Hint("You shifted the wrong way: the predictions lose their last position, the tokens their first.")
        if result > 1e4 or math.isclose(result, 10 * loss.item(), rel_tol=1e-4):
            raise Hint("Take the mean of the losses of all tokens, not their sum, before exp.")
        raise Hint(f"For five equally likely tokens it is 5; in this test it is {expected:.2f}, yours is {result:.2f}.")


def _test_masking(answer):
    import torch

    input_ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
    chosen = torch.tensor([[True, False, True, True, False, True, True, False]])
    dice = torch.tensor([[0.10, 0.85, 0.79, 0.85, 0.30, 0.95, 0.80, 0.95]])
    random_ids = torch.tensor([[21, 22, 23, 24, 25, 26, 27, 28]])
    given = input_ids.clone()
    result = call(answer, given, chosen.clone(), dice.clone(), random_ids.clone(), 4)
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Hint("Return two tensors: return inputs, labels.")
    inputs, labels = result
    if not (torch.is_tensor(inputs) and torch.is_tensor(labels)):
        raise Hint("Both results must be tensors of the same shape as input_ids.")
    if inputs.shape != input_ids.shape or labels.shape != input_ids.shape:
        raise Hint(f"Both results must have the shape of input_ids, {tuple(input_ids.shape)}.")
    wanted, truth = mask_tokens(input_ids, chosen, dice, random_ids, 4)
    if not torch.equal(given, input_ids):
        raise Hint("Your function changes input_ids itself, and with it the labels or the data: work on a clone().")
    if torch.equal(labels, input_ids):
        raise Hint("Only the chosen tokens are a task: all other labels must be -100, which the loss ignores.")
    if not torch.equal(labels, truth):
        if torch.equal(labels[chosen], inputs[chosen]):
            raise Hint("The labels must be the true tokens: copy them before anything is hidden.")
        raise Hint(f"The labels should be {truth[0].tolist()}, yours are {labels[0].tolist()}.")
    if not torch.equal(inputs[~chosen], input_ids[~chosen]):
        raise Hint("A token that was not chosen stays as it is, whatever its dice say.")
    if torch.equal(inputs, input_ids.masked_fill(chosen, 4)):
        raise Hint(
            "Not every chosen token becomes [MASK]: from 0.8 on the dice decide for a random token, or for none."
        )
    if inputs[0, 5] != 10:
        raise Hint("Where the dice show 0.9 or more, a chosen token stays as it is.")
    if not torch.equal(inputs, wanted):
        raise Hint(f"The inputs should be {wanted[0].tolist()}, yours are {inputs[0].tolist()}.")


def _test_lora(answer):
    import torch

    generator = torch.Generator().manual_seed(0)
    x, weight, bias, A, B = (
        torch.randn(shape, generator=generator) for shape in [(2, 3, 6), (4, 6), (4,), (2, 6), (4, 2)]
    )
    alpha = 8
    expected = lora_linear(x, weight, bias, A, B, alpha)
    result = call(answer, x, weight, bias, A, B, alpha)
    if not torch.is_tensor(result):
        raise Hint(f"The result must be a tensor, not {type(result).__name__}.")
    if result.shape != expected.shape:
        raise Hint(f"Here the result must have the shape {tuple(expected.shape)}, yours has {tuple(result.shape)}.")

    def is_(tensor):
        return torch.allclose(result, tensor, atol=1e-4)

    plain, update = x @ weight.T, (x @ A.T) @ B.T
    if is_(expected):
        return
    if is_(plain + update * alpha / 2):
        raise Hint("The bias of the linear layer is missing.")
    if is_(plain + bias + update):
        raise Hint("The update is scaled by alpha / r, and r is the number of rows of A.")
    if is_(plain + bias + update * alpha):
        raise Hint("You scale by alpha: divide it by the rank r, the number of rows of A.")
    if is_(plain + bias + update * alpha / 6):
        raise Hint("The rank r is the number of rows of A (its columns are the inputs).")
    if is_(plain + bias):
        raise Hint("That is the frozen layer alone: add the update.")
    if is_(update * alpha / 2) or is_(update * alpha / 2 + bias):
        raise Hint("That is the update alone: the frozen weight W still does its part.")
    raise Hint("Not the right numbers. One way: (W + alpha / r B A) first, then x times its transpose, plus the bias.")


def _number(value):
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise Hint(f"Return one number, not {type(value).__name__}.") from None


def _loss(logits, input_ids, shift=1, reduction="mean"):
    import torch.nn.functional as F

    seq = input_ids.shape[1]
    if shift == 1:
        logits, input_ids = logits[:, :-1], input_ids[:, 1:]
    if shift == -1:
        logits, input_ids = logits[:, 1:], input_ids[:, : seq - 1]
    return F.cross_entropy(logits.flatten(0, 1), input_ids.flatten(), reduction=reduction)


def _all_hidden(input_ids, chosen, dice, random_ids, mask_id):
    return input_ids.masked_fill(chosen, mask_id), input_ids.masked_fill(~chosen, -100)


def _labels_everywhere(input_ids, chosen, dice, random_ids, mask_id):
    return mask_tokens(input_ids, chosen, dice, random_ids, mask_id)[0], input_ids.clone()


def _labels_too_late(input_ids, chosen, dice, random_ids, mask_id):
    inputs, _ = mask_tokens(input_ids, chosen, dice, random_ids, mask_id)
    return inputs, inputs.masked_fill(~chosen, -100)


def _in_place(input_ids, chosen, dice, random_ids, mask_id):
    input_ids[chosen & (dice < 0.8)] = mask_id
    return input_ids, input_ids.masked_fill(~chosen, -100)


def _dice_for_all(input_ids, chosen, dice, random_ids, mask_id):
    return input_ids.masked_fill(dice < 0.8, mask_id), input_ids.masked_fill(~chosen, -100)


EXERCISES = {
    "04.1": Exercise(
        title="perplexity",
        reference=perplexity,
        test=_test_perplexity,
        hint="logits[:, :-1] predict input_ids[:, 1:]. Flatten both, take F.cross_entropy, then .exp().item().",
        mistakes=[
            (lambda logits, ids: _loss(logits, ids).item(), "exp(loss)"),
            (lambda logits, ids: _loss(logits, ids, shift=0).exp().item(), "predicts token t + 1"),
            (lambda logits, ids: _loss(logits, ids, shift=-1).exp().item(), "wrong way"),
            (lambda logits, ids: 2 ** _loss(logits, ids).item(), "natural logarithms"),
            (lambda logits, ids: _loss(logits, ids, reduction="sum").exp().item(), "mean of the losses"),
            (lambda logits, ids: _loss(logits, ids, reduction="none"), "one number"),
        ],
    ),
    "04.2": Exercise(
        title="masked tokens",
        reference=mask_tokens,
        test=_test_masking,
        hint="Begin with labels = input_ids.clone() and labels[~chosen] = -100. Then hide a part of a second clone: "
        "inputs[chosen & (dice < 0.8)] = mask_id.",
        mistakes=[
            (_all_hidden, "Not every chosen token"),
            (_labels_everywhere, "must be -100"),
            (_labels_too_late, "true tokens"),
            (_in_place, "clone()"),
            (_dice_for_all, "not chosen"),
            (lambda input_ids, *_: input_ids.clone(), "two tensors"),
        ],
    ),
    "04.3": Exercise(
        title="a LoRA layer",
        reference=lora_linear,
        test=_test_lora,
        hint="The frozen part is x @ weight.T + bias. The update is (x @ A.T) @ B.T, times alpha / A.shape[0].",
        mistakes=[
            (lambda x, W, b, A, B, alpha: x @ W.T + b + x @ A.T @ B.T, "scaled by alpha / r"),
            (lambda x, W, b, A, B, alpha: x @ W.T + b + alpha * (x @ A.T @ B.T), "divide it by the rank"),
            (lambda x, W, b, A, B, alpha: x @ W.T + x @ A.T @ B.T * alpha / len(A), "bias"),
            (lambda x, W, b, A, B, alpha: x @ (alpha / len(A) * B @ A).T, "update alone"),
            (lambda x, W, b, A, B, alpha: x @ (W + A @ B).T, "RuntimeError"),
        ],
    ),
}
