"""Facts about LongBench's 21 tasks (Bai et al. 2024): language, metric, and how its scripts treat them.

From ``pred.py``, ``eval.py`` and ``config/dataset2maxlen.json`` of LongBench's repository.
"""

from typing import Literal, NamedTuple

from kvlab.compression.datasets.example import Language
from kvlab.errors import InputError

Metric = Literal["f1", "rouge", "classification", "retrieval", "count", "code_similarity"]


class Task(NamedTuple):
    """One task.

    Attributes:
        language: Of context and question; programs are filed under English, whose rules they use.
        metric: The metric that LongBench scores it with; kvlab scores ``f1``.
        max_new_tokens: LongBench's generation length.
    """

    language: Language
    metric: Metric
    max_new_tokens: int


TASKS = {
    "narrativeqa": Task("en", "f1", 128),
    "qasper": Task("en", "f1", 128),
    "multifieldqa_en": Task("en", "f1", 64),
    "multifieldqa_zh": Task("zh", "f1", 64),
    "hotpotqa": Task("en", "f1", 32),
    "2wikimqa": Task("en", "f1", 32),
    "musique": Task("en", "f1", 32),
    "dureader": Task("zh", "rouge", 128),
    "gov_report": Task("en", "rouge", 512),
    "qmsum": Task("en", "rouge", 512),
    "multi_news": Task("en", "rouge", 512),
    "vcsum": Task("zh", "rouge", 512),
    "trec": Task("en", "classification", 64),
    "triviaqa": Task("en", "f1", 32),
    "samsum": Task("en", "rouge", 128),
    "lsht": Task("zh", "classification", 64),
    "passage_count": Task("en", "count", 32),
    "passage_retrieval_en": Task("en", "retrieval", 32),
    "passage_retrieval_zh": Task("zh", "retrieval", 32),
    "lcc": Task("en", "code_similarity", 64),
    "repobench-p": Task("en", "code_similarity", 64),
}

#: Tasks whose prompts LongBench leaves without a chat template (few-shot examples and code).
WITHOUT_CHAT = frozenset({"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"})
#: Tasks of which LongBench scores only the first line of an answer.
FIRST_LINE_ONLY = frozenset({"trec", "triviaqa", "samsum", "lsht"})


def find(name: str | None, *, unscored: bool = False) -> Task:
    """Return a task that can be prepared.

    Args:
        name: LongBench's name of it.
        unscored: Take a task that kvlab has no score for, to measure failures and cost alone.

    Raises:
        InputError: There is no such task, or it is not scored by F1.
    """
    scored = ", ".join(task for task, facts in TASKS.items() if facts.metric == "f1")
    if name not in TASKS:
        raise InputError("task", name, f"is no LongBench task; those that kvlab scores are {scored}")
    if TASKS[name].metric != "f1" and not unscored:
        metric = TASKS[name].metric.replace("_", " ")
        fix = f"is scored by {metric} in LongBench, and kvlab scores only its F1 tasks: {scored}"
        raise InputError("task", name, fix)
    return TASKS[name]
