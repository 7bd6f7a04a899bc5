import json
from typing import get_args

import pytest

from kvlab.compression.datasets import DatasetSpec, manifest, prepare
from kvlab.compression.datasets.retrieval import TASKS
from kvlab.compression.datasets.spec import Task
from kvlab.errors import InputError


def spec(**values):
    return DatasetSpec.check({"lengths_tokens": [120, 200, 320], "n_per_bin": 3, "seed": 5} | values)


def counts(prepared):
    return [(count.available, count.wanted, count.chosen) for count in prepared.bins]


def test_the_default_is_one_bin_a_length_and_the_same_bytes_again(tk):
    first, again = prepare(spec(), tk), prepare(spec(), tk)
    assert first.as_bytes() == again.as_bytes()
    assert first.bin_edges == [120, 200, 320]
    assert counts(first) == [(3, 3, 3)] * 3
    assert first.dataset_id == "synthetic__single_needle"
    assert [entry.token_len for entry in first.entries] == [120] * 3 + [200] * 3 + [320] * 3
    assert first.dataset_hash != prepare(spec(seed=6), tk).dataset_hash


def test_a_manifest_is_enough_to_run_elsewhere(tk, tmp_path):
    prepared = prepare(spec(tasks=["single_needle", "multi_key"]), tk)
    path = tmp_path / "manifest.json"
    prepared.write(path)
    read = manifest.load(path)
    assert read == prepared
    assert read.as_bytes() == path.read_bytes()
    entry, example = read.items()[0]
    assert (entry.example_id, entry.token_len) == (example.example_id, tk.count(example.context))


def test_more_bins_than_lengths_leave_bins_empty_and_say_so(tk):
    prepared = prepare(spec(n_bins=5), tk)
    assert len(prepared.bin_edges) == 5
    assert sum(chosen for *_, chosen in counts(prepared)) == 9
    assert [count.available for count in prepared.bins].count(0) == 2
    assert [count.wanted for count in prepared.shortfalls] == [3, 3]


def test_the_spec_names_the_tasks_that_there_are():
    assert set(get_args(Task)) == set(TASKS)


def test_one_bin_one_example(tk):
    assert counts(prepare(spec(n_bins=1, n_per_bin=1), tk)) == [(3, 1, 1)]


def test_focus_asks_more_in_its_bins(tk):
    prepared = prepare(spec(sampling="focus_transition", focus_bins=[1], n_per_bin=2, focus_n_per_bin=5), tk)
    assert counts(prepared) == [(5, 2, 2), (5, 5, 5), (5, 2, 2)]


def test_pinned_examples_replace_the_sampling(tk):
    ids = [entry.example_id for entry in prepare(spec(), tk).entries]
    chosen = prepare(spec(pinned=[ids[7], ids[0]]), tk)
    assert [entry.example_id for entry in chosen.entries] == [ids[0], ids[7]]
    assert chosen.sampling == "pinned"
    assert counts(chosen) == [(3, None, 1), (3, None, 0), (3, None, 1)]
    with pytest.raises(InputError, match="pinned: 'x-1'"):
        prepare(spec(pinned=["x-1"]), tk)


def test_a_template_and_length_of_the_users_own(tk):
    prepared = prepare(spec(template="{context} -- {input}", chat=False, max_new_tokens=9), tk)
    assert prepared.template.hash.startswith("user-")
    assert not prepared.prompt_template.chat
    assert {example.max_new_tokens for _, example in prepared.items()} == {9}
    with pytest.raises(InputError, match="template"):
        prepare(spec(template="no context"), tk)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_bins": 0}, "n_bins: 0"),
        ({"n_per_bin": 0}, "n_per_bin: 0"),
        ({"lengths_tokens": []}, "lengths_tokens: \\[\\]"),
        ({"lengths_tokens": [300, 300]}, "lengths_tokens holds a length twice"),
        ({"tasks": ["haiku"]}, "tasks.0: 'haiku'"),
        ({"name": "squad"}, "name: 'squad'"),
        ({"nbins": 3}, "nbins: 3 extra inputs"),
        ({"seed": True}, "seed: True"),
        ({"name": "longbench"}, "task is missing"),
        ({"name": "multidoc_qa"}, "path is missing"),
        ({"task": "qasper"}, "task means nothing for synthetic; it belongs to longbench"),
        (
            {"name": "longbench", "task": "qasper", "gold_position": 1},
            "gold_position means nothing for longbench",
        ),
        ({"name": "multidoc_qa", "path": "x", "n_documents": [2], "lengths_tokens": [99]}, "both set"),
        ({"gold_position": 1.5}, "gold_position"),
        ({"sampling": "focus_transition"}, "focus_bins is empty"),
        ({"focus_bins": [1]}, "need sampling: focus_transition"),
        ({"sampling": "focus_transition", "focus_bins": [5]}, "focus_bins names a bin above the last, 4"),
        ({"n_bins": "many"}, "n_bins: 'many'"),
    ],
)
def test_wrong_specs_are_refused_by_name(values, message):
    with pytest.raises(InputError, match=message) as caught:
        DatasetSpec.check(values)
    assert "\n" not in str(caught.value)


def edit(change):
    def apply(content):
        change(content)
        return json.dumps(content)

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: json.dumps(content)[:-20], "is not JSON"),
        (lambda content: "[]", "manifest.json: "),
        (edit(lambda c: c.pop("bin_edges")), "bin_edges: field required"),
        (edit(lambda c: c.update(n_bins="x")), "n_bins: 'x'"),
        (edit(lambda c: c["entries"][0].pop("token_len")), "entries.0.token_len: field required"),
        (edit(lambda c: c["entries"][0].update(token_len=320)), "entries puts"),
        (edit(lambda c: c["entries"].pop()), "do not name the same examples"),
        (edit(lambda c: c["bin_edges"].pop()), "(bin_edges holds|above the last bin edge)"),
        (edit(lambda c: c["examples"][0].update(answers=["other"])), "dataset_hash does not fit"),
        (edit(lambda c: c["examples"][0].pop("context")), "example.context"),
        (edit(lambda c: c["template"].update(text="{context}{input}")), "template.hash does not fit"),
        (edit(lambda c: c.update(format=9)), "format is 9"),
        (edit(lambda c: c.update(extra=1)), "extra: 1 extra inputs"),
    ],
)
def test_a_spoilt_manifest_is_refused_in_one_line(tk, tmp_path, spoil, message):
    path = tmp_path / "manifest.json"
    path.write_text(spoil(json.loads(prepare(spec(), tk).as_bytes())), encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        manifest.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_manifest_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not there; prepare the dataset first"):
        manifest.load(tmp_path / "manifest.json")
