"""The figure of MACs beside time: two stacked bars a profile, which would be the same if FLOPs were speed."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reports.figures import (
    INK,
    MUTED,
    OPERATOR_LOOKS,
    OTHER_OPERATOR,
    Plot,
    bar_look,
    finish,
    for_both,
    new_figure,
    readable_on,
    settle,
)
from reports.profiles import Profile
from reports.text import share, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST = 0.02  # share of a bar: what is smaller in all of them is drawn together
REST = "others"
FEW = 6  # profiles that have room for their names above their bars
ROOMY, DENSE = (0.34, 0.16, 0.26), (0.18, 0.0, 0.1)  # inches: a bar, between a profile's two, below them
TEXT = 0.15  # inches of a line
LETTER = 0.4  # of the font's size: no text here is narrower a letter


def macs_and_time(profiles: Sequence[Profile], name: str, subtitle: str) -> Plot | None:
    """The share of each operator in MACs above its share in time, for each profile; None without one."""
    if not profiles:
        return None
    return for_both(name, lambda named, width: _drawn(profiles, named, subtitle, width))


def title_of(profiles: Sequence[Profile]) -> str:
    """The figure's title: how much of the time has no MACs."""
    amount, whose = without_macs(profiles)
    return f"{amount} of the time{whose} is without MACs"


def without_macs(profiles: Sequence[Profile]) -> tuple[str, str]:
    """The share of the time without MACs, from the least to the most; and whose it is, if one profile's."""
    shares = sorted(profile.without_macs for profile in profiles)
    low, high = share(shares[0]), share(shares[-1])
    amount = low if low == high else f"{low.removesuffix(' %')} to {high}"
    return amount, f" of {profiles[0].title}" if len(profiles) == 1 else ""


def _drawn(profiles: Sequence[Profile], name: str, subtitle: str, width: float) -> Plot:
    title = title_of(profiles)
    looks = _looks(profiles)
    columns = max(1, int(width / 1.15))
    legend = 0.19 * -(-len(looks) // columns)
    is_dense = len(profiles) > FEW
    bar, gap, foot = DENSE if is_dense else ROOMY
    room = 1.4 * width + 10 if is_dense else 11.5 * (width - 0.6)  # characters in a line of a name
    names = [textwrap.wrap(profile.title, round(room)) for profile in profiles]
    over = [
        max(0.0, TEXT * len(lines) - 2 * bar) / 2 for lines in names
    ]  # of a name beside its bars, at either end
    heads = over if is_dense else [0.12 + TEXT * (len(lines) + 1) for lines in names]
    feet = [foot + (end if is_dense else 0.0) for end in over]
    whole = sum(heads) + sum(feet) + len(profiles) * (2 * bar + gap)
    height = 1.25 + legend + whole
    with new_figure(width, height, title, subtitle) as figure:
        axes = figure.subplots()
        ticks: list[tuple[float, str]] = []
        top = 0.0
        for profile, lines, head, end in zip(profiles, names, heads, feet, strict=True):
            work, time = _bars(axes, profile, looks, top + head, bar, gap)
            if is_dense:
                ticks.append(((work + time) / 2, "\n".join(lines)))
                _beside(axes, share(profile.without_macs), time)
            else:
                ticks += [(work, "MACs"), (time, "time")]
                _head(axes, profile, lines, top + head)
                _below(axes, profile, looks, time + bar / 2 + 0.06)
            top += head + 2 * bar + gap + end
        if is_dense:
            _beside(axes, "without\nMACs", -0.1)
        axes.set_ylim(whole, 0)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        axes.set_yticks(*zip(*ticks, strict=True), color=INK)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("above: share of MACs, below: share of time" if is_dense else "share of the whole")
        _legend(axes, looks, columns)
        settle(figure)
        _name_parts(axes)
        alt = f"Share of MACs beside share of time by operator, {len(profiles)} profiles. {title}. {subtitle}"
        return finish(figure, name, title, alt)


def _head(axes: Axes, profile: Profile, lines: Sequence[str], bottom: float) -> None:
    """Write a profile's name above `bottom`, and what its bars are shares of."""
    macs = f"{significant(profile.macs / 1e9)} GMACs, " if profile.macs else ""
    text = f"{macs}{significant(profile.ms)} ms"
    if profile.idle is not None:
        text += f", idle {share(profile.idle)}"
    if profile.known < 0.995:
        text += f", MACs known for {share(profile.known)}"
    look: dict[str, Any] = {"textcoords": "offset points", "va": "bottom", "fontsize": 8.5}
    axes.annotate(text, (0, bottom), xytext=(0, 3), color=MUTED, **look)
    axes.annotate(
        "\n".join(lines), (0, bottom), xytext=(0, 3 + 72 * TEXT), color=INK, fontweight="bold", **look
    )


def _bars(
    axes: Axes,
    profile: Profile,
    looks: Mapping[str, tuple[str, str]],
    top: float,
    bar: float,
    gap: float,
) -> tuple[float, float]:
    """Draw a profile's two bars from `top` down; returns the heights at which they lie."""
    from matplotlib.patches import Rectangle

    work, time = top + bar / 2, top + 1.5 * bar + gap
    left = [0.0, 0.0]
    for name, look in looks.items():
        for place, (y, shares) in enumerate(((work, profile.works), (time, profile.times))):
            part = _part(shares, name, looks)
            if part:
                corner = (left[place], y - bar / 2)
                axes.add_artist(  # `barh` and `add_patch` would look for the axes' limits anew at each
                    Rectangle(corner, part, bar, **bar_look(*look), label=f"{name}\n{share(part)}")
                )
            left[place] += part
        if gap and _part(profile.works, name, looks):
            # where one operator ends in both bars: the steeper, the less its time follows its MACs
            axes.plot(left, [work + bar / 2, time - bar / 2], color=MUTED, linewidth=0.7)
    if not profile.macs:
        axes.annotate(
            "unknown", (0, work), xytext=(4, 0), textcoords="offset points", va="center", color=MUTED
        )
    return work, time


def _below(axes: Axes, profile: Profile, looks: Mapping[str, tuple[str, str]], y: float) -> None:
    """Underline the part of the time that has no MACs, where any has."""
    without = profile.without_macs
    if not (profile.macs and without):
        return
    start = sum(_part(profile.times, name, looks) for name in looks if profile.works.get(name))
    axes.plot([start, start + without], [y, y], color=INK, linewidth=2.5, solid_capstyle="butt")
    axes.annotate(
        f"{share(without)} without MACs",
        (start + without, y),
        xytext=(0, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8.5,
        color=INK,
    )


def _beside(axes: Axes, text: str, y: float) -> None:
    """Write `text` to the right of the bars."""
    axes.annotate(
        text,
        (1, y),
        xytext=(4, 0),
        textcoords="offset points",
        va="center" if y > 0 else "bottom",
        fontsize=8,
        color=INK,
        annotation_clip=False,
    )


def _part(shares: Mapping[str, float], name: str, looks: Mapping[str, tuple[str, str]]) -> float:
    if name == REST:
        return sum(amount for other, amount in shares.items() if other not in looks)
    return shares.get(name, 0.0)


def _looks(profiles: Sequence[Profile]) -> dict[str, tuple[str, str]]:
    """The look of each operator that is large enough in some bar, in the order that is everyone's; then of the rest."""
    bars = [shares for profile in profiles for shares in (profile.works, profile.times)]
    large = {name for shares in bars for name, amount in shares.items() if amount >= LEAST}
    looks = {name: look for name, look in OPERATOR_LOOKS.items() if name in large}
    if any(amount for shares in bars for name, amount in shares.items() if name not in looks):
        looks[REST] = OTHER_OPERATOR
    return looks


def _name_parts(axes: Axes) -> None:
    """Write the operator and its share into each part in which they fit; else the share alone, if that does."""
    from matplotlib.patches import Rectangle

    letter = LETTER * 7.5 * axes.figure.dpi / 72
    # Of texts that were laid out once, width and height: laying them out again takes most of the figure's time.
    sizes: dict[str, tuple[float, float]] = {}
    for bar in [part for part in axes.patches if isinstance(part, Rectangle)]:
        box = bar.get_window_extent()
        room = box.width - 4
        name, amount = str(bar.get_label()).split("\n")
        for text in (f"{name}\n{amount}", f"{name} {amount}", amount):
            # of a text that was not laid out yet, what it takes at the least
            width, height = sizes.get(text, (letter * max(map(len, text.split("\n"))), 0.0))
            if width > room or height > box.height:
                continue
            label = axes.annotate(
                text,
                (bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height() / 2),
                ha="center",
                va="center",
                fontsize=7.5,
                linespacing=0.95,
                color=readable_on(bar.get_facecolor()),
                bbox={
                    "facecolor": bar.get_facecolor(),
                    "edgecolor": "none",
                    "boxstyle": "square,pad=0.1",
                },
            )
            if text not in sizes:
                extent = label.get_window_extent()
                sizes[text] = extent.width, extent.height
            width, height = sizes[text]
            if width <= room and height <= box.height:
                break
            label.remove()


def _legend(axes: Axes, looks: Mapping[str, tuple[str, str]], columns: int) -> None:
    from matplotlib.patches import Patch

    axes.figure.legend(
        handles=[Patch(label=name, **bar_look(*look)) for name, look in looks.items()],
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=8,
        handlelength=2.2,
        handleheight=1.1,
        columnspacing=1.0,
    )
