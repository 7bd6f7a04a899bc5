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
    assert page.count("<script>") == 1, "its own"
    assert all(
        value is None or isinstance(value, str)
        for name, value in day.row(today / "000001_odd").items()
        if name not in ("folder", "reasons")
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
    assert page.count("<script>") == 1
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


@pytest.fixture
def two_days(tmp_path, monkeypatch):
    """Return an outputs folder with a PASS, a FAIL and a run that was ended, over two days; the later one's index."""
    monkeypatch.setenv("KVLAB_OUTPUTS", str(tmp_path))
    figure = {"value": "87%", "label": "saved"}
    good = {"verdict": "PASS", "headline": "in figures", "reasons": ["fine"], "brief": {"sentence": "In plain words.", "figure": figure, "picture": "b"}}  # fmt: skip
    bad = {"verdict": "FAIL", "headline": "h", "reasons": [f"reason {n}" for n in range(9)]}
    make(tmp_path / "2026-01-01" / "000000_one", '{"experiment": "token_sweep"}', json.dumps(good))
    for name in "ab":
        (tmp_path / "2026-01-01" / "000000_one" / "plots").mkdir(exist_ok=True)
        (tmp_path / "2026-01-01" / "000000_one" / "plots" / f"{name}.png").touch()
    make(tmp_path / "2026-01-02" / "000000_two", '{"experiment": "cache_laws"}', json.dumps(bad))
    ended = '{"status": "failed", "reason": "the disk is full"}'
    make(tmp_path / "2026-01-02" / "000001_three", "{}", "{}", ended)
    day.write_index(tmp_path / "2026-01-02")
    return tmp_path


def test_one_page_lists_all_days_with_what_matters_of_each(two_days):
    page = (two_days / "index.html").read_text()
    assert page.count('<section class="run"') == 3
    assert page.index("000001_three") < page.index("000000_two") < page.index("000000_one"), (
        "the newest first"
    )
    for shown in (
        "In plain words.",
        "87%",
        "the disk is full",
        "reason 0",
        '"2026-01-01/000000_one/plots/b.png"',
    ):
        assert shown in page
    assert "a.png" not in page, "one picture: the one that matters"
    assert "reason 8" not in page, "as many as can be read"
    for name in ("token_sweep", "cache_laws", "PASS", "FAIL", "failed"):
        assert f"<option>{name}</option>" in page
    assert 'data-experiment="token_sweep" data-state="PASS"' in page


def test_a_day_links_to_all_days_and_its_own_runs(two_days):
    page = (two_days / "2026-01-02" / "index.html").read_text()
    assert 'href="../index.html"' in page
    assert 'href="000000_two/report.html"' in page


def test_a_page_of_somebody_elses_stays(two_days):
    (two_days / "index.html").write_text("<title>my site</title>")
    day.write_index(two_days / "2026-01-02")
    assert (two_days / "index.html").read_text() == "<title>my site</title>"


def test_too_many_runs_are_cut_and_said(two_days, monkeypatch):
    monkeypatch.setattr(day, "MOST_RUNS", 2)
    day.write_index(two_days / "2026-01-02")
    page = (two_days / "index.html").read_text()
    assert page.count('<section class="run"') == 2
    assert "older ones" in page


def test_a_copy_of_a_day_elsewhere_writes_nothing_above_it(two_days, tmp_path, monkeypatch):
    monkeypatch.setenv("KVLAB_OUTPUTS", str(tmp_path / "another"))
    (two_days / "index.html").unlink()
    day.write_index(two_days / "2026-01-02")
    assert not (two_days / "index.html").exists()
