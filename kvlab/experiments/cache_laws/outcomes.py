"""What a run has stored of its parts, read once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from kvlab.experiments.cache_laws.log import ANSWERED, OUTCOME
from kvlab.experiments.cache_laws.params import CacheLawsParams
from kvlab.laws.law import CacheLaw
from kvlab.runs.data import RunData

PROBE_COLUMNS = (
    "part", "own_tokens", "shared_tokens", "base", "tail", "tenant", "prompt_tokens", "cached_tokens", "note",
    "held_tokens",
)  # fmt: skip
ASKED_COLUMNS = (
    "purpose", "own_tokens", "shared_tokens", "tail", "whole", "prompt_tokens", "cached_tokens", "predicted",
)  # fmt: skip


@dataclass(frozen=True)
class Outcomes:
    """The parts' outcomes and the probes.

    Attributes:
        params: Of the run.
        parts: Outcome by part; one that has not ended is not there.
        probes: Every probe that was answered, in order (`PROBE_COLUMNS`).
        declared: The law that the server declares; ``None``: none.
        declared_source: Where it is declared.
        how: How prompts were made.
    """

    params: CacheLawsParams
    parts: Mapping[str, Mapping[str, Any]]
    probes: pd.DataFrame
    declared: CacheLaw | None
    declared_source: str | None
    how: str | None

    @classmethod
    def of(cls, data: RunData, params: CacheLawsParams) -> "Outcomes":
        """Read them."""
        seen = data.table("observations")
        parts, how = dict[str, Mapping[str, Any]](), None
        rows: list[dict[str, Any]] = []
        for row in seen.to_dict("records"):
            if row["name"] == OUTCOME and row["trial_id"] in params.parts:
                parts[row["trial_id"]] = json.loads(row["text"])
            elif row["name"] == "prompts":
                how = str(row["text"])
            elif row["name"] == ANSWERED:
                content = json.loads(row["text"])
                flat = {"part": row["trial_id"], **content["spec"], **content["answer"]}
                flat["shared_tokens"] = content["spec"]["shared_tokens"]
                flat["own_tokens"] = content["spec"]["own_tokens"]
                flat["held_tokens"] = content.get("held_tokens")
                rows.append(flat)
        probes = pd.DataFrame(rows, columns=list(PROBE_COLUMNS))
        integers = ("own_tokens", "shared_tokens", "prompt_tokens", "cached_tokens", "held_tokens")
        identity = data.identity
        stated = identity is not None and identity.block_size is not None
        declared = CacheLaw.whole_blocks(identity.block_size) if stated else None  # type: ignore[union-attr,arg-type]
        source = identity.block_size_source if stated else None  # type: ignore[union-attr]
        return cls(params, parts, probes.astype(dict.fromkeys(integers, "Int64")), declared, source, how)

    def get(self, part: str) -> Mapping[str, Any]:
        """Return a part's outcome; empty where it has not ended."""
        return self.parts.get(part, {})

    def reason(self, part: str) -> str | None:
        """Return why something of a part is not known."""
        if part not in self.params.parts:
            return "not asked for (parts)"
        if part not in self.parts:
            return "not measured to its end"
        reason = self.parts[part].get("reason")
        return None if reason is None else str(reason)

    @cached_property
    def law(self) -> CacheLaw | None:
        """The law that was learned."""
        content = self.get("law").get("law")
        return None if content is None else CacheLaw(**content)

    @cached_property
    def asked(self) -> pd.DataFrame:
        """The law's probes with what was predicted of each (`ASKED_COLUMNS`)."""
        frame = pd.DataFrame(self.get("law").get("asked", []), columns=list(ASKED_COLUMNS))
        integers = ("own_tokens", "shared_tokens", "tail", "prompt_tokens", "cached_tokens", "predicted")
        return frame.astype(dict.fromkeys(integers, "Int64")).astype({"whole": bool})

    @cached_property
    def cold(self) -> pd.DataFrame:
        """The law's probes that share nothing with any before: the first, and those that are a tail only."""
        law = self.probes[self.probes["part"] == "law"]
        # The first answer of each life is the first of its base; of a life that went on it is the very first.
        first = (law["shared_tokens"] == law["own_tokens"]) & ~law.duplicated(["base"])
        alone = (law["shared_tokens"] == 0) & ~law.duplicated(["tail", "own_tokens"])
        return law[first | alone]

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """The held-out prompts, each with its highest reading, and how often it was asked."""
        asked = self.asked[self.asked["purpose"] == "held out"]
        keys = ["prompt_tokens", "shared_tokens", "whole", "predicted"]
        grouped = asked.groupby(keys, sort=False, dropna=False)["cached_tokens"]
        frame = grouped.agg(["max", "size"]).reset_index()
        return frame.rename(columns={"max": "cached_tokens", "size": "times"})

    @cached_property
    def judged(self) -> pd.DataFrame:
        """Readings of which a law says something: the highest of each (L, P), repeats with P = L."""
        asked, law = self.asked, self.law
        if law is None or not len(asked):
            return pd.DataFrame(
                columns=["prompt_tokens", "prefix_tokens", "whole", "cached_tokens", "held_out"]
            )
        start = law.shared_start_tokens
        prefix = (asked["shared_tokens"] + start).where(~asked["whole"], asked["prompt_tokens"])
        frame = asked.assign(prefix_tokens=prefix, held_out=asked["purpose"] == "held out")
        # A base that is sent for the first time shares only what of it was sent before; the learner knows how much.
        frame = frame[asked["whole"] | (asked["shared_tokens"] < asked["own_tokens"])]
        keys = ["prompt_tokens", "prefix_tokens", "whole"]
        return frame.groupby(keys, as_index=False)[["cached_tokens", "held_out"]].max()

    @cached_property
    def witnessed(self) -> pd.DataFrame:
        """Probes before which the engine's events said what it holds, with what the law makes of that."""
        frame, law = self.probes, self.law or self.declared
        frame = frame[frame["held_tokens"].notna() & frame["cached_tokens"].notna()]
        if law is None:
            return frame.iloc[:0].assign(expected_tokens=pd.Series(dtype="Int64"))
        bare = replace(law, shared_start_tokens=0)  # what it holds is known: nothing is taken for granted
        pairs = zip(frame["prompt_tokens"], frame["held_tokens"], strict=True)
        expected = [bare.predict(int(length), int(held)) for length, held in pairs]
        return frame.assign(expected_tokens=pd.array(expected, dtype="Int64"))

    @property
    def account(self) -> Mapping[str, Any] | None:
        """What the engine's events told in all, as the last part has it; ``None``: there were none."""
        told = [self.get(part).get("kv_events") for part in self.params.parts]
        return next((one for one in reversed(told) if one and one["why_not"] is None), None)

    def off_declared(self) -> pd.DataFrame:
        """Return the readings that are not as the declared law says."""
        frame, law = self.judged, self.declared
        if law is None or not len(frame):
            return frame.iloc[:0]
        pairs = zip(frame["prompt_tokens"], frame["prefix_tokens"], strict=True)
        return frame[frame["cached_tokens"].astype(int) != [law.predict(int(n), int(p)) for n, p in pairs]]

    @cached_property
    def shortest_hit_tokens(self) -> int | None:
        """The shortest prompt that reads more of itself than the shared start, when it is repeated."""
        law = self.law
        if law is None:
            return None
        most = max(int(self.get("law")["longest"]), 1)
        lengths = range(1, most + 1)
        return next((n for n in lengths if law.full_hit(n) > law.predict(n, 0)), None)

    @property
    def capacity_known(self) -> bool | None:
        """Whether the capacity has two ends."""
        found = self.get("capacity")
        return True if found.get("tokens_low") is not None and found.get("tokens_high") is not None else None

    @property
    def lifetime_known(self) -> bool | None:
        """Whether it is known how long entries stay, at least."""
        return True if self.get("lifetime").get("ttl_s_low") else None

    @property
    def sharing_known(self) -> bool | None:
        """Whether salts are known to share, or not to."""
        verdict = self.get("sharing").get("salt", {}).get("verdict", "unknown")
        return None if verdict == "unknown" else True

    @property
    def same_answers(self) -> bool | None:
        """Whether answers after a hit are those of cold ones."""
        verdict = self.get("fidelity").get("verdict", "unknown")
        return {"same": True, "as different as cold answers": True, "different": False}.get(verdict)
