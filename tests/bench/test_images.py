"""Sizes of real images: where they are read from, what a detector makes of them, and the few that stand for all."""

from __future__ import annotations

import errno
import json
import os
import random
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from bench import images
from bench.images import Size, likeness, padded, read, representatives, resized, shapes

COCO = read("coco")


def random_sizes(count: int, seed: int = 0) -> list[Size]:
    """From square to forty times as long as wide."""
    source = random.Random(seed)
    return [(round(30 * 40 ** source.random()), round(30 * 40 ** source.random())) for _ in range(count)]


# --- reading ---------------------------------------------------------------------------------------------


def test_coco_is_there():
    assert len(COCO) == 5000
    assert COCO[:2] == ((426, 640), (640, 586))  # images 139 and 285, as COCO's annotations have them
    assert max(max(size) for size in COCO) == 640  # as all of COCO


def annotated(folder: Path, content: object, name: str = "instances.json") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_an_annotation_file_is_read_in_the_order_of_ids(tmp_path):
    entries = [
        {"id": 7, "width": 640, "height": 427, "file_name": "7.jpg"},
        {"id": 2, "width": 1, "height": 100_000},
        {"id": 11, "width": 333, "height": 500},
    ]
    found = read(annotated(tmp_path, {"info": {}, "images": entries, "annotations": []}))
    assert found == ((100_000, 1), (427, 640), (500, 333))


ONE = {"id": 17, "width": 640, "height": 480}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "neither a folder of images nor a COCO annotation file: it is not JSON"),
        ("\x00\xff", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        (
            '{"images": [{"id": 1, "width": ' + "9" * 5000 + "}]}",
            "it is not JSON",
        ),  # Python reads no such number
        ([ONE], 'it has no list "images"'),
        ({"annotations": []}, 'it has no list "images"'),
        ({"images": {"17": ONE}}, 'it has no list "images"'),
        ({"images": []}, 'its list "images" is empty'),
        ({"images": [ONE, 18]}, "entry 1 of its images has no whole number as id"),
        ({"images": [{"width": 640, "height": 480}]}, "entry 0 of its images has no whole number as id"),
        ({"images": [{"id": [17], "width": 640, "height": 480}]}, "entry 0 of its images has no whole"),
        ({"images": [{"id": 17, "width": 640}]}, "image 17 has no height"),
        ({"images": [{"id": 17, "height": 480}]}, "image 17 has no width"),
        *(
            ({"images": [ONE | {"id": 18, "width": bad}]}, f"image 18 has a width of {shown}, which")
            for bad, shown in [
                *((0, "0"), (-3, "-3"), (640.5, "640.5"), (True, "true"), (None, "null"), ("640", '"640"')),
                *((2**31, "2147483648"), (float("nan"), "nan"), ([640] * 99, "[640, 640, 640, 640,…")),
            ]
        ),
    ],
)
def test_a_bad_annotation_file_is_one_line_that_says_why(tmp_path, content, reason):
    source = annotated(tmp_path, content)
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        read(source)
    assert str(caught.value).startswith(f"images={source}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["nowhere.json", "nowhere", "x" * 5000, "a\0b"])
def test_a_source_that_is_not_there(source):
    with pytest.raises(ValueError, match=r"^images=.*: there is no such file or folder$"):
        read(source)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    source = annotated(tmp_path, {"images": [ONE]})
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match=r"instances\.json: cannot be read: Permission denied$"):
        read(source)


def photo(path: Path, size: Size, orientation: int | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    exif = Image.Exif()
    if orientation is not None:
        exif[images.ORIENTATION] = orientation
    Image.new("RGB", size[::-1]).save(path, exif=exif)


def test_a_folder_is_read_by_name_and_without_decoding(tmp_path, monkeypatch):
    photo(tmp_path / "b.jpg", (30, 50))
    photo(tmp_path / "a" / "c.PNG", (20, 10))
    photo(tmp_path / "d.webp", (7, 9))
    photo(tmp_path / ".hidden" / "e.jpg", (1, 1))
    (tmp_path / "notes.txt").write_text("not one of them")
    monkeypatch.setattr(images, "LIMIT", 1)  # which is of analyses, not of sizes
    for format_ in (Image.Image, *(type(Image.open(file)) for file in images.every(tmp_path))):
        monkeypatch.setattr(format_, "load", lambda self: pytest.fail("decoded"))
    assert read(str(tmp_path)) == ((20, 10), (30, 50), (7, 9))


@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", [None, *range(10)])
def test_a_turned_camera_is_turned_back_as_pillow_does_it(tmp_path, extension, orientation):
    from PIL import ImageOps

    file = tmp_path / "photos" / f"it.{extension}"
    photo(file, (20, 10), orientation)
    with Image.open(file) as image:
        width, height = ImageOps.exif_transpose(image).size
    assert read(str(file.parent)) == ((height, width),)
    assert (height, width) == ((10, 20) if orientation in (5, 6, 7, 8) else (20, 10))


def test_corrupt_exif_data_turn_nothing(tmp_path):
    Image.new("RGB", (10, 20)).save(tmp_path / "it.jpg", exif=b"Exif\0\0not a TIFF header")
    assert read(str(tmp_path)) == ((20, 10),)


def bomb(path: Path) -> None:
    """A bitmap whose head promises 10^10 pixels."""
    Image.new("RGB", (1, 1)).save(path)
    head = bytearray(path.read_bytes())
    head[18:26] = (100_000).to_bytes(4, "little") * 2
    path.write_bytes(head)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda file: None, "images=.*: no image in that folder, nor below it; known are bmp, jpeg"),
        (lambda file: file.write_bytes(b""), "it.bmp is not an image"),
        (lambda file: file.write_bytes(b"\xff\xd8 and no more"), "it.bmp is not an image"),
        (lambda file: file.symlink_to("nowhere"), "cannot read .*it.bmp: No such file or directory"),
        (bomb, "cannot read .*it.bmp as an image: Image size .* exceeds limit"),
    ],
)
def test_a_bad_folder_is_one_line_that_says_why(tmp_path, make, reason):
    make(tmp_path / "it.bmp")
    with pytest.raises(ValueError, match=reason) as caught:
        read(str(tmp_path))
    assert "\n" not in str(caught.value)


# --- resizing and padding --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "at", "shape"),
    [
        ((427, 640), (800, 1199), (800, 1216)),
        ((640, 427), (1199, 800), (1216, 800)),
        ((480, 640), (800, 1067), (800, 1088)),
        ((500, 500), (800, 800), (800, 800)),
        ((800, 1333), (800, 1333), (800, 1344)),
        ((240, 640), (500, 1333), (512, 1344)),  # the longer side limits it: 240 · 1333 / 640 = 499.9
        ((3000, 300), (1333, 133), (1344, 160)),
        ((1, 1), (800, 800), (800, 800)),
        ((1, 10**6), (1, 1333), (32, 1344)),  # 0.0013 pixels, of which a whole one is left
        ((images.LONGEST_FILE, 1), (1333, 1), (1344, 32)),
    ],
)
def test_what_a_detector_makes_of_a_size(size, at, shape):
    assert (resized(size), padded(resized(size))) == (at, shape)


def nearest(value: Fraction) -> set[int]:
    """Rounded half up; both ways where floating point cannot tell."""
    return {int(value + Fraction(1, 2) + sign * Fraction(1, 10**9)) for sign in (-1, 1)}


def test_the_scale_is_the_largest_that_keeps_both_limits():
    """Against fractions, which know no rounding."""
    for size in {*random_sizes(1000), *COCO}:
        scale = min(Fraction(800, min(size)), Fraction(1333, max(size)))
        assert all(at in nearest(side * scale) for at, side in zip(resized(size), size, strict=True)), size
        assert resized(size[::-1]) == resized(size)[::-1]


@pytest.mark.parametrize("multiple", [1, 32, 256])
def test_padding_adds_less_than_a_multiple(multiple):
    for size in random_sizes(200, seed=1):
        for side, to in zip(size, padded(size, multiple), strict=True):
            assert to % multiple == 0 and 0 <= to - side < multiple


def test_coco_comes_down_to_a_few_shapes():
    counted = shapes(COCO)
    assert counted.total() == 5000
    assert all(height % 32 == 0 and width % 32 == 0 for height, width in counted)
    assert max(map(max, counted)) == 1344 and max(map(min, counted)) == 800
    # 640x480 is COCO's commonest size, then 640x427 and 640x426
    assert [shape for shape, _ in counted.most_common(2)] == [(800, 1088), (800, 1216)]


# --- representatives -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 16, 99, 4999])
@pytest.mark.parametrize("images", [COCO, random_sizes(5000, seed=2)], ids=["coco", "random"])
def test_representatives_stand_for_equally_many(images, count):
    chosen, counted = representatives(images, count), shapes(images)
    assert len(chosen) == count and set(chosen) <= set(counted)
    mixed = random.Random(count).sample(images, len(images))
    assert representatives(mixed, count) == chosen  # whatever the order
    weight = len(images) / count
    for shape, times in Counter(chosen).items():
        # one that is chosen k times fills the middles of k parts, so k - 1 whole ones lie between the outer two
        assert counted[shape] >= (times - 1) * (weight - 1)
    for shape, number in counted.items():
        # and one that as many images have as three halves of a part holds a part's middle
        assert shape in chosen or number < 1.5 * (weight + 1)


@pytest.mark.parametrize(("count", "within"), [(8, 0.02), (16, 0.01), (32, 0.005)])
def test_a_few_have_the_mean_area_of_all(count, within):
    assert likeness(COCO, representatives(COCO, count)).area_ratio == pytest.approx(1, abs=within)


def test_the_mean_of_a_cost_over_a_few_is_that_over_all():
    """Of one that grows with the square of the area and one that orientation decides."""
    chosen, counted = representatives(COCO, 16), shapes(COCO)
    for cost in (lambda shape: (shape[0] * shape[1]) ** 2, lambda shape: shape[0] > shape[1]):
        mean = sum(cost(shape) * number for shape, number in counted.items()) / counted.total()
        assert sum(map(cost, chosen)) / len(chosen) == pytest.approx(mean, rel=0.06)


def test_wide_and_tall_images_meet_at_their_largest():
    small, large = (480, 640), (480, 800)
    for middle, others in ((large, (small, small[::-1])), (large[::-1], (small, small[::-1]))):
        assert representatives([*others, middle], 1) == list(shapes([middle]))


def test_fewer_images_than_asked_for_are_all_there():
    sizes = random_sizes(10, seed=3)
    chosen = representatives(sizes, 16)
    assert Counter(chosen) == shapes(sizes)
    assert likeness(sizes, chosen) == images.Likeness(1, 1)
    assert representatives([], 4) == []


def test_likeness_says_how_many_images_are_hit():
    images = [(800, 800)] * 3 + [(800, 1088)]
    found = likeness(images, [(800, 1088)])
    assert found.share == 0.25
    assert found.area_ratio == pytest.approx(1088 / (3 * 800 + 1088) * 4)


def test_none_cannot_stand_for_all():
    with pytest.raises(ValueError, match=r"^0 images cannot stand for all: at least 1 can$"):
        representatives(COCO, 0)


def test_a_picture_that_keeps_its_size_and_time_is_another_one(tmp_path):
    """Copies by rsync or from an archive do."""
    picture = tmp_path / "a.png"
    picture.write_bytes(b"one")
    before = images.Photos(tmp_path, 1, (picture,)).stamp
    times = picture.stat().st_atime_ns, picture.stat().st_mtime_ns
    picture.write_bytes(b"two")
    os.utime(picture, ns=times)
    assert images.Photos(tmp_path, 1, (picture,)).stamp != before


def test_what_pillow_would_give_to_another_program_is_no_image(tmp_path, monkeypatch):
    """An EPS runs Ghostscript; a name that ends in .jpg does not change that."""
    from bench.harness import inputs

    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "it.jpg").write_bytes(eps)
    with pytest.raises(ValueError, match="is not an image"):
        images.read(f"{tmp_path}/")
    with pytest.raises(ValueError, match="is not an image"):
        inputs.pictures(str(tmp_path), (32, 32)).load([0])


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "it.jpg")
    with pytest.raises(ValueError, match="no image in that folder"):
        images.read(f"{tmp_path}/")
    os.mkfifo(tmp_path / "it.json")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        images.read(str(tmp_path / "it.json"))
