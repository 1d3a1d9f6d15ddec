"""Labels near their points: none covers another where there is room, and each looks at every other that it may meet."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reports import labels
from reports.labels import Box, label_points


def boxes_of(points):
    """The boxes of the labels of (x, y, text) on plain axes from 0 to 1."""
    figure = Figure(figsize=(5, 5))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    label_points(axes, points, [])
    return [Box.of(text) for text in axes.texts if text.get_text()]


CROWD = [(0.5 + 0.02 * (i % 3), 0.5 + 0.015 * (i // 3), f"model {i}") for i in range(9)]


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
                others = [place.box for j, place in enumerate(chosen) if j != i]
                costs = [
                    place.cost + labels.COVERING * sum(place.box.overlap(other) for other in others)
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
