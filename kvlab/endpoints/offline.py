"""vLLM's offline ``LLM`` in this process, one generation at a time: measured, then labelled by evidence.

There is no stream. A generation is handed back when it is complete, so its first token is seen only
where it is also its last: a TTFT is taken by generating one token. Of a longer generation only the
end is ours to stamp; when its first token came, the engine alone knows (`ServerView`).
"""

import importlib.util
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kvlab import paths
from kvlab.endpoints.connect import Identity
from kvlab.endpoints.counter import TokenizerCounter
from kvlab.endpoints.facts import Fact
from kvlab.endpoints.metrics import Scrape, ServerView, difference
from kvlab.errors import InputError
from kvlab.evidence import Evidence, classify
from kvlab.records import Recorded
from kvlab.serving.in_process import InProcess
from kvlab.serving.launch import ServerSpec, server_spec
from kvlab.serving.model import Model, resolve_model
from kvlab.settings import Settings
from kvlab.taxonomy import ErrorType
from kvlab.timing.clock import now_ns
from kvlab.timing.request import Failure, Measurement
from kvlab.timing.stamps import Stamps
from kvlab.timing.stream import Generation


@dataclass(frozen=True)
class Call:
    """One generation to make.

    Attributes:
        request_id: Unique.
        arm: What it is meant to be (its label comes from the evidence alone).
        token_ids: The prompt.
        max_tokens: Exactly so many are generated: an end-of-text token does not end it.
        prefix_tokens: How many leading tokens were put into the cache before, on purpose, where that
            is less than the prompt (`kvlab.evidence.classify`).
        salt: ``cache_salt``; other salts share nothing.
        reset: What `OfflineEngine.reset` returned just before; ``None``: it was not called.
    """

    request_id: str
    arm: str
    token_ids: Sequence[int]
    max_tokens: int
    prefix_tokens: int | None = None
    salt: str | None = None
    reset: bool | None = None
    attempt: int = 1
    measured: bool = True


class OfflineEngine:
    """The engine of this process.

    Attributes:
        identity: What it is, and what it can prove.
        counter: Counts and makes tokens.
    """

    def __init__(self, engine: InProcess, identity: Identity) -> None:
        self._engine = engine
        self.counter = TokenizerCounter(engine.llm.get_tokenizer(), "the engine's own tokenizer")
        self.identity = identity
        self._seen: set[tuple[int, ...]] = set()

    def close(self) -> None:
        """Give the memory back."""
        self._engine.close()

    def reset(self) -> bool:
        """Tell the engine to empty its prefix cache. Returns what it answers, which proves nothing."""
        done = bool(self._engine.llm.reset_prefix_cache())
        if done:
            self._seen.clear()
        return done

    def has_seen(self, token_ids: Sequence[int]) -> bool:
        """Whether this prompt was generated from since the engine was loaded, or last reset.

        Bookkeeping for a procedure that must start anew in a new process; never evidence.
        """
        return tuple(token_ids) in self._seen

    def generate(self, call: Call) -> Recorded:
        """Generate greedily, with the engine's counters read on either side."""
        prompt: dict[str, Any] = {"prompt_token_ids": list(call.token_ids)}
        if call.salt is not None:
            prompt["cache_salt"] = call.salt
        decoding = {"temperature": 0.0, "max_tokens": call.max_tokens, "ignore_eos": True}
        before = _scrape()
        sent_utc = datetime.now(UTC).isoformat(timespec="milliseconds")
        sent_ns, output, failure = self._run(prompt, decoding)
        done_ns = now_ns()
        measurement = _measurement(sent_ns, done_ns, output, failure, call.max_tokens)
        server, evidence = ServerView(reason="there is no answer"), Evidence(reset=call.reset)
        if output is not None:
            self._seen.add(tuple(call.token_ids))
            counted = difference(before, _scrape(), len(output.prompt_token_ids)).cached_tokens
            server = _view(output, counted)
            evidence = Evidence(
                len(output.prompt_token_ids), output.num_cached_tokens, counted, reset=call.reset
            )
        return Recorded(
            request_id=call.request_id,
            arm=call.arm,
            attempt=call.attempt,
            prompt=prompt,
            decoding=decoding,
            target_tokens=len(call.token_ids),
            sent_utc=sent_utc,
            measurement=measurement,
            server=server,
            evidence=evidence,
            label=classify(evidence, self.identity.law, prefix_tokens=call.prefix_tokens),
            measured=call.measured,
        )

    def _run(self, prompt: dict[str, Any], decoding: dict[str, Any]) -> tuple[int, Any, Failure | None]:
        """Return the stamp before, the engine's output, and why there is none."""
        job = self._engine.job(prompt, decoding)
        sent_ns = now_ns()
        try:
            return sent_ns, job(), None
        except ValueError as error:
            return sent_ns, None, Failure(ErrorType.REFUSED_INPUT, _line(error))
        except Exception as error:
            return sent_ns, None, Failure(ErrorType.ENGINE_ERROR, f"{type(error).__name__}: {_line(error)}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _scrape() -> Scrape:
    """Return the engine's counters, which vLLM keeps in this process's Prometheus registry."""
    from prometheus_client import generate_latest

    return Scrape.parse(generate_latest().decode())


def _measurement(
    sent_ns: int,
    done_ns: int,
    output: Any,  # noqa: ANN401 - vLLM's RequestOutput
    failure: Failure | None,
    max_tokens: int,
) -> Measurement:
    ids = [] if output is None else list(output.outputs[0].token_ids)
    if failure is None and not ids:
        failure = Failure(ErrorType.EMPTY_OUTPUT, "the engine generated no token")
    if failure is not None:
        return Measurement(Stamps(sent_ns, done_ns=done_ns), failure=failure)
    only = done_ns if max_tokens == 1 else None  # the one token is the first and the last
    stamps = Stamps(
        sent_ns=sent_ns,
        first_token_ns=only,
        first_content_ns=only,
        last_token_ns=only,
        done_ns=done_ns,
        token_ns=() if only is None else (only,),
    )
    usage = {
        "prompt_tokens": len(output.prompt_token_ids),
        "completion_tokens": len(ids),
        "prompt_tokens_details": {"cached_tokens": output.num_cached_tokens},
        "completion_token_ids": ids,
    }
    answer = output.outputs[0]
    generation = Generation(text=answer.text, finish_reason=answer.finish_reason, usage=usage, ended=True)
    return Measurement(stamps, generation)


def _view(output: Any, counted: int | None) -> ServerView:  # noqa: ANN401 - vLLM's RequestOutput
    """Return vLLM's own times of this request: arrival to first token, queue, prefill, decoding."""
    times = output.metrics
    if times is None:
        return ServerView(cached_tokens=counted, reason="the engine keeps no request metrics")
    return ServerView(
        cached_tokens=counted,
        queue_ms=(times.scheduled_ts - times.queued_ts) * 1e3,
        prefill_ms=(times.first_token_ts - times.scheduled_ts) * 1e3,
        decode_ms=(times.last_token_ts - times.first_token_ts) * 1e3,
        server_ttft_ms=times.first_token_latency * 1e3,
    )


def _probe(engine: OfflineEngine) -> dict[str, Fact]:
    """Find out what the engine can prove: a few one-token generations, on tokens of their own."""
    text = f"{secrets.token_hex(8)} " + "A prefix cache keeps whole blocks of tokens . " * 40
    ids = engine.counter.encode(text)[: 4 * (engine.identity.block_size or 32)]

    def ask(salt: str | None = None, reset: bool | None = None) -> Recorded:
        name = f"probe-{secrets.token_hex(4)}"
        return engine.generate(Call(name, "probe", ids, 1, salt=salt, reset=reset))

    first, again, salted = ask(), ask(), ask(salt=secrets.token_hex(8))
    reset_answer = engine.reset()
    after = ask(reset=reset_answer)
    engine.reset()  # the next one to ask finds nothing of this
    cold, warm = first.evidence.usage_tokens, again.evidence.usage_tokens
    fresh, emptied = salted.evidence.usage_tokens, after.evidence.usage_tokens
    length = first.evidence.prompt_tokens
    delta = again.evidence.metrics_tokens
    return {
        "cached_tokens": Fact(
            holds=cold == 0 and bool(warm),
            why=f"num_cached_tokens went from {cold} to {warm} when a prompt was repeated",
        ),
        "metrics": Fact(holds=delta == warm, why=f"its counters say {delta} where the answer says {warm}"),
        "salt": Fact(
            holds=fresh == 0, why=f"a known prompt with a fresh cache_salt had {fresh} cached tokens"
        ),
        "reset": Fact(
            holds=reset_answer and emptied == 0,
            why=f"reset_prefix_cache() said {reset_answer}, and a known prompt then had {emptied} cached tokens",
        ),
        "tokenizer": Fact(holds=bool(ids), why=f"{engine.counter.source} made {len(ids)} tokens of a text"),
        "token_ids": Fact(
            holds=length == len(ids), why=f"a prompt of {len(ids)} token ids was counted as {length}"
        ),
    }


def _prepare(settings: Settings) -> Model:
    """Return the model, after refusing what cannot work; nothing is loaded.

    Raises:
        InputError: vLLM is not installed, or ``KVLAB_MODEL`` names no model.
    """
    if importlib.util.find_spec("vllm") is None:
        raise InputError(
            "vllm", None, "is not installed, and this experiment runs inside it; run `make setup`"
        )
    if settings.is_remote and "KVLAB_HEADLESS" not in os.environ:
        print("OPENAI_BASE_URL is not used here: this experiment runs inside a vLLM of its own")
    return resolve_model(settings.kvlab_model, cache_dir=paths.cache_dir(), say=print)


def _identity(spec: ServerSpec, engine: InProcess) -> Identity:
    return Identity(
        kind="vLLM offline",
        version=spec.engine_version,
        url="in-process",
        model=spec.model.served_name,
        revision=spec.model.revision,
        block_size=engine.block_size,
        block_size_source="cache_config",
        max_model_len=engine.max_model_len,
        flags=list(spec.flags),
    )


def open_engine(settings: Settings, check: Callable[[int | None], None]) -> OfflineEngine:
    """Load the model into this process, and find out what the engine can prove.

    Args:
        settings: ``KVLAB_MODEL`` chooses the model; an endpoint is of no concern here.
        check: Told the longest context in tokens, if it is known; raises for what does not fit.

    Raises:
        InputError: vLLM or the model is not there, or something does not fit the context.
        ServerError: vLLM could not load the model.
    """
    model = _prepare(settings)
    check(model.max_model_len)
    spec = server_spec(model, settings.extra_flags)
    print(
        f"loading {model.served_name} into {spec.engine_version} in this process; half a minute", flush=True
    )
    engine = InProcess(spec)
    try:
        check(engine.max_model_len)
        offline = OfflineEngine(engine, _identity(spec, engine))
        offline.identity = offline.identity.model_copy(update={"facts": _probe(offline)})
        return offline
    except BaseException:
        engine.close()
        raise


@contextmanager
def keep_running(settings: Settings, check: Callable[[int | None], None]) -> Iterator[None]:
    """Refuse what cannot work before a notebook's process loads the engine. Starts nothing."""
    check(_prepare(settings).max_model_len)
    yield
