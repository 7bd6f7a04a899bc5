import re

import pytest

from kvlab.compression.datasets import DatasetSpec, prepare
from kvlab.errors import InputError
from tests.compression.datasets.real import DATA, needs_data
from tests.compression.datasets.rows import multidoc_rows, write_jsonl


def spec(path, **values):
    return DatasetSpec.check({"name": "multidoc_qa", "path": str(path), "n_bins": 2, "n_per_bin": 3} | values)


@pytest.fixture
def file(tmp_path):
    return write_jsonl(tmp_path / "rows.jsonl.gz", multidoc_rows(30))


def documents(example):
    return re.findall(r"^\[\d+\] .*", example.context, re.MULTILINE)


def check_documents(example):
    """The gold passage is where the meta data says; no other document holds an answer."""
    holding = [
        i
        for i, document in enumerate(documents(example))
        if any(answer.lower() in document.lower() for answer in example.answers)
    ]
    return holding == [example.meta["gold_index"]]


@pytest.mark.parametrize(("position", "index"), [(0, 0), (3, 3), (0.0, 0), (0.5, 4), (1.0, 7)])
def test_the_gold_passage_is_where_it_is_wanted(file, tk, position, index):
    manifest = prepare(spec(file, n_documents=[8], gold_position=position), tk)
    for _, example in manifest.items():
        assert len(documents(example)) == 8
        assert example.meta["gold_index"] == index
        assert check_documents(example)


def test_sizes_come_in_turn_and_positions_are_drawn(file, tk):
    manifest = prepare(spec(file, n_documents=[2, 12], n_examples=20, n_per_bin=10), tk)
    examples = [example for _, example in manifest.items()]
    assert sorted(example.meta["n_documents"] for example in examples) == [2] * 10 + [12] * 10
    assert len({example.meta["gold_index"] for example in examples}) > 3
    assert all(map(check_documents, examples))
    assert prepare(spec(file, n_documents=[2, 12], n_examples=20, n_per_bin=10), tk) == manifest


def test_a_context_has_as_many_documents_as_fit(file, tk):
    manifest = prepare(spec(file, lengths_tokens=[300, 700]), tk)
    for entry, example in manifest.items():
        limit = 300 if entry.token_len <= 300 else 700
        longest = max(map(tk.count, documents(example)))
        assert limit - 2 * longest - 40 < entry.token_len <= limit


def test_the_rows_own_passages_come_first_and_answers_never_twice(tmp_path, tk):
    rows = list(multidoc_rows(6))
    rows[0]["ctxs"] += [{"text": "Own passage, close to the mark.", "isgold": False}]
    rows[0]["ctxs"] += [{"title": "T", "text": "It was in TOWN00!", "isgold": False}]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    manifest = prepare(spec(file, n_documents=[3], n_examples=6), tk)
    (example,) = [x for _, x in manifest.items() if "Zorb0 " in x.question]
    assert "Own passage" in example.context
    assert check_documents(example)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_documents": [40]}, "n_documents: 40 is more than the"),
        ({"n_documents": [4], "gold_position": 4}, "gold_position: 4 is none of the 4 documents"),
        (
            {"lengths_tokens": [16]},
            "lengths_tokens: 16 is too short for the gold passage of rows.jsonl.gz line",
        ),
        ({"n_examples": 31}, "n_examples: 31 is above the 30 rows"),
    ],
)
def test_what_cannot_be_built_is_refused(file, tk, values, message):
    with pytest.raises(InputError, match=message):
        prepare(spec(file, **values), tk)


def test_a_missing_file_is_refused(tmp_path, tk):
    with pytest.raises(InputError, match=r"path: .*gone\.jsonl' is not there"):
        prepare(spec(tmp_path / "gone.jsonl"), tk)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ctxs": []}, "has no list of passages in `ctxs`"),
        ({"ctxs": [{"title": "x"}]}, "has a passage without a `text`"),
        ({"ctxs": [{"text": "x"}, {"text": "y"}]}, "has no passage with `isgold`"),
        ({"question": None}, "has no text in `question`"),
        ({"answers": "town"}, "has no list of texts in `answers`"),
    ],
)
def test_malformed_rows_are_refused_by_line(tmp_path, tk, change, message):
    rows = list(multidoc_rows(3))
    file = write_jsonl(tmp_path / "rows.jsonl", [rows[0], rows[1] | change, rows[2]])
    with pytest.raises(InputError, match=f"rows.jsonl line 2: .*{message}"):
        prepare(spec(file, n_documents=[2], n_examples=3), tk)


@needs_data
def test_the_real_questions_go_through(tk):
    file = DATA / "nq-open-oracle.jsonl.gz"
    manifest = prepare(spec(file, n_documents=[2, 10], gold_position=0.5, n_per_bin=4), tk)
    assert [(count.available, count.chosen) for count in manifest.bins] == [(4, 4), (4, 4)]
    for _, example in manifest.items():
        assert example.meta["gold_index"] == round(0.5 * (example.meta["n_documents"] - 1))
        gold = re.split(r"\n\n\[\d+\] ", "\n\n" + example.context)[1 + example.meta["gold_index"]]
        assert any(answer.lower() in gold.lower() for answer in example.answers)
