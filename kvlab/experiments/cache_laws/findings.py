"""From what the learners said, and from every probe, to a report."""

from typing import Any

import pandas as pd

from kvlab.endpoints.proof import how_to_prove
from kvlab.experiments.cache_laws import sentences, tables
from kvlab.experiments.cache_laws.brief import brief
from kvlab.experiments.cache_laws.outcomes import Outcomes
from kvlab.experiments.cache_laws.params import CacheLawsParams
from kvlab.experiments.cache_laws.pictures import pictures
from kvlab.findings import Check, Findings, Section
from kvlab.laws.law import REPORTED
from kvlab.runs.data import RunData


def findings(data: RunData, params: CacheLawsParams) -> Findings:
    """Say the law first, then what else was asked for."""
    found = Outcomes.of(data, params)
    made, drawn = tables.tables(found), pictures(found)
    checks = _checks(found, how_to_prove(data.identity))
    return Findings(
        headline=sentences.headline(found),
        checks=checks,
        results=results(found, data.requests),
        tables=made,
        pictures=drawn,
        first_reasons=sentences.first(found),
        remarks=sentences.remarks(found),
        limitations=[*sentences.limitations(found), *_small_cache(data)],
        sections=_sections(found, [t.name for t in made], [p.name for p in drawn]),
        files=sentences.files(found),
        brief=brief(found, checks),
    )


def _small_cache(data: RunData) -> list[str]:
    """Say whose capacity it is, where the embedded server had another cache than it has in other runs."""
    flags = data.identity.flags if data.identity is not None else []
    if "--num-gpu-blocks-override" not in flags[:-1]:
        return []
    blocks = flags[flags.index("--num-gpu-blocks-override") + 1]
    return [
        f"The embedded server had a cache of {blocks} blocks here, so that it could be filled (embedded_cache_blocks); "
        "its cache in other runs is larger."
    ]


def _sections(found: Outcomes, made: list[str], drawn: list[str]) -> list[Section]:
    def some(*names: str) -> list[str]:
        return [name for name in names if name in made or name in drawn]

    sections = [
        Section(
            title="Why are there fewer hits than I expect?",
            paragraphs=sentences.answer(found),
            figures=some("cached_over_length"),
            tables=some("expected_hits", "law"),
        ),
        Section(title="Was it predicted?", paragraphs=sentences.prediction(found), tables=some("held_out")),
        Section(title="How to use it", paragraphs=sentences.use(found)),
    ]
    for part, title in (
        ("capacity", "How much does it hold?"),
        ("lifetime", "How long does it hold it?"),
        ("sharing", "Who shares it?"),
        ("fidelity", "Is a hit the same answer?"),
    ):
        if part in found.params.parts:
            text = sentences.part(found, part)
            sections.append(Section(title=title, paragraphs=[text], tables=some(part), figures=some(part)))
    sections.append(Section(title="Every probe", tables=some("probes")))
    return sections


# Results ----------------------------------------------------------------------------------------------


def results(found: Outcomes, requests: pd.DataFrame) -> dict[str, Any]:
    """Return what ``summary.json`` says, in its fixed form: ``null`` with a ``reason`` where it cannot be said."""
    return {
        "law": _law(found),
        "capacity": _part(found, "capacity", ("tokens_low", "tokens_high", "policy", "declared_tokens")),
        "lifetime": _part(found, "lifetime", ("ttl_s_low", "ttl_s_high", "survived_s")),
        "sharing": _sharing(found),
        "fidelity": _part(
            found, "fidelity", ("verdict", "prompts", "hit_differs", "cold_differs", "near_ties", "p")
        ),
        "cost": {
            "requests": len(requests),
            "prompt_tokens": int(requests["prompt_tokens"].fillna(0).sum()),
        },
        "detail": _detail(found),
    }


def _law(found: Outcomes) -> dict[str, Any]:
    law, outcome = found.law, found.get("law")
    content: dict[str, Any] = {name: getattr(law, name) if law else None for name in (*REPORTED, "formula")}
    content |= {"predicted": outcome.get("predicted"), "held_out": outcome.get("held_out")}
    wrong = outcome.get("wrong_at_most")
    content["confidence"] = None if wrong is None else round(1 - wrong, 4)
    return content | {"reason": found.reason("law") if law is None else None}


def _part(found: Outcomes, part: str, fields: tuple[str, ...]) -> dict[str, Any]:
    outcome = found.get(part)
    values = {name: outcome.get(name) for name in fields}
    rounded = {name: round(v, 4) if isinstance(v, float) else v for name, v in values.items()}
    return rounded | {"reason": found.reason(part)}


def _sharing(found: Outcomes) -> dict[str, Any]:
    outcome = found.get("sharing")
    if "salt" not in outcome:
        return {"salt": None, "key": None, "replicas": None, "reason": found.reason("sharing")}
    content: dict[str, Any] = {
        name: {"verdict": outcome[name]["verdict"], "evidence": outcome[name]["reason"]}
        for name in ("salt", "key")
    }
    seen = outcome["replicas"]
    content["replicas"] = {"number": seen["number"], "at_least": seen["at_least"], "evidence": seen["reason"]}
    return content | {"reason": None}


def _detail(found: Outcomes) -> dict[str, Any]:
    outcome, law = found.get("law"), found.law
    return {
        "tail_grain_tokens": law.tail_grain_tokens if law else None,
        "shortest_hit_tokens": found.shortest_hit_tokens,
        "held_to_tokens": outcome.get("held_to_tokens"),
        "possible_grains": outcome.get("possible_grains"),
        "asked_again_higher": outcome.get("evicted"),
        "declared_law": found.declared.formula if found.declared else None,
        "prompts": found.how,
    }


# Checks -----------------------------------------------------------------------------------------------


#: What to do where a part has no answer.
_ADVICE = {
    "capacity": "raise `capacity_tokens` to about 30 times what the cache may hold, and `max_part_s`; let nobody else send",
    "lifetime": "raise `lifetime_limit_s` and `max_part_s`: entries outlived the longest wait, or were evicted before",
    "sharing": "send with a server that takes `cache_salt` (`kvlab doctor` says whether), and raise `max_part_s`",
    "fidelity": "raise `fidelity_prompts`; where answers really differ after a hit, report it to the engine's makers, and do "
    "not compare scores across cache states",
}


def _checks(found: Outcomes, proven_by: str) -> list[Check]:
    checks = [_reported(found, proven_by)]
    if "law" in found.params.parts:
        checks += [_cold(found), _predicted(found), _declared(found), _evicted(found)]
    checks += _events(found)
    return checks + [
        Check(
            name=name,
            asks=asks,
            seen=sentences.part(found, part),
            passed=passed,
            advice=_ADVICE[part],
            optional="law" in found.params.parts,
        )
        for part, name, asks, passed in (
            ("capacity", "capacity_found", "the capacity is found", found.capacity_known),
            ("lifetime", "lifetime_found", "how long entries stay is found", found.lifetime_known),
            ("sharing", "sharing_found", "whether salts share a cache is found", found.sharing_known),
            ("fidelity", "hit_is_same", "answers after a hit are those of cold ones", found.same_answers),
        )
        if part in found.params.parts
    ]


def _reported(found: Outcomes, proven_by: str) -> Check:
    probes = found.probes
    told = int(probes["cached_tokens"].notna().sum())
    return Check(
        name="cached_tokens_reported",
        asks="every answer says how many tokens were read from the cache",
        seen=f"{told} of {len(probes)} probes",
        passed=told == len(probes) if len(probes) else None,
        role="proof",
        advice=proven_by,
    )


def _cold(found: Outcomes) -> Check:
    cold = found.cold["cached_tokens"].dropna()
    law, most = found.law, int(cold.max()) if len(cold) else "–"
    allowed = 0 if law is None else law.shared_start_tokens // law.grain_tokens * law.grain_tokens
    return Check(
        name="cold_reads_nothing",
        asks=f"prompts that share nothing read no more than the {allowed} tokens of the shared start",
        seen=f"{int((cold <= allowed).sum())} of {len(cold)}, the most {most}",
        passed=bool((cold <= allowed).all()) if len(cold) else None,
        role="proof",
        advice="let nobody send the same prompts, or set another isolation_id",
    )


def _predicted(found: Outcomes) -> Check:
    outcome, law = found.get("law"), found.law
    n, right = outcome.get("held_out"), outcome.get("predicted")
    seen = f"{right} of {n}" if law and n else found.reason("law") or "nothing was held out"
    return Check(
        name="law_predicts",
        asks="the law predicts every held-out prompt to the token",
        seen=seen,
        passed=None if law is None or not n else right == n,
        advice="let nobody else send, raise `max_requests` and `max_prompt_tokens`, and run again; a cache that evicts between "
        "two probes has no law that holds",
    )


def _declared(found: Outcomes) -> Check:
    law, declared = found.law, found.declared
    off = found.off_declared()
    agrees = None if law is None or declared is None else not len(off)
    if declared is None:
        seen = "the server declares none"
    elif law is None:
        seen = "no law was learned"
    else:
        n = len(found.judged)
        seen = f"{n - len(off)} of {n} readings are as {declared.words} says ({found.declared_source})"
    return Check(
        name="declared_law_agrees",
        asks="the declared law says the same",
        seen=seen,
        passed=agrees,
        role="note",
    )


def _events(found: Outcomes) -> list[Check]:
    """Hold what was inferred from outside against the engine's own events, where it publishes them."""
    account, seen = found.account, found.witnessed
    if account is None:
        return []
    n, right = len(seen), int((seen["expected_tokens"] == seen["cached_tokens"]).sum())
    gaps = f"; {account['gaps']} gaps, after which nothing is compared" if account["gaps"] else ""
    checks = [
        Check(
            name="events_agree",
            asks="at least 99 % of the answers are what the law makes of the blocks that the engine's events list",
            seen=f"{right:,} of {n:,} answers{gaps}",
            passed=right >= 0.99 * n if n else None,
            role="note",
        )
    ]
    room, block = found.get("capacity"), found.declared.grain_tokens if found.declared else None
    if room.get("tokens_high") is not None and block is not None and account["removed"]:
        most = account["most_blocks"] * block
        checks.append(
            Check(
                name="events_capacity",
                asks="the capacity is the most that the engine's events ever list at a time",
                seen=f"{room['tokens_low']:,} to {room['tokens_high']:,} tokens; the events: {most:,}, with "
                f"{account['removed']:,} blocks removed",
                passed=room["tokens_low"] <= most <= room["tokens_high"],
                role="note",
            )
        )
    return checks


def _evicted(found: Outcomes) -> Check:
    again = found.get("law").get("evicted")
    seen = "nothing was measured" if again is None else f"{again} readings were lower than a later one"
    return Check(
        name="nothing_was_evicted",
        asks="no reading was lower than a later one of the same point",
        seen=seen,
        passed=None if again is None else again == 0,
        role="note",
    )
