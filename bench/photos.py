"""The images of a folder: which there are, and which of them an analysis looks at. No torch: the runner asks too."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
LIMIT = 256  # images looked at: minutes of ResTv2-T on two cores
SYNTHETIC = 16  # looked at where no folder is given


@dataclass(frozen=True)
class Photos:
    """What was found under `folder`, and the `files` among it that are looked at."""

    folder: Path
    found: int
    files: tuple[Path, ...]

    @property
    def stamp(self) -> str:
        """A hash of their number, names, sizes and times: it changes when a file does, and no file is read for it."""
        digest = hashlib.sha256(f"{self.found}\0".encode())
        for file in self.files:
            about = file.stat()
            name = file.relative_to(self.folder).as_posix()
            digest.update(
                f"{name}\0{about.st_size}\0{about.st_mtime_ns}\0".encode("utf-8", "surrogateescape")
            )
        return digest.hexdigest()


def find(folder: Path) -> Photos:
    """The images in `folder` and below it, by name; of more than LIMIT, that many at even distances.

    Raises:
        ValueError: as `every`.
    """
    images = every(folder)
    looked_at = min(len(images), LIMIT)
    return Photos(folder, len(images), tuple(images[i * len(images) // looked_at] for i in range(looked_at)))


def every(folder: Path) -> list[Path]:
    """All images in `folder` and below it, by name.

    Hidden files and folders are left out: they are thumbnails, or what a Mac leaves beside its files. Links to
    files are followed, links to folders are not.

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
        and not file.is_dir()
    )
    if not images:
        kinds = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        raise ValueError(f"images={folder}: no image in that folder, nor below it; known are {kinds}")
    return images
