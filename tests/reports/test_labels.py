"""Labels near their points: none covers another where there is room, and each looks at every other that it may meet."""

import re

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reports import figures, labels, page
from reports.labels import Box, label_points


def boxes_of(points):
    """The boxes of the labels of (x, y, text, colour) on plain axes from 0 to 1."""
    figure = Figure(figsize=(5, 5))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    label_points(axes, points, [])
    return [Box.of(text) for text in axes.texts if text.get_text()]


CROWD = [(0.5 + 0.02 * (i % 3), 0.5 + 0.015 * (i // 3), f"model {i}", "black") for i in range(9)]


def test_a_crowd_of_points_has_labels_that_stand_apart():
    boxes = boxes_of(CROWD)
    assert len(boxes) == len(CROWD)
    for i, box in enumerate(boxes):
        assert all(box.overlap(other) == 0 for other in boxes[i + 1 :])


def test_labels_stand_where_they_would_if_each_looked_at_every_other_in_every_round():
    """Only neighbours are looked at, and only when one of them moved: neither changes a place."""

    def slowly(places):
        chosen = [options[0] for options in places]
        for _ in range(30):
            before = list(chosen)
            for i, options in enumerate(places):
                others = [place for j, place in enumerate(chosen) if j != i]
                costs = [
                    place.cost + labels.COVERING * sum(place.collides(other) for other in others)
                    for place in options
                ]
                chosen[i] = options[costs.index(min(costs))]
            if chosen == before:
                break
        return chosen

    frame = Box(0, 0, 300, 300)
    centres = [(100 + 9.0 * (i % 4), 120 + 7.0 * (i // 4)) for i in range(16)] + [(290.0, 290.0)]
    markers = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in centres]
    places = [labels._places(centre, (40, 9), frame, markers) for centre in centres]
    assert labels._settled(places) == slowly(places)


def test_no_leader_ends_on_another_marker_or_strikes_a_name_out():
    frame = Box(0, 0, 400, 400)
    centres = [(150 + 7.0 * (i % 5), 150 + 8.0 * (i // 5)) for i in range(10)]
    markers = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in centres]
    places = [labels._places(centre, (40, 9), frame, markers) for centre in centres]
    chosen = labels._settled(places)
    assert any(place.leader for place in chosen)
    struck = [
        (i, j)
        for i, place in enumerate(chosen)
        for j, other in enumerate(chosen)
        if i != j and any(piece.overlap(other.box) for piece in place.leader)
    ]
    assert struck == []


@pytest.mark.parametrize("family", figures.FAMILIES)
def test_a_name_in_its_familys_colour_can_be_read_on_white_and_in_the_dark(family):
    def luminance(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    css = page.TEMPLATES.joinpath("page.css").read_text()
    light, dark = css.partition("prefers-color-scheme: dark")[::2]
    colour = figures.FAMILIES[family][0].lower()
    (name,) = re.findall(r"--\w+", page.THEMED[colour])
    for scheme, ground in ((light, "#ffffff"), (dark, "#1f2125")):
        shown = re.findall(rf"{name}: (#\w+)", scheme)[0]
        bright, dim = sorted((luminance(shown), luminance(ground)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5
    assert re.findall(rf"{name}: (#\w+)", light) == [colour]
