"""The list of runs: a folder may hold anything, and the others are listed all the same."""

import json

import pytest

from kvlab.report import day

ODD = [
    '{"endpoint_identity": null}', '{"endpoint_identity": [1]}', '{"endpoint_identity": {"kind": 5, "version": 6}}',
    '{"endpoint_identity": {"model": 5, "version": {"a": 1}}}', '{"endpoint_identity": {"model": "a\\ud800b"}}', '{"experiment": [], "profile": {}}',
    '{"endpoint_identity": {"model": "<script>alert(1)</script>", "kind": "\\u001b[2J"}}', "[" * 100_000, "null", "\x00", "",
    '{"endpoint_identity": {"model": "' + "x" * 100_000 + '"}}', '{"endpoint_identity": {"version": NaN, "model": true}}',
]  # fmt: skip


def make(
    folder, manifest, summary='{"verdict": "PASS", "headline": "fine"}', status='{"status": "completed"}'
):
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(manifest)
    (folder / "summary.json").write_text(summary)
    (folder / "status.json").write_text(status)


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("file", ["manifest", "summary", "status"])
def test_an_odd_folder_is_listed_beside_a_good_one(tmp_path, odd, file):
    today = tmp_path / "2026-01-01"
    make(today / "000000_good", '{"endpoint_identity": {"model": "m"}}')
    make(today / "000001_odd", **{"manifest": "{}", file: odd})
    page = day.write_index(today).read_text()
    assert "2 run(s)" in page
    assert "000000_good" in page
    assert "<script>" not in page
    assert all(
        value is None or isinstance(value, str)
        for name, value in day.row(today / "000001_odd").items()
        if name not in ("folder", "plots")
    )


@pytest.mark.parametrize(
    "summary",
    [{"verdict": ["PASS"]}, {"verdict": "PASS\" onclick=\"x"}, {"headline": "<img src=http://x/y.png>"}, {"headline": {"a": 1}}, {"verdict": 5}],
)  # fmt: skip
def test_the_index_loads_nothing_of_a_strangers(tmp_path, summary):
    today = tmp_path / "2026-01-01"
    make(today / '0"><img src=x>#?', "{}", json.dumps(summary))
    (today / '0"><img src=x>#?' / "plots").mkdir()
    (today / '0"><img src=x>#?' / "plots" / 'a"b#.png').touch()
    page = day.write_index(today).read_text()
    assert "http://x" not in page.replace("&lt;img src=http://x/y.png&gt;", "")
    assert 'onclick="' not in page
    assert page.count("<img") == 1
    assert 'src="0%22%3E%3Cimg%20src%3Dx%3E%23%3F/plots/a%22b%23.png"' in page


def test_a_folder_that_is_no_days_gets_no_index(tmp_path):
    make(tmp_path / "somewhere" / "run", "{}")
    (tmp_path / "somewhere" / "index.html").write_text("somebody's own")
    assert day.write_index(tmp_path / "somewhere") is None
    assert (tmp_path / "somewhere" / "index.html").read_text() == "somebody's own"


def test_an_index_that_cannot_be_written_fails_no_run(tmp_path, monkeypatch):
    make(tmp_path / "2026-01-01" / "run", "{}")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(day, "write_atomic", full)
    assert day.write_index(tmp_path / "2026-01-01") is None
