"""Exercises of notebook 03: the causal mask, residual and norm, the parameters and the operations of a block."""

import math

from utils.exercises import Exercise, Hint, call


def causal_mask(queries, keys):
    """True where a query may look: at itself and at what comes before it. The queries are the last of the keys."""
    import torch

    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)


def residual(x, layer, norm, pre_norm):
    """Add what a layer says about x to x, with the norm before the layer or after the sum."""
    return x + layer(norm(x)) if pre_norm else norm(x + layer(x))


def block_parameters(dim, hidden):
    """The parameters of a block: attention, feed-forward layer, two norms; each with its biases."""
    attention = 4 * (dim * dim + dim)
    feed_forward = dim * hidden + hidden + hidden * dim + dim
    norms = 2 * (dim + dim)
    return attention + feed_forward + norms


def block_operations(tokens, dim, hidden):
    """The additions and multiplications of a block's matrix products for one text."""
    weights = 4 * dim * dim + 2 * dim * hidden
    scores = tokens * tokens * dim
    mixing = tokens * tokens * dim
    return 2 * (tokens * weights + scores + mixing)


def _test_mask(answer):
    import torch

    for queries, keys in [(4, 4), (3, 3), (1, 4), (2, 5)]:
        result = call(answer, queries, keys)
        if not isinstance(result, torch.Tensor):
            raise Hint(f"A tensor was expected, not {type(result).__name__}: begin with torch.ones(queries, keys).")
        if tuple(result.shape) != (queries, keys):
            raise Hint(f"For {queries} queries and {keys} keys the shape is ({queries}, {keys}): a row for each query.")
        if result.dtype != torch.bool:
            raise Hint("The mask says yes or no: make it a tensor of True and False with dtype=torch.bool.")
        expected = causal_mask(queries, keys)
        if torch.equal(result, expected):
            continue
        if torch.equal(result, ~expected):
            raise Hint("Yours is True where a query must not look: exchange True and False.")
        if torch.equal(result, torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries)):
            raise Hint("Yours looks at the future: tril() keeps the lower triangle, triu() the upper one.")
        if torch.equal(result, torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries - 1)):
            raise Hint("A token may look at itself too: the diagonal is True.")
        if queries < keys and torch.equal(result, torch.ones(queries, keys, dtype=torch.bool).tril()):
            raise Hint(
                "The queries are the last of the keys: with 1 query and 4 keys, the query is token 4 and sees all."
            )
        raise Hint(f"For {queries} queries and {keys} keys the first row has {int(expected[0].sum())} times True.")


def _test_residual(answer):
    def layer(x):
        return 2 * x + 1

    def norm(x):
        return x / 10

    for x in (4.0, -3.0):
        results = [float(call(answer, x, layer, norm, pre_norm)) for pre_norm in (True, False)]
        expected = [residual(x, layer, norm, pre_norm) for pre_norm in (True, False)]
        if all(map(_same, results, expected)):
            continue
        if all(map(_same, results, expected[::-1])):
            raise Hint("The two cases are exchanged: pre-norm normalises what goes into the layer.")
        if _same(results[0], layer(norm(x))) or _same(results[1], norm(layer(x))):
            raise Hint("The residual is missing: x itself must be added to what the layer says.")
        if _same(results[0], norm(x) + layer(norm(x))):
            raise Hint("Pre-norm: add x as it is, not the normalised x. Only the layer sees the normalised one.")
        if _same(results[1], x + norm(layer(x))):
            raise Hint("Post-norm: first add, then normalise the sum.")
        if _same(*results):
            raise Hint("Yours gives the same with and without pre_norm: two orders are asked for.")
        case = "pre-norm" if not _same(results[0], expected[0]) else "post-norm"
        raise Hint(f"The {case} case is not right yet.")


def _same(one, other):
    return math.isclose(one, other, abs_tol=1e-6)


def _test_parameters(answer):
    for dim, hidden in [(5, 7), (384, 1536), (8, 32)]:  # in the first, no two of the amounts below are the same
        result = float(call(answer, dim, hidden))
        missing = block_parameters(dim, hidden) - result
        if _same(missing, 0):
            continue
        biases = 4 * dim + hidden + dim
        reasons = [
            (
                4 * dim,
                "4 × dim are missing: the weights and biases of the two norms, or the biases of attention's four matrices.",
            ),
            (2 * dim, "There are two norms, and each has a weight and a bias: 4 × dim together."),
            (biases, "The biases are missing: every matrix has one number more for each of its outputs."),
            (biases + 4 * dim, "The matrices are right. Now the biases, and the two norms."),
            (dim * dim + dim, "Attention has four matrices: query, key, value, and the output that mixes the heads."),
            (dim * hidden, "The feed-forward layer has two matrices: up to hidden, and down again."),
        ]
        for number, reason in reasons:
            if _same(missing, number):
                raise Hint(reason)
        raise Hint(
            f"For dim={dim} and hidden={hidden} it is {block_parameters(dim, hidden):,}, yours is {result:,.0f}."
        )


def _test_operations(answer):
    for tokens, dim, hidden in [(7, 4, 16), (10, 3, 5), (64, 384, 1536)]:
        result = float(call(answer, tokens, dim, hidden))
        right = block_operations(tokens, dim, hidden)
        if _same(result, right):
            continue
        if _same(2 * result, right):
            raise Hint("A multiplication and an addition are two operations: twice as many.")
        if _same(result, right - 4 * tokens * tokens * dim):
            raise Hint("The weights are right. Every query also meets every key: a part that grows with tokens².")
        if _same(result, right - 2 * tokens * tokens * dim):
            raise Hint("There are two products between tokens: query with key, then the weights with the values.")
        if _same(result, right - 2 * (tokens - 1) * (4 * dim * dim + 2 * dim * hidden)):
            raise Hint("Every token goes through the matrices: multiply that part by the number of tokens.")
        raise Hint(f"For {tokens} tokens, dim={dim}, hidden={hidden} it is {right:,}, yours is {result:,.0f}.")


EXERCISES = {
    "03.1": Exercise(
        title="the causal mask",
        reference=causal_mask,
        test=_test_mask,
        hint="Begin with torch.ones(queries, keys, dtype=torch.bool); .tril(k) keeps what lies on or below diagonal k.",
        mistakes=[
            (lambda q, k: _ones(q, k).tril(), "last of the keys"),
            (lambda q, k: _ones(q, k).triu(k - q), "future"),
            (lambda q, k: _ones(q, k).tril(k - q - 1), "itself"),
            (lambda q, k: ~_ones(q, k).tril(k - q), "exchange True and False"),
            (lambda q, k: _ones(q, k).tril(k - q).float(), "dtype=torch.bool"),
            (lambda q, k: _ones(k + 1, k), "a row for each query"),
            (lambda q, k: [[True]], "torch.ones"),
        ],
    ),
    "03.2": Exercise(
        title="residual and norm",
        reference=residual,
        test=_test_residual,
        hint="One line for each order. Pre-norm: the layer gets norm(x), and x is added. Post-norm: norm() of the sum.",
        mistakes=[
            (lambda x, layer, norm, pre: layer(norm(x)) if pre else norm(layer(x)), "residual is missing"),
            (lambda x, layer, norm, pre: norm(x + layer(x)) if pre else x + layer(norm(x)), "exchanged"),
            (lambda x, layer, norm, pre: norm(x) + layer(norm(x)) if pre else norm(x + layer(x)), "x as it is"),
            (lambda x, layer, norm, pre: x + layer(norm(x)) if pre else x + norm(layer(x)), "first add"),
            (lambda x, layer, norm, pre: norm(x + layer(x)), "two orders"),
        ],
    ),
    "03.3": Exercise(
        title="the parameters of a block",
        reference=block_parameters,
        test=_test_parameters,
        hint="nn.Linear(a, b) has a × b weights and b biases. Four of them in attention, two in the feed-forward layer.",
        mistakes=[
            (lambda d, h: 4 * d * d + 2 * d * h, "Now the biases"),
            (lambda d, h: 4 * d * d + 2 * d * h + 4 * d, "biases are missing"),
            (lambda d, h: block_parameters(d, h) - 4 * d, "biases of the two norms, or the biases of attention"),
            (lambda d, h: block_parameters(d, h) - h, "For dim=5 and hidden=7 it is"),
            (lambda d, h: block_parameters(d, h) - 2 * d, "4 × dim"),
            (lambda d, h: block_parameters(d, h) - d * d - d, "four matrices"),
            (lambda d, h: block_parameters(d, h) - d * h, "two matrices"),
        ],
    ),
    "03.4": Exercise(
        title="the operations of a block",
        reference=block_operations,
        test=_test_operations,
        hint="A product of an (a, b) and a (b, c) matrix costs 2abc operations. Six products with weights, two between tokens.",
        mistakes=[
            (lambda n, d, h: block_operations(n, d, h) // 2, "two operations"),
            (lambda n, d, h: 2 * n * (4 * d * d + 2 * d * h), "every key"),
            (lambda n, d, h: 2 * n * (4 * d * d + 2 * d * h) + 2 * n * n * d, "two products"),
            (lambda n, d, h: 2 * (4 * d * d + 2 * d * h) + 4 * n * n * d, "Every token"),
        ],
    ),
}


def _ones(queries, keys):
    import torch

    return torch.ones(queries, keys, dtype=torch.bool)
