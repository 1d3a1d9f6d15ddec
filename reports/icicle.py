"""The figure of time by module: boxes beside boxes, each as high as its share of the time, darker with fewer MACs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bench.trace.tables import Line
from reports.figures import (
    INK,
    MUTED,
    NARROW,
    WIDE,
    Plot,
    bar_look,
    finish,
    for_both,
    new_figure,
    readable_on,
    settle,
)
from reports.profiles import Profile
from reports.text import share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

DEEPEST = 30  # levels of modules: no model has more, and names from a file may have any number of dots
LEAST = 0.01  # share of the time: what is smaller is drawn with its like, as one box
LEVELS = {WIDE: 5, NARROW: 3}  # of modules within modules, as many as have room for their names
HEIGHT = {WIDE: 4.6, NARROW: 6.2}  # inches of a profile
ITSELF = "itself"  # what a module does outside of those in it
# How many MACs a millisecond, as a multiple of the whole's, at least; then the look. The last has none.
DENSITIES = ((1.0, "#CFE0F2"), (0.5, "#A3C4E3"), (0.1, "#6F9CCB"), (0.0, "#3E6FA3"))
NONE, UNKNOWN = "#16293F", "#FFFFFF"


@dataclass
class Module:
    """A module with those in it: milliseconds and MACs of all of it; MACs are None where some are unknown."""

    name: str
    ms: float = 0.0
    macs: int | None = 0
    inside: list[Module] = field(default_factory=list)

    def take(self, ms: float, macs: int | None) -> None:
        """Add a row's milliseconds and MACs to it."""
        self.ms += ms
        self.macs = None if self.macs is None or macs is None else self.macs + macs

    @property
    def levels(self) -> int:
        """The number of levels of modules in it, one in another."""
        return 1 + max(module.levels for module in self.inside) if self.inside else 0

    def leaves(self) -> Iterator[Module]:
        """The innermost boxes, which add up to the whole."""
        if not self.inside:
            yield self
        for module in self.inside:
            yield from module.leaves()


@dataclass(frozen=True)
class Drawn:
    """A module as a box of the figure."""

    axes: Axes
    box: Rectangle
    name: str
    module: Module
    share: float  # of the time


def tree(lines: Sequence[Line]) -> Module:
    """The rows by module as modules within modules, by the dots in their names; the longest first.

    What a module does outside of those in it is a box of its own among them. A module in which there is but one other
    is joined with it.
    """
    root, own = Module(""), dict[int, Module]()
    for line in lines:
        macs = line.macs if (line.macs_known or 0) > 0.995 else None
        at = root
        at.take(line.ms, macs)
        for name in line.name.split(".", DEEPEST):
            found = next((module for module in at.inside if module.name == name), None)
            if found is None:
                found = Module(name)
                at.inside.append(found)
            found.take(line.ms, macs)
            at = found
        own.setdefault(id(at), Module(ITSELF)).take(line.ms, macs)
    return _tidied(root, own)


def _tidied(module: Module, own: dict[int, Module]) -> Module:
    inside = [_tidied(each, own) for each in module.inside]
    if inside and id(module) in own:
        inside.append(own[id(module)])
    if len(inside) == 1:
        (only,) = inside
        return replace(only, name=f"{module.name}.{only.name}".lstrip("."))
    return replace(module, inside=sorted(inside, key=lambda each: -each.ms))


def macs_in_half_of_the_time(root: Module) -> float | None:
    """The share of the MACs in those modules that together take half of the time for the fewest; None if unknown."""
    if not root.macs or not root.ms:
        return None
    left, macs = root.ms / 2, 0.0
    for leaf in sorted(root.leaves(), key=lambda leaf: (leaf.macs or 0) / leaf.ms if leaf.ms else 0.0):
        part = min(1.0, left / leaf.ms) if leaf.ms else 0.0
        macs += part * (leaf.macs or 0)
        left -= part * leaf.ms
    return macs / root.macs


def time_by_module(profiles: Sequence[Profile], name: str, subtitle: str) -> Plot | None:
    """An icicle a profile, of those that say more than one module; None without any."""
    roots = {profile.title: tree(profile.modules) for profile in profiles}
    roots = {title: root for title, root in roots.items() if root.inside}
    if not roots:
        return None
    return for_both(name, lambda named, width: _drawn(roots, named, subtitle, width))


def title_of(roots: dict[str, Module]) -> str:
    """The figure's title: how few MACs half of the time is spent on."""
    found = [macs_in_half_of_the_time(root) for root in roots.values()]
    known = sorted(amount for amount in found if amount is not None)
    if len(known) < len(found):
        return "Time by module"
    if known[-1] < 0.0005:
        return f"Half of the time{_whose(roots)} goes to modules with next to no MACs"
    low, high = share(known[0]), share(known[-1])
    amount = low if low == high else f"{low.removesuffix(' %')} to {high}"
    return f"Half of the time{_whose(roots)} goes to modules with {amount} of the MACs"


def _whose(roots: dict[str, Module]) -> str:
    return f" of {next(iter(roots))}" if len(roots) == 1 else ""


def _drawn(roots: dict[str, Module], name: str, subtitle: str, width: float) -> Plot:
    title = title_of(roots)
    subtitle = f"As high as its share of the time; to its right, what is in it. {subtitle}"
    height = 1.4 + (HEIGHT[width] + 0.3) * len(roots)
    with new_figure(width, height, title, subtitle) as figure:
        panels = figure.subplots(len(roots), 1, squeeze=False)[:, 0].tolist()
        boxes: list[Drawn] = []
        for axes, (profile, root) in zip(panels, roots.items(), strict=True):
            axes.set_title(profile, fontweight="bold", color=INK)
            axes.set_axis_off()
            levels = min(LEVELS[width], root.levels)
            axes.set(xlim=(0, levels), ylim=(1, 0))
            boxes += _boxes(axes, root, root, 0, 0.0, levels)
        _legend(panels[0], boxes, 2 if width < WIDE else 6)
        settle(figure)
        for drawn in boxes:
            _name(drawn)
        alt = f"Time by module of {len(roots)} profiles, boxes within boxes. {title}. {subtitle}"
        return finish(figure, name, title, alt)


def _boxes(axes: Axes, root: Module, module: Module, level: int, top: float, levels: int) -> Iterator[Drawn]:
    """Draw the modules in a module from `top` down, each with those in it to its right."""
    from matplotlib.patches import Rectangle

    shown = [each for each in module.inside if each.ms >= LEAST * root.ms]
    if small := [each for each in module.inside if each.ms < LEAST * root.ms]:
        rest = Module(f"{len(small)} more" if len(small) > 1 else small[0].name)
        for each in small:
            rest.take(each.ms, each.macs)
        shown.append(rest)
    for each in shown:
        height = each.ms / root.ms
        is_last = not each.inside or level + 1 == levels
        width = levels - level if is_last else 1
        look = bar_look(_colour(each, root), "..." if each.macs is None else "") | {"edgecolor": "#fefefe"}
        box = Rectangle((level, top), width, height, **look)
        axes.add_artist(box)
        yield Drawn(axes, box, _label(each.name, module.name), each, height)
        if not is_last:
            yield from _boxes(axes, root, each, level + 1, top, levels)
        top += height


def _label(name: str, outer: str) -> str:
    """A module's name; of a block that has but a number, with what it is a block of."""
    is_number = name.partition(".")[0].isdigit()
    return f"{outer.rpartition('.')[2]}.{name}".lstrip(".") if is_number else name


def _colour(module: Module, root: Module) -> str:
    """The shade of a module, by its MACs a millisecond beside the whole's."""
    if module.macs is None or not root.macs:
        return UNKNOWN
    if not module.macs:
        return NONE
    times = (module.macs / module.ms) / (root.macs / root.ms) if module.ms else DENSITIES[0][0]
    return next(colour for least, colour in DENSITIES if times >= least)


def _name(drawn: Drawn) -> None:
    """Write a module's name and share into its box where they fit, in one line or two; else the name, or its ends."""
    box, name, amount = drawn.box, drawn.name, share(drawn.share)
    room = box.get_window_extent()
    label = drawn.axes.annotate(
        "",
        (box.get_x(), box.get_y() + box.get_height() / 2),
        xytext=(4, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=8,
        linespacing=0.95,
        color=readable_on(box.get_facecolor()),
    )
    for text in (f"{name}  {amount}", f"{name}\n{amount}", name):
        label.set_text(text)
        needed = label.get_window_extent()
        if needed.height > room.height and "\n" not in text:
            label.remove()
            return
        if needed.width <= room.width - 6 and needed.height <= room.height:
            return
    most = int(len(name) * room.width / needed.width)
    for length in range(most - 1, 2, -1):
        label.set_text(f"{name[:length]}…{name[-2:]}")
        if label.get_window_extent().width <= room.width - 6:
            return
    label.remove()


def _legend(axes: Axes, boxes: Sequence[Drawn], columns: int) -> None:
    from matplotlib.patches import Patch

    words = ("1 and more", "½ to 1", "⅒ to ½", "under ⅒", "none")
    looks = dict(zip((*(colour for _, colour in DENSITIES), NONE), words, strict=True))
    handles = [
        Patch(label=text, **bar_look(colour, "") | {"edgecolor": MUTED}) for colour, text in looks.items()
    ]
    if any(drawn.module.macs is None for drawn in boxes):
        handles.append(Patch(label="unknown", **bar_look(UNKNOWN, "...")))
    legend = axes.figure.legend(
        handles=handles,
        title="MACs a millisecond, as a multiple of the whole's",
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=8,
        title_fontsize=8,
        alignment="left",
        columnspacing=1.0,
    )
    legend.get_title().set_color(INK)
