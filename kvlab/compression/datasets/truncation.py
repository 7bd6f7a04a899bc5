"""Cutting the middle out of a prompt that is too long, as LongBench's ``pred.py`` does."""

from dataclasses import replace

from kvlab.compression.datasets.example import Example
from kvlab.compression.datasets.template import Template, render
from kvlab.compression.datasets.tokenizer import Tokenizer
from kvlab.errors import InputError


def middle(example: Example, template: Template, max_length_tokens: int, tokenizer: Tokenizer) -> Example:
    """Return the example with so much of its context cut out that the prompt keeps its two halves.

    The prompt is the rendered text without chat template and answer prefix. Of one of more than
    ``max_length_tokens`` tokens the first and the last ``max_length_tokens // 2`` are kept. A
    character that the cut would split is dropped, where LongBench leaves U+FFFD.

    Args:
        example: Returned as it is where it fits.
        template: What it is rendered with.
        max_length_tokens: LongBench's ``max_length``.
        tokenizer: The model's; it must be a fast one.

    Returns:
        ``meta["truncated_tokens"]`` says how many tokens of the prompt were cut out.

    Raises:
        InputError: The limit is so low that the question or the template's text would be cut.
    """
    rendered = render(example, template)
    spans = tokenizer.spans(rendered.text)
    if len(spans) <= max_length_tokens:
        return example
    half = max_length_tokens // 2
    first, last = _first_half(spans, half), _last_half(spans, half)
    start, end = len(rendered.lead), len(rendered.text) - len(rendered.question)
    if first < start or last > end:
        fix = f"leaves no room for the template and question of {example.example_id}; raise it"
        raise InputError("max_length_tokens", max_length_tokens, fix)
    context = rendered.text[start:first] + rendered.text[last:end]
    meta = dict(example.meta) | {"truncated_tokens": len(spans) - 2 * half}
    return replace(example, context=context, meta=meta)


def _first_half(spans: list[tuple[int, int]], tokens: int) -> int:
    """Return the end of the text that the first ``tokens`` tokens hold whole."""
    following = spans[tokens][0]
    # Tokens of the same character have the same span: the next one begins before this one ends.
    return min(spans[tokens - 1][1], following) if tokens else 0


def _last_half(spans: list[tuple[int, int]], tokens: int) -> int:
    """Return the beginning of the text that the last ``tokens`` tokens hold whole."""
    before = spans[len(spans) - tokens - 1][1]
    return max(spans[len(spans) - tokens][0], before) if tokens else before
