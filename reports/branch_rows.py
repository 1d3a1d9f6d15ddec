"""Rows of the analyses of `bench/branches.py`, read and checked: what was looked at, and what came out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from bench.cases import RUN_OPTIONS, Case, parse
from bench.record import Row

BRANCHES = ("com", "attn", "up")
PAIRS = ("attn_com", "up_com", "up_attn")


@dataclass(frozen=True)
class BranchRow:
    """One analysis of one case: what the model was, and what it was shown."""

    row: Row

    @property
    def _result(self) -> dict[str, Any]:
        return self.row["result"]

    @property
    def blocks(self) -> list[str]:
        """In the order in which an image goes through them."""
        return [str(block) for block in self._result["blocks"]]

    @property
    def is_trained(self) -> bool:
        """Whether weights came from a file; what a user's own class starts with is not known."""
        return bool(self._result["weights"]["source"] == "file")

    @property
    def is_of_photographs(self) -> bool:
        return bool(self._result["images"]["source"] == "folder")

    @property
    def rank(self) -> tuple[bool, bool, str]:
        """The larger, the more it says: trained weights, then photographs, then the newest."""
        return self.is_trained, self.is_of_photographs, str(self.row.get("when") or "")

    @property
    def model(self) -> str:
        """`ResTv2-T [mhim] at 224 × 224`; its weights and images are told in words of their own."""
        case: Case = parse(self.row["case"])
        told = {*RUN_OPTIONS, "weights"}
        title = replace(case, options=tuple(pair for pair in case.options if pair[0] not in told)).title
        return f"{title} at {' × '.join(map(str, case.size))}"

    @property
    def weights(self) -> str:
        return {
            "file": f"weights of {self._result['weights']['file']}",
            "initial": "initial weights",
            "module": "weights as its class makes them",
        }[self._result["weights"]["source"]]

    @property
    def images(self) -> str:
        images = self._result["images"]
        used, found = int(images["used"]), int(images["found"])
        if not self.is_of_photographs:
            return f"{used} synthetic images"
        return f"{f'{used:,} of ' if used < found else ''}{found:,} images in {images['folder']}"

    @property
    def subtitle(self) -> str:
        """What it was, in a line, with what a reader must not take it for."""
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
        """Read everything that a report will read. Raises what reading a damaged row raises."""
        if not self.blocks:
            raise ValueError("no block")
        _ = self.subtitle, self.rank


@dataclass(frozen=True)
class Spectra(BranchRow):
    """Relative log amplitudes, of harness `fourier`."""

    @cached_property
    def frequencies(self) -> list[list[float]]:
        """Of each block, in units of π."""
        return [self._values(each, len(each)) for each in self._of_each_block(self._result["frequencies"])]

    @cached_property
    def curves(self) -> dict[str, list[list[float]]]:
        """By branch, of each block, at its frequencies: ln of the amplitude, less its value at 0."""
        return {
            name: [
                self._values(values, len(at))
                for values, at in zip(
                    self._of_each_block(self._result["log_amplitude"][name]), self.frequencies, strict=True
                )
            ]
            for name in BRANCHES
        }

    def _of_each_block(self, lists: list[list[Any]]) -> list[list[Any]]:
        if len(lists) != len(self.blocks) or not all(lists):
            raise ValueError(f"not a curve for each of {len(self.blocks)} blocks")
        return lists

    def check(self) -> None:
        super().check()
        _ = self.curves


@dataclass(frozen=True)
class Similarity(BranchRow):
    """Linear CKA, of harness `cka`."""

    @cached_property
    def cka(self) -> dict[str, list[float]]:
        """By pair of branches, of each block."""
        return {name: self._values(self._result["cka"][name], len(self.blocks)) for name in PAIRS}

    def check(self) -> None:
        super().check()
        _ = self.cka


READERS: dict[str, type[Spectra] | type[Similarity]] = {"fourier": Spectra, "cka": Similarity}


def check(row: Row) -> None:
    """Raise what is wrong with an ok row of one of READERS, as a report would come across it."""
    READERS[row["harness"]](row).check()
