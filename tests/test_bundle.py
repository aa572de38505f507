"""`make bundle`: what it packs installs and runs where there is no network at all."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools import bundle, install

ROOT = Path(__file__).resolve().parent.parent
OFFLINE = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && "$@"', "sh"]


def offline(*command, cwd):
    return subprocess.run([*OFFLINE, *command], cwd=cwd, text=True, capture_output=True)


def test_the_bundle_installs_and_runs_without_a_network(tmp_path):
    if offline("true", cwd=ROOT).returncode:
        pytest.skip("no network namespaces here")
    if shutil.disk_usage(tmp_path).free < 8e9:
        pytest.skip("the archive, the unpacked one and its environment need 8 GB of disk space")
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


def test_wheels_of_an_earlier_bundle_are_not_packed(tmp_path, monkeypatch):
    def pip(python, log, command, *arguments):
        (Path(arguments[arguments.index("--wheel-dir") + 1]) / "torch-2.13.0.whl").touch()

    monkeypatch.setattr(install, "pip", pip)
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / "torch-1.0.whl").touch()
    assert [wheel.name for wheel in bundle.fetch_wheels(folder, "")] == ["torch-2.13.0.whl"]
    assert {path.name for path in tmp_path.iterdir()} == {"wheels"}  # no half one


def test_a_full_disk_is_one_line_and_leaves_no_half_archive(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle.zipfile.ZipFile, "write", full)
    with pytest.raises(SystemExit):
        bundle.pack(tmp_path / "workshop.zip", [])
    message = capsys.readouterr().err.splitlines()[-1]
    assert "workshop.zip cannot be written (No space left on device): it needs " in message
    assert not list(tmp_path.iterdir())
