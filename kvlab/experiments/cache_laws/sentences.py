"""What the report says in words."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kvlab.laws.law import CacheLaw

if TYPE_CHECKING:
    from kvlab.experiments.cache_laws.outcomes import Outcomes

LAW_FILE, ENV_FILE = "cache_law.json", "cache_law.env"


def sentence(law: CacheLaw, shortest_hit_tokens: int | None) -> str:
    """Return the law as one plain sentence."""
    one = law.grain_tokens == 1
    parts = [
        "This server reuses prompts "
        + ("by the token" if one else f"in steps of {law.grain_tokens:,} tokens")
    ]
    last = law.always_computed_tokens
    if last:
        parts.append(
            f"the last {'token' if last == 1 else f'{last:,} tokens'} of a prompt {'is' if last == 1 else 'are'} always computed"
        )
    if law.tail_grain_tokens not in (None, law.grain_tokens):
        parts.append(f"the end of a prompt is cut off in steps of {law.tail_grain_tokens} tokens")
    if law.grains_off:
        steps = "one step" if law.grains_off == 1 else f"{law.grains_off} steps"
        parts.append(
            f"{steps} of {law.grain_tokens:,} tokens {'is' if law.grains_off == 1 else 'are'} taken off every hit"
        )
    if law.minimum_tokens > law.grain_tokens:
        parts.append(f"what would be below {law.minimum_tokens:,} tokens is not reused at all")
    if law.cap_tokens is not None:
        parts.append(f"at most {law.cap_tokens:,} tokens are reused")
    if law.shared_start_tokens:
        parts.append(
            f"the first {law.shared_start_tokens} tokens are the chat template's, which all prompts share"
        )
    if shortest_hit_tokens is not None and shortest_hit_tokens > law.shared_start_tokens + 2:
        parts.append(f"a prompt below {shortest_hit_tokens:,} tokens is never a hit")
    return "; ".join(parts) + "."


def headline(found: "Outcomes") -> str:
    """Return the first sentence of the report."""
    if found.law is not None:
        return sentence(found.law, found.shortest_hit_tokens)
    if "law" in found.params.parts:
        return f"No law of reuse can be claimed: {found.reason('law') or 'nothing was measured'}."
    done = [f"{name}: {part(found, name)}" for name in found.params.parts if name in found.parts]
    return "; ".join(done) or "Nothing was measured."


def answer(found: "Outcomes") -> list[str]:
    """Return the answer to the question that people come with."""
    law = found.law
    if law is None:
        return [headline(found), *_still_possible(found)]
    most = law.grain_tokens * (1 + law.grains_off) - 1 + law.always_computed_tokens
    lines = [sentence(law, found.shortest_hit_tokens)]
    lost = f"up to {most:,} tokens at the end of it are computed again, even if it is known word for word"
    lines.append(
        f"Of a prompt of L tokens whose first P tokens are cached, `{law.formula}`. So of a prompt that is repeated "
        f"whole, {'only the end is' if most <= 1 else lost}{' computed again' if most <= 1 else ''}; what differs "
        "earlier than you think (a date, a user's name, a tool list) ends the shared prefix there."
    )
    return lines


def first(found: "Outcomes") -> list[str]:
    """Return what a person who has fewer hits than expected reads first, below the law itself."""
    law = found.law
    if law is None:
        return []
    most = law.grain_tokens * (1 + law.grains_off) - 1 + law.always_computed_tokens
    end = "its last token is" if most <= 1 else f"up to {most:,} tokens at its end are"
    lines = [
        f"fewer hits than you expect? Of a prompt that is known word for word, {end} computed again; and the first token "
        "that differs (a date, a user's name, the order of tools) ends what is reused"
    ]
    room = found.get("capacity")
    if room.get("tokens_high") is not None:
        lines.append(
            f"what has gone: it holds {room['tokens_high']:,} tokens, and what comes after that takes their place"
        )
    life = found.get("lifetime")
    if life.get("ttl_s_high") is not None:
        lines.append(f"what has expired: entries stay {life['ttl_s_high']:,.1f} s at most without use")
    return lines


def _still_possible(found: "Outcomes") -> list[str]:
    grains = found.get("law").get("possible_grains") or []
    if not grains:
        return []
    shown = ", ".join(f"{g:,}" for g in grains[:8])
    more = f" and {len(grains) - 8} more" if len(grains) > 8 else ""
    return [f"Steps that the readings leave possible: {shown}{more} tokens."]


def prediction(found: "Outcomes") -> list[str]:
    """Return what the claim rests on."""
    outcome = found.get("law")
    if found.law is None:
        return [f"Without a law, nothing was predicted: {found.reason('law') or 'nothing was measured'}."]
    n, right = outcome["held_out"], outcome["predicted"]
    wrong = outcome["wrong_at_most"]
    lines = [
        f"{right} of {n} held-out prompts were predicted to the token, before they were sent, up to "
        f"{outcome['held_to_tokens']:,} tokens. They stand where laws that are nearly right go wrong. At 95 % confidence "
        f"(exact binomial), at most {wrong:.0%} of such prompts are predicted wrongly; nothing is claimed beyond that length."
    ]
    if outcome["alternatives"]:
        others = "; ".join(f"`{CacheLaw(**one).formula}`" for one in outcome["alternatives"])
        lines.append(f"Laws that say the same of every prompt that could be asked: {others}.")
    return lines


def use(found: "Outcomes") -> list[str]:
    """Return how to make the law the measure of other experiments' labels."""
    law = found.law
    if law is None:
        return ["There is no law to use."]
    lines = [
        "The law is kept for this server, model and version. Every later run on it holds `cold`, `hit` and `partial` "
        "against this law, once two requests at its start are as the law predicts; else it says so and goes on without. "
        f"`{LAW_FILE}` has the law for other programs, in the fields of `kvlab.laws.law.CacheLaw`."
    ]
    if (block := block_size(law)) is not None and found.declared is None:
        lines.append(
            f"On another machine, `KV_BLOCK_SIZE_TOKENS={block}` in `.env` says the same (`{ENV_FILE}`)."
        )
    return lines


def block_size(law: CacheLaw) -> int | None:
    """Return the block size whose law of whole blocks this is; ``None``: it is another law."""
    bare = CacheLaw(law.grain_tokens, shared_start_tokens=law.shared_start_tokens)
    least = law.minimum_tokens if law.minimum_tokens > law.grain_tokens else 0
    whole = (law.tail_grain_tokens or law.grain_tokens) == law.grain_tokens
    same = law.always_computed_tokens == 1 and not law.grains_off and not least and law.cap_tokens is None
    return bare.grain_tokens if whole and same else None


def files(found: "Outcomes") -> dict[str, str | bytes]:
    """Return the law for other programs."""
    law = found.law
    if law is None:
        return {}
    content = {
        "learned_law": asdict(law),
        "formula": law.formula,
        "held_to_tokens": found.get("law")["held_to_tokens"],
    }
    made: dict[str, str | bytes] = {LAW_FILE: json.dumps(content, indent=2, ensure_ascii=False) + "\n"}
    block = block_size(law)
    if block is not None:
        made[ENV_FILE] = f"KV_BLOCK_SIZE_TOKENS={block}\n"
    return made


def part(found: "Outcomes", name: str) -> str:
    """Return what a part found, in a line."""
    outcome = found.get(name)
    if not outcome:
        return found.reason(name) or "nothing was measured"
    return {"capacity": _capacity, "lifetime": _lifetime, "sharing": _sharing, "fidelity": _fidelity}[name](
        outcome
    )


def _capacity(outcome: Any) -> str:  # noqa: ANN401 - JSON
    low, high, policy = (outcome.get(k) for k in ("tokens_low", "tokens_high", "policy"))
    if low is None:
        return str(outcome.get("reason"))
    declared = outcome.get("declared_tokens")
    size = (
        f"at least {low:,} tokens"
        if high is None
        else f"{low:,} tokens"
        if low == high
        else f"{low:,} to {high:,} tokens"
    )
    declares = "" if declared is None else f"; the server declares {declared:,}"
    goes = f"goes first: {policy}" if policy else "what goes first is unknown"
    why = f" ({outcome['reason']})" if outcome.get("reason") else ""
    return f"the cache holds {size}{declares}; {goes}{why}"


def _lifetime(outcome: Any) -> str:  # noqa: ANN401 - JSON
    low, high = outcome.get("ttl_s_low"), outcome.get("ttl_s_high")
    if low is None:
        return str(outcome.get("reason"))
    if high is None:
        return f"idle entries stay at least {low:,.1f} s ({outcome.get('reason')})"
    return f"idle entries stay {low:,.1f} to {high:,.1f} s"


def _sharing(outcome: Any) -> str:  # noqa: ANN401 - JSON
    if "salt" not in outcome:
        return str(outcome.get("reason"))
    salt, seen = outcome["salt"], outcome["replicas"]
    return (
        f"salts: {salt['verdict']} ({salt['reason']}); keys: {outcome['key']['verdict']} ({outcome['key']['reason']}); "
        f"replicas: {seen['number'] or 'unknown'} ({seen['reason']})"
    )


def _fidelity(outcome: Any) -> str:  # noqa: ANN401 - JSON
    if "verdict" not in outcome:
        return str(outcome.get("reason"))
    unproven = (
        f"; {outcome['unproven']} prompts without proven states are left out" if outcome["unproven"] else ""
    )
    return f"{outcome['verdict']}: {outcome['reason']}{unproven}"


def remarks(found: "Outcomes") -> list[str]:
    """Return further sentences below the verdict."""
    lines = [] if found.how is None else [found.how]
    longest = found.get("law").get("longest")
    if longest is not None and longest < found.params.max_prompt_tokens:
        lines.append(f"prompts were cut to {longest:,} tokens, which is what the model's context holds")
    off = found.off_declared()
    if found.declared is not None and len(off):
        row = off.iloc[0]
        lines.append(
            f"the declared law ({found.declared.words}) is not this server's: a prompt of {row['prompt_tokens']:,} tokens "
            f"with {row['prefix_tokens']:,} known read {row['cached_tokens']:,}"
        )
    return lines


def limitations(found: "Outcomes") -> list[str]:
    """Return what this cannot say."""
    lines = [
        "The law holds for prompts one at a time, right after their prefix was computed; under load, entries may be gone.",
    ]
    held = found.get("law").get("held_to_tokens")
    if held is not None:
        lines.append(
            f"Nothing is claimed for prompts above {held:,} tokens: a grain or a cap may show only there."
        )
    if "sharing" in found.params.parts:
        lines.append("Keys, users and sessions need a second key: only cache_salt was tried.")
    return lines
