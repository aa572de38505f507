"""The local Hub, through the unmodified clients."""

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from local_hub import LocalHub, server
from utils import WorkshopError

ROOT = Path(__file__).resolve().parent.parent
CARD = "---\nlicense: apache-2.0\nlanguage: [en, de]\ntags: [tiny]\npipeline_tag: text-classification\n---\n# Tiny\n"


@pytest.fixture
def hub(tmp_path):
    with LocalHub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token=hub.token())


def add(path, content):
    return CommitOperationAdd(path, content)


def status(call, *arguments, **options):
    with pytest.raises(HfHubHTTPError) as error:
        call(*arguments, **options)
    return error.value.response.status_code


def test_repositories_files_and_history(hub, api, tmp_path):
    assert api.whoami()["name"] == "workshop"
    url = api.create_repo("workshop/tiny")
    assert url == f"{hub.url}/workshop/tiny"
    assert status(api.create_repo, "workshop/tiny") == 409
    api.create_repo("workshop/tiny", exist_ok=True)
    first = api.upload_file(path_or_fileobj=CARD.encode(), path_in_repo="README.md", repo_id="workshop/tiny")
    weights = os.urandom(100_000)
    api.create_commit(
        "workshop/tiny",
        [add("model.safetensors", weights), add("sub/a.txt", b"a"), add("sub/b.txt", b"b")],
        commit_message="weights",
    )
    assert api.list_repo_files("workshop/tiny") == [
        ".gitattributes", "README.md", "model.safetensors", "sub/a.txt", "sub/b.txt",
    ]  # fmt: skip
    tree = {entry.path: entry for entry in api.list_repo_tree("workshop/tiny")}
    assert tree["model.safetensors"].lfs.sha256 == hashlib.sha256(weights).hexdigest()
    assert set(tree) == {".gitattributes", "README.md", "model.safetensors", "sub"}
    assert [entry.path for entry in api.get_paths_info("workshop/tiny", ["sub", "nowhere"])] == ["sub"]
    got = api.hf_hub_download("workshop/tiny", "model.safetensors", cache_dir=tmp_path / "cache")
    assert Path(got).read_bytes() == weights
    # the past stays what it was
    old = api.snapshot_download("workshop/tiny", revision=first.oid, cache_dir=tmp_path / "cache")
    assert sorted(path.name for path in Path(old).iterdir()) == [".gitattributes", "README.md"]
    assert api.list_repo_commits("workshop/tiny")[0].title == "weights"
    api.delete_folder("sub", "workshop/tiny")
    api.delete_file("model.safetensors", "workshop/tiny")
    assert api.list_repo_files("workshop/tiny") == [".gitattributes", "README.md"]
    with pytest.raises(EntryNotFoundError):
        api.delete_file("model.safetensors", "workshop/tiny")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("workshop/tiny", "model.safetensors", cache_dir=tmp_path / "other")
    api.delete_repo("workshop/tiny")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("workshop/tiny")


def test_branches_and_tags(api):
    api.create_repo("workshop/tiny")
    api.create_branch("workshop/tiny", branch="trial")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="workshop/tiny", revision="trial")
    api.create_tag("workshop/tiny", tag="v1", revision="trial")
    refs = api.list_repo_refs("workshop/tiny")
    assert {branch.name for branch in refs.branches} == {"main", "trial"}
    assert refs.tags[0].target_commit == api.model_info("workshop/tiny", revision="trial").sha
    assert "x" not in api.list_repo_files("workshop/tiny")
    assert "x" in api.list_repo_files("workshop/tiny", revision="v1")
    assert status(api.create_branch, "workshop/tiny", branch="trial") == 409
    api.delete_branch("workshop/tiny", branch="trial")
    assert "x" in api.list_repo_files("workshop/tiny", revision="v1")
    api.delete_tag("workshop/tiny", tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api.list_repo_files("workshop/tiny", revision="v1")


def test_search_filters_and_visibility(hub, api):
    for name, card in [("tiny", CARD), ("other", "---\nlicense: mit\n---\n")]:
        api.create_repo(f"workshop/{name}")
        api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=f"workshop/{name}")
    api.create_repo("workshop/secret", private=True)

    def found(**wish):
        return [model.id.split("/")[1] for model in api.list_models(**wish)]

    assert found(search="tin") == found(pipeline_tag="text-classification") == ["tiny"]
    assert found(filter="license:mit") == ["other"]
    assert found(filter=["de", "tiny"]) == ["tiny"]
    assert found(author="nobody") == []
    assert len(found(limit=1)) == 1
    assert api.model_info("workshop/tiny").card_data.license == "apache-2.0"
    anonymous = HfApi(endpoint=hub.url, token=False)
    assert "workshop/secret" not in [model.id for model in anonymous.list_models()]
    with pytest.raises(RepositoryNotFoundError):
        anonymous.model_info("workshop/secret")
    assert api.model_info("workshop/secret").private
    api.update_repo_settings("workshop/tiny", gated="manual")
    assert api.model_info("workshop/tiny").gated == "manual"


def test_tokens(hub, api):
    api.create_repo("workshop/tiny")
    push = {"path_or_fileobj": b"x", "path_in_repo": "x", "repo_id": "workshop/tiny"}
    assert status(HfApi(endpoint=hub.url, token="hf_wrong").upload_file, **push) == 401
    assert status(HfApi(endpoint=hub.url, token=False).upload_file, **push) == 401
    assert status(HfApi(endpoint=hub.url, token=hub.token("read")).upload_file, **push) == 403
    assert status(api.create_repo, "somebody-else/tiny") == 403
    assert HfApi(endpoint=hub.url, token=hub.token("admin")).create_repo("somebody-else/tiny")
    assert api.list_repo_files("workshop/tiny") == [".gitattributes"]
    assert (hub.store.folder / "tokens.json").stat().st_mode & 0o077 == 0


def test_metadata_are_validated(hub):
    def validate(content, kind="model"):
        answer = httpx.post(f"{hub.url}/api/validate-yaml", json={"content": content, "repoType": kind})
        return answer.status_code, answer.json()

    assert validate(CARD) == (200, {"errors": [], "warnings": []})
    assert validate("---\na: [1\n---\n")[0] == 400
    assert validate("# no metadata")[1]["warnings"]
    assert "sdk" in validate(CARD, "space")[1]["errors"][0]["message"]


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/etc/x", "a//b", "a/./b", "C:/x", "a\\..\\x", "x\0y", ".git/config", ""]
)
def test_no_path_leaves_its_repository(hub, api, path):
    api.create_repo("workshop/tiny")
    lines = '{"key": "header", "value": {"summary": "s"}}\n' + str(
        {"key": "file", "value": {"path": path, "content": "eA=="}}
    ).replace("'", '"').replace("\\x00", "\\u0000")
    answer = httpx.post(
        f"{hub.url}/api/models/workshop/tiny/commit/main",
        content=lines,
        headers={"Authorization": f"Bearer {hub.token()}"},
    )
    assert answer.status_code == 400
    assert api.list_repo_files("workshop/tiny") == [".gitattributes"]


@pytest.mark.parametrize("path", ["/workshop/tiny/resolve/main/%2e%2e/%2e%2e/tokens.json", "/workshop/%2e%2e/resolve/main/x",
                                  "/../../tokens.json", "/api/models/../tokens.json", "/lfs/..%2f..%2ftokens.json"])  # fmt: skip
def test_nothing_outside_a_repository_is_read(hub, api, path):
    api.create_repo("workshop/tiny")
    answer = httpx.get(hub.url + path)
    assert 400 <= answer.status_code < 500
    assert "hf_local" not in answer.text


def test_a_name_that_fits_no_header_is_not_found_like_any_other(hub, api):
    api.create_repo("workshop/tiny")
    answer = httpx.get(f"{hub.url}/workshop/tiny/resolve/main/日本.txt")
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, "EntryNotFound")
    assert answer.json() == {"error": "日本.txt does not exist"}


def test_sizes_are_limited(hub, api, monkeypatch):
    api.create_repo("workshop/tiny")
    token = {"Authorization": f"Bearer {hub.token()}"}
    monkeypatch.setattr(server, "MAX_BODY", 1_000)
    url = f"{hub.url}/api/models/workshop/tiny/commit/main"
    assert httpx.post(url, content=b"x" * 1_001, headers=token).status_code == 413
    content = b"y" * 100
    oid = hashlib.sha256(content).hexdigest()

    def batch(size):
        wish = {"objects": [{"oid": oid, "size": size}]}
        return httpx.post(f"{hub.url}/workshop/tiny.git/info/lfs/objects/batch", json=wish, headers=token)

    assert batch(server.MAX_FILE + 1).status_code == 413
    target = batch(50).json()["objects"][0]["actions"]["upload"]["href"]
    assert httpx.put(target, content=content).status_code == 413
    target = batch(100).json()["objects"][0]["actions"]["upload"]["href"]
    assert httpx.put(target, content=b"z" * 100).status_code == 400
    assert httpx.put(target.replace("signature=", "signature=0"), content=content).status_code == 403
    assert not hub.store.blob(oid).exists()
    assert httpx.put(target, content=content).status_code == 200
    assert hub.store.blob(oid).read_bytes() == content


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"files": 3}', b'{"key": "file", "value": {}}', b'{"objects": [{}]}'],
)
@pytest.mark.parametrize("path", ["/api/repos/create", "/api/models/workshop/tiny/preupload/main", "/api/models/workshop/tiny/commit/main",
                                  "/api/models/workshop/tiny/paths-info/main", "/workshop/tiny.git/info/lfs/objects/batch",
                                  "/api/models/workshop/tiny/tag/main", "/api/models/workshop/tiny/branch/a%2F..%2Fb", "/api/validate-yaml"])  # fmt: skip
def test_nonsense_is_refused_not_crashed_on(hub, api, path, body):
    api.create_repo("workshop/tiny")
    answer = httpx.post(hub.url + path, content=body, headers={"Authorization": f"Bearer {hub.token()}"})
    assert answer.status_code < 500


def test_twenty_pushers_lose_nothing(hub, api):
    api.create_repo("workshop/busy")

    def push(number):
        mine = HfApi(endpoint=hub.url, token=hub.token())
        files = [add(f"{number}.txt", str(number).encode()), add(f"{number}.safetensors", os.urandom(1_000))]
        return mine.create_commit("workshop/busy", files, commit_message=str(number)).oid

    with ThreadPoolExecutor(20) as pool:
        oids = list(pool.map(push, range(20)))
    assert len(set(oids)) == 20
    assert len(api.list_repo_files("workshop/busy")) == 41
    assert {commit.commit_id for commit in api.list_repo_commits("workshop/busy")} >= set(oids)


def test_who_insists_on_a_parent_is_told_of_a_conflict(hub, api):
    api.create_repo("workshop/busy")
    head = api.model_info("workshop/busy").sha

    def push(number):
        try:
            api.create_commit("workshop/busy", [add("x", str(number).encode())], commit_message="x", parent_commit=head)
        except HfHubHTTPError as error:
            return error.response.status_code
        return 200

    with ThreadPoolExecutor(20) as pool:
        assert sorted(pool.map(push, range(20))) == [200] + [412] * 19


@pytest.mark.parametrize(
    ("content", "tags", "limit"),
    [(b"2" * 5_000, 0, 4_000), (b"2", 0, 400), (b"2", 30, 1_000)],
    ids=["writing a file", "writing the commit", "writing what the branch points to"],
)
def test_a_kill_in_the_middle_of_a_commit_leaves_the_previous_one(content, tags, limit, tmp_path):
    folder = tmp_path / "hub"
    with LocalHub(folder) as hub:
        api = HfApi(endpoint=hub.url, token=hub.token())
        api.create_repo("workshop/tiny")
        before = api.upload_file(path_or_fileobj=b"1", path_in_repo="x", repo_id="workshop/tiny").oid
        for number in range(tags):
            api.create_tag("workshop/tiny", tag=f"v{number}")
    program = """
        import resource, signal, sys
        import local_hub
        hub = local_hub.LocalHub(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the system kills it within the write that goes beyond the limit
        print(hub.url, flush=True)
        hub.serve()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(folder), str(limit)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    api = HfApi(endpoint=process.stdout.readline().strip(), token=hub.token())
    push = {"path_or_fileobj": content, "path_in_repo": "x", "repo_id": "workshop/tiny"}

    def push_in_vain():
        with contextlib.suppress(Exception):  # the server dies under it
            api.upload_file(**push)

    threading.Thread(target=push_in_vain, daemon=True).start()
    assert process.wait(timeout=60) == -signal.SIGXFSZ
    with LocalHub(folder) as hub:
        api = HfApi(endpoint=hub.url, token=hub.token())
        assert api.model_info("workshop/tiny").sha == before
        after = api.upload_file(**push).oid
        assert api.model_info("workshop/tiny").sha == after != before
        assert hub.store.read(hub.store.commit_at("model", "workshop/tiny")["files"]["x"]) == content


def test_a_port_or_folder_in_use_is_said(hub, tmp_path):
    with pytest.raises(WorkshopError, match="Another local Hub serves"):
        LocalHub(hub.store.folder)
    with pytest.raises(WorkshopError, match="Port .* cannot be used") as kept:  # as a notebook keeps the last error
        LocalHub(tmp_path / "second", int(hub.url.rsplit(":", 1)[1]))
    with LocalHub(tmp_path / "second"):
        assert kept.value  # and what it refers to: the failed start left no lock behind


def test_as_a_script_it_ends_on_ctrl_c_and_says_what_is_wrong(tmp_path):
    command = [sys.executable, "-m", "local_hub", "--port", "0", "--folder"]
    pipes = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, tmp_path / "hub"], **pipes) as running:
        assert "export HF_ENDPOINT=http://127.0.0.1:" in running.stdout.readline()
        refused = subprocess.run([*command, tmp_path / "hub"], **pipes)
        running.stdout.readline()
        running.send_signal(signal.SIGINT)
        assert (running.wait(timeout=20), running.stderr.read()) == (0, "")
    assert refused.returncode == 1
    assert refused.stderr.startswith("✗ Another local Hub serves ") and refused.stderr.count("\n") == 1
    (tmp_path / "file").touch()
    refused = subprocess.run([*command, tmp_path / "file" / "hub"], **pipes)
    assert refused.returncode == 1
    assert re.fullmatch(r"✗ .*Not a directory.*\n", refused.stderr)


CLIENT = """
import torch
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi, ModelCard, login
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, pipeline
from utils.catalog import checkpoint
import os, sys

os.environ["WORKSHOP_SOURCE"] = "embedded"
login(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(checkpoint("minilm"))
config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
model = AutoModelForSequenceClassification.from_config(config)
first = model.push_to_hub("stars").oid
tokenizer.push_to_hub("stars")
card = b"---\\nlicense: mit\\npipeline_tag: text-classification\\n---\\n# Stars\\nA trial."
HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="workshop/stars")
with torch.no_grad():
    model.classifier.bias += 1
second = model.push_to_hub("stars", commit_message="better").oid
old = AutoModelForSequenceClassification.from_pretrained("workshop/stars", revision=first)
new = AutoModelForSequenceClassification.from_pretrained("workshop/stars", revision=second)
assert torch.allclose(new.classifier.bias, old.classifier.bias + 1)
assert ModelCard.load("workshop/stars").data.license == "mit"
print(pipeline(model="workshop/stars")("works from the Hub")[0]["label"])
Dataset.from_dict({"text": ["a", "b"], "stars": [1, 5]}).push_to_hub("workshop/reviews", "de")
print(load_dataset("workshop/reviews", "de", split="train")["stars"][:])
api = HfApi()
api.create_repo("workshop/demo", repo_type="space", space_sdk="gradio")
api.upload_folder(repo_id="workshop/demo", repo_type="space", folder_path=sys.argv[2])
print(api.space_info("workshop/demo").sdk, api.list_repo_files("workshop/demo", repo_type="space"))
"""


def test_transformers_and_datasets_push_and_pull(hub, tmp_path):
    space = tmp_path / "space"
    space.mkdir()
    (space / "app.py").write_text("print('demo')")
    (space / "README.md").write_text("---\ntitle: Demo\nsdk: gradio\n---\n")
    environment = os.environ | hub.environment(tmp_path / "home") | {"TRANSFORMERS_VERBOSITY": "error"}
    environment.pop("HF_HUB_OFFLINE", None)
    run = subprocess.run(
        [sys.executable, "-c", CLIENT, hub.token(), str(space)], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2_000:]
    label, stars, demo = run.stdout.splitlines()
    assert label.startswith("LABEL_")
    assert stars == "[1, 5]"
    assert demo == "gradio ['.gitattributes', 'README.md', 'app.py']"


def test_a_rehearsal_clears_away_what_killed_ones_left(tmp_path):
    code = "import local_hub, os, sys; print(local_hub.rehearsal().store.folder); sys.stdout.flush(); {}"
    kill, wait = "os.kill(os.getpid(), 9)", "sys.stdin.read()"
    run = {"env": os.environ | {"TMPDIR": str(tmp_path)}, "text": True, "stdout": subprocess.PIPE}
    killed = subprocess.run([sys.executable, "-c", code.format(kill)], **run, timeout=60).stdout.strip()
    os.utime(killed, (0, 0))
    with subprocess.Popen([sys.executable, "-c", code.format(wait)], **run, stdin=subprocess.PIPE) as running:
        in_use = running.stdout.readline().strip()
        assert list(tmp_path.glob("workshop-rehearsal-*")) == [Path(in_use)]
        done = subprocess.run([sys.executable, "-c", code.format("")], **run, timeout=60)
        assert Path(in_use).is_dir() and not Path(done.stdout.strip()).exists()
        running.stdin.close()
    assert not list(tmp_path.iterdir())
