"""Counts by module, put together where one implementation has a module as a whole and another its parts."""

from __future__ import annotations


def whole_mlps(counts: dict[str, int], *stages: str) -> dict[str, int]:
    """The counts with both linear layers of a feed-forward as one, as the fused kernel has them.

    Args:
        stages: whose feed-forwards; none: all.
    """
    together: dict[str, int] = {}
    for name, count in counts.items():
        is_layer = name.startswith(stages or ("",)) and name.endswith((".fc1", ".fc2"))
        path = name.rpartition(".")[0] if is_layer else name
        together[path] = together.get(path, 0) + count
    return together


def whole_attentions(counts: dict[str, int]) -> dict[str, int]:
    """The counts with all of an attention as one, as where its kernels have what is else a layer's."""
    together: dict[str, int] = {}
    for name, count in counts.items():
        before, found, _ = name.partition(".attn")
        path = before + found
        together[path] = together.get(path, 0) + count
    return together
