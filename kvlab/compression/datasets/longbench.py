"""LongBench (Bai et al. 2024): from the hub, from its data.zip, or from a folder of JSON-lines files."""

from collections.abc import Iterator
from pathlib import Path

from kvlab.bounded import json_value
from kvlab.compression.datasets import longbench_tasks as facts
from kvlab.compression.datasets import rows
from kvlab.compression.datasets.example import Example, content_id
from kvlab.compression.datasets.template import Template
from kvlab.errors import InputError

REPOSITORY = "THUDM/LongBench"
_ENGLISH = (
    "Here is a text.\n\n{context}\n\n"
    "Answer the question from the text above, in as few words as possible and without an explanation.\n\n"
    "Question: {input}\nAnswer:"
)
_CHINESE = "以下是一篇文章。\n\n{context}\n\n请根据以上文章，用尽量少的字回答问题，不要解释。\n\n问题：{input}\n答案："
# The context of triviaqa and other few-shot tasks holds solved examples; the question goes on in their form.
_FEW_SHOT = "{context}\n\n{input}"
_NO_QUESTION = "{context}\n\nSummarise the text above.\n\nSummary:"


def load(task: str, path: Path | None, *, unscored: bool = False) -> rows.Rows:
    """Read the rows of a task.

    Args:
        task: LongBench's name of it.
        path: data.zip, a folder that holds ``{task}.jsonl`` (or ``data/{task}.jsonl``), or such a
            file; None for the hub (a download of about 110 MB, cached).
        unscored: Take a task that kvlab has no score for.

    Raises:
        InputError: The task cannot be used, or its file is not there or malformed.
    """
    facts.find(task, unscored=unscored)
    if path is None:
        return rows.read(_download(), f"{task}.jsonl")
    if not path.exists():
        raise InputError("path", str(path), "is not there; name data.zip or a folder of .jsonl files")
    if path.is_dir():
        candidates = [path / f"{task}.jsonl", path / "data" / f"{task}.jsonl"]
        found = next((file for file in candidates if file.is_file()), None)
        if found is None:
            raise InputError("path", str(path), f"has no {task}.jsonl; put the task's file there")
        path = found
    return rows.read(path, f"{task}.jsonl")


def examples(
    task: str, loaded: rows.Rows, *, max_new_tokens: int | None = None, unscored: bool = False
) -> Iterator[Example]:
    """Yield the canonical examples of a task's rows.

    Args:
        task: LongBench's name of it.
        loaded: From ``load``.
        max_new_tokens: Generation length; None takes LongBench's.
        unscored: Take a task that kvlab has no score for.

    Raises:
        InputError: A row lacks ``input``, ``context`` or ``answers``, or is of another task.
    """
    known = facts.find(task, unscored=unscored)
    for row in loaded.rows:
        _check_task(row, task)
        question, context, answers = row.text("input"), row.text("context"), row.texts("answers")
        meta = {
            "task": task,
            "language": known.language,
            "context_id": content_id("c", context),
            "source": loaded.source,
            "answer_mode": "any",
            "metric": "f1" if known.metric == "f1" else "none",
            "max_new_tokens": max_new_tokens or known.max_new_tokens,
            "first_line_only": task in facts.FIRST_LINE_ONLY,
        }
        yield Example(content_id(task, question, context, answers), question, context, answers, meta)


def _check_task(row: rows.Row, task: str) -> None:
    """Refuse a row that says itself that it is of another task: its template and its score would be wrong.

    Raises:
        InputError: It is.
    """
    named = row.value.get("dataset")
    if named not in (None, task, f"{task}_e"):  # LongBench-E's files end in _e
        raise InputError(
            row.where, named, f"is its `dataset`, and the task is {task}; name the file of that task"
        )


def template(task: str, config: Path | None) -> Template:
    """Return LongBench's own template of a task, from the user's copy of it, or kvlab's.

    Raises:
        InputError: The folder has no readable ``dataset2prompt.json`` with this task.
    """
    chat = task not in facts.WITHOUT_CHAT
    if config is not None:
        text = _setting(config, "dataset2prompt.json", task)
        if not isinstance(text, str):
            raise InputError("config_path", text, f"is no template of {task} in dataset2prompt.json")
        return Template(text, chat, "longbench")
    if not chat:
        return Template(_FEW_SHOT, chat)
    if facts.TASKS[task].metric == "rouge" and task not in ("dureader", "qmsum"):
        return Template(_NO_QUESTION, chat)
    return Template(_CHINESE if facts.TASKS[task].language == "zh" else _ENGLISH, chat)


def generation_length(task: str, config: Path | None) -> int | None:
    """Return the generation length of the user's copy of LongBench; None without one.

    Raises:
        InputError: The folder has no readable ``dataset2maxlen.json`` with this task.
    """
    if config is None:
        return None
    length = _setting(config, "dataset2maxlen.json", task)
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise InputError("config_path", length, f"is no generation length of {task} in dataset2maxlen.json")
    return length


def _setting(config: Path, name: str, task: str) -> object:
    file = next((f for f in (config / name, config / "config" / name) if f.is_file()), None)
    if file is None:
        raise InputError("config_path", str(config), f"has no {name}; name LongBench's config folder")
    try:
        content = json_value(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError("config_path", str(file), f"is not JSON ({error}); fix it") from None
    if not isinstance(content, dict) or task not in content:
        raise InputError("config_path", str(file), f"has nothing for {task}; name LongBench's own file")
    return content[task]


def _download() -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(REPOSITORY, "data.zip", repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = type(error).__name__
        fix = f"cannot be downloaded from the hub ({reason}); set path to a data.zip or a folder of .jsonl files"
        raise InputError("path", REPOSITORY, fix) from None
