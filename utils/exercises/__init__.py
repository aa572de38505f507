"""Exercises that answer with a sentence: `answer = check("09.1", answer)`.

Each notebook's exercises live in a module of their own (`n09.py`): a reference solution, a test that turns a wrong answer
into a hint that fits the mistake, and typical wrong answers that prove it. Notebook 00 shows how they work.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from utils import WorkshopError, catalog

TIME_LIMIT = 10  # seconds that the checks of one answer may take
LONGEST_HINT = 400  # characters; answers are quoted in hints, and some are long
NOT_ATTEMPTED, CORRECT, NOT_YET = "not attempted", "correct", "not yet"


class Hint(Exception):
    """Raised by a test: the answer is wrong, and this is the sentence that helps."""


class NotAttempted(Exception):
    """Raised when the answer is still the stub."""


class TimeIsUp(BaseException):
    """Raised in an answer that takes too long; no `except Exception` in it can stop that."""


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        title: what it asks for, in a few words.
        reference: a solution; `check` returns it in place of a missing or wrong answer, so that the notebook goes on.
            "utils.serve:problem" stands for a function of another module, which is imported when somebody asks for it.
        test: called with an answer, raises `Hint` if it is wrong.
        hint: the sentence for those who have not started.
        mistakes: typical wrong answers, each with a part of the hint that it must get; the test suite runs them.
    """

    title: str
    reference: Any
    test: Callable[[Any], None]
    hint: str
    mistakes: list[tuple[Any, str]] = field(default_factory=list)


def names() -> list[str]:
    """The names of all exercises of the collection, in order."""
    from utils.workshop import index

    return [name for number, entry in index()["notebook"].items() if entry["exercises"] for name in _module(number)]


def check(name: str, answer: Any) -> Any:
    """Check an answer and print one line: not attempted, correct, or not yet with a hint. Never raises for an answer.

    Returns:
        the answer if it is correct, else the reference solution, so that *Run all* goes on.
    """
    exercise = get(name)
    state, message = judge(exercise, answer)
    _remember(name, state)
    if state == CORRECT:
        print(f"\u2713 {name}: correct")
        return answer
    if state == NOT_ATTEMPTED:
        print(f'\u25cb {name}: not attempted. Stuck? hint("{name}") or solution("{name}"). The reference stands in.')
    else:
        print(f"\u2717 {name}: not yet. {message} The reference stands in until yours is right.")
    return exercise.reference


def judge(exercise: Exercise, answer: Any) -> tuple[str, str]:
    """The state of an answer and, where it is wrong, the hint."""
    if answer is ...:
        return NOT_ATTEMPTED, ""
    if "torch" not in sys.modules:
        exercise.test(
            exercise.reference
        )  # loads what the test needs: that takes seconds, and would count as the answer's
    try:
        with _time_limit():
            exercise.test(answer)
    except NotAttempted:
        return NOT_ATTEMPTED, ""
    except Hint as hint:
        return NOT_YET, _one_line(hint)
    except TimeIsUp:
        return NOT_YET, f"It still ran after {TIME_LIMIT} s: is there a loop that never ends?"
    except KeyboardInterrupt:  # the attendee's
        raise
    except BaseException as error:  # whatever an answer is, the attendee sees a sentence
        return (
            NOT_YET,
            f"Is it of the kind that was asked for? Checking it raised {type(error).__name__}: {_one_line(error)}",
        )
    return CORRECT, ""


def call(function: Any, *arguments: Any) -> Any:
    """Call an attendee's function in a test; a stub that returns `...` counts as not attempted.

    Raises:
        NotAttempted: it returned `...`.
        Hint: it is no function, returned nothing, or raised.
    """
    if not callable(function):
        raise Hint(f"A function was expected, not {type(function).__name__}.")
    try:
        result = function(*arguments)
    except (Hint, NotAttempted, TimeIsUp, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise Hint(f"Your function raised {type(error).__name__}: {_one_line(error)}") from None
    if result is ...:
        raise NotAttempted
    if result is None:
        raise Hint("Your function returns None: is the `return` missing?")
    there, here = {_device(argument) for argument in arguments} - {None} or {"cpu"}, _device(result)
    if here and here not in there:
        raise Hint(f"Your result is on the device {here}, its inputs are on {' and '.join(there)}: keep it with them.")
    return result


def _device(value: Any) -> str | None:
    """Where a tensor lies, such as "cpu"; None for what is no tensor."""
    return getattr(getattr(value, "device", None), "type", None)


def hint(name: str) -> None:
    """Print how to begin with an exercise."""
    print(f"{name}: {get(name).hint}")


def solution(name: str) -> None:
    """Print the reference solution of an exercise."""
    reference = get(name).reference
    print(inspect.getsource(reference).rstrip() if inspect.isroutine(reference) else repr(reference))


def progress() -> dict[str, str]:
    """The best state reached on this machine for every exercise: {"09.1": "correct", ...}."""
    saved = _saved()
    return {name: saved.get(name, NOT_ATTEMPTED) for name in names()}


def get(name: str) -> Exercise:
    """The exercise called `name`.

    Raises:
        WorkshopError: there is none; the message names those of the notebook.
    """
    exercises = _module(str(name).split(".")[0])
    if name not in exercises:
        there = ", ".join(exercises) or "none in that notebook"
        raise WorkshopError(f'There is no exercise "{name}". There are: {there}.')
    exercise = exercises[name]
    if str(exercise.reference).startswith("utils."):
        return replace(exercise, reference=pkgutil.resolve_name(exercise.reference))
    return exercise


def _module(number: str) -> dict[str, Exercise]:
    try:
        return importlib.import_module(f"utils.exercises.n{number}").EXERCISES
    except ModuleNotFoundError as error:
        if error.name != f"utils.exercises.n{number}":
            raise
        return {}


def _one_line(error: BaseException) -> str:
    try:
        text = " ".join(str(error).encode("utf-8", "replace").decode("utf-8").split())
    except BaseException:  # an answer may bring errors of its own, and who knows what their __str__ does
        text = ""
    text = text if len(text) <= LONGEST_HINT else text[:LONGEST_HINT] + " …"
    return text if text.endswith((".", "?", "!")) else f"{text or 'without a message'}."


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    # signals reach only the main thread, and Windows has no SIGALRM: there a check simply takes its time
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT, 1)  # again, for answers that catch everything
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _saved() -> dict[str, str]:
    try:
        saved = json.loads((catalog.cache_folder() / "progress.json").read_text(encoding="utf-8"))
        return {name: state for name, state in saved.items() if state in (NOT_YET, CORRECT)}
    except (OSError, ValueError, AttributeError):
        return {}


def _remember(name: str, state: str) -> None:
    """Keep the best state. Progress is a comfort: where it cannot be written, the exercise works all the same."""
    order = (NOT_ATTEMPTED, NOT_YET, CORRECT)
    saved = _saved()
    if order.index(state) <= order.index(saved.get(name, NOT_ATTEMPTED)):
        return
    file = catalog.cache_folder() / "progress.json"
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".draft-{os.getpid()}")
        draft.write_text(json.dumps(saved | {name: state}, indent=1), encoding="utf-8")
        draft.replace(file)
