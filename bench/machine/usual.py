"""Notes on what is not usual in the state of a watch, for a reader of the row; the bounds are data. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

# A GPU that computes runs at its top clock unless power, heat or somebody holds it. Boards for desktops name a top that
# they reach only for moments.
STEADY_SHARE, DESKTOP_SHARE = 0.97, 0.8
DESKTOP = re.compile(r"GeForce|RTX|TITAN|Laptop", re.IGNORECASE)
FULL_POWER_SHARE = 0.99  # of the default limit; less is a cap that somebody set
WAITED_SHARE = (
    0.05  # of the time in which a thread could run; alone on its cores it waits for less than a hundredth
)
OTHERS_SHARE = 0.1  # of the cores that are ours, in the hands of others
OCCUPANCY = 0.5  # of wall time × threads; a model of a few operators leaves cores idle for a part of it
QUOTA_SHARE = 0.02  # of the time, held by the container's quota
WORDS = {
    "thermal": "heat held the clocks",
    "hardware": "the hardware held the clocks (power supply, or an emergency)",
    "application_clocks": "the clocks were held by an application-clock setting: somebody locked them",
    "display_clocks": "the clocks were held by the display's setting",
    "sync_boost": "the clocks were held to those of another GPU (sync boost)",
    "board_limit": "the clocks were held by the board's limit",
    "reliability": "the clocks were held by the voltage's reliability limit",
}


def unusual(state: dict[str, Any] | None) -> list[str]:
    """Notes that a reader must see of the time in which samples were taken, a line each; none for a usual one.

    Args:
        state: that of a watch; None where nothing was watched.
    """
    if not state:
        return []
    about = _gpu(state) if state.get("kind") == "cuda" else _cpu(state)
    return [*about, *(state.get("flags_changed") or ())]


def _gpu(state: dict[str, Any]) -> Iterator[str]:
    reasons = state.get("throttle") or []
    yield from (f"while samples were taken {WORDS[reason]}" for reason in WORDS if reason in reasons)
    clock, top = state.get("sm_clock_mhz"), state.get("top_sm_clock_mhz")
    if clock and top:
        share = DESKTOP_SHARE if DESKTOP.search(str(state.get("name") or "")) else STEADY_SHARE
        held = [word for word in ("power", *WORDS) if word in reasons]
        if clock["median"] < share * top and not held:
            yield (
                f"the SM clock stood at {clock['median']:.0f} of {top:.0f} MHz, and neither power nor heat held it: "
                "it is locked, or the GPU was hardly used"
            )
        elif clock["median"] < share * top:
            yield f"the SM clock stood at {clock['median']:.0f} of {top:.0f} MHz"
    asked, default = state.get("application_clock_mhz"), state.get("default_application_clock_mhz")
    if asked and default and asked != default:
        yield f"the application clock is set to {asked} MHz; its default is {default}"
    limit, usual = state.get("power_limit_w"), state.get("default_power_limit_w")
    if limit and usual and limit < FULL_POWER_SHARE * usual:
        yield f"the power limit is set to {limit:.0f} W; its default is {usual:.0f}"
    yield from _company(state)


def _company(state: dict[str, Any]) -> Iterator[str]:
    others = state.get("other_processes")
    if others is None:
        yield "whether others computed on the GPU cannot be told here"
    elif state.get("own_is_listed") is False:  # in a container we go by a number of the host's
        if len(others) > 1:
            yield f"{len(others)} processes held the GPU, of which one is this run's: {', '.join(others)}"
    elif others:
        yield f"other processes held the GPU: {', '.join(others)}"


def _cpu(state: dict[str, Any]) -> Iterator[str]:
    wall, threads = state.get("wall_s") or 0.0, state.get("threads") or 1
    waited, others = state.get("waited_share"), state.get("others_cores")
    held, occupancy = state.get("quota_held_s"), state.get("occupancy")
    if waited is not None and waited > WAITED_SHARE:
        yield f"busy host: threads waited for a core {100 * waited:.0f} % of the time that they could run"
    if others is not None and others > OTHERS_SHARE * threads:
        yield f"busy host: others kept {others:.1f} cores busy"
    if wall and held is not None and held > QUOTA_SHARE * wall:
        yield f"the container's quota held the process {100 * held / wall:.0f} % of the time"
    if occupancy is not None and occupancy < OCCUPANCY:
        yield f"{threads} thread{'s' if threads > 1 else ''} computed {100 * occupancy:.0f} % of the time"
