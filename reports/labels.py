"""Texts near their points that cover neither each other nor a marker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from reports.drawing import INK, MUTED


@dataclass(frozen=True)
class Box:
    """A rectangle in points."""

    left: float
    bottom: float
    right: float
    top: float

    @staticmethod
    def of(artist: Any) -> Box:
        """The box around a drawn artist."""
        extent, scale = artist.get_window_extent(), 72 / artist.figure.dpi
        return Box(extent.x0 * scale, extent.y0 * scale, extent.x1 * scale, extent.y1 * scale)

    def overlap(self, other: Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return width * height if width > 0 and height > 0 else 0.0


DISTANCES = (6.0, 10.0, 16.0, 24.0, 34.0)  # points between marker and label
DIRECTIONS = tuple(2 * math.pi * i / 16 for i in range(16))


def label_points(axes: Axes, points: Sequence[tuple[float, float, str]], taken: Sequence[Box]) -> None:
    """Write each (x, y, text) near its point, clear of markers, of `taken` and of the other texts.

    Every label has the same few places; taking turns, each moves to its cheapest until none moves. The number
    of points is small and the order fixed, so this is quick and gives the same picture every time.
    """
    scale = 72 / axes.figure.dpi
    centres = [tuple(scale * v for v in axes.transData.transform((x, y))) for x, y, _ in points]
    markers = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in centres]
    frame = Box.of(axes.patch)
    texts = [axes.annotate(text, (x, y), fontsize=8, color=INK, zorder=5) for x, y, text in points]
    sizes = [(box.right - box.left, box.top - box.bottom) for box in map(Box.of, texts)]
    places = [
        [
            (_place(centre, size, angle, distance), angle, distance)
            for distance in DISTANCES
            for angle in DIRECTIONS
        ]
        for centre, size in zip(centres, sizes, strict=True)
    ]

    def fixed_cost(place: tuple[Box, float, float]) -> float:
        box, angle, distance = place
        area = (box.right - box.left) * (box.top - box.bottom)
        outside = area - box.overlap(frame)
        covered = sum(box.overlap(other) for other in (*markers, *taken))
        # a label to the right is read first, one straight above or below next
        return 20 * (outside + covered) + distance + 3 * (1 - math.cos(angle)) / 2

    fixed = [[fixed_cost(place) for place in options] for options in places]
    chosen = [options[0] for options in places]

    def cheapest(i: int) -> tuple[Box, float, float]:
        others = [box for j, (box, _, _) in enumerate(chosen) if j != i]
        costs = [
            cost + 20 * sum(place[0].overlap(other) for other in others)
            for place, cost in zip(places[i], fixed[i], strict=True)
        ]
        return places[i][costs.index(min(costs))]

    for _ in range(30):
        before = list(chosen)
        for i in range(len(places)):
            chosen[i] = cheapest(i)
        if chosen == before:
            break
    for text, centre, (box, _, distance) in zip(texts, centres, chosen, strict=True):
        text.set_position((box.left - centre[0], box.bottom - centre[1]))
        text.set_anncoords("offset points")
        if distance > 10:
            _leader(axes, text.xy, centre, box)


def _place(centre: tuple[float, ...], size: tuple[float, float], angle: float, distance: float) -> Box:
    """The box of a label whose nearest edge is `distance` away from `centre`, in the direction `angle`."""
    (x, y), (width, height) = centre, size
    middle_x = x + math.cos(angle) * (distance + width / 2)
    middle_y = y + math.sin(angle) * (distance + height / 2)
    return Box(middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2)


def _leader(axes: Axes, xy: tuple[float, float], centre: tuple[float, ...], box: Box) -> None:
    """A thin line from a point to a label that stands further off."""
    end = (min(max(centre[0], box.left), box.right), min(max(centre[1], box.bottom), box.top))
    axes.annotate(
        "",
        xy,
        xytext=(end[0] - centre[0], end[1] - centre[1]),
        textcoords="offset points",
        arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4},
        zorder=2,
    )


def label_line_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each (x, y, text, colour) to the right of its point, pushed up where two lie close."""
    scale = 72 / axes.figure.dpi
    heights = [scale * axes.transData.transform((x, y))[1] for x, y, _, _ in ends]
    lowest = -math.inf
    for height, (x, y, text, colour) in sorted(zip(heights, ends, strict=True), key=lambda end: end[0]):
        lowest = max(height, lowest + 11)
        axes.annotate(
            text,
            (x, y),
            xytext=(10, lowest - height),
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight="bold",
            fontsize=8.5,
            annotation_clip=False,
        )
