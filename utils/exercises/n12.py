"""Exercises of notebook 12: what a demo shows, what a server refuses, what a load test measures, how a batch is collected."""

import math
import queue
import threading
import time

from utils.exercises import Exercise, Hint, call

LIMIT = 5_000  # characters, as exercise 12.2 states it


def label_scores(results):
    """What gr.Label expects, from what a text-classification pipeline returns for one text."""
    return {result["label"]: result["score"] for result in results}


def requests_per_second(finished):
    """Throughput of a load test, from the times (in seconds, since its start) at which its requests were answered."""
    return len(finished) / max(finished)


def collect(waiting, max_batch, timeout):
    """The next batch of a queue: complete when it has `max_batch` requests, or `timeout` seconds after its first one."""
    batch = [waiting.get()]
    end = time.monotonic() + timeout
    while len(batch) < max_batch:
        try:
            batch.append(waiting.get(timeout=max(0, end - time.monotonic())))
        except queue.Empty:
            break
    return batch


def _test_scores(answer):
    results = [{"label": "5 stars", "score": 0.7}, {"label": "4 stars", "score": 0.3}]
    result = call(answer, results)
    if result == results or isinstance(result, (list, tuple)):
        raise Hint("gr.Label wants one dictionary, {label: score}, not a list.")
    if not isinstance(result, dict):
        raise Hint(f"gr.Label wants a dictionary, yours is a {type(result).__name__}.")
    if result == {0.7: "5 stars", 0.3: "4 stars"}:
        raise Hint("The other way round: labels are the keys, scores the values.")
    if set(result) == {"label", "score"}:
        raise Hint('The keys are the labels themselves, such as "5 stars", not the word "label".')
    if len(result) == 1:
        raise Hint("Give all labels with their scores: gr.Label itself picks how many to show.")
    if result != {"5 stars": 0.7, "4 stars": 0.3}:
        raise Hint(f"For {results} the result should be {{'5 stars': 0.7, '4 stars': 0.3}}, yours is {result}.")


def _test_problem(answer):
    # a sentence is expected for each of these, an empty text for what is fine
    for text in ("Fine product.", "好", "a" * LIMIT, "  spaces around  "):
        result = call(answer, text)
        if not isinstance(result, str):
            raise Hint(f"Return a sentence, or an empty string; yours is a {type(result).__name__}.")
        if result and len(text) == LIMIT:
            raise Hint("Exactly 5,000 characters are still fine: refuse more than that.")
        if result:
            raise Hint(f"The text {text!r} is fine, so the answer is an empty string.")
    wrong = [("", "an empty text"), (" \n\t ", "a text of blanks only"), ("a" * 1_000_000, "a million characters")]
    wrong.append(("a" * (LIMIT + 1), "a text of 5,001 characters"))
    for text, what in [*wrong, (None, "None"), (5, "a number"), (["a"], "a list")]:
        try:
            result = call(answer, text)
        except Hint as hint:
            if "raised" in str(hint):
                raise Hint(f"It breaks on {what}: test the type first, with isinstance(text, str).") from None
            raise
        if not result:
            raise Hint(f"{what[0].upper() + what[1:]} must be refused.")
        if not isinstance(result, str):
            raise Hint(f"Return a sentence; yours is a {type(result).__name__}.")


def _test_throughput(answer):
    for finished, expected in (([0.5, 1.0, 1.5, 2.0], 2.0), ([4.0, 2.0, 1.0], 0.75)):
        result = float(call(answer, finished))
        if math.isclose(result, expected, rel_tol=1e-6):
            continue
        if math.isclose(result, len(finished) / sum(finished), rel_tol=1e-6):
            raise Hint("Requests overlap: divide by the time when the last one finished, not by the sum of all times.")
        if math.isclose(result, 1 / expected, rel_tol=1e-6):
            raise Hint("That is seconds per request: turn the fraction round.")
        if math.isclose(result, len(finished) / finished[-1], rel_tol=1e-6):
            raise Hint("The last in the list need not be the last to finish: use max().")
        raise Hint(f"For {finished} it is {expected} requests per second, yours is {result:.3f}.")


def _collected(answer, now, later, max_batch, timeout):
    """What an answer collects from a queue with the requests `now`, into which `later` [(seconds, request)] come."""
    waiting = queue.Queue()
    for request in now:
        waiting.put(request)
    timers = [threading.Timer(seconds, waiting.put, [request]) for seconds, request in later]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        result = call(answer, waiting, max_batch, timeout)
    except Hint as hint:
        if "Empty" in str(hint):
            raise Hint(
                "The queue raises queue.Empty when nothing came in time: catch it, and return the batch."
            ) from None
        raise
    finally:
        for timer in timers:
            timer.cancel()
    if not isinstance(result, list):
        raise Hint(f"Return a list of requests, not a {type(result).__name__}.")
    return result


def _test_collect(answer):
    twenty = [f"request {number}" for number in range(20)]
    late = [(1.0, "late")] * 16
    result = _collected(answer, twenty, [], 16, 0.05)
    if len(result) > 16:
        raise Hint("A batch has at most max_batch requests: stop when it is full.")
    if len(result) < 16:
        raise Hint(f"With 20 requests waiting, a batch of 16 is possible; yours has {len(result)}.")
    if result != twenty[:16]:
        raise Hint("The batch should hold the first 16 requests, in the order in which they came.")
    if _collected(answer, twenty[:4], late, 16, 0.05) != twenty[:4]:
        raise Hint("Do not wait for a full batch: when the timeout is over, go with what is there.")
    if _collected(answer, [], [(0.2, "first"), *late], 16, 0.05)[:1] != ["first"]:
        raise Hint("An empty batch is of no use: wait for the first request as long as it takes.")
    if _collected(answer, ["first"], [(0.05, "second")], 2, 2.0) != ["first", "second"]:
        raise Hint("A second request came 0.05 s after the first, within the timeout: it belongs to the batch.")
    slow = [(0.02 * number, f"request {number}") for number in range(1, 26)]
    if len(_collected(answer, ["first"], slow, 100, 0.15)) > 18:
        raise Hint(
            "Count the timeout from the first request, not anew from each: else a steady stream is never answered."
        )


def _full_batches_only(waiting, max_batch, timeout):
    return [waiting.get() for _ in range(max_batch)]


def _never_waits(waiting, max_batch, timeout):
    batch = [waiting.get()]
    while len(batch) < max_batch and not waiting.empty():
        batch.append(waiting.get())
    return batch


def _waits_anew(waiting, max_batch, timeout):
    batch = [waiting.get()]
    while len(batch) < max_batch:
        try:
            batch.append(waiting.get(timeout=timeout))
        except queue.Empty:
            break
    return batch


def _returns_nothing(waiting, max_batch, timeout):
    batch, end = [], time.monotonic() + timeout
    while len(batch) < max_batch:
        try:
            batch.append(waiting.get(timeout=max(0, end - time.monotonic())))
        except queue.Empty:
            break
    return batch


EXERCISES = {
    "12.1": Exercise(
        title="what the demo shows",
        reference=label_scores,
        test=_test_scores,
        hint='Build a dictionary: {result["label"]: result["score"] for result in …}.',
        mistakes=[
            (lambda results: results, "not a list"),
            (lambda results: {r["score"]: r["label"] for r in results}, "other way round"),
            (lambda results: results[0], 'not the word "label"'),
            (lambda results: {results[0]["label"]: results[0]["score"]}, "all labels"),
            (lambda results: results[0]["label"], "dictionary"),
        ],
    ),
    "12.2": Exercise(
        title="what a server refuses",
        reference="utils.serve:problem",  # the server itself uses it
        test=_test_problem,
        hint="Three things can be wrong: it is no text, it is blank, it is too long. Test them in this order.",
        mistakes=[
            (lambda text: "empty" if not text.strip() else "", "million characters"),
            (lambda text: "long" if len(text) > LIMIT else ("" if text.strip() else "empty"), "isinstance"),
            (lambda text: "" if isinstance(text, str) and 0 < len(text.strip()) < LIMIT else "no", "still fine"),
            (lambda text: bool(text), "Return a sentence"),
            (lambda text: "" if isinstance(text, str) and 0 < len(text) <= LIMIT else "no", "blanks only"),
        ],
    ),
    "12.3": Exercise(
        title="throughput",
        reference=requests_per_second,
        test=_test_throughput,
        hint="How many requests were answered, and when was the last one?",
        mistakes=[
            (lambda finished: len(finished) / sum(finished), "overlap"),
            (lambda finished: max(finished) / len(finished), "turn the fraction"),
            (lambda finished: len(finished) / finished[-1], "max()"),
        ],
    ),
    "12.4": Exercise(
        title="collecting a batch",
        reference=collect,
        test=_test_collect,
        hint="Begin with batch = [waiting.get()], note when the time is over, then go on with waiting.get(timeout=…).",
        mistakes=[
            (lambda waiting, max_batch, timeout: [waiting.get() for _ in range(waiting.qsize())], "at most max_batch"),
            (_full_batches_only, "full batch"),
            (_never_waits, "belongs to the batch"),
            (_waits_anew, "from the first request"),
            (_returns_nothing, "as long as it takes"),
            (lambda waiting, max_batch, timeout: waiting.get(), "a list"),
            (lambda waiting, max_batch, timeout: [waiting.get()], "yours has 1"),
            (
                lambda waiting, max_batch, timeout: [waiting.get(timeout=timeout) for _ in range(max_batch)],
                "queue.Empty",
            ),
        ],
    ),
}
