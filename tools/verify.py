"""Is what the catalog says of the Hub true? `python -m tools.verify` asks about every entry and prints JSON; needs the network."""

from __future__ import annotations

import fnmatch
import json
import sys
from typing import Any

from utils.catalog import NEEDED, entries, hub_address, reachable


def verify(endpoint: str | None = None) -> dict[str, Any]:
    """Ask the Hub about every checkpoint of the catalog: is it there, open, of the promised licence, without pickle?

    Args:
        endpoint: another address than the Hub's own, such as a local Hub's.

    Returns:
        {"checkpoints": {name: {"id", "revision", "sha", "licence", "mb", "problems": […]}}, "mb": in all, "problems": how many}
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    api, report = HfApi(endpoint=endpoint, token=False), {}
    for name, entry in entries()["checkpoint"].items():
        if "hub" not in entry:
            continue
        row: dict[str, Any] = {"id": entry["hub"], "revision": entry["revision"], "problems": []}
        report[name], problems = row, row["problems"]
        try:
            info = api.model_info(entry["hub"], revision=entry["revision"], files_metadata=True, timeout=30)
        except RevisionNotFoundError:
            problems.append(f"the revision {entry['revision']} is not there")
            continue
        except GatedRepoError:
            problems.append("gated: needs an account and consent")
            continue
        except RepositoryNotFoundError:
            problems.append("gone, or private")
            continue
        except Exception as error:  # the rest is reported whatever happens to one; the client's errors vary by version
            problems.append(f"cannot be asked: {type(error).__name__}")
            continue
        files = {file.rfilename: file.size or 0 for file in info.siblings}
        row["sha"], row["licence"] = info.sha, (info.card_data or {}).get("license")
        needed = [file for file in files if "/" not in file and any(fnmatch.fnmatch(file, like) for like in NEEDED)]
        row["mb"] = round(sum(files[file] for file in needed) / 1e6, 1)
        if info.gated:
            problems.append(f"gated ({info.gated}): needs an account and consent")
        if row["licence"] != entry["hub_licence"]:
            problems.append(f"licence {row['licence']}, the catalog says {entry['hub_licence']}")
        if not any(file.endswith(".safetensors") for file in needed):
            problems.append("no safetensors: its weights would need pickle")
        if row["mb"] > entry["hub_mb"]:
            problems.append(f"{row['mb']} MB, the catalog says at most {entry['hub_mb']}")
    rows = report.values()
    return {
        "checkpoints": report,
        "mb": round(sum(row.get("mb", 0) for row in rows), 1),
        "problems": sum(len(row["problems"]) for row in rows),
    }


def main() -> int:
    endpoint = hub_address()
    if not reachable(endpoint):
        print(f"\u2717 {endpoint} does not answer: verify needs the network.", file=sys.stderr)
        return 2
    report = verify(endpoint)
    print(json.dumps(report, indent=1))
    return min(report["problems"], 1)


if __name__ == "__main__":
    sys.exit(main())
