"""`make bundle`: what it packs installs and runs where there is no network at all."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from utils import install

ROOT = Path(__file__).resolve().parent.parent
OFFLINE = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && "$@"', "sh"]


def offline(*command, cwd):
    return subprocess.run([*OFFLINE, *command], cwd=cwd, text=True, capture_output=True)


def test_the_bundle_installs_and_runs_without_a_network(tmp_path):
    if offline("true", cwd=ROOT).returncode:
        pytest.skip("no network namespaces here")
    made = subprocess.run(
        [sys.executable, "-m", "tools.bundle", "--output", str(tmp_path)], cwd=ROOT, text=True, capture_output=True
    )
    if "registry cannot be reached" in made.stderr:
        pytest.skip("the packages cannot be fetched without a network")
    assert made.returncode == 0, made.stderr
    (archive,) = tmp_path.glob("*.zip")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert f"sha256 {digest}" in made.stdout
    assert archive.with_suffix(".zip.sha256").read_text().split() == [digest, archive.name]

    room = tmp_path / "a room without wifi"
    zipfile.ZipFile(archive).extractall(room)
    workshop = room / "workshop"
    installed = offline(sys.executable, "install.py", cwd=workshop)
    assert installed.returncode == 0, installed.stderr
    python = install.python_in(str(workshop / ".venv"))
    ran = offline(python, "-m", "tools.notebooks", "run", "00", "06", cwd=workshop)
    assert ran.returncode == 0 and "0 failed" in ran.stdout, ran.stdout + ran.stderr


def test_a_bundle_for_another_machine_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "made-for.txt").write_text("Python 3.12 on Plan9 pdp11")
    monkeypatch.setattr(install, "ROOT", str(tmp_path))
    with pytest.raises(SystemExit):
        install.use_bundled_wheels()
    assert f"for Python 3.12 on Plan9 pdp11, this is {install.this_machine()}." in capsys.readouterr().err
