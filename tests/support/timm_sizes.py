"""The sizes of timm's models that are not of 224 pixels, in models/timm_sizes.csv: timm says them, and imports torch.

`python -m tests.support.timm_sizes` writes the file anew.
"""

from __future__ import annotations

import csv
import io

from timm.models import get_pretrained_cfg, list_models

from bench.cases import format_size
from models.config import DEFAULT_SIZE
from models.variants import TIMM_SIZES


def sizes() -> dict[str, tuple[int, int]]:
    """Size by name, of what a name alone does not tell: of architectures unlike 224, of tags unlike their own's."""
    found = {}
    for name in list_models():
        if (size := _size(name)) != DEFAULT_SIZE:
            found[name] = size
    for tagged in list_models(include_tags=True):
        name = tagged.partition(".")[0]
        if "." in tagged and (size := _size(tagged)) != found.get(name, DEFAULT_SIZE):
            found[tagged] = size
    return found


def _size(name: str) -> tuple[int, int]:
    _, height, width = get_pretrained_cfg(name).input_size
    return height, width


def text() -> str:
    """The file: a line a size, with the names of the models of that size."""
    by_size: dict[tuple[int, int], list[str]] = {}
    for name, size in sizes().items():
        by_size.setdefault(size, []).append(name)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["size", "models"])
    writer.writerows((format_size(size), " ".join(sorted(by_size[size]))) for size in sorted(by_size))
    return out.getvalue()


if __name__ == "__main__":
    TIMM_SIZES.write_text(text(), encoding="utf-8")
