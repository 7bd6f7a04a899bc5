"""Any OpenAI-compatible endpoint, one request at a time: measured, then labelled by evidence."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from kvlab import paths
from kvlab.endpoints import connect as endpoint
from kvlab.endpoints import learned, probe, proof
from kvlab.endpoints.answer import evidence_of
from kvlab.endpoints.connect import Connection, Identity
from kvlab.endpoints.counter import CalibratedCounter, Counter
from kvlab.endpoints.facts import Fact
from kvlab.endpoints.identify import identify
from kvlab.endpoints.metrics import ServerView
from kvlab.evidence import Evidence, classify, usage_evidence, zero_judged
from kvlab.records import Recorded
from kvlab.settings import Settings
from kvlab.timing.request import Measurement


@dataclass(frozen=True)
class Call:
    """One request to make.

    Attributes:
        request_id: Unique; sent as ``X-Request-Id``.
        arm: What it is meant to be (its label comes from the evidence alone).
        prompt: ``{"messages": …}`` or ``{"prompt": …}``.
        decoding: ``max_tokens``, ``temperature`` and the like.
        salt: ``cache_salt``, sent only where the server honours it.
        target_tokens: The planned length of the prompt.
        shared_tokens: Leading tokens that all prompts of the run share.
        calibrates: Whether the counter may learn from what the server counts of it: a prompt that no
            cache can know, of the kind that is counted.
    """

    request_id: str
    arm: str
    prompt: Mapping[str, Any]
    decoding: Mapping[str, Any]
    salt: str | None = None
    attempt: int = 1
    target_tokens: int | None = None
    shared_tokens: int = 0
    measured: bool = True
    calibrates: bool = False


class OpenAICompat:
    """The measuring engine of an endpoint, for concurrency 1.

    Attributes:
        identity: What answers, and what it can prove.
        counter: Counts the tokens of a prompt.
        opening: Requests that were made before the first of a run, to hold a learned law against; not measured.
    """

    def __init__(self, connection: Connection, identity: Identity, counter: Counter) -> None:
        self.connection, self.identity, self.counter = connection, identity, counter
        self.opening: list[Recorded] = []

    def close(self) -> None:
        """Give the endpoint back."""
        self.connection.close()

    def ask(self, call: Call) -> Recorded:
        """Make one request, with a scrape of the server's counters on either side of it."""
        path = "/chat/completions" if "messages" in call.prompt else "/completions"
        dialect = self.connection.dialect
        body = dialect.body(self.connection.model, call.prompt, call.decoding)
        salt = {"cache_salt": call.salt} if call.salt is not None and self.identity.can("salt") else {}
        body |= salt
        metrics = self.connection.metrics if self.identity.can("metrics") else None
        before = metrics.scrape() if metrics else None
        sent_utc = datetime.now(UTC).isoformat(timespec="milliseconds")
        measurement = self.connection.client.measure(path, body, call.request_id)
        measurement = measurement.redacted(self.connection.settings.redactor)
        known = self.identity.facts.get("metrics", Fact(why="the server has no vLLM metrics"))
        server = ServerView(reason=known.why)
        if metrics and measurement.failure is None:
            usage_tokens, _ = usage_evidence(measurement.usage)
            server = metrics.view(before, usage_tokens, measurement.stamps.latency_ms)
        evidence = self._evidence(measurement, server)
        if call.calibrates and isinstance(self.counter, CalibratedCounter):
            self.counter.observe(call.prompt, evidence.prompt_tokens)
        return Recorded(
            request_id=call.request_id,
            arm=call.arm,
            attempt=call.attempt,
            prompt=call.prompt,
            decoding={**dialect.decoding(call.decoding), **salt},
            target_tokens=call.target_tokens,
            sent_utc=sent_utc,
            measurement=measurement,
            server=server,
            evidence=evidence,
            label=classify(evidence, self.identity.law, call.shared_tokens),
            shared_tokens=call.shared_tokens,
            measured=call.measured,
        )

    def _evidence(self, measurement: Measurement, server: ServerView) -> Evidence:
        connection, counters = self.connection, self.identity.facts.get("cached_counters", Fact())
        if counters.holds is False:  # they stood still while a cache was at work: no witness
            server = replace(server, cached_tokens=None, reason=counters.why)
        evidence = evidence_of(measurement, asked=connection.model, aliases=connection.aliases, server=server)
        return zero_judged(evidence, proof.nothing_reused(self.identity))


def open_engine(
    settings: Settings, check: Callable[[int | None], None], embedded_flags: Sequence[str] = ()
) -> OpenAICompat:
    """Connect to the configured endpoint, or the embedded server, and find out what it can prove.

    Args:
        settings: Which endpoint.
        check: Told the longest context in tokens, if it is known; raises for what does not fit.
        embedded_flags: More flags of vLLM, where it is the embedded server.

    Raises:
        InputError: The endpoint, the key or the model is wrong.
        ServerError: The embedded server did not start.
    """
    connection = endpoint.connect(settings, embedded_flags)
    try:
        identity = identify(connection)
        check(identity.max_model_len)
        identity = probe.probe(connection, identity)
        counter = probe.counter(connection, identity)
        identity = identity.model_copy(
            update={"facts": {**identity.facts, "prompt_lengths": _lengths(counter)}}
        )
        # What a server says of itself goes into the manifest and the report: without a key that it echoes.
        identity = Identity.model_validate(settings.redactor.value(identity.model_dump()))
        engine = OpenAICompat(connection, identity, counter)
        learned.check(engine)
        return engine
    except BaseException:
        connection.close()
        raise


def _lengths(counter: Counter) -> Fact:
    if counter.exact:
        return Fact(holds=True, why=f"prompts are counted by {counter.source}")
    why = f"prompts are cut by an estimate ({counter.source}); each row has its target and the server's count"
    return Fact(holds=False, why=why)


@contextmanager
def keep_running(
    settings: Settings, check: Callable[[int | None], None], embedded_flags: Sequence[str] = ()
) -> Iterator[None]:
    """Keep the endpoint up for a notebook in another process, after refusing what cannot work on it."""
    if not settings.is_remote:
        from kvlab.serving.launch import require_linux
        from kvlab.serving.model import resolve_model  # only where it is needed: it looks for an engine

        require_linux()
        check(resolve_model(settings.kvlab_model, cache_dir=paths.cache_dir(), say=print).max_model_len)
    with endpoint.connect(settings, embedded_flags) as connection:
        check(identify(connection).max_model_len)
        yield
