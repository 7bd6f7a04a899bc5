"""Is a prefix shared between tenants? Asked of a real vLLM in both worlds, by cached tokens and by times alone.

Two salts are two tenants. With ``cache_salt`` sent, vLLM isolates them; without it, they share. A third server
has no prefix cache: there the positive control cannot be shown, and every answer but ``unknown`` is false.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.engines import servers
from benchmarks.engines.servers import Place
from kvlab.endpoints import connect as endpoint
from kvlab.endpoints.connect import Connection
from kvlab.evidence import usage_evidence
from kvlab.laws.law import CacheLaw
from kvlab.laws.probe import Answer, PromptSpec, token_ids
from kvlab.laws.sharing import Sharing, learn_sharing
from kvlab.settings import load_settings

BLOCK, PROMPT_TOKENS = 32, 321
TENANTS = ("a", "b")


@dataclass
class Tenants:
    """Sends prompts as token ids, with or without the tenant's salt.

    Attributes:
        connection: To the server.
        salted: Whether the salt is sent: the truth.
        trial: Part of each prompt, so that no two trials share one.
        silent: Whether cached tokens are left out of the answers, as if the server said nothing.
    """

    connection: Connection
    salted: bool
    trial: str
    silent: bool
    sent: int = 0

    def __call__(self, spec: PromptSpec) -> Answer:
        """Send one prompt of one generated token."""
        self.sent += 1
        # The first tokens name the trial: nothing is shared with another one, whatever its texts are.
        start = [1000 + byte for byte in self.trial.encode()]
        body: dict[str, Any] = {
            "model": self.connection.model,
            "prompt": (start + token_ids(spec))[: spec.own_tokens],
            "max_tokens": 1,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.salted:
            body["cache_salt"] = f"{self.trial}-{spec.tenant}"
        measured = self.connection.client.measure("/completions", body, f"{self.trial}-{self.sent}")
        if measured.failure is not None:
            raise RuntimeError(f"{measured.failure.error_type}: {measured.failure.message}")
        tokens, cached = usage_evidence(measured.usage)
        return Answer(tokens, None if self.silent else cached, ttft_ms=measured.stamps.ttft_ms)


def ask(place: Place, salted: bool, silent: bool, trials: Sequence[int]) -> list[tuple[Sharing, int]]:
    """Return what is said in each trial, and how many requests that took."""
    settings = load_settings(
        openai_base_url=place.base_url, openai_api_key=place.key, openai_model=place.model
    )
    found = []
    with endpoint.connect(settings) as connection:
        for trial in trials:
            label = f"{os.getpid() % 1000}{'s' if salted else 'o'}{'t' if silent else 'e'}{trial}"
            probe = Tenants(connection, salted, label, silent)
            law = None if silent else CacheLaw.whole_blocks(BLOCK)
            said = learn_sharing(
                probe, law, tenants=TENANTS, prompt_tokens=PROMPT_TOKENS, seed=trial, blocks=12
            )
            found.append((said, probe.sent))
    return found


def row(server: str, truth: str, by: str, found: Sequence[tuple[Sharing, int]]) -> dict[str, Any]:
    """Return a row of the table."""
    verdicts = Counter(said.verdict for said, _ in found)
    said = found[0][0]
    return {
        "server": server,
        "truth": truth,
        "by": by,
        "verdict": ", ".join(f"{verdict} {n}" for verdict, n in verdicts.most_common()),
        "positive": sum(one.positive_control is True for one, _ in found),
        "negative": None if by == "times" else sum(one.negative_control is True for one, _ in found),
        "requests": max(sent for _, sent in found),
        "right": verdicts[truth],
        "false": sum(n for verdict, n in verdicts.items() if verdict not in (truth, "unknown")),
        "n": len(found),
        "reason": said.reason,
    }


def part(folder: Path, trials: int = 10) -> list[dict[str, Any]]:
    """Ask in each world; the ways take turns, so that what else the machine does meets all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    with servers.vllm(BLOCK) as place:
        ask(place, False, True, range(-1, 0))  # the first requests of an engine are slow
        found: dict[tuple[bool, bool], list[tuple[Sharing, int]]] = {}
        for trial in range(trials):
            for way in ((True, True), (False, True), (True, False), (False, False)):
                if way[1] or trial < 5:
                    found.setdefault(way, []).extend(ask(place, *way, [trial]))
        for (salted, silent), ones in found.items():
            name = f"{place.name}, {'with' if salted else 'without'} cache_salt"
            truth = "isolated" if salted else "shared"
            rows.append(row(name, truth, "times" if silent else "cached tokens", ones))
    with servers.vllm(BLOCK, ["--no-enable-prefix-caching"]) as place:
        bare = replace(place, name="vLLM without a prefix cache")
        for silent in (True, False):
            ones = ask(bare, False, silent, range(min(5, trials)))
            rows.append(row(bare.name, "unknown", "times" if silent else "cached tokens", ones))
    return rows
