"""The figure of the study `windows`: what share of the tokens is padding, by size of image. Computed, not measured."""

from __future__ import annotations

from bench import sizes, windowwork
from reports.drawing import FAINT, Plot, family_look, finish, new_figure
from reports.text import share


def padding() -> Plot:
    """Share of padded tokens against the size of the image, a dot a shape."""
    weights = sizes.shapes(sizes.read(sizes.COCO).sizes)
    shares = {shape: windowwork.padded_share(shape) for shape in weights}
    mean = sum(images * shares[shape] for shape, images in weights.items()) / weights.total()
    none = sum(images for shape, images in weights.items() if not windowwork.needs_padding(shape))
    title = f"In windows, {share(mean)} of the tokens of an image of COCO are padding, on average"
    subtitle = (
        f"{weights.total():,} images, resized for a detector, in {len(weights)} shapes; {none} need no padding. "
        "Computed, not measured."
    )
    colour, _ = family_look("ResTv2")
    with new_figure(7.6, 3.6, title, subtitle) as figure:
        axes = figure.subplots()
        areas = [height * width / 1e6 for height, width in weights]
        axes.scatter(
            areas,
            [100 * shares[shape] for shape in weights],
            s=[8 + images / 3 for images in weights.values()],
            color=colour,
            alpha=0.6,
            linewidths=0,
        )
        axes.axhline(100 * mean, color=colour, linewidth=1)
        axes.annotate(
            "mean",
            (0, 100 * mean),
            xycoords=("axes fraction", "data"),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=8.5,
        )
        axes.set_ylim(0, 125 * max(shares.values()))
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_xlabel("megapixels of the image as the detector sees it (a dot's area: how many images)")
        axes.set_ylabel("padded tokens, %")
        return finish(figure, "window_padding", title, f"Share of padded tokens by size of image. {title}.")
