"""What all steps of a probe share while a run is open: prompts, the ledger, memory, the server's health."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx

from kvlab.endpoints.counter import ServerCounter
from kvlab.endpoints.openai import Call, OpenAICompat
from kvlab.endpoints.pages import fetch
from kvlab.errors import KvlabError
from kvlab.experiments.context_limit_probe import material
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT, Ledger, counts_only_computed
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.experiments.context_limit_probe.search import Scale, confirmed, scale_of
from kvlab.prompts import manual
from kvlab.prompts.exact import Names, fit
from kvlab.records import Recorded, Trial
from kvlab.vram import Monitor, ProcessTree, for_server, server_pid, timeline
from kvlab.vram.cache_usage import CacheUsage, capacity

if TYPE_CHECKING:
    from kvlab.session import Session

_HEALTH_S = 10.0
#: Their /health is about the engine, not about the front end; a gateway may answer anything there.
_WITH_HEALTH = ("vLLM", "llama.cpp")


@contextmanager
def bench(session: "Session[ContextLimitProbeParams]") -> "Iterator[Bench]":
    """Look at the server's memory while the run is open."""
    made = Bench(session)
    with made.monitor:
        yield made


class Bench:
    """One open run.

    Attributes:
        ledger: What was tried.
        monitor: Looks at the server's memory in the background.
        mark: The marker of the growing context, the same in all sessions of a run.
        tries: How often each trial was begun in this session.
        first_tries: When each of them was begun first, in seconds of the monotonic clock.
    """

    def __init__(self, session: "Session[ContextLimitProbeParams]") -> None:
        self.session, self.params = session, session.params
        self.engine: OpenAICompat = session.engine
        self.identity = session.identity
        self.mark = manual.marker(session.run.isolation_id, "growing context")
        self.ledger = Ledger(session.database, session.run.session_id)
        self.monitor = Monitor(self._samplers(), interval_s=self.params.memory_interval_ms / 1e3)
        self.tries: Counter[str] = Counter()
        self.first_tries: dict[str, float] = {}
        self._stream: list[int] = []

    def _samplers(self) -> list[Any]:
        connection = self.engine.connection
        lease, url = connection.embedded, connection.target.base_url
        pid = server_pid(url, None if lease is None else int(lease.pid))
        samplers: list[Any] = list(for_server(url, pid))
        if pid is not None:
            samplers[0] = ProcessTree(pid, prefix="server")
        if self.identity.can("metrics"):
            # A client of its own, which gives up early: looking at memory must not wait for a busy server.
            http = httpx.Client(headers=dict(connection.http.headers), timeout=2.0, trust_env=False)
            size = capacity(connection.metrics.scrape())["bytes"]
            samplers.append(CacheUsage(http, f"{connection.root}/metrics", size))
        return samplers

    @contextmanager
    def watched(self, trial: Trial) -> Iterator[None]:
        """Mark a trial in the memory timeline, and store what was seen when it ends, however it does."""
        try:
            with self.monitor.window(trial.trial_id, self.session.attempt) as window:
                yield
        finally:
            timeline.record(self.session.database, self.session.run.session_id, self.monitor, [window])

    @property
    def _tokenizer(self) -> ServerCounter | None:
        """The server's tokenizer, where prompts can also be sent as its token ids."""
        counter = self.engine.counter
        return counter if isinstance(counter, ServerCounter) and self.identity.can("token_ids") else None

    @property
    def exact(self) -> bool:
        """Whether prompts can be sent as token ids, and so cut anywhere."""
        return self._tokenizer is not None

    def prompt(self, messages: list[material.Message], answer_prefix: str = "") -> dict[str, Any]:
        """Return a chat as token ids where the server takes them, else as messages.

        With token ids, the answer can be begun for the model (``answer_prefix``).
        """
        if (tokenizer := self._tokenizer) is None:
            return {"messages": messages}
        ids = tokenizer.tokens({"messages": messages})
        if answer_prefix:
            ids += tokenizer.tokens({"prompt": answer_prefix, "add_special_tokens": False})
        return {"prompt": ids}

    @property
    def by_characters(self) -> bool:
        """Whether tokens can only be guessed: sizes are then characters (see `scale`)."""
        return not self.exact and not self.engine.counter.exact

    @property
    def counts_known(self) -> bool:
        """Whether it was found out what the server's counts of a prompt leave out."""
        return any("counts" in probe.detail for probe in self.ledger.probes(ENDPOINT))

    @property
    def counts_only_computed(self) -> bool:
        """Whether the server counts only the tokens of a prompt that were not in its cache."""
        return counts_only_computed(self.ledger.probes(ENDPOINT))

    def guess(self) -> Scale | None:
        """Return what the calibrated counter makes of characters; ``None``: tokens need no guess."""
        if not self.by_characters:
            return None
        counter = self.engine.counter
        return Scale(tuple((n, counter({"prompt": "x" * n})) for n in (2000, 200_000)))

    def scale(self) -> Scale:
        """Return tokens of characters, by what was held so far (`by_characters`)."""
        guess = self.guess() or Scale(((1, 1),))
        return scale_of(confirmed(self.ledger.probes(ENDPOINT)), guess)

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
        self, trial: Trial, arm: str, prompt: Mapping[str, Any], max_tokens: int, target: int | None = None
    ) -> Recorded:
        """Make one request of a trial, after making sure that the server is there to be asked.

        An answer without text ends no trial where its prompt was read: that is what is asked for.

        Raises:
            KvlabError: It is not there, and did not come back.
        """
        self.wait_for_server()
        row = self.engine.ask(
            Call(
                request_id=self.session.request_id(trial, arm),
                arm=arm,
                prompt=prompt,
                decoding={"max_tokens": max_tokens, "temperature": 0.0},
                attempt=self.session.attempt,
                target_tokens=target,
            )
        )
        return replace(row, expected=not row.ok and row.was_read)

    def alive(self) -> bool:
        """Whether the server answers its own pages, and does not say on /health that its engine is gone."""
        connection = self.engine.connection
        if connection.embedded is not None and not connection.embedded.alive():
            return False
        pages = [f"{connection.target.base_url}/models"]
        if self.identity.kind in _WITH_HEALTH:
            pages.append(f"{connection.root}/health")
        found = [fetch(connection.http, page, timeout_s=_HEALTH_S, patience_s=0.0).status for page in pages]
        return all(status is not None and status < 500 for status in found)

    def wait_for_server(self) -> None:
        """Wait until the server answers, at most ``recover_s``.

        Raises:
            KvlabError: It does not.
        """
        deadline, announced = time.monotonic() + self.params.recover_s, False
        while not self.alive():
            embedded = self.engine.connection.embedded
            if time.monotonic() >= deadline or (embedded is not None and not embedded.alive()):
                raise KvlabError(
                    f"the server no longer answers; start it again and resume with --resume {self.session.folder}"
                )
            if not announced:
                self.session.note(f"waiting up to {self.params.recover_s:g} s for the server to come back")
                announced = True
            time.sleep(1)

    def preemptions(self) -> float | None:
        """Return how many requests the server has preempted since its start; ``None``: it does not say."""
        scrape = self.engine.connection.metrics.scrape()
        return None if scrape is None else scrape.values.get("vllm:num_preemptions_total")
