"""Exercises of notebook 07: patches, attention rollout, cells of a table, the contrastive loss."""

import math

from utils.exercises import Exercise, Hint, call


def patchify(images, size):
    """Cut images into square patches, row by row: (batch, channels, height, width) to (batch, patches, channels * size * size)."""
    batch, channels, height, width = images.shape
    grid = images.reshape(batch, channels, height // size, size, width // size, size)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * size * size)


def rollout(attentions):
    """Attention followed through all layers: a list of (batch, heads, seq, seq) to (batch, seq, seq)."""
    import torch

    identity = torch.eye(attentions[0].shape[-1], device=attentions[0].device)
    flow = identity
    for attention in attentions:
        flow = (attention.mean(dim=1) + identity) / 2 @ flow
    return flow


def addresses(header, rows, tokenize):
    """(token, column, row) of every token of a table in reading order; the header is row 0, columns count from 1."""
    found = []
    for row, line in enumerate([header, *rows]):
        for column, cell in enumerate(line, start=1):
            found += [(token, column, row) for token in tokenize(cell)]
    return found


def contrastive_loss(similarities):
    """Each image must find its caption and each caption its image: (n, n), pairs on the diagonal."""
    import torch
    import torch.nn.functional as F

    right = torch.arange(len(similarities), device=similarities.device)
    return (F.cross_entropy(similarities, right) + F.cross_entropy(similarities.T, right)) / 2


def _tensor(result, what):
    import torch

    if not isinstance(result, torch.Tensor):
        raise Hint(f"A tensor was expected, not {type(result).__name__}: {what}.")
    return result.detach().float().cpu()


def _test_patchify(answer):
    import torch

    for shape, size in [((1, 1, 4, 6), 2), ((2, 3, 4, 8), 2), ((2, 3, 6, 3), 3)]:
        images = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
        expected = patchify(images, size)
        result = _tensor(call(answer, images, size), "(batch, patches, channels * size * size)")
        if result.shape == expected.shape and torch.equal(result, expected):
            continue
        batch, channels, height, width = shape
        grid = images.reshape(batch, channels, height // size, size, width // size, size)

        def is_order(*order, grid=grid, result=result):
            return torch.equal(grid.permute(order).flatten(), result.flatten())

        if result.numel() != images.numel():
            raise Hint("Every pixel must appear exactly once: yours has another number of values.")
        if torch.equal(expected.flatten(), result.flatten()):
            raise Hint(
                f"For {shape} and size {size} the shape is {tuple(expected.shape)}, yours {tuple(result.shape)}."
            )
        if torch.equal(images.flatten(), result.flatten()):
            raise Hint(
                "reshape alone keeps the order in memory, so your patches are strips of pixel rows. "
                "Split height and width first, then permute, then reshape again."
            )
        if is_order(0, 4, 2, 1, 3, 5):
            raise Hint("Count patches row by row, like reading: yours go down the columns.")
        if is_order(0, 2, 4, 3, 5, 1):
            raise Hint("Inside a patch, all pixels of the first channel come first, then the next channel's.")
        if is_order(0, 2, 4, 1, 5, 3):
            raise Hint("Inside a patch, read pixels row by row: yours are transposed.")
        raise Hint("Another order is expected: the first patch must hold the pixels of images[:, :, :size, :size].")


def _test_rollout(answer):
    import torch

    generator = torch.Generator().manual_seed(7)
    for layers, seq in [(1, 3), (3, 5)]:
        attentions = [torch.randn(2, 4, seq, seq, generator=generator).softmax(dim=-1) for _ in range(layers)]
        expected = rollout(attentions)
        result = _tensor(call(answer, attentions), "(batch, seq, seq)")
        if result.shape != expected.shape:
            raise Hint(
                f"The shape must be (batch, seq, seq) = {tuple(expected.shape)}, yours is {tuple(result.shape)}."
            )
        if torch.allclose(result, expected, atol=1e-5):
            continue
        identity = torch.eye(seq)
        if torch.allclose(result, _chain([a.mean(1) for a in attentions]), atol=1e-5):
            raise Hint("The residual connection is missing: add the identity to each layer's attention, and halve.")
        if torch.allclose(result, _chain([a.mean(1) + identity for a in attentions]), atol=1e-4):
            raise Hint("Each row must still add up to 1: after adding the identity, divide by 2.")
        if torch.allclose(result, _chain([(a.mean(1) + identity) / 2 for a in attentions][::-1]), atol=1e-5):
            raise Hint("The order is turned round: a later layer is multiplied from the left, layer @ flow.")
        if torch.allclose(result, (attentions[-1].mean(1) + identity) / 2, atol=1e-5):
            raise Hint("That is the last layer alone: multiply the matrices of all layers.")
        if not torch.allclose(result.sum(-1), torch.ones(2, seq), atol=1e-4):
            raise Hint("Each row must add up to 1. Do you take the mean over the heads (dimension 1), not the sum?")
        raise Hint("For each layer: mean over heads, add the identity, halve, and multiply from the left.")


def _chain(matrices):
    flow = matrices[0]
    for matrix in matrices[1:]:
        flow = matrix @ flow
    return flow


def _test_addresses(answer):
    header, rows = ["club", "gold medals"], [["north star", "12"], ["lake side", "7"]]
    result = call(answer, list(header), [list(row) for row in rows], str.split)
    if not isinstance(result, list):
        raise Hint("Return a list of triples (token, column, row).")
    if any(not isinstance(item, tuple | list) or len(item) != 3 for item in result):
        raise Hint("Each item must be a triple (token, column, row).")
    result, expected = [tuple(item) for item in result], addresses(header, rows, str.split)
    if result == expected:
        return
    if "north star" in [item[0] for item in result]:
        raise Hint("A cell can be several tokens: cut it with tokenize(cell), one triple for each token.")
    if result == [(token, row, column) for token, column, row in expected]:
        raise Hint("First the column, then the row: (token, column, row).")
    if result == [(token, column - 1, row) for token, column, row in expected]:
        raise Hint("Columns count from 1: 0 is kept for the question, which stands in no column.")
    if result == [(token, column, row + 1) for token, column, row in expected]:
        raise Hint("The header is row 0, the first row of values is row 1.")
    if result == [item for item in expected if item[2]]:
        raise Hint("The header is missing: its tokens are row 0.")
    if sorted(map(str, result)) == sorted(map(str, expected)):
        raise Hint("All addresses are right, their order is not: row by row, in each row from left to right.")
    raise Hint(f"For a table with the header {header} and the rows {rows}, the list should begin {expected[:3]}.")


def _test_contrastive(answer):
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(7)
    for size in (3, 6):
        similarities = 3 * torch.randn(size, size, generator=generator)
        right = torch.arange(size)
        rows, columns = F.cross_entropy(similarities, right).item(), F.cross_entropy(similarities.T, right).item()
        result = call(answer, similarities)
        value = float(result)

        def is_near(other, value=value):
            return math.isclose(value, other, abs_tol=1e-4)

        if is_near((rows + columns) / 2):
            if not isinstance(result, torch.Tensor):
                raise Hint("The number is right. Return it as a tensor, without item(), so that it can be trained.")
            continue
        if is_near(rows):
            raise Hint(
                "Each image finds its caption. Now also let each caption find its image: the same on the columns."
            )
        if is_near(columns):
            raise Hint("Each caption finds its image. Now also let each image find its caption: the same on the rows.")
        if is_near(rows + columns):
            raise Hint("That is the sum of both directions: take their mean.")
        if is_near(-similarities.diagonal().mean().item()):
            raise Hint("Pulling pairs together is half of it: the softmax pushes everything else away.")
        if is_near(size * (rows + columns) / 2):
            raise Hint("Take the mean over the rows and over the columns, not the sum.")
        raise Hint(f"For a matrix of {size} pairs it is {(rows + columns) / 2:.3f}, yours is {value:.3f}.")


def _only_rows(similarities):
    import torch
    import torch.nn.functional as F

    return F.cross_entropy(similarities, torch.arange(len(similarities)))


def _eye(attentions):
    import torch

    return torch.eye(attentions[0].shape[-1])


EXERCISES = {
    "07.1": Exercise(
        title="an image as patches",
        reference=patchify,
        test=_test_patchify,
        hint=(
            "reshape to (batch, channels, rows, size, columns, size), permute so that rows and columns stand in front of "
            "channels, and reshape once more."
        ),
        mistakes=[
            (lambda x, s: x.reshape(len(x), -1, x.shape[1] * s * s), "reshape alone"),
            (
                lambda x, s: (
                    x.reshape(*x.shape[:2], x.shape[2] // s, s, x.shape[3] // s, s)
                    .permute(0, 4, 2, 1, 3, 5)
                    .reshape(len(x), -1, x.shape[1] * s * s)
                ),
                "row by row, like reading",
            ),
            (
                lambda x, s: (
                    x.reshape(*x.shape[:2], x.shape[2] // s, s, x.shape[3] // s, s)
                    .permute(0, 2, 4, 3, 5, 1)
                    .reshape(len(x), -1, x.shape[1] * s * s)
                ),
                "first channel come first",
            ),
            (
                lambda x, s: (
                    x.reshape(*x.shape[:2], x.shape[2] // s, s, x.shape[3] // s, s)
                    .permute(0, 2, 4, 1, 5, 3)
                    .reshape(len(x), -1, x.shape[1] * s * s)
                ),
                "transposed",
            ),
            (lambda x, s: x[:, :, :s, :s], "exactly once"),
            (lambda x, s: patchify(x, s)[0], "shape"),
            (lambda x, s: patchify(x, s).tolist(), "tensor"),
        ],
    ),
    "07.2": Exercise(
        title="attention rollout",
        reference=rollout,
        test=_test_rollout,
        hint=(
            "Begin with flow = torch.eye(seq). For each layer, from the first to the last: a = attention.mean(dim=1), "
            "a = (a + identity) / 2, flow = a @ flow."
        ),
        mistakes=[
            (lambda attentions: _chain([a.mean(1) for a in attentions]), "residual"),
            (lambda attentions: _chain([a.mean(1) + _eye(attentions) for a in attentions]), "divide by 2"),
            (
                lambda attentions: _chain([(a.mean(1) + _eye(attentions)) / 2 for a in attentions][::-1]),
                "from the left",
            ),
            (lambda attentions: (attentions[-1].mean(1) + _eye(attentions)) / 2, "last layer alone"),
            (lambda attentions: _chain([(a.sum(1) + _eye(attentions)) / 2 for a in attentions]), "mean over the heads"),
            (lambda attentions: attentions[0], "shape"),
        ],
    ),
    "07.3": Exercise(
        title="the addresses of a table's tokens",
        reference=addresses,
        test=_test_addresses,
        hint=(
            "Three loops: over [header, *rows] with enumerate(), over the cells of a line with enumerate(…, start=1), over "
            "the tokens of a cell."
        ),
        mistakes=[
            (
                lambda h, r, t: [(cell, c, n) for n, line in enumerate([h, *r]) for c, cell in enumerate(line, 1)],
                "several",
            ),
            (lambda h, r, t: [(token, n, c) for token, c, n in addresses(h, r, t)], "First the column"),
            (lambda h, r, t: [(token, c - 1, n) for token, c, n in addresses(h, r, t)], "count from 1"),
            (lambda h, r, t: [(token, c, n + 1) for token, c, n in addresses(h, r, t)], "header is row 0"),
            (lambda h, r, t: [item for item in addresses(h, r, t) if item[2]], "header is missing"),
            (lambda h, r, t: sorted(addresses(h, r, t), key=lambda item: item[1]), "their order"),
            (lambda h, r, t: dict.fromkeys(h), "list of triples"),
        ],
    ),
    "07.4": Exercise(
        title="the contrastive loss",
        reference=contrastive_loss,
        test=_test_contrastive,
        hint=(
            "The right class of row i is i: F.cross_entropy(similarities, torch.arange(n)). Do the same for the transposed "
            "matrix, and take the mean of both."
        ),
        mistakes=[
            (_only_rows, "each caption find its image"),
            (lambda s: _only_rows(s.T), "each image find its caption"),
            (lambda s: _only_rows(s) + _only_rows(s.T), "their mean"),
            (lambda s: -s.diagonal().mean(), "pushes everything else away"),
            (lambda s: contrastive_loss(s).item(), "item()"),
        ],
    ),
}
