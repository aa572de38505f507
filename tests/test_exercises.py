"""Every exercise proven both ways: the reference passes, the stub is not attempted, typical mistakes get their hint."""

import contextlib
import io
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from utils import WorkshopError, exercises
from utils.exercises import CORRECT, NOT_ATTEMPTED, NOT_YET, Exercise, Hint, call, judge
from utils.workshop import ROOT

NONSENSE = [None, 0, -1, float("nan"), "", "text", [], {}, object(), print, int]
ALL = [(name, exercises.get(name)) for name in exercises.names()]


@pytest.fixture(autouse=True)
def progress_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_CACHE", str(tmp_path))


@pytest.mark.parametrize(("name", "exercise"), ALL, ids=[name for name, _ in ALL])
def test_reference_passes_and_stub_is_not_attempted(name, exercise):
    assert judge(exercise, exercise.reference) == (CORRECT, "")
    assert judge(exercise, ...)[0] == NOT_ATTEMPTED
    if callable(exercise.reference):
        assert judge(exercise, lambda *_: ...)[0] == NOT_ATTEMPTED


@pytest.mark.parametrize(("name", "exercise"), ALL, ids=[name for name, _ in ALL])
def test_typical_mistakes_get_their_own_hint(name, exercise):
    assert len(exercise.mistakes) >= 3
    hints = []
    for answer, expected in exercise.mistakes:
        state, message = judge(exercise, answer)
        assert state == NOT_YET
        assert expected in message
        hints.append(message)
    assert len(set(hints)) >= 3


@pytest.mark.parametrize(("name", "exercise"), ALL, ids=[name for name, _ in ALL])
@pytest.mark.parametrize("nonsense", NONSENSE, ids=[f"{type(value).__name__}{n}" for n, value in enumerate(NONSENSE)])
def test_nonsense_is_not_correct_and_never_a_traceback(name, exercise, nonsense):
    state, _ = judge(exercise, nonsense)
    assert state == NOT_YET


def test_check_returns_the_reference_until_the_answer_is_right(capsys):
    reference = exercises.get("09.2").reference
    assert exercises.check("09.2", ...) is reference
    assert exercises.check("09.2", lambda p, r: 0.5) is reference

    def mine(predictions, references):
        return sum(abs(p - r) for p, r in zip(predictions, references)) / len(references)

    assert exercises.check("09.2", mine) is mine
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert [word in line for word, line in zip(["not attempted", "not yet", "correct"], lines)] == [True] * 3


def test_progress_keeps_the_best_state():
    assert exercises.progress()["09.2"] == NOT_ATTEMPTED
    exercises.check("09.2", lambda p, r: 0.5)
    assert exercises.progress()["09.2"] == NOT_YET
    exercises.check("09.2", exercises.get("09.2").reference)
    exercises.check("09.2", lambda p, r: 0.5)
    assert exercises.progress()["09.2"] == CORRECT


def test_progress_that_cannot_be_written_stops_nobody(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKSHOP_CACHE", str(tmp_path / "file"))
    exercises.check("00.1", (0, 1))
    assert "correct" in capsys.readouterr().out


def test_an_endless_loop_is_stopped(monkeypatch):
    monkeypatch.setattr(exercises, "TIME_LIMIT", 0.3)

    def forever():
        while True:
            pass

    begun = time.perf_counter()
    state, message = judge(Exercise("", forever, lambda answer: call(answer), ""), forever)
    assert state == NOT_YET
    assert "never ends" in message
    assert time.perf_counter() - begun < 3


def test_an_endless_loop_that_catches_every_error_is_stopped(monkeypatch):
    monkeypatch.setattr(exercises, "TIME_LIMIT", 0.3)

    def forever():
        while True:
            with contextlib.suppress(Exception):
                time.sleep(1)

    begun = time.perf_counter()
    assert "never ends" in judge(Exercise("", forever, lambda answer: call(answer), ""), forever)[1]
    assert time.perf_counter() - begun < 0.9


def test_loading_libraries_does_not_count_as_the_answers_time():
    code = (
        "from utils import exercises; exercises.TIME_LIMIT = 0.3; import sys; assert 'torch' not in sys.modules\n"
        "print(exercises.judge(exercises.get('02.1'), exercises.get('02.1').reference), 'torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, text=True, capture_output=True)
    assert done.stdout == f"{(CORRECT, '')} True\n", done.stderr


META = torch.zeros(2, 3, device="meta")  # a tensor on another device, which every machine has


@pytest.mark.parametrize(("name", "exercise"), ALL, ids=[name for name, _ in ALL])
def test_nan_and_other_devices_get_one_line(name, exercise):
    assert judge(exercise, META)[0] == NOT_YET
    if not callable(exercise.reference):
        return
    state, message = judge(exercise, lambda *_: META)
    assert state == NOT_YET
    assert "device meta" in message
    for nothing in (float("nan"), torch.full((2, 3), float("nan"))):
        state, message = judge(exercise, lambda *_, nothing=nothing: nothing)
        assert state == NOT_YET
        assert re.fullmatch(r".+[.?!]", message)


class Rude(BaseException):
    """An error that cannot even be printed, and that `except Exception` does not catch."""

    def __str__(self):
        raise ValueError("no")


def raising(error):
    def method(*_, **__):
        raise error

    return method


def agreeing(*_):
    return True


SPECIAL = ["__eq__", "__lt__", "__repr__", "__str__", "__len__", "__iter__", "__bool__", "__float__", "__getitem__"]
SPECIAL += ["__hash__", "__getattr__", "__call__", "__add__", "__mul__", "__array__", "__format__", "__contains__"]
errors = st.sampled_from(
    [ValueError("two\nlines"), KeyError(), SystemExit(1), Rude(), StopIteration(), RecursionError()]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text(max_size=20)
    | st.characters(categories=["Cs"]) | st.binary(max_size=20) | st.just(...) | st.sampled_from([META, Rude, np.arange(3)]),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.sets(st.integers(), max_size=4)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
hostile = st.dictionaries(st.sampled_from(SPECIAL), errors.map(raising) | st.just(agreeing), min_size=1).map(
    lambda methods: type("Hostile", (), methods)()
)
results = values | hostile
answers = results | errors.map(raising) | results.map(lambda result: lambda *_, **__: result)


def check_anything(name, answer):
    """`check` prints one line that says which state it is, and returns the answer or the reference."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(exercises, "TIME_LIMIT", 0.5)  # some of these can be iterated over forever
        returned = exercises.check(name, answer)
    line = printed.getvalue()
    line.encode("utf-8")
    assert re.fullmatch(rf"[✓○✗] {re.escape(name)}: (correct|not attempted\..*|not yet\. .+\.)\n", line), line
    assert returned is (answer if ": correct" in line else exercises.get(name).reference)


def fuzz(examples):
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=checks)


@pytest.mark.parametrize("name", [name for name, _ in ALL])
@fuzz(20)
@given(answer=answers)
def test_whatever_the_answer_is_check_says_one_sentence(name, answer):
    check_anything(name, answer)


@pytest.mark.parametrize("name", ["00.1", "00.2", "05.2", "09.2"])  # a value, numbers, texts, lists: quickly tested
@fuzz(300)
@given(answer=answers)
def test_whatever_the_answer_is_check_says_one_sentence_many_times(name, answer):
    check_anything(name, answer)


def test_an_exception_in_the_answer_is_one_line():
    def test(answer):
        call(answer, 1)

    state, message = judge(Exercise("", None, test, ""), lambda x: {}["no\nkey"])
    assert state == NOT_YET
    assert "KeyError" in message
    assert "\n" not in message


def test_a_test_may_only_raise_hints_of_its_own():
    with pytest.raises(Hint, match="A function was expected"):
        call(3)


def test_unknown_exercise_names_those_that_exist():
    with pytest.raises(WorkshopError, match=r"09\.1, 09\.2, 09\.3"):
        exercises.get("09.9")
    with pytest.raises(WorkshopError, match='no exercise "nonsense"'):
        exercises.hint("nonsense")


def test_hint_and_solution_print(capsys):
    exercises.hint("09.2")
    exercises.solution("09.2")
    exercises.solution("00.1")
    out = capsys.readouterr().out
    assert "zip()" in out
    assert "def mean_absolute_error" in out
    assert "(0, 1)" in out


def test_a_reference_of_the_server_shows_its_source_and_loads_no_server_before(capsys):
    exercises.solution("12.2")
    assert capsys.readouterr().out.startswith("def problem(text")
    code = "import sys; from utils import exercises; exercises.names(); sys.exit('utils.serve' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
