"""Reading and writing text files for recipes and tools. No heavy imports: tests use it too."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

from utils.catalog import DATA


def texts(name: str, **equal: str) -> list[dict[str, str]]:
    """Rows of `data/texts/<name>.tsv` whose columns have the given values."""
    return [row for row in read_tsv(DATA / "texts" / f"{name}.tsv") if all(row[k] == v for k, v in equal.items())]


def read_tsv(file: Path) -> list[dict[str, str]]:
    """The rows of a tab-separated file with a header line; quotation marks have no meaning."""
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def read_lines(file: Path) -> list[str]:
    """The lines of a gzipped text."""
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        return stream.read().splitlines()


def replace_between(text: str, marker: str, content: str) -> str:
    """Replace what stands between `<!-- marker -->` and `<!-- /marker -->`."""
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    before, rest = text.split(begin)
    return before + begin + "\n" + content + "\n" + end + rest.split(end)[1]
