"""Counts by module, put together where one implementation has a module as a whole and another its parts."""

from __future__ import annotations


def whole_mlps(counts: dict[str, int]) -> dict[str, int]:
    """The counts with both linear layers of a feed-forward as one, as the fused kernel has them."""
    together: dict[str, int] = {}
    for name, count in counts.items():
        path = name.removesuffix(".fc1").removesuffix(".fc2")
        together[path] = together.get(path, 0) + count
    return together
