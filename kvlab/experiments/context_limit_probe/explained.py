"""Why bytes a token are what they are, in words, from what this run saw."""

from kvlab.experiments.context_limit_probe.analysis import Findings
from kvlab.experiments.context_limit_probe.growth import Line, layout_of, tensor_slope
from kvlab.vram.kv_bytes import KvLayout

#: Two figures closer than this are the same.
_SAME = 0.005


def ratio_in_words(found: Findings, dtype: str, from_tokens: int) -> str | None:
    """Return what a precision's ratio to the theory comes from; ``None``: no line was measured."""
    line = found.children[dtype][1]
    if line is None:
        return None
    layout, theory = layout_of(found.probes, dtype), found.theory_bytes(dtype)
    if layout is None or theory is None:
        return f"{dtype}: {found.detail(dtype, 'layout') or 'unknown layout'}, so there is no theory to compare with."
    tensors = tensor_slope(found.probes, dtype, from_tokens)
    return f"{dtype}: {layout.describe()}. {_of_the_layers(layout)}{_of_the_ratio(line, theory, tensors)}"


def _of_the_layers(layout: KvLayout) -> str:
    window = layout.window_tokens
    if window and layout.full_layers:
        times = layout.steps(window) / window
        return (
            f"A token takes {times:.1f} times the slope until the windows are full ({window:,} tokens), and the slope "
            "from there on: the line goes over what the layers hold at each length. "
        )
    if window:
        return (
            f"All layers have a window: beyond {window:,} tokens nothing grows, and the slope is that below. "
        )
    return "A state of fixed size is in no token's share. " if layout.stateless_layers else ""


def _of_the_ratio(line: Line, theory: int, tensors: float | None) -> str:
    beside = line.slope / theory - 1
    if tensors is None:
        return (
            f"Measured is {beside:+.1%} beside the theory; the cache does not tell the size of its tensors."
        )
    own = tensors / theory - 1
    if abs(own) <= _SAME:
        first = "The cache's own tensors take what the theory says: no padding and no blocks"
    else:
        first = f"The cache's own tensors take {own:+.1%} beside the theory: padding, blocks, or a layout that config.json does not tell"
    rest = (line.slope - tensors) / theory
    if abs(rest) <= _SAME:
        return f"{first}; and nothing is taken beside them."
    if rest > 0:
        return f"{first}; {rest:.1%} is taken beside them: pages that the allocator gives to a tensor whole."
    return f"{first}; measured is {-rest:.1%} less: memory that was there already and is used again."
