"""The form of the README's table of ratios, and a trial of two rows. The numbers themselves are never asserted."""

from tools import bench
from utils.workshop import ROOT


def test_the_table_in_the_readme_is_complete():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert bench.table(text, {}) in text, "run: make bench"
    lines = text.split("<!-- bench -->\n")[1].split("\n<!-- /bench -->")[0].splitlines()[2:]
    assert len(lines) == len(bench.ROWS)
    for line in (line for line in lines if "| not measured |" not in line):
        what, against, target, reached, how = line.strip("| ").split(" | ")
        assert what and against and how
        assert target[0] in "≥≤"
        assert reached[0].isdigit()


def test_a_trial_prints_its_rows_and_leaves_the_readme_alone(capsys):
    before = (ROOT / "README.md").read_bytes()
    bench.main(["--quick", "peak", "bytes"])
    rows = capsys.readouterr().out.splitlines()
    assert [len(row.strip("| ").split(" | ")) for row in rows] == [len(bench.HEAD)] * 2
    assert "%" in rows[0]
    assert "1/" in rows[1]
    assert (ROOT / "README.md").read_bytes() == before


def test_measured_rows_replace_theirs_and_no_others():
    titles = [title for title, _ in bench.ROWS.values()]
    old = [f"| {title} | old |" for title in titles]
    text = "\n".join(["<!-- bench -->", "head", "---", *reversed(old), "<!-- /bench -->"])
    lines = bench.table(text, {"serving": ["new"] * 4}).splitlines()[2:]
    assert lines == [old[0], f"| {titles[1]} | new | new | new | new |", *old[2:]]
