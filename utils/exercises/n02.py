"""Exercises of notebook 02: scaled dot-product attention, several heads, masks."""

from utils.exercises import Exercise, Hint, call


def attention(query, key, value, mask=None):
    """What each query finds among the values, and the weights that it gave them."""
    scores = query @ key.mT / key.shape[-1] ** 0.5  # (…, queries, keys)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(dim=-1)  # (…, queries, keys)
    return weights @ value, weights  # (…, queries, dim), (…, queries, keys)


def attention_mask(is_word, causal):
    """True where a position (row) may look at another one (column)."""
    length = is_word.shape[1]
    mask = is_word[:, None, :].expand(-1, length, -1)  # (batch, queries, keys)
    if causal:
        mask = mask & mask.new_ones(length, length).tril()
    return mask


def split_heads(x, heads):
    """Cut the last dimension into heads, and count them before the positions."""
    batch, seq, dim = x.shape
    return x.view(batch, seq, heads, dim // heads).transpose(1, 2)  # (batch, heads, seq, dim / heads)


def _numbers(*shape):
    """Fixed random numbers, without touching the notebook's own random state."""
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def _same(a, b):
    import torch

    return a.shape == b.shape and torch.allclose(a.float(), b.float(), atol=1e-4)


def _tensor(result, what):
    import torch

    if not isinstance(result, torch.Tensor):
        raise Hint(f"{what} should be a tensor, yours is a {type(result).__name__}.")
    return result


def _test_attention(answer):
    import torch
    import torch.nn.functional as F

    query, key, value = _numbers(2, 3, 16), _numbers(2, 4, 16).flip(0), _numbers(2, 4, 16) * 0.5 + 0.1
    mask = torch.tensor([[True, True, False, True]]).expand(2, 3, 4)
    for allowed in (None, mask):
        arguments = (query, key, value) if allowed is None else (query, key, value, allowed)
        result = call(answer, *arguments)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise Hint("Return two things: the output and the weights, as in `return output, weights`.")
        output, weights = _tensor(result[0], "The output"), _tensor(result[1], "The weights")
        _diagnose(query, key, value, allowed, weights)
        if not _same(output, F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)):
            raise Hint("The weights are right, the output is not: it is the weights times the values.")


def _diagnose(query, key, value, mask, weights):
    """A hint that fits if the weights are wrong."""
    products = query @ key.mT  # (batch, queries, keys)
    scores = products / key.shape[-1] ** 0.5
    if mask is None:
        wrong = {
            "Divide the scores by the square root of dim before the softmax.": products.softmax(-1),
            "You divide by dim: take its square root.": (products / key.shape[-1]).softmax(-1),
            "The softmax runs over the queries: each query shares out its attention over the keys, dim=-1.": (
                scores.softmax(-2)
            ),
            "The softmax runs over the batch: name the axis of the keys, dim=-1.": scores.softmax(0),
            "The softmax is missing: weights are positive and sum to 1.": scores,
        }
        right = scores.softmax(-1)
        if weights.shape == right.mT.shape and weights.shape != right.shape:
            raise Hint("Your weights are transposed: one row for each query, one column for each key: query @ key.mT.")
    else:
        wrong = {
            "You ignore the mask.": scores.softmax(-1),
            "The mask is the wrong way round: True means that the query may look there.": (
                scores.masked_fill(mask, float("-inf")).softmax(-1)
            ),
            "Adding True or False moves a score by 1 at most: set forbidden scores to minus infinity instead.": (
                (scores + mask.float()).softmax(-1)
            ),
            "A score of 0 is no ban, as exp(0) = 1: set forbidden scores to minus infinity.": (
                scores.masked_fill(~mask, 0.0).softmax(-1)
            ),
            "The weights no longer sum to 1: apply the mask before the softmax, as minus infinity.": (
                scores.softmax(-1).masked_fill(~mask, 0.0)
            ),
        }
        right = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    for hint, candidate in wrong.items():
        if _same(weights, candidate):
            raise Hint(hint)
    if weights.shape != right.shape:
        raise Hint(f"The weights should have the shape {tuple(right.shape)}, yours have {tuple(weights.shape)}.")
    if not _same(weights, right):
        where = "." if mask is None else ", forbidden scores at minus infinity."
        raise Hint(f"The weights differ from softmax(query @ key.mT / sqrt(dim)){where}")


def _test_mask(answer):
    import torch

    is_word = torch.tensor([[True, True, True, True], [True, True, False, False]])
    ones = torch.ones(4, 4, dtype=torch.bool)
    keys = is_word[:, None, :].expand(2, 4, 4)
    queries = is_word[:, :, None].expand(2, 4, 4)
    for causal in (False, True):
        result = _tensor(call(answer, is_word, causal), "The mask")
        order = ones.tril() if causal else ones
        if result.dtype != torch.bool:
            raise Hint(f"A mask holds True and False (torch.bool), yours is {result.dtype}.")
        if not causal and result.shape == (2, 1, 4):
            raise Hint(
                "Almost: give every query its own row, so that the shape is (batch, seq, seq); expand() does it."
            )
        if result.shape != (2, 4, 4):
            raise Hint(f"The shape should be (batch, seq, seq), here (2, 4, 4), yours is {tuple(result.shape)}.")
        if causal and _same(result, keys):
            raise Hint("The mask is not causal: no position may look at a later one.")
        if causal and _same(result, order.expand(2, 4, 4)):
            raise Hint("Causal it is, but padding must stay forbidden as well.")
        if causal and _same(result, keys & ones.triu()):
            raise Hint("That lets each position see the future and hides the past: tril(), not triu().")
        if causal and _same(result, keys & ones.tril(-1)):
            raise Hint("Each position may look at itself: keep the diagonal.")
        if _same(result, ~(keys & order)):
            raise Hint("It is the wrong way round: True means that looking is allowed.")
        if _same(result, queries & order):
            raise Hint("You forbid padding to ask. What must be forbidden is to look at it: columns, not rows.")
        if _same(result, queries & keys & order):
            raise Hint(
                "A row without a single True has no softmax: leave the rows of padding as they are, forbid columns."
            )
        if _same(result, keys | order):
            raise Hint("Both conditions must hold: combine them with &, not |.")
        if not _same(result, keys & order):
            raise Hint("Row i, column j is True where j is a word" + (" and j ≤ i." if causal else "."))


def _test_heads(answer):
    x = _numbers(2, 3, 8)
    for heads in (2, 4):
        size = 8 // heads
        right = x.view(2, 3, heads, size).transpose(1, 2)
        result = _tensor(call(answer, x, heads), "The result")
        if _same(result, x.view(2, 3, heads, size)):
            raise Hint("The cut is right. Now exchange the axes of positions and heads: transpose(1, 2).")
        if _same(result, x.reshape(2, heads, 3, size)):
            raise Hint(
                "The shape is right, but the numbers of different positions are mixed: "
                "cut the last axis first, then exchange axes with transpose()."
            )
        if _same(result, x.view(2, 3, size, heads).permute(0, 3, 1, 2)):
            raise Hint("Each head should take neighbouring numbers: the axis of heads comes before their dim / heads.")
        if _same(result, right.mT):
            raise Hint("Positions should come before dim / heads: (batch, heads, seq, dim / heads).")
        if _same(result, x.view(2, 3, size, heads).transpose(1, 2)):
            raise Hint("You exchange the number of heads and the size of each: view(batch, seq, heads, dim // heads).")
        if result.shape != right.shape:
            raise Hint(f"The shape should be {tuple(right.shape)} for {heads} heads, yours is {tuple(result.shape)}.")
        if not _same(result, right):
            raise Hint(
                "The shape is right, the numbers are not: head 0 holds the first dim / heads numbers of each word."
            )


def _without_scaling(query, key, value, mask=None):
    weights = (query @ key.mT).softmax(-1)
    return weights @ value, weights


def _over_queries(query, key, value, mask=None):
    weights = (query @ key.mT / key.shape[-1] ** 0.5).softmax(-2)
    return weights @ value, weights


def _transposed(query, key, value, mask=None):
    weights = (key @ query.mT / key.shape[-1] ** 0.5).softmax(-1)
    return weights.mT @ value, weights


def _ban_reversed(query, key, value, mask=None):
    scores = query @ key.mT / key.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(mask, float("-inf"))
    weights = scores.softmax(-1)
    return weights @ value, weights


def _ban_added(query, key, value, mask=None):
    scores = query @ key.mT / key.shape[-1] ** 0.5
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return weights @ value, weights


def _ban_late(query, key, value, mask=None):
    weights = (query @ key.mT / key.shape[-1] ** 0.5).softmax(-1)
    weights = weights if mask is None else weights * mask
    return weights @ value, weights


def _triangle(length):
    import torch

    return torch.ones(length, length, dtype=torch.bool).tril()


EXERCISES = {
    "02.1": Exercise(
        title="scaled dot-product attention",
        reference=attention,
        test=_test_attention,
        hint="Four lines: scores = query @ key.mT / sqrt(dim); masked_fill(~mask, -inf) if there is a mask; "
        "weights = scores.softmax(dim=-1); return weights @ value, weights.",
        mistakes=[
            (_without_scaling, "square root of dim"),
            (_over_queries, "dim=-1"),
            (_transposed, "transposed"),
            (_ban_reversed, "wrong way round"),
            (_ban_added, "minus infinity instead"),
            (_ban_late, "before the softmax"),
            (lambda q, k, v, mask=None: attention(q, k, v)[0], "two things"),
            (lambda q, k, v, mask=None: attention(q, k, v), "ignore the mask"),
            (lambda q, k, v, mask=None: (v, attention(q, k, v, mask)[1]), "weights times the values"),
        ],
    ),
    "02.2": Exercise(
        title="several heads",
        reference=split_heads,
        test=_test_heads,
        hint="x.view(batch, seq, heads, dim // heads) cuts the last axis; transpose(1, 2) puts heads before positions.",
        mistakes=[
            (lambda x, heads: x.view(x.shape[0], heads, x.shape[1], -1), "are mixed"),
            (lambda x, heads: x.view(x.shape[0], x.shape[1], heads, -1), "exchange the axes"),
            (lambda x, heads: x.view(*x.shape[:2], -1, heads).permute(0, 3, 1, 2), "neighbouring"),
            (lambda x, heads: split_heads(x, heads).mT, "come before dim / heads"),
            (lambda x, heads: split_heads(x, 2) * 2, "the numbers are not"),
        ],
    ),
    "02.3": Exercise(
        title="padding mask and causal mask",
        reference=attention_mask,
        test=_test_mask,
        hint="is_word[:, None, :] has the shape (batch, 1, seq); expand(-1, length, -1) repeats it for every query. "
        "torch.ones(length, length, dtype=torch.bool).tril() is the causal triangle; & combines both.",
        mistakes=[
            (lambda is_word, causal: is_word[:, None, :].expand(-1, is_word.shape[1], -1), "not causal"),
            (lambda is_word, causal: ~attention_mask(is_word, causal), "wrong way round"),
            (
                lambda is_word, causal: (
                    attention_mask(is_word, False) & _triangle(is_word.shape[1]).mT
                    if causal
                    else attention_mask(is_word, False)
                ),
                "not triu",
            ),
            (lambda is_word, causal: attention_mask(is_word, causal).mT, "columns, not rows"),
            (lambda is_word, causal: is_word[:, None, :], "expand()"),
            (lambda is_word, causal: attention_mask(is_word, causal).float(), "torch.bool"),
        ],
    ),
}
