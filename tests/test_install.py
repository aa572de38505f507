"""Set-up and doctor: every way to fail is one line with what to do."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools import install
from utils import doctor, requirements

ROOT = Path(__file__).resolve().parent.parent


def script(*arguments, python=sys.executable, **environment):
    return subprocess.run(
        [python, "-m", "tools.install", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        text=True,
        capture_output=True,
    )


def make(*targets, **environment):
    return subprocess.run(["make", *targets], cwd=ROOT, env=os.environ | environment, text=True, capture_output=True)


def old_pythons():
    installed = [
        path for old in ("3.[6-9]", "3.10") for path in Path.home().glob(f".pyenv/versions/{old}.*/bin/python")
    ]
    return sorted(installed) + [
        path for path in map(Path, ("/usr/bin/python3.8", "/usr/bin/python3.9", "/usr/bin/python3.10")) if path.exists()
    ]


@pytest.mark.parametrize("python", old_pythons() or [None], ids=str)
def test_an_old_python_gets_a_sentence(python, tmp_path):
    if python is None:
        pytest.skip("no Python older than 3.11 here")
    done = script(str(tmp_path / "venv"), python=str(python))
    assert done.returncode == 1
    assert re.fullmatch(
        r"✗ Python 3\.\S+ at \S+ does not fit: the workshop needs 3\.11 to 3\.13\. Name another .*\n", done.stderr
    )
    assert not (tmp_path / "venv").exists()


def test_a_version_that_does_not_fit_is_refused(monkeypatch):
    assert requirements.unsupported_python() is None
    monkeypatch.setattr(requirements.sys, "version_info", (3, 10, 9, "final", 0))
    assert "needs 3.11 to 3.13" in requirements.unsupported_python()


def test_a_full_disk_is_noticed_before_anything_is_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1.5e9}))
    monkeypatch.setattr(install.sys, "argv", ["install.py", str(tmp_path / "venv")])
    with pytest.raises(SystemExit) as stop:
        install.main()
    assert stop.value.code == 1
    assert "Only 1.5 GB are free" in capsys.readouterr().err
    assert not (tmp_path / "venv").exists()


def test_an_unreachable_registry_is_one_line_and_the_next_run_goes_on(tmp_path):
    if shutil.disk_usage(ROOT).free < install.NEEDED_GB * 1e9:
        pytest.skip("so little disk space is left that the set-up does not get as far as the registry")
    venv = str(tmp_path / "venv")
    closed = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_NO_CACHE_DIR": "1",
    }
    for _ in range(2):  # the second run finds the half-made environment
        done = script(venv, PIP_CONFIG_FILE=os.devnull, **closed)
        assert done.returncode == 1
        assert done.stderr.startswith("✗ The package registry cannot be reached.")
        assert done.stderr.count("\n") == 1
    assert Path(install.python_in(venv)).exists()
    assert not (tmp_path / "venv" / "installed").exists()


def test_a_finished_environment_needs_no_work(tmp_path):
    (tmp_path / "installed").write_text(install.fingerprint())
    begun = time.perf_counter()
    done = script(str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.perf_counter() - begun < 3


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("ERROR: x\nNameResolutionError: Failed to resolve", "cannot be reached"),
        ("ERROR: No matching distribution found for torch==9", "pip failed: ERROR: No matching distribution"),
        ("", "pip failed: no output"),
    ],
)
def test_pip_logs_become_sentences(log, sentence):
    assert sentence in requirements.why_pip_failed(log)


def test_constraints_hold_every_requirement():
    pinned = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement, _, reason = line.partition("#")
            assert re.split(r"[<>=]", requirement)[0].strip().lower().replace("_", "-") in pinned, line
            assert reason.strip(), f"{line}: why do we need it?"


def test_make_help_lists_every_target():
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    listed = set(re.findall(r"make (\w+) +\w", make("help").stdout))
    assert targets == listed


def test_the_doctor_finds_this_machine_ready():
    done = subprocess.run([sys.executable, "-m", "utils.doctor"], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("Ready.\n")
    assert [row[0] for row in doctor.examine()] == [check.__name__ for check in doctor.CHECKS]


def test_the_doctor_names_what_is_wrong_and_what_to_type(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKSHOP_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(requirements, "unmet", lambda without: [("datasets>=4.0", "2.1")])
    monkeypatch.setattr(doctor, "CHECKS", (doctor.packages, doctor.cache, doctor.ports, lambda: 1 / 0))
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(sys, "argv", ["doctor"])
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "datasets>=4.0 (have 2.1)" in out
    assert "pip install -r requirements.txt" in out
    assert "export WORKSHOP_CACHE" in out
    assert "ZeroDivisionError: division by zero" in out
    assert "export NO_PROXY=127.0.0.1" in out
    assert "3 to mend" in out
