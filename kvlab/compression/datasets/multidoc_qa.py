"""Multi-document questions in the format of *Lost in the Middle* (Liu et al. 2024).

Each row has a question, its answers, and ``ctxs``: passages of which one is gold (``isgold``; in a
row with a single passage, that one). The gold passage is put among others at a chosen place. The
others are the row's own, where it has some, then passages of other rows; none contains an answer.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kvlab.compression.datasets.example import Example, content_id
from kvlab.compression.datasets.rows import Row, Rows
from kvlab.compression.datasets.template import Template
from kvlab.compression.datasets.tokenizer import Tokenizer
from kvlab.errors import InputError
from kvlab.scoring.normalize import english

TASK = "multidoc_qa"
MAX_NEW_TOKENS = 32
TEMPLATE = Template(
    "These are search results; only some of them help to answer the question below.\n\n{context}\n\n"
    "Answer the question with as few words as possible, using only the search results.\n\n"
    "Question: {input}\nAnswer:"
)


class Passage(NamedTuple):
    """One document; ``words`` is its normalised text between spaces, for looking answers up."""

    title: str
    text: str
    words: str


class _Question(NamedTuple):
    row: Row
    question: str
    answers: tuple[str, ...]
    gold: Passage
    others: list[Passage]


class Size(NamedTuple):
    """How long a context is: so many documents, or as many as fit into so many tokens."""

    documents: int | None = None
    tokens: int | None = None


def examples(
    loaded: Rows,
    sizes: Sequence[Size],
    n_examples: int,
    tokenizer: Tokenizer,
    *,
    gold_position: int | float | None,
    seed: int,
) -> Iterator[Example]:
    """Yield ``n_examples`` questions of the rows, chosen by the seed, the sizes in turn.

    Args:
        loaded: The rows.
        sizes: Of the contexts.
        n_examples: At most as many as there are rows.
        tokenizer: Counts where a size is in tokens: the context is the longest that is not longer.
        gold_position: Index from 0, or a share of the way (0.0 first, 1.0 last); None draws it.
        seed: Of the choice of rows, of passages, and of drawn positions.

    Raises:
        InputError: A row is malformed, there are too few rows or passages, or the position is not
            among the documents.
    """
    if n_examples > len(loaded.rows):
        raise InputError("n_examples", n_examples, f"is above the {len(loaded.rows)} rows of the dataset")
    questions = [_question(row) for row in loaded.rows]
    pool = list(dict.fromkeys(q.gold for q in questions))
    order = random.Random(f"{seed}/rows").sample(range(len(questions)), n_examples)  # noqa: S311
    for number, row in enumerate(order):
        draw = random.Random(f"{seed}/{row}/{sizes[number % len(sizes)]}")  # noqa: S311
        size = sizes[number % len(sizes)]
        yield _example(questions[row], size, pool, tokenizer, gold_position, draw, loaded.source)


def _example(
    question: _Question,
    size: Size,
    pool: Sequence[Passage],
    tokenizer: Tokenizer,
    gold_position: int | float | None,
    draw: random.Random,
    source: str,
) -> Example:
    others = _distractors(question, pool, draw)
    if size.documents is not None:
        chosen = [passage for passage, _ in zip(others, range(size.documents - 1), strict=False)]
        if len(chosen) < size.documents - 1:
            fix = f"is more than the {len(chosen) + 1} passages without an answer; lower it"
            raise InputError("n_documents", size.documents, fix)
    else:
        chosen = _fill(question, others, size.tokens or 0, tokenizer)
    index, context = _place(question.gold, chosen, gold_position, draw)
    while size.tokens is not None and chosen and tokenizer.count(context) > size.tokens:
        chosen.pop()
        index, context = _place(question.gold, chosen, gold_position, draw)
    meta = {
        "task": TASK,
        "language": "en",
        "context_id": content_id("c", context),
        "source": source,
        "answer_mode": "any",
        "metric": "f1",
        "max_new_tokens": MAX_NEW_TOKENS,
        "first_line_only": False,
        "gold_index": index,
        "n_documents": len(chosen) + 1,
    }
    name = content_id(TASK, question.question, context, question.answers)
    return Example(name, question.question, context, question.answers, meta)


def _fill(
    question: _Question, others: Iterator[Passage], limit_tokens: int, tokenizer: Tokenizer
) -> list[Passage]:
    """Return passages that fit by the sum of their lengths; the caller counts the whole."""
    left = limit_tokens - tokenizer.count(_join([question.gold]))
    if left < 0:
        fix = f"is too short for the gold passage of {question.row.where}; raise it"
        raise InputError("lengths_tokens", limit_tokens, fix)
    chosen = list[Passage]()
    for passage in others:
        left -= tokenizer.count(_join([passage]))
        if left < 0:
            break
        chosen.append(passage)
    return chosen


def _place(
    gold: Passage, chosen: Sequence[Passage], position: int | float | None, draw: random.Random
) -> tuple[int, str]:
    index = _index(position, len(chosen) + 1, draw)
    return index, _join([*chosen[:index], gold, *chosen[index:]])


def _distractors(question: _Question, pool: Sequence[Passage], draw: random.Random) -> Iterator[Passage]:
    """Yield passages without an answer, none twice: the row's own in their order, then others at random."""
    wanted = [f" {words} " for words in map(english, question.answers) if words]
    seen = {question.gold.words}
    shuffled = iter(draw.sample(range(len(pool)), len(pool)))
    for passage in (*question.others, *(pool[i] for i in shuffled)):
        if passage.words not in seen and not any(answer in passage.words for answer in wanted):
            seen.add(passage.words)
            yield passage


def _index(position: int | float | None, documents: int, draw: random.Random) -> int:
    if position is None:
        return draw.randrange(documents)
    if isinstance(position, float):
        return round(position * (documents - 1))
    if not 0 <= position < documents:
        fix = f"is none of the {documents} documents; they are numbered from 0 (or give a share, as 0.5)"
        raise InputError("gold_position", position, fix)
    return position


def _question(row: Row) -> _Question:
    passages = row.value.get("ctxs")
    if not isinstance(passages, list) or not passages:
        raise InputError(row.where, passages, "has no list of passages in `ctxs`; it needs one")
    if not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in passages):
        raise InputError(row.where, None, "has a passage without a `text` in `ctxs`")
    gold = [p for p in passages if p.get("isgold")] or (passages if len(passages) == 1 else [])
    if not gold:
        raise InputError(row.where, None, "has no passage with `isgold` among its `ctxs`")
    others = [_passage(p) for p in passages if p is not gold[0]]
    return _Question(row, row.text("question"), row.texts("answers"), _passage(gold[0]), others)


def _passage(value: Mapping[str, Any]) -> Passage:
    title, text = str(value.get("title") or ""), str(value["text"])
    return Passage(title, text, f" {english(f'{title} {text}')} ")


def _join(passages: Sequence[Passage]) -> str:
    return "\n\n".join(
        f"[{number}] {passage.title}: {passage.text}" if passage.title else f"[{number}] {passage.text}"
        for number, passage in enumerate(passages, 1)
    )
