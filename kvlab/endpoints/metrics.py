"""vLLM's ``/metrics``: what the server counted and timed for one request, by difference.

A difference between two scrapes belongs to one request only if, in between, exactly one request
finished, no other was being worked on, and the prompt tokens counted are those of the request itself.
Two scrapes must also come from one process: behind a router, the page and the request may have
reached different ones. Otherwise, or where a counter is missing, the figure is ``None`` and there is
a reason.
"""

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from kvlab.endpoints.pages import fetch

CACHED_SOURCES = ("local_cache_hit", "external_kv_transfer")
FINISHED = "vllm:e2e_request_latency_seconds_count"
PROMPT = "vllm:prompt_tokens_total"
#: What vLLM has called its counter of cached prompt tokens, newest first (V1 before 0.9.2 had `gpu_`).
HITS = ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits")
QUEUED = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_TIMES = {
    "queue_ms": "vllm:request_queue_time_seconds",
    "prefill_ms": "vllm:request_prefill_time_seconds",
    "decode_ms": "vllm:request_decode_time_seconds",
    "server_ttft_ms": "vllm:time_to_first_token_seconds",
}
# OpenMetrics hangs an example of a request on a sample's line, which the plain format has no room for.
_EXEMPLAR = re.compile(r" # \{[^\n]*$", re.MULTILINE)
#: More lines than any server of ours has; a page that goes on is cut there.
_MAX_SAMPLES = 200_000
#: Clocks of client and server tick apart; a server's figure beyond the client's by more is not this request's.
_SLACK_MS = 5.0


@dataclass(frozen=True)
class Scrape:
    """The samples of one scrape, summed over engines and models, and the cache configuration.

    Attributes:
        values: A sample's name, with ``{source=…}`` where it has that label, to its value. Only finite ones.
        engines: The same for each engine and model of the page apart.
        cache_config: Labels of ``vllm:cache_config_info``.
        born: When the process's counters were made (``…_created``, ``process_start_time_seconds``): two
            processes differ in it. Empty: the page does not say.
    """

    values: dict[str, float] = field(default_factory=dict)
    cache_config: dict[str, str] = field(default_factory=dict)
    engines: dict[tuple[str, ...], dict[str, float]] = field(default_factory=dict)
    born: frozenset[tuple[str, float]] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "Scrape":
        """Read the Prometheus text format, or OpenMetrics; a line that is in neither costs only itself.

        Raises:
            ValueError: Not one line of the text is in that format.
        """
        values: dict[str, float] = {}
        engines: dict[tuple[str, ...], dict[str, float]] = {}
        config: dict[str, str] = {}
        born: set[tuple[str, float]] = set()
        seen = 0
        for sample, help_text in _samples(text):
            seen += 1
            if seen > _MAX_SAMPLES:
                break
            name, labels = sample.name, sample.labels
            if name == "vllm:cache_config_info":
                config = dict(labels)
            if name.endswith("_bucket") or not math.isfinite(sample.value):
                continue
            if name.endswith("_created") or name == "process_start_time_seconds":
                born.add((f"{name}{sorted(labels.items())}", sample.value))
                continue
            if name in HITS and "blocks" in help_text:
                name = f"{name} in blocks"  # as vLLM counted before 0.8.3; without its tokens it is of no use
            source = labels.get("source")
            name = f"{name}{{source={source}}}" if source else name
            values[name] = values.get(name, 0.0) + sample.value
            own = engines.setdefault(tuple(labels.get(key, "") for key in _ENGINE), {})
            own[name] = own.get(name, 0.0) + sample.value
        if not seen and text.strip():
            raise ValueError("not one line is in the Prometheus format")
        return cls(values, config, engines, frozenset(born))

    @property
    def finished(self) -> float | None:
        """How many requests have finished since the server started."""
        return self.values.get(FINISHED)

    def cached_tokens(self) -> float | None:
        """Prompt tokens taken from a cache since the server started; ``None``: not counted."""
        return cached_of(self.values)

    def busy(self) -> float | None:
        """How many requests are being worked on or wait; ``None``: the page does not say."""
        found = [self.values[name] for name in QUEUED if name in self.values]
        return sum(found) if found else None

    def block_size(self) -> int | None:
        """Tokens in one block of the prefix cache, as the server states it; ``None``: no such number."""
        for key in ("hash_block_size", "effective_attention_block_size", "block_size"):
            text = self.cache_config.get(key, "")
            if text.isascii() and text.isdecimal() and int(text[:9]) > 0 and len(text) < 9:
                return int(text)
        return None

    def falls_behind(self, earlier: "Scrape") -> bool:
        """Whether it cannot be a later page of the process that ``earlier`` is of: a counter is lower, or younger."""
        if self.born and earlier.born and not self.born >= earlier.born:
            return True
        return any(self.values.get(n, v) < v for n, v in earlier.values.items() if _only_grows(n))


_ENGINE = ("engine", "model_name", "instance", "pod", "server")


def _only_grows(name: str) -> bool:
    return name.startswith("vllm:") and name.partition("{")[0].endswith(("_total", "_count"))


def cached_of(values: Mapping[str, float]) -> float | None:
    """Return the cached prompt tokens among counters (`Scrape.values`); ``None``: not counted."""
    name = "vllm:prompt_tokens_by_source_total"
    found = [values[key] for source in CACHED_SOURCES if (key := f"{name}{{source={source}}}") in values]
    if found:
        return sum(found)
    return next((values[name] for name in HITS if name in values), None)


def _samples(text: str) -> Iterator[tuple[Sample, str]]:
    """Yield the samples, each with its family's help; of a page that is not whole, those that are."""
    text = _EXEMPLAR.sub("", text)
    try:
        yield from _strict(text)
    except (ValueError, KeyError, IndexError):
        for line in text.splitlines():
            with contextlib.suppress(ValueError, KeyError, IndexError):
                if line and not line.startswith("#"):
                    yield from _strict(line)


def _strict(text: str) -> list[tuple[Sample, str]]:
    return [
        (s, family.documentation) for family in text_string_to_metric_families(text) for s in family.samples
    ]


@dataclass(frozen=True)
class ServerView:
    """One request as the server saw it; ``None`` where it does not say, with the ``reason``."""

    cached_tokens: int | None = None
    queue_ms: float | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None
    server_ttft_ms: float | None = None
    reason: str | None = None


class Metrics:
    """The ``/metrics`` page of one server.

    Attributes:
        several: Why the page is that of several processes; ``None``: nothing speaks for it so far.
    """

    def __init__(self, http: httpx.Client, url: str) -> None:
        self._http, self._url = http, url
        self._last: Scrape | None = None
        self.several: str | None = None
        self.why: str | None = None

    def scrape(self) -> Scrape | None:
        """Return what the page says now, or ``None`` where there is no such page (`why`)."""
        page = fetch(self._http, self._url, timeout_s=5.0, patience_s=0.0)
        if not page.ok:
            self.why = page.why or f"HTTP {page.status}"
            return None
        try:
            found = Scrape.parse(page.text)
        except ValueError:
            self.why = "it is no page of Prometheus counters"
            return None
        if self._last is not None and found.falls_behind(self._last):
            self.several = (
                "its counters went back: several processes answer it, or the server was started anew"
            )
        self._last = found
        return found

    def view(
        self,
        before: Scrape | None,
        prompt_tokens: int | None = None,
        latency_ms: float | None = None,
        *,
        wait_s: float = 1.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> ServerView:
        """Return the difference to ``before``, taken after a request has finished.

        The server counts a request a moment after its last byte, so this waits for that.

        Args:
            before: The page just before it was sent.
            prompt_tokens: Its prompt's length as its own answer has it; ``None``: it does not say.
            latency_ms: How long it took, on the client's clock.
            wait_s: How long to wait for the server to count it, in seconds.
            sleep: Waits.
        """
        if before is None or before.finished is None:
            return ServerView(reason="the server has no vLLM metrics")
        deadline = time.monotonic() + wait_s
        while True:
            after = self.scrape()
            if after is None or after.finished is None:
                return ServerView(reason="the metrics went away during the request")
            settled = after.finished > before.finished and not after.busy()
            if settled or self.several or time.monotonic() >= deadline:
                break
            sleep(0.02)
        if self.several:
            return ServerView(reason=f"/metrics cannot be assigned: {self.several}")
        return difference(before, after, prompt_tokens, latency_ms)


def difference(
    before: Scrape, after: Scrape, prompt_tokens: int | None = None, latency_ms: float | None = None
) -> ServerView:
    """Return what the server counted between two scrapes, if that was one request, and this one."""
    if after.falls_behind(before):
        return ServerView(reason="the two pages of metrics are of different processes")
    others = max(before.busy() or 0, after.busy() or 0)
    if others > 0:
        return ServerView(
            reason=f"{others:.0f} other requests were being worked on, so they cannot be told apart"
        )
    finished = (after.finished or 0) - (before.finished or 0)
    if finished != 1:
        return ServerView(reason=f"{finished:.0f} requests finished meanwhile, so they cannot be told apart")
    counted = _delta(PROMPT, before.values, after.values)
    if prompt_tokens is not None and counted is not None and counted != prompt_tokens:
        text = f"{counted:.0f} prompt tokens were counted meanwhile, where this request has {prompt_tokens}"
        return ServerView(reason=f"{text}: somebody else's request, or another server's page")
    old, new = before.cached_tokens(), after.cached_tokens()
    cached = round(new - old) if old is not None and new is not None else None
    reason = None if cached is not None else "the server does not count cached prompt tokens"
    times = {name: _mean_ms(metric, before, after) for name, metric in _TIMES.items()}
    return _plausible(ServerView(cached_tokens=cached, reason=reason, **times), latency_ms)


def _plausible(view: ServerView, latency_ms: float | None) -> ServerView:
    """Take back the times of a request that the server had for longer than the client waited."""
    times = [view.queue_ms, view.prefill_ms, view.decode_ms]
    spent = sum(value for value in times if value is not None)
    if latency_ms is None or spent <= latency_ms + _SLACK_MS:
        return view
    text = f"the server counts {spent:.0f} ms of work on a request that took {latency_ms:.0f} ms"
    none: dict[str, float | None] = dict.fromkeys(_TIMES)
    return replace(view, **none, cached_tokens=None, reason=f"{text}: it is another's")


def _delta(name: str, before: Mapping[str, float], after: Mapping[str, float]) -> float | None:
    return after[name] - before[name] if name in before and name in after else None


def _mean_ms(metric: str, before: Scrape, after: Scrape) -> float | None:
    total = _delta(f"{metric}_sum", before.values, after.values)
    count = after.values.get(f"{metric}_count", 0) - before.values.get(f"{metric}_count", 0)
    return total * 1e3 if total is not None and count == 1 else None
