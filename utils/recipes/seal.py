"""Write the checksums of the embedded files into `data/catalog.toml`: `python -m utils.recipes.seal`.

Run it after a recipe has changed a file on purpose; a test fails while the catalog and the files disagree.
"""

from __future__ import annotations

import hashlib

from utils.catalog import DATA, entries

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


if __name__ == "__main__":
    (DATA / "catalog.toml").write_text(sealed_catalog(), encoding="utf-8", newline="\n")
