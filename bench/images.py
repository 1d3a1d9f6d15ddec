"""Real images: the photographs in a folder, the sizes of a collection, and what a detector makes of sizes. No torch.

An image is resized to a short side of 800 and a long side of at most 1333, then padded to multiples of 32. What is
left of a collection is a mix of shapes, and a detector's time depends on that.

`coco_val2017_sizes.csv` holds id, width and height of the 5,000 images of COCO val2017 by id, the order in which
detectron2 reads them. They are taken from the public annotation file `captions_val2017.json`; no image or annotation
is included.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.config import Size

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
LIMIT = 256  # images looked at: minutes of ResTv2-T on two cores
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")  # whatever a file is called: Pillow hands an EPS to Ghostscript
MAX_PIXELS = 2**28  # of an image that is decoded: 1 GiB
SYNTHETIC = 16  # looked at where no folder is given


@dataclass(frozen=True)
class Photos:
    """The photographs in a folder: how many there are, and the files that an analysis looks at."""

    folder: Path
    found: int
    files: tuple[Path, ...]

    @property
    def stamp(self) -> str:
        """A hash of number, names and contents of the photographs."""
        digest = hashlib.sha256(f"{self.found}\0".encode())
        for file in self.files:
            name = file.relative_to(self.folder).as_posix()
            digest.update(f"{name}\0{file.stat().st_size}\0".encode("utf-8", "surrogateescape"))
            with file.open("rb") as opened:  # size and time can stay while the picture does not
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return digest.hexdigest()


def find(folder: Path) -> Photos:
    """The photographs in a folder and below it, by name; of more than LIMIT, LIMIT at even distances.

    Raises:
        ValueError: no such folder, or no image in it.
    """
    images = every(folder)
    looked_at = min(len(images), LIMIT)
    return Photos(folder, len(images), tuple(images[i * len(images) // looked_at] for i in range(looked_at)))


def every(folder: Path) -> list[Path]:
    """All images in a folder and below it, by name.

    Hidden files and folders are left out: they are thumbnails, or what a Mac leaves beside its files. Links to files
    are followed, links to folders are not.

    Raises:
        ValueError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise ValueError(f"images={folder}: there is no such folder")
    images = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in EXTENSIONS
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and (file.is_file() or not file.exists())  # a FIFO or a device would be waited for
    )
    if not images:
        kinds = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        raise ValueError(f"images={folder}: no image in that folder, nor below it; known are {kinds}")
    return images


COCO = "coco"  # the source that is always there; cocoN are the first N images of it
COCO_FILE = Path(__file__).with_name("coco_val2017_sizes.csv")
_FIRST = re.compile(rf"{COCO}([0-9]*)")
MULTIPLE = 32  # a detector's images have sides of multiples: stage 4 sees a 32nd of them
LONGEST_FILE = 2**31 - 1  # pixels a side: no format holds more
ORIENTATION = 0x0112  # the EXIF tag
LYING = range(5, 9)  # its values for a camera that was turned by a quarter


def read(source: str) -> tuple[Size, ...]:
    """The sizes of a collection of images.

    A file's sizes come from its head alone. An image whose EXIF data say that the camera was turned is turned back, as
    detectron2 does.

    Args:
        source: "coco" for COCO val2017, "coco500" for its first 500 images; a COCO annotation file, read in the order
            of ids; or a folder, read by name.

    Raises:
        ValueError: one line that names `source` and what is wrong with it.
    """
    if first := _FIRST.fullmatch(source):
        with COCO_FILE.open(newline="") as file:
            sizes = tuple((int(row["height"]), int(row["width"])) for row in csv.DictReader(file))
        number = int(first[1][:9] or len(sizes))
        if not 1 <= number <= len(sizes):
            raise ValueError(f"images={source}: of COCO val2017 there are the first 1 to {len(sizes)}")
        return sizes[:number]
    path = Path(source)
    if os.path.exists(source) and not (path.is_file() or path.is_dir()):
        raise ValueError(f"images={source}: neither a file nor a folder")
    if not os.path.exists(source):  # which, unlike Path's, takes any text
        raise ValueError(f"images={source}: there is no such file or folder")
    return tuple(_size_of(file) for file in every(path)) if path.is_dir() else tuple(_annotated(path))


def _annotated(path: Path) -> list[Size]:
    """The sizes in an annotation file such as COCO's `instances_*.json` or `captions_*.json`, by id."""
    where = f"images={path}"
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{where}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ValueError(
            f"{where}: neither a folder of images nor a COCO annotation file: it is not JSON"
        ) from None
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise ValueError(f'{where}: not a COCO annotation file: it has no list "images"')
    if not images:
        raise ValueError(f'{where}: its list "images" is empty')
    sizes: dict[int, Size] = {}  # the last entry of an id counts, as in COCO's own reader
    for number, entry in enumerate(images):
        if not isinstance(entry, dict) or type(entry.get("id")) is not int:
            raise ValueError(f"{where}: entry {number} of its images has no whole number as id")
        sizes[entry["id"]] = _checked(entry, where)
    return [sizes[image_id] for image_id in sorted(sizes)]


def _checked(entry: dict[str, Any], where: str) -> Size:
    for side in ("height", "width"):
        if side not in entry:
            raise ValueError(f"{where}: image {entry['id']} has no {side}")
        value = entry[side]
        if type(value) is not int or not 0 < value <= LONGEST_FILE:
            shown = str(value) if isinstance(value, float) or type(value) is int else json.dumps(value)
            shown = shown if len(shown) <= 20 else f"{shown[:20]}…"
            raise ValueError(f"{where}: image {entry['id']} has a {side} of {shown}, which no image has")
    return entry["height"], entry["width"]


def _size_of(file: Path) -> Size:
    from PIL import Image, UnidentifiedImageError  # late, because a mix from elsewhere does not need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # nothing is decompressed
            with Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                lying = _orientation(image) in LYING
    except UnidentifiedImageError:
        raise ValueError(f"{file} is not an image") from None
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror or error}") from None
    except Exception as error:  # what a corrupt file does to the decoders has no end
        raise ValueError(f"cannot read {file} as an image: {error or type(error).__name__}") from None
    return (width, height) if lying else (height, width)


def _orientation(image: Any) -> Any:
    """The EXIF orientation of an open image; None where its data are absent or corrupt, as in detectron2."""
    from PIL import Image

    try:
        # not image.getexif(): for a PNG that decodes the pixels, to look for what may come after them
        return Image.Image.getexif(image).get(ORIENTATION)
    except Exception:
        return None


def resized(size: Size, short: int = 800, longest: int = 1333) -> Size:
    """A size with a short side of `short` and a long side of at most `longest`.

    Rounded as detectron2's ResizeShortestEdge does. That may leave nothing of an image that is thousands of times as
    long as wide, and fails there; here a pixel is left.
    """
    height, width = size
    scale = short / min(height, width)
    exact: tuple[float, float] = (short, scale * width) if height < width else (scale * height, short)
    if max(exact) > longest:
        scale = longest / max(exact)
        exact = (exact[0] * scale, exact[1] * scale)
    return max(1, int(exact[0] + 0.5)), max(1, int(exact[1] + 0.5))


def padded(size: Size, multiple: int = MULTIPLE) -> Size:
    """A size with each side taken up to the next multiple."""
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def shapes(sizes: Iterable[Size]) -> Counter[Size]:
    """The shapes that a detector sees of images of these sizes, resized and padded, with their numbers of images."""
    return Counter(padded(resized(size)) for size in sizes)


@dataclass(frozen=True)
class Likeness:
    """Two measures of how well a few shapes stand for many images.

    `area_ratio` is their mean area over the mean of all; `share` the part of the images whose own shape is among them.
    """

    area_ratio: float
    share: float


def representatives(sizes: Iterable[Size], count: int) -> list[Size]:
    """`count` shapes to run in place of all images, each for as many images as any other, give or take one.

    The images are put in a row by shape: wide ones from the smallest area to the largest, then tall ones back to the
    smallest. The row is cut into `count` parts, and the middle image of each gives its shape, so that the plain mean
    over the shapes estimates the mean over the images. A shape that many images have comes more than once. Where there
    are no more than `count` images, all of them are taken.

    Raises:
        ValueError: a count below 1.
    """
    if count < 1:
        raise ValueError(f"{count} images cannot stand for all: at least 1 can")
    row = sorted(shapes(sizes).elements(), key=_place)
    count = min(count, len(row))
    return [row[(2 * part + 1) * len(row) // (2 * count)] for part in range(count)]


def _place(shape: Size) -> tuple[bool, int, Size]:
    """The place of a shape in the row of all.

    Wide and tall meet at their largest, so that a part with both has images of like area.
    """
    tall, area = shape[0] > shape[1], shape[0] * shape[1]
    return tall, -area if tall else area, shape


def likeness(sizes: Iterable[Size], chosen: Sequence[Size]) -> Likeness:
    """The likeness of the chosen shapes, of equal weight, to images of these sizes; neither may be empty."""
    counted, few = shapes(sizes), Counter(chosen)
    share = sum(counted[shape] for shape in few) / counted.total()
    return Likeness(_mean_area(few) / _mean_area(counted), share)


def _mean_area(counted: Counter[Size]) -> float:
    """The mean area of images in pixels."""
    return sum(height * width * n for (height, width), n in counted.items()) / counted.total()
