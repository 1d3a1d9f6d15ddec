"""A row of an analysis of branches, read and checked: the model, what it was shown, and its spectra or its CKA."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from bench import stats
from bench.cases import RUN_OPTIONS, parsed
from bench.record import Row
from reports.rows import when

BRANCHES = ("com", "attn", "up")
PAIRS = ("attn_com", "up_com", "up_attn")  # pairs of branches


@dataclass(frozen=True)
class BranchRow:
    """One analysis of one case: what the model was, and what it was shown."""

    row: Row

    @property
    def _result(self) -> dict[str, Any]:
        return self.row["result"]

    @property
    def blocks(self) -> list[str]:
        """Names of the blocks, in the order in which an image goes through them."""
        return [str(block) for block in self._result["blocks"]]

    @property
    def is_trained(self) -> bool:
        """Whether weights came from a file; what a user's own class starts with is not known."""
        return bool(self._result["weights"]["source"] == "file")

    @property
    def is_of_photographs(self) -> bool:
        """Whether it looked at a folder of images, not at synthetic ones."""
        return bool(self._result["images"]["source"] == "folder")

    @property
    def is_shown(self) -> bool:
        """Whether it is fit for a figure."""
        return True

    @property
    def rank(self) -> tuple[bool, bool, str]:
        """The larger, the more it says: trained weights, then photographs, then the newest."""
        return self.is_trained, self.is_of_photographs, when(self.row)

    @property
    def model(self) -> str:
        """`ResTv2-T [mhim] at 224 × 224`, without its weights and images, which have words of their own."""
        case = parsed(self.row["case"])
        told = {*RUN_OPTIONS, "weights"}
        title = replace(case, options=tuple(pair for pair in case.options if pair[0] not in told)).title
        return f"{title} at {' × '.join(map(str, case.size))}"

    @property
    def weights(self) -> str:
        """The source of the weights, in words."""
        return {
            "file": f"weights of {self._result['weights']['file']}",
            "initial": "initial weights",
            "module": "weights as its class makes them",
        }[self._result["weights"]["source"]]

    @property
    def images(self) -> str:
        """The images that were looked at, in words."""
        images = self._result["images"]
        used, there = int(images["used"]), int(images["found"])
        if not self.is_of_photographs:
            return f"{used} synthetic images"
        return f"{f'{used:,} of ' if used < there else ''}{there:,} images in {images['folder']}"

    @property
    def subtitle(self) -> str:
        """Model, weights and images in a line, with what a reader must not take the analysis for."""
        text = f"{self.model}, {self.weights}, {self.images}"
        if self._result["weights"]["source"] == "initial":
            return f"{text}: curves of an untrained network."
        return f"{text}." if self.is_of_photographs else f"{text}, no photographs."

    def _values(self, values: Iterable[Any], count: int) -> list[float]:
        numbers = [float(value) for value in values]
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            raise ValueError(f"not {count} finite numbers")
        return numbers

    def check(self) -> None:
        """Read everything that a report will read.

        Raises:
            Exception: whatever reading a damaged row raises.
        """
        if not self.blocks:
            raise ValueError("no block")
        _ = self.subtitle, self.rank


@dataclass(frozen=True)
class Spectra(BranchRow):
    """Relative log amplitudes of each block's branches: a row of harness `fourier`."""

    @cached_property
    def frequencies(self) -> list[list[float]]:
        """The frequencies of each block, in units of π."""
        per_block = self._for_each_block(self._result["frequencies"])
        return [self._values(frequencies, len(frequencies)) for frequencies in per_block]

    @cached_property
    def curves(self) -> dict[str, list[list[float]]]:
        """Curves of each branch, block by block, at its frequencies: ln of the amplitude, less its value at 0."""
        return {
            name: [
                self._values(values, len(frequencies))
                for values, frequencies in zip(
                    self._for_each_block(self._result["log_amplitude"][name]), self.frequencies, strict=True
                )
            ]
            for name in BRANCHES
        }

    def _for_each_block(self, lists: list[list[Any]]) -> list[list[Any]]:
        if len(lists) != len(self.blocks) or not all(lists):
            raise ValueError(f"not a curve for each of {len(self.blocks)} blocks")
        return lists

    def check(self) -> None:
        """Read the curves too."""
        super().check()
        _ = self.curves


@dataclass(frozen=True)
class Similarity(BranchRow):
    """Linear CKA of the branches, block by block: a row of harness `cka`."""

    @property
    def is_shown(self) -> bool:
        """Whether it is of so many images that it is more than noise."""
        return int(self._result["images"]["used"]) >= stats.CKA_SHOWN

    @property
    def is_told(self) -> bool:
        """Whether it is of so many images that blocks can be told apart by it."""
        return int(self._result["images"]["used"]) >= stats.CKA_TOLD

    @cached_property
    def cka(self) -> dict[str, list[float]]:
        """CKA of each pair of branches, block by block."""
        return {name: self._values(self._result["cka"][name], len(self.blocks)) for name in PAIRS}

    def check(self) -> None:
        """Read the values too."""
        super().check()
        _ = self.cka


READERS: dict[str, type[Spectra] | type[Similarity]] = {"fourier": Spectra, "cka": Similarity}
