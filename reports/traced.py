"""The report of a trace: the tables and figures of its profile, and where it was recorded; nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from reports import icicle, profiles, roofs, shares
from reports.profiles import Profile
from reports.tables import Table, without_repeats
from reports.text import sentences, share, significant

if TYPE_CHECKING:
    from reports.figures import Plot

NAME = "trace"  # begins those of its tables and figures


def standfirst(profile: Profile) -> str:
    """The paragraph under the title: where the profile was recorded, by others perhaps, and how much of it is known."""
    where = profile.device or "a device that the trace does not name"
    return sentences(
        f"Recorded on {where}, as the trace has it: {significant(profile.ms)} ms",
        f"No kernel ran in {share(profile.idle)} of the time from the first to the last"
        if profile.idle is not None
        else "",
        f"MACs are known for {share(profile.known)} of the time",
    )


def tables(profile: Profile) -> list[Table]:
    """Its tables."""
    return without_repeats(profiles.profile_tables([profile], NAME, _setting(profile)))


def _setting(profile: Profile) -> str:
    peaks = profile.peaks
    rates = ", ".join(f"{significant(rate)} TFLOP/s {dtype}" for dtype, rate in peaks.tflops.items())
    memory = f", {significant(peaks.bandwidth_gb_s)} GB/s" if peaks.bandwidth_gb_s else ""
    return sentences(f"Peak {rates}{memory} ({peaks.source})" if rates else f"Peak {peaks.source}")


def jobs(profile: Profile) -> list[Callable[[], Plot | None]]:
    """Its figures, to be drawn."""
    subtitle = f"Recorded on {profile.device or 'a device without a name'}."
    return [
        partial(shares.macs_and_time, [profile], f"{NAME}_shares", subtitle),
        partial(icicle.time_by_module, [profile], f"{NAME}_modules", subtitle),
        partial(roofs.rooflines, [profile], f"{NAME}_roofline", subtitle),
    ]
