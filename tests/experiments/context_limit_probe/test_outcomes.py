import pytest

from kvlab.experiments.context_limit_probe.outcomes import ProbeOutcome, Seen, classify, stated_maximum
from kvlab.taxonomy import ErrorType
from kvlab.timing.request import Failure

#: What servers say, as they say it.
VLLM = "This model's maximum context length is 8192 tokens. However, your prompt contains at least 8193 input tokens"
VLLM_NO_ROOM = "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"
LLAMA = "the request exceeds the available context size (4096 tokens), try increasing it"
OPENAI = (
    "This model's maximum context length is 128,000 tokens. However, your messages resulted in 130000 tokens."
)
TORCH = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.70 GiB"
CPU = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 147968 bytes"
OLLAMA_STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
OLLAMA_MEMORY = "model requires more system memory (5.6 GiB) than is available (3.1 GiB)"
OLLAMA_KILLED = "llama runner process has terminated: signal: killed"
ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
TGI = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4100 `inputs` tokens and 20 `max_new_tokens`"
TGI_INPUTS = "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000"
SLOT = "failed to find a memory slot for batch of size 512"


def failure(message, kind=ErrorType.REFUSED_INPUT):
    return Failure(kind, message)


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (Seen(100, counted_tokens=100), ProbeOutcome.HELD),
        (Seen(100, counted_tokens=None), ProbeOutcome.HELD),
        (Seen(100, counted_tokens=100, preemptions=1), ProbeOutcome.CACHE_EXHAUSTED),
        (Seen(5000, counted_tokens=4096, least_tokens=5000), ProbeOutcome.TRUNCATED),
        (Seen(5000, counted_tokens=4800, least_tokens=4700.5), ProbeOutcome.HELD),
        (
            Seen(100, failure("no token", ErrorType.EMPTY_OUTPUT), counted_tokens=100, least_tokens=100),
            ProbeOutcome.HELD,
        ),
        (Seen(100, failure("no token", ErrorType.EMPTY_OUTPUT)), ProbeOutcome.SERVER_ERROR),
        (Seen(8193, failure(VLLM)), ProbeOutcome.REFUSED),
        (Seen(8192, failure(VLLM_NO_ROOM), room_tokens=8191), ProbeOutcome.REFUSED),
        (Seen(5000, failure(LLAMA)), ProbeOutcome.REFUSED),
        (Seen(130_000, failure(OPENAI)), ProbeOutcome.REFUSED),
        (Seen(9000, failure(TORCH, ErrorType.ENGINE_ERROR)), ProbeOutcome.OUT_OF_MEMORY),
        (Seen(9000, failure(CPU, ErrorType.ENGINE_ERROR)), ProbeOutcome.OUT_OF_MEMORY),
        (Seen(9000, failure(SLOT, ErrorType.ENGINE_ERROR)), ProbeOutcome.CACHE_EXHAUSTED),
        (Seen(9000, failure("no answer in 3 s", ErrorType.TIMEOUT)), ProbeOutcome.TIMEOUT),
        (
            Seen(9000, failure("connection reset", ErrorType.ENGINE_ERROR), alive=False),
            ProbeOutcome.SERVER_DIED,
        ),
        (Seen(9000, failure(OLLAMA_STOPPED, ErrorType.ENGINE_ERROR)), ProbeOutcome.SERVER_DIED),
        (Seen(9000, failure(OLLAMA_MEMORY, ErrorType.ENGINE_ERROR)), ProbeOutcome.OUT_OF_MEMORY),
        (Seen(9000, failure(OLLAMA_KILLED, ErrorType.ENGINE_ERROR)), ProbeOutcome.SERVER_DIED),
        (Seen(9000, failure(ENGINE_DEAD, ErrorType.ENGINE_ERROR)), ProbeOutcome.SERVER_DIED),
        (Seen(9000, failure("Internal Server Error", ErrorType.ENGINE_ERROR)), ProbeOutcome.SERVER_ERROR),
        (Seen(9000, failure("Bad Gateway", ErrorType.ENGINE_ERROR)), ProbeOutcome.SERVER_ERROR),
        (Seen(9000, failure("the request took too long", ErrorType.ENGINE_ERROR)), ProbeOutcome.TIMEOUT),
        (Seen(4100, failure(TGI)), ProbeOutcome.REFUSED),
        (Seen(5000, failure(TGI_INPUTS)), ProbeOutcome.REFUSED),
        (Seen(8193, failure(VLLM), alive=False), ProbeOutcome.REFUSED),
        (Seen(9000, failure("no answer in 3 s", ErrorType.TIMEOUT), alive=False), ProbeOutcome.TIMEOUT),
    ],
)
def test_each_failure_has_its_name(seen, outcome):
    assert classify(seen) is outcome


@pytest.mark.parametrize(
    "seen",
    [
        Seen(100, failure("slow down", ErrorType.RATE_LIMITED)),
        Seen(100, failure("unknown field: stream_options"), room_tokens=8191),
        Seen(100, failure(VLLM_NO_ROOM), room_tokens=8191),
    ],
)
def test_a_failure_that_says_nothing_of_the_length_is_no_limit(seen):
    assert classify(seen) is None


@pytest.mark.parametrize(
    ("message", "maximum"),
    [
        (VLLM, 8192),
        (LLAMA, 4096),
        (OPENAI, 128_000),
        ("prompt is too long: n_ctx = 2048", 2048),
        (TGI, 4096),
        (VLLM_NO_ROOM, None),
        (TORCH, None),
        ("These messages are too big for us: 2604 counted, 2000 permitted", 2000),
        ("Request too large: Limit 30000, requested 34567", 30_000),
        ("context length error 20035", None),
        ("context length exceeded (code 40013)", None),
        ("context length 9000 exceeds what this model takes", None),
        ("context window: requested 9000", None),
        ("the maximum context is 12.5 pages", None),
    ],
)
def test_the_maximum_that_a_refusal_states(message, maximum):
    assert stated_maximum(message) == maximum


@pytest.mark.parametrize(
    ("known", "maximum"),
    [
        ({}, 8192),
        ({"held_tokens": 8192, "asked_tokens": 9000}, 8192),
        ({"held_tokens": 8193}, None),
        ({"asked_tokens": 8000}, None),
        ({"repeated": {8192}}, None),
    ],
)
def test_a_number_that_cannot_be_the_maximum_is_none(known, maximum):
    """Smaller than what was accepted, larger than what was refused, or what was asked for said again."""
    assert stated_maximum("maximum context length is 8192 tokens", **known) == maximum
