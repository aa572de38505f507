"""What the local Hub keeps, and how: a file is stored once under its SHA-256, a commit is a JSON file, and what a branch
points to is replaced in one step. A process killed at any moment leaves the previous commit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
LARGE = (".safetensors", ".bin", ".parquet", ".arrow", ".onnx", ".pt", ".model", ".gz")  # go through LFS, as on the Hub
LARGE_BYTES = 10_000_000


class Refused(Exception):
    """A request that fails, with what the client makes its own error from."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        more = {"X-Error-Code": code} if code else {}
        plain_text = message.encode("ascii", "replace").decode()  # what a header can carry
        self.status, self.headers = status, {"X-Error-Message": plain_text} | more | headers


@dataclass(frozen=True)
class File:
    """A file in a commit: `oid` is git's blob hash, or the SHA-256 of a large file, and serves as its ETag."""

    sha256: str
    size: int
    oid: str
    large: bool


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def write(file: Path, content: bytes) -> None:
    """Write a file in one step: afterwards it is there whole, or as before."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with draft.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def safe_path(path: str) -> str:
    """`path` if it is a plain relative path inside a repository."""
    parts = path.split("/")
    odd = any(part in ("", ".", "..", ".git") or len(part.encode()) > 255 for part in parts)
    if odd or re.search(r"[\\\0-\x1f:]", path) or len(path) > 1_000:
        raise Refused(400, f"{path[:100]!r} is no path inside a repository")
    return path


class Store:
    """Repositories in a folder. Every public method may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        (folder / "blobs").mkdir(parents=True, exist_ok=True)

    def repo(self, kind: str, name: str) -> Path:
        """The folder of a repository, which may not exist yet."""
        part = r"(?!.*(--|\.\.|\.git$))[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?"
        if kind not in KINDS.values() or not re.fullmatch(f"{part}/{part}", name, re.ASCII):
            raise Refused(400, f"{name[:100]!r} is no name of a {kind[:10]}: owner/name, of letters, digits, - _ and .")
        return self.folder / "repos" / kind / name

    def state(self, kind: str, name: str) -> dict[str, Any]:
        """What is known of a repository: visibility, gate, branches, tags."""
        try:
            return json.loads((self.repo(kind, name) / "state.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise Refused(404, f"Repository not found: {kind} {name}", "RepoNotFound") from None

    def save(self, kind: str, name: str, state: dict[str, Any]) -> None:
        write(self.repo(kind, name) / "state.json", json.dumps(state, indent=1).encode())

    def create(self, kind: str, name: str, private: bool = False, sdk: str | None = None) -> bool:
        """Make a repository with its first commit. Returns False if it exists."""
        with self.lock:
            if (self.repo(kind, name) / "state.json").exists():
                return False
            attributes = "".join(f"*{end} filter=lfs diff=lfs merge=lfs -text\n" for end in LARGE).encode()
            state = {"private": private, "gated": False, "sdk": sdk, "created": now(), "branches": {}, "tags": {}}
            files = {".gitattributes": self.add(attributes)}
            state["branches"]["main"] = self._write_commit(
                kind, name, files, "initial commit", None, name.split("/")[0]
            )
            self.save(kind, name, state)
            return True

    def delete(self, kind: str, name: str) -> None:
        with self.lock:
            self.state(kind, name)
            gone = self.folder / "blobs" / f".deleted-{secrets.token_hex(8)}"
            self.repo(kind, name).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def names(self, kind: str) -> list[str]:
        return sorted("/".join(file.parts[-3:-1]) for file in (self.folder / "repos" / kind).glob("*/*/state.json"))

    def blob(self, sha256: str) -> Path:
        return self.folder / "blobs" / sha256[:2] / sha256

    def add(self, content: bytes) -> File:
        """Store a regular file."""
        sha256 = hashlib.sha256(content).hexdigest()
        if not self.blob(sha256).exists():
            write(self.blob(sha256), content)
        return File(sha256, len(content), hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), False)

    def read(self, file: File) -> bytes:
        return self.blob(file.sha256).read_bytes()

    def commit_at(self, kind: str, name: str, revision: str = "main") -> dict[str, Any]:
        """The commit that a branch, a tag, or a hash (its first seven digits at least) means."""
        state = self.state(kind, name)
        oid = state["branches"].get(revision) or state["tags"].get(revision)
        commits = self.repo(kind, name) / "commits"
        if oid is None and re.fullmatch(r"[0-9a-f]{7,40}", revision):
            oid = next((file.stem for file in commits.glob(f"{revision}*.json")), None)
        if oid is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        commit = json.loads((commits / f"{oid}.json").read_text(encoding="utf-8"))
        commit["files"] = {path: File(**entry) for path, entry in commit["files"].items()}
        return commit

    def commit(
        self,
        kind: str,
        name: str,
        branch: str,
        change: Callable[[dict[str, File]], None],
        title: str,
        author: str,
        parent: str | None = None,
    ) -> str:
        """Apply `change` to the files at the head of a branch. Concurrent commits follow one another.

        Args:
            parent: the commit that the head must still be.

        Raises:
            Refused: the branch has moved on from `parent` (412).
        """
        with self.lock:
            state, head = self.state(kind, name), self.commit_at(kind, name, branch)
            if branch not in state["branches"]:
                raise Refused(400, f"{branch} is no branch: only branches take commits")
            if parent not in (None, head["oid"]):
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            files = dict(head["files"])
            change(files)
            if files == head["files"]:
                return head["oid"]
            oid = self._write_commit(kind, name, files, title, head["oid"], author)
            state["branches"][branch] = oid
            self.save(kind, name, state)  # from here on, the commit has happened
            return oid

    def _write_commit(
        self, kind: str, name: str, files: dict[str, File], title: str, parent: str | None, author: str
    ) -> str:
        content = {
            "files": {path: asdict(file) for path, file in sorted(files.items())},
            "title": title, "parent": parent, "author": author, "date": now(),
        }  # fmt: skip
        oid = hashlib.sha1(json.dumps([kind, name, content, secrets.token_hex(8)]).encode()).hexdigest()
        write(self.repo(kind, name) / "commits" / f"{oid}.json", json.dumps(content | {"oid": oid}).encode())
        return oid

    def card(self, commit: dict[str, Any]) -> dict[str, Any]:
        """The metadata at the head of README.md; {} if there are none."""
        readme = commit["files"].get("README.md")
        try:
            return front_matter(self.read(readme).decode("utf-8", "replace")) if readme else {}
        except yaml.YAMLError:
            return {}

    def info(self, kind: str, name: str, revision: str = "main") -> dict[str, Any]:
        """What the Hub's API tells about a repository at a revision."""
        state, commit = self.state(kind, name), self.commit_at(kind, name, revision)
        card, files = self.card(commit), commit["files"]
        tags = [str(tag) for tag in _list(card.get("tags")) + _list(card.get("language"))]
        tags += [f"license:{licence}" for licence in _list(card.get("license"))]
        tags += [f"dataset:{dataset}" for dataset in _list(card.get("datasets"))]
        info = {
            "_id": name, "id": name, "author": name.split("/")[0], "sha": commit["oid"], "private": state["private"],
            "gated": state["gated"], "disabled": False, "createdAt": state["created"], "lastModified": commit["date"],
            "downloads": 0, "likes": 0, "cardData": card or None,
            "usedStorage": sum(file.size for file in files.values()),
            "siblings": [
                {"rfilename": path, "size": file.size, "blobId": file.oid}
                | ({"lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": 134}} if file.large else {})
                for path, file in sorted(files.items())
            ],
        }  # fmt: skip
        if kind == "model":
            info |= {key: card[key] for key in ("pipeline_tag", "library_name") if key in card}
            with contextlib.suppress(KeyError, ValueError, TypeError, RecursionError):
                config = plain(json.loads(self.read(files["config.json"])))
                info["config"] = {key: config[key] for key in ("architectures", "model_type") if key in config}
                if "model_type" in config:  # the Hub too concludes from the files whose model it is
                    info.setdefault("library_name", "transformers")
        if kind == "space":
            info |= {"sdk": card.get("sdk") or state["sdk"], "runtime": {"stage": "STOPPED", "hardware": {}}}
        info["tags"] = tags + [info[key] for key in ("pipeline_tag", "library_name") if key in info]
        return info


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def plain(data: Any) -> Any:
    """`data` as it comes back from JSON: dates become texts.

    Raises:
        ValueError, TypeError: it holds what JSON cannot: NaN, half a surrogate pair, odd keys.
    """
    return json.loads(json.dumps(data, default=str, allow_nan=False, ensure_ascii=False).encode())


def front_matter(text: str) -> dict[str, Any]:
    found = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---", text, re.DOTALL)
    try:
        data = plain(yaml.safe_load(found[1]) if found else {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # yaml's own, for odd values
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from None
    if not isinstance(data, dict):
        raise yaml.YAMLError("the metadata are not a list of `key: value`")
    return data
