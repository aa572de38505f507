"""Timetables that add up, and slides that need no network."""

import hashlib
import io
import re
import tarfile
from base64 import b64encode

import pytest

from tools import instructor
from utils import WorkshopError
from utils.workshop import index


@pytest.mark.parametrize("minutes", [30, 60, 90, 180, 241, 360, 420])
def test_a_timetable_takes_the_minutes_that_there_are(minutes):
    rows = instructor.timetable(minutes, "09:00")
    assert sum(length for _, length, _, _ in rows) == minutes
    assert rows[0][0] == "09:00"
    assert all(length > 0 for _, length, _, _ in rows)
    assert "break" not in rows[0][2] + rows[-1][2]


def test_proportions_of_the_original_day():
    parts = {number: entry["part"] for number, entry in index()["notebook"].items()}
    spent = {}
    for _, length, what, _ in instructor.timetable(180):
        if what[:2] in parts:
            spent[parts[what[:2]]] = spent.get(parts[what[:2]], 0) + length
    assert spent[3] == pytest.approx(2 * spent[1], abs=2)
    assert spent[1] == pytest.approx(1.5 * spent[2], abs=2)


def test_short_workshops_show_less():
    def shown(minutes):
        return {what[:2] for _, _, what, _ in instructor.timetable(minutes) if what[:2].isdigit()}

    assert shown(60) < shown(180) <= shown(360) == set(index()["notebook"])
    assert {"00", "09"} <= shown(60)


def test_every_entry_says_what_to_leave_out():
    for entry in index()["notebook"].values():
        assert entry["priority"] in (1, 2, 3)
        assert entry["late"]


@pytest.mark.parametrize(
    ("minutes", "begin", "message"),
    [(10, "09:00", "A workshop of 10 minutes: choose 30 to 420"), (60, "9 o'clock", "is no time of day")],
)
def test_impossible_workshops_are_refused(minutes, begin, message):
    with pytest.raises(WorkshopError, match=message):
        instructor.timetable(minutes, begin)


def test_a_deck_shows_slides_keeps_notes_and_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(instructor, "DECKS", tmp_path)
    monkeypatch.setattr(instructor, "fetch_assets", lambda folder: None)
    [deck] = instructor.slides(["00"])
    page = deck.read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"https?:", page)
    assert page.count('<aside class="notes">') >= 3
    assert "data:image/png;base64" in page
    assert 'alt="' in page
    assert "REPOSITORY" not in page  # the set-up cell is not for showing


def package(**files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo("package/" + name.replace("__", "/"))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_scripts_are_checked_and_fetched_once(tmp_path, monkeypatch):
    archive = package(dist__a=b"a", other=b"b")
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        return io.BytesIO(archive)

    monkeypatch.setattr(instructor.urllib.request, "urlopen", urlopen)
    sha512 = b64encode(hashlib.sha512(archive).digest()).decode()
    monkeypatch.setattr(instructor, "ASSETS", {"thing": ("1.0", sha512, ("dist/",))})
    instructor.fetch_assets(tmp_path)
    instructor.fetch_assets(tmp_path)
    assert len(asked) == 1
    assert [file.name for file in (tmp_path / "thing").rglob("*") if file.is_file()] in (
        ["version.txt", "a"],
        ["a", "version.txt"],
    )
    monkeypatch.setattr(instructor, "ASSETS", {"thing": ("1.1", sha512[:-4] + "AAA=", ("dist/",))})
    with pytest.raises(WorkshopError, match="SHA-512 differs"):
        instructor.fetch_assets(tmp_path)
    monkeypatch.setattr(instructor.urllib.request, "urlopen", lambda url, timeout: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(WorkshopError, match="Slides need the network the first time"):
        instructor.fetch_assets(tmp_path)
