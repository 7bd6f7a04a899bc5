"""The embedded dataset: retrieval puzzles in prose, each context of an exact number of tokens."""

import random
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from kvlab.compression.datasets import prose
from kvlab.compression.datasets.example import Example, content_id
from kvlab.compression.datasets.retrieval import TASKS, Puzzle
from kvlab.compression.datasets.template import Template
from kvlab.compression.datasets.tokenizer import Tokenizer
from kvlab.endpoints.counter import TokenizerCounter
from kvlab.errors import InputError
from kvlab.prompts import exact

SOURCE = "kvlab synthetic retrieval, version 1"
TEMPLATE = Template(
    "The text below mentions secret codes or variables. Remember them; you will be asked about them.\n\n"
    "{context}\n\n{input}"
)
_GOLDEN_RATIO = (5**0.5 - 1) / 2
_SENTENCE_END = re.compile(r"[.!?] ")


def examples(
    tasks: Sequence[str],
    lengths_tokens: Sequence[int],
    n_per_length: int,
    tokenizer: Tokenizer,
    *,
    seed: int,
) -> Iterator[Example]:
    """Yield ``n_per_length`` examples of every length, the tasks in turn.

    Raises:
        InputError: A task does not exist, a length cannot hold its needles, or cannot be hit.
    """
    for task in tasks:
        if task not in TASKS:
            raise InputError("tasks", task, f"is not known; choose from {', '.join(TASKS)}")
    for length in lengths_tokens:
        for number in range(n_per_length):
            task = tasks[number % len(tasks)]
            yield example(task, length, number // len(tasks), tokenizer, seed=seed)


def example(task: str, length_tokens: int, number: int, tokenizer: Tokenizer, *, seed: int) -> Example:
    """Return one example whose context has exactly ``length_tokens`` tokens.

    Args:
        task: One of ``retrieval.TASKS``.
        length_tokens: The context's length, tokenised by itself.
        number: Which of the examples of this task and length: 0, 1, …; each is the same however
            many there are.
        tokenizer: What counts.
        seed: Of needles, depths and prose.

    Raises:
        InputError: The length cannot hold the needles, or cannot be hit with this tokenizer.
    """
    draw = random.Random(f"{seed}/{task}/{length_tokens}/{number}")  # noqa: S311 - puzzles, not cryptography
    puzzle = TASKS[task](draw)
    if len(puzzle.needles) == 1:
        first = random.Random(f"{seed}/{task}/{length_tokens}").random()  # noqa: S311
        # Multiples of the golden ratio: evenly spread depths, for any number of examples.
        depths = [(first + number * _GOLDEN_RATIO) % 1]
    else:
        depths = sorted(draw.random() for _ in puzzle.needles)
    context = _context(puzzle, depths, length_tokens, tokenizer, draw.randrange(2**32))
    content = (puzzle.question, context, puzzle.answers)
    meta = {
        "task": task,
        "language": "en",
        "context_id": content_id("c", context),
        "source": SOURCE,
        "answer_mode": "all",
        "metric": "contains",
        "answer_prefix": puzzle.answer_prefix,
        "answer_pattern": puzzle.answer_pattern,
        "max_new_tokens": puzzle.max_new_tokens,
        "first_line_only": False,  # RULER's string_match looks at the whole answer
        "depths": [round(depth, 4) for depth in depths],
    }
    return Example(content_id(task, *content), puzzle.question, context, puzzle.answers, meta)


def _context(puzzle: Puzzle, depths: list[float], length: int, tokenizer: Tokenizer, seed: int) -> str:
    counter = TokenizerCounter(tokenizer.hf, tokenizer.name)
    needles = counter({"prompt": _hide(puzzle.needles, depths, "")})
    if length < needles:
        raise InputError("lengths_tokens", length, f"is below the {needles} tokens of the needles; raise it")
    # Enough prose for tokenizers of up to twelve characters a token.
    text = prose.prose(seed, 12 * length)
    names = exact.Names("lengths_tokens", "the prose")
    fitted = exact.fit(
        lambda cut: {"prompt": _hide(puzzle.needles, depths, cut)}, text, length, counter, names
    )
    context = str(fitted.prompt["prompt"])
    got = tokenizer.count(context)
    if got != length:
        fix = f"cannot be hit with the tokenizer {tokenizer.name} (nearest: {got}); choose another length"
        raise InputError("lengths_tokens", length, fix)
    return context


def _hide(needles: Sequence[str], depths: Sequence[float], text: str) -> str:
    """Put each needle between two sentences of the text, at the boundary after its depth."""
    starts = [0, *(match.end() for match in _SENTENCE_END.finditer(text))]
    parts, last = list[str](), 0
    for needle, depth in zip(needles, depths, strict=True):
        start = starts[min(bisect_left(starts, depth * len(text)), len(starts) - 1)]
        parts += [text[last:start].strip(), needle]
        last = start
    return " ".join(part for part in (*parts, text[last:]) if part)
