"""Invented rows of the analyses of branches: small enough to work their figures out by hand."""

from __future__ import annotations

from typing import Any

from tests.support.synthetic_rows import row

INITIAL = {"source": "initial", "file": None, "hash": None}
TRAINED = {"source": "file", "file": "restv2_tiny_224.pth", "hash": "invented"}
OWN = {"source": "module", "file": None, "hash": None}
SYNTHETIC = {"source": "synthetic", "used": 16, "found": 16, "hash": None, "folder": None}
PHOTOGRAPHS = {"source": "folder", "used": 256, "found": 50000, "hash": "invented", "folder": "val"}

BLOCKS = ["stage1.0", "stage1.1", "stage2.0"]
FREQUENCIES: list[list[float]] = [[0, 0.25, 0.5, 0.75, 1], [0, 0.25, 0.5, 0.75, 1], [0, 2 / 3]]
# From 0.5π up, upsample less attention is 3·1 in the first block, 1 - 4 + 1 in the second, 0.5 in the third.
CURVES: dict[str, list[list[float]]] = {
    "com": [[0, -1, -2, -3, -4], [0, -1, -2, -3, -4], [0, -1]],
    "attn": [[0, -9, -3, -4, -5], [0, -9, -3, -1, -5], [0, -2]],
    "up": [[0, -9, -2, -3, -4], [0, 9, -2, -5, -4], [0, -1.5]],
}
CKA = {"attn_com": [0.5, 0.6, 0.9], "up_com": [0.9, 0.8, 0.95], "up_attn": [0.204, -0.004, 0.8449]}
CASE = "restv2_tiny@224:b16:fp32:eager"


def fourier(
    case: str = CASE,
    *,
    weights: dict[str, Any] = INITIAL,
    images: dict[str, Any] = SYNTHETIC,
    **more: Any,
) -> dict[str, Any]:
    """A row of spectra."""
    result = {"blocks": BLOCKS, "frequencies": FREQUENCIES, "log_amplitude": CURVES}
    return row("fourier", case, {**result, "images": images, "weights": weights}, **more)


def cka(
    case: str = CASE,
    *,
    weights: dict[str, Any] = INITIAL,
    images: dict[str, Any] = SYNTHETIC,
    **more: Any,
) -> dict[str, Any]:
    """A row of similarities."""
    return row("cka", case, {"blocks": BLOCKS, "cka": CKA, "images": images, "weights": weights}, **more)
