"""Where the repository lives is one setting, and what Binder and Codespaces read fits it and exists."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import notebooks
from utils import requirements, workshop

ROOT = Path(__file__).resolve().parent.parent


def tracked():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True)
    if done.returncode:
        pytest.skip("no git repository")
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def texts(folder, names):
    """The files that can be read as text, by name."""
    found = {}
    for name in names:
        try:
            found[name] = (folder / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found


def test_a_fork_changes_two_lines_and_every_badge_clone_and_set_up_follows(tmp_path):
    copy, names = tmp_path / "fork", [name for name in tracked() if not name.startswith("data/")]
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    old = workshop.index()
    settings = copy / "notebooks" / "index.toml"
    text = settings.read_text(encoding="utf-8")
    for name, value in (("repository", "someone/course"), ("tag", "v9")):
        text, changed = re.subn(rf'(?m)^{name} = ".*"$', f'{name} = "{value}"', text)
        assert changed == 1
    settings.write_text(text, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "tools.notebooks", "format"], cwd=copy, check=True)

    before, after = texts(ROOT, names), texts(copy, names)
    assert [name for name, text in after.items() if old["repository"] in text] == []
    for name in ["README.md", *(f"notebooks/{path.name}" for path in notebooks.paths())]:
        assert before[name].count(old["repository"]) == after[name].count("someone/course"), name
    readme, count = after["README.md"], len(old["notebook"])
    assert readme.count("colab.research.google.com/github/someone/course/blob/v9/notebooks/") == count
    assert "https://mybinder.org/v2/gh/someone/course/v9?urlpath=lab/tree/notebooks/00_start_here.ipynb" in readme
    assert "git clone https://github.com/someone/course workshop && cd workshop" in readme
    for path in notebooks.paths():
        written = after[f"notebooks/{path.name}"]
        assert f"github/someone/course/blob/v9/notebooks/{path.name}" in written
        assert r"REPOSITORY, TAG = \"https://github.com/someone/course\", \"v9\"" in written


def test_what_binder_reads_exists_and_fits():
    binder = ROOT / "binder"
    assert {path.name for path in binder.iterdir()} == {"requirements.txt", "runtime.txt"}
    referred = re.findall(r"(?m)^-[rc] (.+)$", (binder / "requirements.txt").read_text(encoding="utf-8"))
    assert [(binder / name).resolve() for name in referred] == [ROOT / "requirements.txt", ROOT / "constraints.txt"]
    python = re.fullmatch(r"python-(\d)\.(\d+)\n", (binder / "runtime.txt").read_text(encoding="utf-8"))
    assert requirements.OLDEST <= tuple(map(int, python.groups())) <= requirements.NEWEST
    settings = workshop.index()
    badge = rf"mybinder\.org/v2/gh/{settings['repository']}/{settings['tag']}\?urlpath=lab/tree/([\w./]+)\)"
    target = re.search(badge, (ROOT / "README.md").read_text(encoding="utf-8"))
    assert (ROOT / target[1]).is_file()


def test_the_container_for_codespaces_fits():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    python = re.fullmatch(r"mcr\.microsoft\.com/devcontainers/python:(\d)\.(\d+)", container["image"])
    assert requirements.OLDEST <= tuple(map(int, python.groups())) <= requirements.NEWEST
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"(?m)^{container['postCreateCommand'].removeprefix('make ')}:", makefile)
    venv = re.search(r"(?m)^VENV \?= (.+)$", makefile)[1]
    interpreter = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter == f"{venv}/bin/python"
