"""The studies: named lists of cases that answer one question. Data; no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.cases import Case, parse, unknown


@dataclass(frozen=True)
class Study:
    """One question and the cases that answer it.

    `cases(kind, quick)` gives the texts for a kind of device, "cpu" or "cuda"; a CPU gets a smaller list where
    the full one would take hours. `harness` is the one that times them; parameters and MACs are counted for
    every case of every study.
    """

    name: str
    question: str
    cases: Callable[[str, bool], tuple[str, ...]]
    harness: str = "throughput"

    def parsed(self, kind: str, quick: bool) -> list[Case]:
        return [parse(text) for text in self.cases(kind, quick)]


# In the paper's order: by size of model, peers first. ResTv1 and Focal have no model here yet.
TABLE1 = (
    "regnety_4g@224",
    "convnext_tiny@224",
    "swin_tiny@224",
    "restv2_tiny@224",
    "restv2_tiny@384",
    "regnety_8g@224",
    "restv2_small@224",
    "restv2_small@384",
    "convnext_small@224",
    "swin_small@224",
    "restv2_base@224",
    "restv2_base@384",
    "regnety_16g@224",
    "convnext_base@224",
    "swin_base@224",
    "restv2_large@224",
    "convnext_base@384",
    "swin_base@384",
    "restv2_large@384",
)

SWEEP_MODELS = ("restv2_tiny", "swin_tiny", "convnext_tiny", "regnety_4g")
SWEEP_SIZES = {
    "cpu": ("96", "160", "224", "320"),
    "cuda": ("96", "160", "224", "320", "448", "640", "800x1344"),
}
SWEEP_BATCHES = {"cpu": (1, 2, 4, 8), "cuda": (1, 2, 4, 8, 16, 32, 64, 128, 256)}


def _sweep(kind: str, quick: bool) -> tuple[str, ...]:
    """Batch at 224, then resolution at one batch: the same arithmetic in larger and larger pieces."""
    step = 3 if quick else 1  # quick keeps the ends of each sweep and little between
    sizes, batches = SWEEP_SIZES[kind][::step], SWEEP_BATCHES[kind][::step]
    by_batch = [f"{model}@224:b{batch}" for model in SWEEP_MODELS for batch in batches]
    at = 1 if kind == "cpu" else 8
    by_size = [f"{model}@{size}:b{at}" for model in SWEEP_MODELS for size in sizes]
    return tuple(dict.fromkeys(by_batch + by_size))


STUDIES = {
    study.name: study
    for study in (
        Study(
            "table1",
            "How fast is each model of the paper's Table 1, and how many MACs does it take?",
            lambda kind, quick: TABLE1,
        ),
        Study(
            "sweep",
            "How does speed per MAC grow with batch and resolution: what does density buy?",
            _sweep,
        ),
    )
}
DEFAULT = ("table1",)


def find(name: str) -> Study:
    """Raises UsageError, with a suggestion, for a name that is no study."""
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return STUDIES[name]
