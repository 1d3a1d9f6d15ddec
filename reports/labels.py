"""Texts near their points that cover neither each other nor a marker."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.figures import MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
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
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return width * height if width > 0 and height > 0 else 0.0


@dataclass(frozen=True, slots=True)
class _Place:
    """A place where a label may stand, and what that costs whatever the other labels do."""

    box: Box
    distance: float  # from the marker, in points
    cost: float
    leader: tuple[Box, ...] = ()  # along the line from the marker to a label that stands further off

    def collides(self, other: _Place) -> float:
        """The area in which two labels and their leaders cover each other."""
        area = self.box.overlap(other.box)
        area += sum(piece.overlap(other.box) for piece in self.leader)
        return area + sum(piece.overlap(self.box) for piece in other.leader)


DISTANCES = (6.0, 10.0, 16.0, 24.0, 34.0)  # points between marker and label
DIRECTIONS = tuple(2 * math.pi * i / 16 for i in range(16))
GAP = 1.0  # points left and right of a label that no other has
FAR = 10  # points from which on a label has a leader
COVERING = 20  # the cost of a square point that a label covers, or stands outside of the axes


def label_points(axes: Axes, points: Sequence[tuple[float, float, str, str]], taken: Sequence[Box]) -> None:
    """Write each (x, y, text, colour) near its point, clear of markers, of `taken`, of the other texts and leaders.

    Every label has the same few places; taking turns, each moves to its cheapest until none moves. The number
    of points is small and the order fixed, so this is quick and gives the same picture every time.
    """
    scale = 72 / axes.figure.dpi
    centres = [tuple(scale * v for v in axes.transData.transform((x, y))) for x, y, _, _ in points]
    markers = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in centres]
    frame = Box.of(axes.patch)
    texts = [axes.annotate(text, (x, y), fontsize=8, color=colour, zorder=5) for x, y, text, colour in points]
    sizes = [(box.right - box.left + 2 * GAP, box.top - box.bottom) for box in map(Box.of, texts)]
    places = [
        _places(centre, size, frame, [*markers, *taken]) for centre, size in zip(centres, sizes, strict=True)
    ]
    for text, centre, place in zip(texts, centres, _settled(places), strict=True):
        text.set_position((place.box.left + GAP - centre[0], place.box.bottom - centre[1]))
        text.set_anncoords("offset points")
        if place.leader:
            _leader(axes, text.xy, centre, place.box)


def _places(
    centre: tuple[float, ...], size: tuple[float, float], frame: Box, fixed: Sequence[Box]
) -> list[_Place]:
    """The places of a label of this size around `centre`; `fixed` is what it must not cover."""
    boxes = [
        (_box(centre, size, angle, distance), angle, distance)
        for distance in DISTANCES
        for angle in DIRECTIONS
    ]
    reach = _around([box for box, _, _ in boxes])
    near = [other for other in fixed if other.overlap(reach)]
    # a leader must not end on, or run through, another's marker; its own is around the centre
    own = Box(centre[0] - 6, centre[1] - 6, centre[0] + 6, centre[1] + 6)
    near_leader = [other for other in near if other.overlap(own) < 90]
    leaders = [_pieces(centre, box) if distance > FAR else () for box, _, distance in boxes]
    covered = _covered([box for box, _, _ in boxes], near)
    crossed = iter(_covered([piece for leader in leaders for piece in leader], near_leader))
    places = []
    for (box, angle, distance), leader, area in zip(boxes, leaders, covered, strict=True):
        area += (box.right - box.left) * (box.top - box.bottom) - box.overlap(frame)  # what is outside
        area += sum(itertools.islice(crossed, len(leader)))
        # a label to the right is read first, one straight above or below next
        cost = COVERING * area + distance + 3 * (1 - math.cos(angle)) / 2
        places.append(_Place(box, distance, cost, leader))
    return places


def _covered(boxes: Sequence[Box], others: Sequence[Box]) -> list[float]:
    """The area of each box that others cover, as often as they do."""
    if not (boxes and others):
        return [0.0] * len(boxes)
    one, other = (
        np.array([(box.left, box.bottom, box.right, box.top) for box in some]) for some in (boxes, others)
    )
    lower = np.maximum(one[:, None, :2], other[:, :2])
    upper = np.minimum(one[:, None, 2:], other[:, 2:])
    return np.clip(upper - lower, 0, None).prod(axis=2).sum(axis=1).tolist()


def _settled(places: Sequence[Sequence[_Place]]) -> list[_Place]:
    """The place of each label, once none would move."""
    reaches = [_around([place.box for place in options]) for options in places]
    # only these can ever cover each other, and most of a wide figure's labels never meet
    neighbours = [
        [j for j, other in enumerate(reaches) if j != i and other.overlap(reach)]
        for i, reach in enumerate(reaches)
    ]
    chosen = [options[0] for options in places]
    by_cost = [sorted(options, key=lambda place: place.cost) for options in places]
    # where the neighbours stood when a label last moved
    seen: list[list[_Place] | None] = [None] * len(places)
    for _ in range(30):
        before = list(chosen)
        for i, options in enumerate(by_cost):
            others = [chosen[j] for j in neighbours[i]]
            if others != seen[i]:
                seen[i], chosen[i] = others, _cheapest(options, others)
        if chosen == before:
            break
    return chosen


def _cheapest(by_cost: Sequence[_Place], others: Sequence[_Place]) -> _Place:
    """The cheapest of a label's places beside where the `others` stand, looking no further than it has to."""
    best, least = by_cost[0], math.inf
    for place in by_cost:
        if place.cost >= least:
            break  # standing in the way of others only adds to it
        cost = place.cost + COVERING * sum(place.collides(other) for other in others)
        if cost < least:
            best, least = place, cost
    return best


def _pieces(centre: tuple[float, ...], box: Box) -> tuple[Box, ...]:
    """Small boxes along the line from a marker's edge to the nearest point of its label."""
    x, y = min(max(centre[0], box.left), box.right), min(max(centre[1], box.bottom), box.top)
    steps = [step / 6 for step in range(2, 6)]
    along = [(centre[0] + step * (x - centre[0]), centre[1] + step * (y - centre[1])) for step in steps]
    return tuple(Box(left - 1.5, bottom - 1.5, left + 1.5, bottom + 1.5) for left, bottom in along)


def _around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds them all."""
    return Box(
        min(box.left for box in boxes),
        min(box.bottom for box in boxes),
        max(box.right for box in boxes),
        max(box.top for box in boxes),
    )


def _box(centre: tuple[float, ...], size: tuple[float, float], angle: float, distance: float) -> Box:
    """The box of a label whose nearest edge is `distance` away from `centre`, in the direction `angle`."""
    (x, y), (width, height) = centre, size
    middle_x = x + math.cos(angle) * (distance + width / 2)
    middle_y = y + math.sin(angle) * (distance + height / 2)
    return Box(middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2)


def _leader(axes: Axes, xy: tuple[float, float], centre: tuple[float, ...], box: Box) -> None:
    """Draw a thin line from a point to a label that stands further off."""
    end = (min(max(centre[0], box.left), box.right), min(max(centre[1], box.bottom), box.top))
    axes.annotate(
        "",
        xy,
        xytext=(end[0] - centre[0], end[1] - centre[1]),
        textcoords="offset points",
        arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4},
        zorder=2,
    )
