"""Write checksums into `data/catalog.toml`, and its table into `data/README.md`: `python -m utils.recipes.seal`.

Run it after a recipe has changed a file on purpose; a test fails while the catalog, the files and the table disagree.
"""

from __future__ import annotations

import hashlib

from utils.catalog import DATA, entries
from utils.recipes.files import replace_between

PATTERNS = {"checkpoint": ("*.safetensors", "*.json", "*.txt"), "corpus": ("*/*.jsonl.gz",)}


def sealed_catalog() -> str:
    """The text of the catalog with the checksums of the files as they are."""
    text = (DATA / "catalog.toml").read_text(encoding="utf-8")
    for kind, patterns in PATTERNS.items():
        for name, entry in entries()[kind].items():
            if "package" in entry or "path" not in entry:
                continue  # not ours to change
            folder = DATA / entry["path"]
            files = sorted(file for pattern in patterns for file in folder.glob(pattern))
            sums = [
                f'"{f.relative_to(folder).as_posix()}" = "{hashlib.sha256(f.read_bytes()).hexdigest()}"' for f in files
            ]
            header = f"[{kind}.{name}.sha256]\n"
            section = text[text.index(header) :].split("\n\n")[0]
            text = text.replace(section, header + "\n".join(sums))
    return text


def table() -> str:
    """The checkpoints of the catalog as a Markdown table: title, terms, size here and on the Hub, quality."""
    lines = ["| name | what | terms | MB here | on the Hub, MB | quality |", "|---|---|---|---|---|---|"]
    for name, entry in entries()["checkpoint"].items():
        title, here, hub = f"`{name}`", "–", "–"
        if "package" in entry:
            here = "0"
        elif "path" in entry:
            title = f"[`{name}`]({entry['path']}/README.md)"
            here = f"{sum(file.stat().st_size for file in (DATA / entry['path']).glob('*')) / 1e6:.1f}"
        if "hub" in entry:
            hub = f"[{entry['hub']}](https://huggingface.co/{entry['hub']}), {entry['hub_mb']}"
        row = [title, entry["title"], entry["licence"], here, hub, entry.get("quality", "see its card on the Hub")]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    (DATA / "catalog.toml").write_text(sealed_catalog(), encoding="utf-8", newline="\n")
    readme = DATA / "README.md"
    text = replace_between(readme.read_text(encoding="utf-8"), "checkpoints", table())
    readme.write_text(text, encoding="utf-8", newline="\n")
