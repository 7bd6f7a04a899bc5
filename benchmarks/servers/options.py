"""Every way in which the fake server can be told to behave, as one flat dataclass."""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

PERSONAS = ("vllm", "llamacpp", "ollama", "other")
USAGES = ("full", "no_details", "none")
RESETS = ("ok", "refuse", "lie", "absent")
FAULTS = (
    "status_401",
    "status_429",
    "status_500",
    "status_502",
    "engine_dead",  # vLLM's 500 once its engine is gone: /health says so, /v1/models goes on answering
    "status_503",
    "stall_before",  # the request is read, nothing is ever answered
    "stall_mid",
    "disconnect_before",
    "disconnect_mid",
    "malformed",  # one event whose JSON is cut short; the stream then goes on
    "no_done",  # the stream ends properly, but without `data: [DONE]`
    "error_event",  # `data: {"error": ...}` in the middle, then [DONE]
)


class OptionError(ValueError):
    """An option that does not exist, or a value that it cannot take."""


@dataclass
class Options:
    """Behaviour of the server; all fields can be changed at run time through POST /_control."""

    # Identity and limits
    model: str = "fake"
    persona: str = "vllm"
    max_model_len: int = 8192
    require_key: str = ""  # when set, any other Bearer token is answered 401, with that token in the message

    # Prefix cache
    block_size: int = 16
    capacity_blocks: int = 0  # 0: unlimited
    prefix_caching: bool = True
    law: dict[str, Any] = field(default_factory=dict)  # fields of CacheLaw; empty: whole blocks
    policy: str = "leaf_first"  # with a law: which unit goes first
    ttl_s: float = 0.0  # with a law: units are lost when idle so long; 0: never
    warm_prompts: list[Any] = field(default_factory=list)  # strings, token-id lists or message lists
    honour_salt: bool = True  # off: cache_salt is accepted and ignored
    salt_rejected: bool = False
    token_ids: bool = True  # off: token-id prompts are answered 400
    message_tokens: int = 0  # more tokens for each message, so that an estimate by characters is off
    truncates: bool = False  # what is too long is cut at its start, silently, as Ollama does
    template_prefix_tokens: int = 0  # a system prompt of the server's own, shared by all chats

    # Emission schedule
    base_ms: float = 20.0
    ms_per_uncached_token: float = 0.0
    itl_ms: float = 5.0
    output_tokens: int = 16
    schedule_ms: list[float] = field(default_factory=list)  # explicit: time to first token, then gaps
    max_running: int = 0  # 0: no queue; otherwise later requests wait, first come first served
    answer_first: int = (
        0  # 0: all; otherwise only so many are answered, and later ones wait until this is raised
    )

    # Shape of the stream
    role_chunk_lead_ms: float = 0.0
    reasoning_tokens: int = 0
    reasoning_field: str = "reasoning"
    empty_chunks: int = 0  # so many empty-content chunks before every token, halfway through its gap
    silent_tokens: int = 0  # so many tokens without text (special ones, half characters) open an answer
    coalesce: int = 1  # so many SSE events in one write
    split: bool = False  # every write in two pieces
    split_gap_ms: float = 1.0

    # Silence and lies
    usage: str = "full"
    lying_usage: str = ""  # "zero", or a constant such as "+16" added to cached_tokens
    custom_metric_field: str = ""  # dotted path that carries the true number of cached tokens
    kv_field: str = ""  # dotted path that carries how many prompt entries the KV cache kept
    kv_ignores: bool = False  # the request's kv_budget is accepted, and all entries are kept
    metrics: bool = True
    tokenize: bool = True
    version: bool = True
    reset: str = "ok"

    # Faults: {"3": "stall_mid"} strikes the third generation request after the plan was set
    faults: dict[str, str] = field(default_factory=dict)
    fault_rate: float = 0.0
    fault_kind: str = "status_500"
    fault_seed: int = 0
    fault_after_tokens: int = 2
    retry_after_s: int = 1

    record_chunks: bool = False

    # OpenAI's batch API: {"3": 500} fails the fourth request of a batch
    batch_api: bool = False
    batch_ms: float = 300.0
    batch_faults: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises OptionError when a value makes no sense."""
        _one_of("persona", self.persona, PERSONAS)
        _one_of("usage", self.usage, USAGES)
        _one_of("reset", self.reset, RESETS)
        for kind in (self.fault_kind, *self.faults.values()):
            _one_of("fault", kind, FAULTS)
        _one_of("reasoning_field", self.reasoning_field, ("reasoning", "reasoning_content"))
        if self.lying_usage not in ("", "zero"):
            int(self.lying_usage)
        for name in ("block_size", "coalesce", "output_tokens", "max_model_len"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise OptionError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def changed(options: Options, changes: dict[str, Any]) -> Options:
    """The options with `changes` applied; the given ones stay as they are."""
    unknown = changes.keys() - {f.name for f in dataclasses.fields(Options)}
    if unknown:
        raise OptionError(f"unknown option: {', '.join(sorted(unknown))}")
    return dataclasses.replace(options, **changes)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag for each option; lists and dicts are written as JSON."""
    parser.add_argument(
        "--options", type=json.loads, default={}, metavar="JSON", help="several options at once"
    )
    for option in dataclasses.fields(Options):
        default = getattr(Options(), option.name)
        flag = "--" + option.name.replace("_", "-")
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None)
        elif isinstance(default, (list, dict)):
            parser.add_argument(flag, type=json.loads, metavar="JSON")
        else:
            parser.add_argument(flag, type=type(default))


def from_arguments(arguments: argparse.Namespace) -> Options:
    """Flags win over --options."""
    flags = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(Options)}
    return changed(Options(), {**arguments.options, **{k: v for k, v in flags.items() if v is not None}})
