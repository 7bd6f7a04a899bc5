import json

import pytest

from kvlab.compression.datasets import DatasetSpec, longbench, prepare
from kvlab.compression.datasets.longbench_tasks import FIRST_LINE_ONLY, TASKS, WITHOUT_CHAT
from kvlab.compression.datasets.template import render
from kvlab.errors import InputError
from tests.compression.datasets.real import DATA, needs_data
from tests.compression.datasets.rows import longbench_rows, write_jsonl, write_zip

F1 = [
    "narrativeqa",
    "qasper",
    "multifieldqa_en",
    "multifieldqa_zh",
    "hotpotqa",
    "2wikimqa",
    "musique",
    "triviaqa",
]


def spec(**values):
    return DatasetSpec.check({"name": "longbench", "task": "qasper", "n_bins": 3, "n_per_bin": 2} | values)


@pytest.fixture
def folder(tmp_path):
    write_jsonl(tmp_path / "qasper.jsonl", longbench_rows(12))
    return tmp_path


def test_all_21_tasks_are_known_and_eight_are_scored():
    assert len(TASKS) == 21
    assert [name for name, task in TASKS.items() if task.metric == "f1"] == F1
    assert sum(task.language == "zh" for task in TASKS.values()) == 5
    assert set(TASKS) >= WITHOUT_CHAT > FIRST_LINE_ONLY


def test_folder_data_folder_zip_and_file_give_the_same_examples(folder, tmp_path, tk):
    rows = list(longbench_rows(12))
    write_jsonl(tmp_path / "other" / "data" / "qasper.jsonl", rows)
    archive = write_zip(tmp_path / "data.zip", {"data/qasper.jsonl": rows, "data/qasper_e.jsonl": rows[:1]})
    paths = [folder, folder / "qasper.jsonl", tmp_path / "other", archive]
    prepared = [prepare(spec(path=str(path)), tk) for path in paths]
    assert len({manifest.dataset_hash for manifest in prepared[:1]}) == 1
    assert all(
        [x["example_id"] for x in manifest.examples] == [x["example_id"] for x in prepared[0].examples]
        for manifest in prepared
    )
    assert str(tmp_path) not in prepared[0].as_bytes().decode()


def test_rows_of_one_context_are_one_cluster(folder, tk):
    examples = list(longbench.examples("qasper", longbench.load("qasper", folder)))
    assert len({example.example_id for example in examples}) == 12
    assert 6 <= len({example.meta["context_id"] for example in examples}) <= 12
    assert examples[0].score("The bell").em == 1


def test_a_file_of_another_task_is_refused(tmp_path, tk):
    other = [row | {"dataset": "hotpotqa"} for row in longbench_rows(12)]
    path = write_jsonl(tmp_path / "gov_report.jsonl", other)
    with pytest.raises(InputError, match="line 1: 'hotpotqa' is its `dataset`, and the task is qasper"):
        prepare(spec(path=str(path)), tk)
    path = write_jsonl(tmp_path / "qasper_e.jsonl", [row | {"dataset": "qasper_e"} for row in other])
    assert prepare(spec(path=str(path)), tk).entries


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_has_a_template_of_kvlabs_own(task):
    template = longbench.template(task, None)
    assert template.origin == "kvlab"
    assert template.chat == (task not in WITHOUT_CHAT)
    assert (template.parts()[2] is None) == (task in {"gov_report", "multi_news", "vcsum"})


def test_tasks_that_kvlab_cannot_score_are_refused_by_name(folder):
    for task in sorted(set(TASKS) - set(F1)):
        with pytest.raises(InputError, match=f"task: '{task}' is scored by .*narrativeqa, .*triviaqa"):
            longbench.load(task, folder)
    with pytest.raises(InputError, match="task: 'qasperr' is no LongBench task"):
        longbench.load("qasperr", folder)


def test_the_middle_is_cut_out_as_longbench_does(folder, tk):
    whole = {x.example_id: x for x in longbench.examples("qasper", longbench.load("qasper", folder))}
    manifest = prepare(spec(path=str(folder), max_length_tokens=300, n_per_bin=12), tk)
    cut = [x for _, x in manifest.items() if "truncated_tokens" in x.meta]
    assert cut
    for example in cut:
        old, new = (render(x, manifest.prompt_template).text for x in (whole[example.example_id], example))
        ids = tk.encode(old)
        assert new == tk.decode(ids[:150]) + tk.decode(ids[-150:])
        assert example.meta["truncated_tokens"] == len(ids) - 300
        assert new.endswith(example.question + "\nAnswer:")
        assert example.meta["context_id"] == whole[example.example_id].meta["context_id"]


def test_a_cut_never_splits_a_character(tmp_path, tk):
    rows = [row | {"context": "厦门大学" * 200} for row in longbench_rows(1, "zh")]
    write_jsonl(tmp_path / "multifieldqa_zh.jsonl", rows)
    zh = spec(task="multifieldqa_zh", path=str(tmp_path), n_bins=1, n_per_bin=1)
    for limit in range(400, 407):
        (_, example), = prepare(zh.model_copy(update={"max_length_tokens": limit}), tk).items()  # fmt: skip
        assert set(example.context) == set("厦门大学")
        assert "truncated_tokens" in example.meta


def test_what_is_too_long_is_dropped_or_refused_on_request(folder, tk):
    dropped = prepare(spec(path=str(folder), max_length_tokens=600, truncation="drop"), tk)
    assert dropped.excluded["too_long"] + sum(count.available for count in dropped.bins) == 12
    with pytest.raises(InputError, match="max_length_tokens: 600 is below the"):
        prepare(spec(path=str(folder), max_length_tokens=600, truncation="refuse"), tk)
    with pytest.raises(InputError, match="max_length_tokens: 16 leaves no room"):
        prepare(spec(path=str(folder), max_length_tokens=16), tk)


def test_equal_rows_are_asked_once(folder, tk):
    rows = list(longbench_rows(5))
    write_jsonl(folder / "qasper.jsonl", [*rows, rows[0] | {"_id": "again"}])
    assert prepare(spec(path=str(folder)), tk).excluded == {"duplicate": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no rows"),
        ('{"input": "q", "context": "c", "answers": ["a"]}\n{"input":', "qasper.jsonl line 2: is not JSON"),
        ("[1]", "qasper.jsonl line 1: .* is not a JSON object"),
        ('{"context": "c", "answers": ["a"]}', "qasper.jsonl line 1: has no text in `input`"),
        ('{"input": "q", "answers": ["a"]}', "qasper.jsonl line 1: has no text in `context`"),
        ('{"input": "q", "context": "c"}', "qasper.jsonl line 1: has no list of texts in `answers`"),
        ('{"input": "q", "context": "c", "answers": []}', "line 1: .* in `answers`"),
        (b"\xff\xfe", "line 1: is not JSON in UTF-8"),
        (r'{"input": "\ud800", "context": "c", "answers": ["a"]}', "line 1: is not JSON in UTF-8"),
    ],
)
def test_malformed_files_are_refused_by_line(tmp_path, tk, content, message):
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "qasper.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=message):
        prepare(spec(path=str(tmp_path)), tk)


def test_missing_files_are_refused(tmp_path, tk):
    (tmp_path / "bad.zip").write_bytes(b"PK no")
    archive = write_zip(tmp_path / "data.zip", {"data/other.jsonl": []})
    cut = write_jsonl(tmp_path / "cut.jsonl.gz", longbench_rows(2))
    cut.write_bytes(cut.read_bytes()[:-30])
    for path, message in (
        (tmp_path / "gone", "is not there"),
        (tmp_path, "has no qasper.jsonl"),
        (tmp_path / "bad.zip", "cannot be read"),
        (archive, "has no qasper.jsonl in it"),
        (cut, "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            prepare(spec(path=str(path)), tk)


def test_without_a_network_the_hub_is_refused_with_the_way_out(monkeypatch, tmp_path, tk):
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"path: 'THUDM/LongBench' cannot be downloaded .*set path to"):
        prepare(spec(), tk)


def test_longbenchs_own_templates_and_lengths_are_read_where_given(folder, tk, tmp_path):
    config = tmp_path / "config"
    config.mkdir()
    (config / "dataset2prompt.json").write_text(json.dumps({"qasper": "Paper {context} asks {input} so:"}))
    (config / "dataset2maxlen.json").write_text(json.dumps({"qasper": 77}))
    for named in (config, tmp_path):
        manifest = prepare(spec(path=str(folder), config_path=str(named)), tk)
        assert manifest.template.hash.startswith("longbench-")
        assert {x.max_new_tokens for _, x in manifest.items()} == {77}
    ours = prepare(spec(path=str(folder)), tk)
    assert ours.template.hash.startswith("kvlab-")
    assert {x.max_new_tokens for _, x in ours.items()} == {128}
    (config / "dataset2maxlen.json").write_text(json.dumps({"qasper": "many"}))
    with pytest.raises(InputError, match="config_path: 'many' is no generation length"):
        prepare(spec(path=str(folder), config_path=str(config)), tk)
    (config / "dataset2maxlen.json").write_text("{")
    with pytest.raises(InputError, match=r"config_path: .* is not JSON"):
        prepare(spec(path=str(folder), config_path=str(config)), tk)
    with pytest.raises(InputError, match=r"has no dataset2"):
        prepare(spec(path=str(folder), config_path=str(folder / "..")), tk)


def real(task, **more):
    more = {
        "path": str(DATA / "longbench"),
        "config_path": str(DATA / "longbench"),
        "n_bins": 5,
        "n_examples": 20,
    } | more
    return spec(task=task, **more)


@needs_data
def test_the_real_chinese_task_goes_through(tk):
    manifest = prepare(real("multifieldqa_zh", max_length_tokens=3500), tk)
    assert len(manifest.entries) == 10
    assert manifest.template.hash.startswith("longbench-")
    for entry, example in manifest.items():
        assert entry.token_len == tk.count(example.context)
        assert tk.count(render(example, manifest.prompt_template).text) <= 3500
        assert example.score(example.answers[0]).f1 == 1


@needs_data
def test_the_real_summary_task_is_refused_or_goes_unscored(tk):
    with pytest.raises(InputError, match="task: 'multi_news' is scored by rouge"):
        prepare(real("multi_news"), tk)
    manifest = prepare(real("multi_news", unscored=True, max_length_tokens=16_000), tk)
    assert len(manifest.entries) == 10
    assert manifest.items()[0][1].score("anything") is None
