"""`python -m tools.verify` against a local Hub with every kind of fault planted."""

import json
import os
import subprocess
import sys

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from local_hub import LocalHub
from tools import verify
from utils import catalog

GOOD = {"README.md": b"---\nlicense: mit\n---\n", "config.json": b"{}", "model.safetensors": b"x" * 1_000}
FAULTS = {
    "good": [],
    "gone": ["gone, or private"],
    "private": ["gone, or private"],
    "gated": ["gated (manual): needs an account and consent"],
    "moved": ["the revision 0123456789012345678901234567890123456789 is not there"],
    "relicensed": ["licence cc-by-nc-4.0, the catalog says mit"],
    "pickled": ["no safetensors: its weights would need pickle"],
    "grown": ["3.0 MB, the catalog says at most 1"],
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with LocalHub(tmp_path) as running:
        api = HfApi(endpoint=running.url, token=running.token("admin"))
        for name in FAULTS.keys() - {"gone"}:
            files = dict(GOOD)
            if name == "relicensed":
                files["README.md"] = b"---\nlicense: cc-by-nc-4.0\n---\n"
            if name == "pickled":
                files["pytorch_model.bin"] = files.pop("model.safetensors")
            if name == "grown":
                files["model.safetensors"] = b"x" * 3_000_000
            api.create_repo(f"somebody/{name}", private=name == "private")
            operations = [CommitOperationAdd(path, content) for path, content in files.items()]
            api.create_commit(f"somebody/{name}", operations, commit_message="files")
        api.update_repo_settings("somebody/gated", gated="manual")
        entries = {
            name: {"hub": f"somebody/{name}", "revision": "main", "hub_licence": "mit", "hub_mb": 1} for name in FAULTS
        }
        entries["moved"]["revision"] = "0123456789" * 4
        monkeypatch.setattr(verify, "entries", lambda: {"checkpoint": entries})
        yield running


def test_every_fault_is_reported(hub):
    report = verify.verify(hub.url)
    assert {name: row["problems"] for name, row in report["checkpoints"].items()} == FAULTS
    assert report["problems"] == len(FAULTS) - 1
    assert len(report["checkpoints"]["good"]["sha"]) == 40


def test_a_hub_that_answers_nonsense_is_reported(monkeypatch):
    entry = {"hub": "a/b", "revision": "main", "hub_licence": "mit", "hub_mb": 1}
    monkeypatch.setattr(verify, "entries", lambda: {"checkpoint": {"a": entry}})
    assert "cannot be asked" in verify.verify("http://127.0.0.1:9")["checkpoints"]["a"]["problems"][0]


def test_the_command(tmp_path):
    def run(endpoint):
        environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
        command = [sys.executable, "-m", "tools.verify"]
        return subprocess.run(command, env=environment | {"HF_ENDPOINT": endpoint}, capture_output=True, text=True)

    offline = run("http://127.0.0.1:9")
    assert offline.returncode == 2
    assert "does not answer" in offline.stderr
    with LocalHub(tmp_path) as empty:
        asked = run(empty.url)
    assert asked.returncode == 1
    rows = json.loads(asked.stdout)["checkpoints"]
    assert rows.keys() == {name for name, entry in catalog.entries()["checkpoint"].items() if "hub" in entry}
    assert all(row["problems"] == ["gone, or private"] for row in rows.values())
