"""What all steps of a probe share while a run is open: prompts, the ledger, memory, the server's health."""

import time
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from kvlab.endpoints.counter import ServerCounter
from kvlab.endpoints.openai import Call, OpenAICompat
from kvlab.errors import KvlabError
from kvlab.experiments.context_limit_probe import material
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT, Ledger, settled
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.experiments.context_limit_probe.scale import Scale, scale_of
from kvlab.prompts import manual
from kvlab.prompts.exact import Names, fit
from kvlab.records import Recorded, Trial
from kvlab.vram import Monitor, ProcessTree, for_server, server_pid, timeline
from kvlab.vram.cache_usage import CacheUsage, capacity

if TYPE_CHECKING:
    from kvlab.session import Lab

_BENCHES: "weakref.WeakKeyDictionary[Lab[Any], Bench]" = weakref.WeakKeyDictionary()
_HEALTH_S = 10.0
#: Their /health is about the engine, not about the front end; a gateway may answer anything there.
_WITH_HEALTH = ("vLLM", "llama.cpp")


class Bench:
    """One open run.

    Attributes:
        ledger: What was tried.
        monitor: Looks at the server's memory in the background.
        mark: The marker of the growing context, the same in all sessions of a run.
        results: Ids of requests whose failure is what their trial set out to find.
        tries: How often each trial was begun in this session.
    """

    def __init__(self, lab: "Lab[ContextLimitProbeParams]") -> None:
        self.params, self.engine, self.run = lab.params, lab.engine, lab.run
        self.identity = lab.identity
        self.mark = manual.marker(lab.run.isolation_id, "growing context")
        self.ledger = Ledger(lab.run.database, lab.run.session_id)
        connection = self.engine.connection
        lease, url = connection.embedded, connection.target.base_url
        self.server_pid = server_pid(url, None if lease is None else int(lease.pid))
        samplers = for_server(url, self.server_pid)
        if self.server_pid is not None:
            samplers[0] = ProcessTree(self.server_pid, prefix="server")
        if self.identity.can("metrics"):
            # A client of its own, which gives up early: looking at memory must not wait for a busy server.
            http = httpx.Client(headers=dict(connection.http.headers), timeout=2.0, trust_env=False)
            size = capacity(connection.metrics.scrape())["bytes"]
            samplers.append(CacheUsage(http, f"{connection.root}/metrics", size))
        self.monitor = Monitor(samplers, interval_s=self.params.memory_interval_ms / 1e3).start()
        self._stream: list[int] = []
        self.results: set[str] = set()
        self.tries: Counter[str] = Counter()

    @contextmanager
    def watched(self, trial: Trial, attempt: int) -> Iterator[None]:
        """Mark a trial in the memory timeline, and store what was seen when it ends."""
        with self.monitor.window(trial.trial_id, attempt) as window:
            yield
        timeline.record(self.run.database, self.run.session_id, self.monitor, [window])

    @property
    def exact(self) -> bool:
        """Whether prompts can be sent as token ids, and so cut anywhere."""
        counter = self.engine.counter
        return isinstance(counter, ServerCounter) and self.identity.can("token_ids")

    def prompt(self, messages: list[material.Message], answer_prefix: str = "") -> dict[str, Any]:
        """Return a chat as token ids where the server takes them, else as messages.

        With token ids, the answer can be begun for the model (``answer_prefix``).
        """
        if not self.exact:
            return {"messages": messages}
        ids = self.engine.counter.tokens({"messages": messages})
        if answer_prefix:
            ids += self.engine.counter.tokens({"prompt": answer_prefix, "add_special_tokens": False})
        return {"prompt": ids}

    @property
    def by_characters(self) -> bool:
        """Whether tokens can only be guessed: sizes are then characters (see `scale`)."""
        return not self.exact and not self.engine.counter.exact

    def guess(self) -> Scale | None:
        """Return what the calibrated counter makes of characters; ``None``: tokens need no guess."""
        if not self.by_characters:
            return None
        counter = self.engine.counter
        return Scale(tuple((n, counter({"prompt": "x" * n})) for n in (2000, 200_000)))

    def scale(self) -> Scale:
        """Return tokens of characters, by what was held so far (`by_characters`)."""
        guess = self.guess() or Scale(((1, 1),))
        return scale_of(settled(self.ledger.probes(ENDPOINT)), guess)

    def size(self, prompt: Mapping[str, Any]) -> int:
        """Return what the ledger compares prompts by: characters where tokens can only be guessed, else tokens."""
        if self.by_characters:
            return sum(len(message["content"]) for message in prompt["messages"])
        return self.length(prompt)

    def length(self, prompt: Mapping[str, Any]) -> int:
        """Return how many tokens a prompt has, or probably has."""
        if self.by_characters:
            return self.scale().tokens(self.size(prompt))
        return len(prompt["prompt"]) if self.exact else int(self.engine.counter(prompt))

    def cut_tokens(self, tokens: int, mark: str) -> dict[str, Any]:
        """Return a context of about ``tokens`` tokens under another marker than the growing one's."""
        return self.cut(self.scale().characters(tokens) if self.by_characters else tokens, mark)

    def cut(self, tokens: int, mark: str | None = None) -> dict[str, Any]:
        """Return the growing context cut to a size: exactly, where the server takes token ids.

        ``mark``: another marker than the growing context's makes one that shares nothing with it.
        """
        if self.by_characters:
            return {"messages": self._cut_messages(tokens, mark or self.mark)}
        if not self.exact:
            return self._cut_text(tokens, mark or self.mark)
        if mark is not None:
            return {"prompt": self._long_stream(tokens, mark)[:tokens]}
        if len(self._stream) < tokens:
            self._stream = self._long_stream(tokens, self.mark)
        return {"prompt": self._stream[:tokens]}

    def _long_stream(self, tokens: int, mark: str) -> list[int]:
        count, ids = 1 + tokens // 100, list[int]()
        while len(ids) < tokens:
            ids = list(self.prompt(self.conversation(count, mark))["prompt"])
            count *= 2
        return ids

    def _cut_messages(self, characters: int, mark: str) -> list[material.Message]:
        """Return whole exchanges, and of the next one as much as is left, as one request."""
        params = self.params
        messages = [material.system(mark, params.needles, params.text_seed)]
        left, count = characters - len(messages[0]["content"]), 0
        while True:
            ask, reply = material.exchange(params.growth, params.text_seed, count)
            both = len(ask["content"]) + len(reply["content"])
            if left <= both:
                text = f"{ask['content']} {reply['content']}"[: max(1, left)]
                return [*messages, {"role": "user", "content": text}]
            messages, left, count = [*messages, ask, reply], left - both, count + 1

    def _cut_text(self, tokens: int, mark: str) -> dict[str, Any]:
        filler = " ".join(
            message["content"]
            for message in material.history(self.params.growth, self.params.text_seed, 8 + tokens // 40)
        )
        head = material.system(mark, self.params.needles, self.params.text_seed)

        def build(text: str) -> dict[str, Any]:
            return {"messages": [head, {"role": "user", "content": text}]}

        counter = self.engine.counter
        names = Names("the context's size", "the context")
        return dict(fit(build, filler, max(tokens, counter(build(""))), counter, names).prompt)

    def conversation(self, count: int, mark: str | None = None) -> list[material.Message]:
        """Return the growing context with ``count`` exchanges and the next request."""
        params = self.params
        return material.conversation(
            mark or self.mark, params.needles, params.growth, params.text_seed, count
        )

    def ask(
        self,
        trial: Trial,
        attempt: int,
        arm: str,
        prompt: Mapping[str, Any],
        max_tokens: int,
        target: int | None = None,
    ) -> Recorded:
        """Make one request of a trial, after making sure that the server is there to be asked.

        Raises:
            KvlabError: It is not there, and did not come back.
        """
        self.wait_for_server()
        engine: OpenAICompat = self.engine
        tag = f"{trial.trial_id}.s{self.run.session_id}.a{attempt}.{arm}"
        return engine.ask(
            Call(
                request_id=tag,
                arm=arm,
                prompt=prompt,
                decoding={"max_tokens": max_tokens, "temperature": 0.0},
                attempt=attempt,
                target_tokens=target,
            )
        )

    def alive(self) -> bool:
        """Whether the server answers its own pages, and does not say on /health that its engine is gone."""
        connection = self.engine.connection
        if connection.embedded is not None and not connection.embedded.alive():
            return False
        try:
            pages = [f"{connection.target.base_url}/models"]
            if self.identity.kind in _WITH_HEALTH:
                pages.append(f"{connection.root}/health")
            return all(connection.http.get(page, timeout=_HEALTH_S).status_code < 500 for page in pages)
        except httpx.HTTPError:
            return False

    def wait_for_server(self) -> None:
        """Wait until the server answers, at most ``recover_s``.

        Raises:
            KvlabError: It does not.
        """
        deadline, said = time.monotonic() + self.params.recover_s, False
        while not self.alive():
            embedded = self.engine.connection.embedded
            if time.monotonic() >= deadline or (embedded is not None and not embedded.alive()):
                raise KvlabError(
                    f"the server no longer answers; start it again and resume with --resume {self.run.folder}"
                )
            if not said:
                print(f"waiting up to {self.params.recover_s:g} s for the server to come back", flush=True)
                said = True
            time.sleep(1)

    def preemptions(self) -> float | None:
        """Return how many requests the server has preempted since its start; ``None``: it does not say."""
        scrape = self.engine.connection.metrics.scrape()
        return None if scrape is None else scrape.values.get("vllm:num_preemptions_total")


def close(lab: "Lab[ContextLimitProbeParams]") -> None:
    """Stop looking at memory, if this lab's bench was ever made."""
    if (bench := _BENCHES.pop(lab, None)) is not None:
        bench.monitor.stop()


def bench_of(lab: "Lab[ContextLimitProbeParams]") -> Bench:
    """Return the bench of an open lab, made on first use."""
    if lab not in _BENCHES:
        _BENCHES[lab] = Bench(lab)
    return _BENCHES[lab]
