"""From an example to a prompt, cut where the context ends.

The cut is where a question-agnostic policy compresses: everything before it is prefilled and
compressed, then the question arrives. kvpress cuts at the same place (its text-generation
pipeline): the chat-templated text is split at the end of the context, and the two parts are
tokenised apart.
"""

import string
from dataclasses import dataclass
from typing import NamedTuple

from kvlab.compression.datasets.example import Example, canonical_json, content_id
from kvlab.compression.datasets.tokenizer import Tokenizer
from kvlab.errors import InputError


@dataclass(frozen=True)
class Template:
    """A prompt with ``{context}`` and, after it, ``{input}`` (the names that LongBench uses).

    Attributes:
        text: The template; literal braces are doubled, as in ``str.format``.
        chat: Whether the prompt goes into the tokenizer's chat template.
        origin: ``kvlab``, ``longbench`` (read from LongBench's own file) or ``user``.
    """

    text: str
    chat: bool = True
    origin: str = "kvlab"

    def parts(self) -> tuple[str, str, str | None]:
        """Return the text before the context, between context and question, and after the question.

        The last is None in a template without ``{input}`` (LongBench's summaries).

        Raises:
            InputError: The template has other fields, or has them in another order.
        """
        try:
            parsed = list(string.Formatter().parse(self.text))
        except ValueError as error:
            fix = f"is no template ({error}); use {{context}} and {{input}}, and double other braces"
            raise InputError("template", self.text, fix) from None
        literals, fields = [""], list[str]()
        for literal, field, spec, conversion in parsed:
            literals[-1] += literal
            if field is not None:
                fields.append(field + (f":{spec}" if spec else "") + (f"!{conversion}" if conversion else ""))
                literals.append("")
        if fields not in (["context"], ["context", "input"]):
            fix = f"has the fields {fields}; it needs {{context}} once and then {{input}} once"
            raise InputError("template", self.text, fix)
        return literals[0], literals[1], literals[2] if len(fields) == 2 else None


class Rendered(NamedTuple):
    """A prompt in its parts, before tokenisation.

    Attributes:
        lead: The template's text before the context.
        context: The example's context.
        question: Everything after it: the template's text and the question.
        answer_prefix: The beginning of the answer that the model is given; may be empty.
        chat: Whether the chat template goes around it.
    """

    lead: str
    context: str
    question: str
    answer_prefix: str
    chat: bool

    @property
    def text(self) -> str:
        """The prompt as plain text, without chat template and answer prefix (what LongBench truncates)."""
        return f"{self.lead}{self.context}{self.question}"


def render(example: Example, template: Template) -> Rendered:
    """Put an example into a template.

    Raises:
        InputError: The template is malformed, or has no place for the example's question.
    """
    lead, middle, end = template.parts()
    if end is None and example.question:
        raise InputError("template", template.text, "has no {input}, and the examples have questions")
    question = middle if end is None else f"{middle}{example.question}{end}"
    return Rendered(
        lead, example.context, question, str(example.meta.get("answer_prefix") or ""), template.chat
    )


def token_ids(
    rendered: Rendered, tokenizer: Tokenizer, *, context: bool = True
) -> tuple[list[int], list[int]]:
    """Return the ids before and after the point where a question-agnostic policy compresses.

    Args:
        rendered: The prompt.
        tokenizer: The model's.
        context: False leaves the example's context out, for the control that shows what the model
            answers without having read anything.

    Returns:
        Chat header, lead and context; question, end of the user's turn, opening of the assistant's
        turn and answer prefix. Both together are the prompt; BOS stands once, in the first, whether
        it comes from the chat template or from the tokenizer. Without context, chat template and
        BOS the first may be empty.
    """
    body = rendered.lead + (rendered.context if context else "")
    frame = tokenizer.frame if rendered.chat else None
    if frame is None:
        # As LongBench does without a chat template: the tokenizer's own special tokens, nothing after.
        tail = rendered.question + (f"\n{rendered.answer_prefix}" if rendered.answer_prefix else "")
        return tokenizer.start_ids + tokenizer.encode(body), tokenizer.encode(tail)
    head = tokenizer.encode(frame.header + body)
    return head, tokenizer.encode(rendered.question + frame.tail + rendered.answer_prefix)


def plain(rendered: Rendered, *, context: bool = True) -> str:
    """Return the prompt as one text, for a task without a chat template; `token_ids` makes the same tokens."""
    text = rendered.lead + (rendered.context if context else "") + rendered.question
    return f"{text}\n{rendered.answer_prefix}" if rendered.answer_prefix else text


def messages(rendered: Rendered, *, prefill: bool = False, context: bool = True) -> list[dict[str, str]]:
    """Return the prompt as chat messages.

    Args:
        rendered: The prompt.
        prefill: The endpoint continues a last message of the assistant's; else the answer prefix
            stands at the end of the user's text.
        context: False leaves the context out.
    """
    if not (prefill and rendered.answer_prefix):
        return [{"role": "user", "content": plain(rendered, context=context)}]
    text = rendered.lead + (rendered.context if context else "") + rendered.question
    return [
        {"role": "user", "content": text},
        {"role": "assistant", "content": rendered.answer_prefix},
    ]


def template_hash(template: Template) -> str:
    """Return ``{origin}-{16 hexadecimal digits}``: the digits name text and chat wrap, whoever wrote it."""
    return content_id(template.origin, canonical_json([template.text, template.chat]))
