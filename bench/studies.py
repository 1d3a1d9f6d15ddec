"""The studies: named lists of cases that answer one question. Data; no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.cases import Case, parse, unknown

Cases = Callable[[str, bool], tuple[str, ...]]


@dataclass(frozen=True)
class Study:
    """One question and the cases that answer it.

    `cases(kind, quick)` gives the texts for a kind of device, "cpu" or "cuda"; a CPU gets a smaller list where
    the full one would take hours. `harness` is what measures them; parameters and MACs are counted for every case
    that is timed. Each of `pairs` is compared, interleaved: how many times as long the first takes as the second.
    """

    name: str
    question: str
    cases: Cases
    harness: str = "throughput"  # or latency; or an analysis: fourier, cka
    pairs: tuple[tuple[str, str], ...] = ()
    convention: str = "core"  # of counting MACs, for rows of which the paper prints none

    @property
    def is_timed(self) -> bool:
        return self.harness in ("throughput", "latency")

    def parsed(self, kind: str, quick: bool) -> list[Case]:
        return [parse(text) for text in self.cases(kind, quick)]


def _always(*texts: str) -> Cases:
    """The same cases on every device."""
    return lambda kind, quick: texts


# In the paper's order: by size of model, peers first. Its ResTv1 rows are the stem with the pooling: it is the one that
# gives the printed MACs.
TABLE1 = (
    "regnety_4g@224",
    "convnext_tiny@224",
    "swin_tiny@224",
    "focal_tiny@224",
    "restv1_base[stem=pool]@224",
    "restv2_tiny@224",
    "restv2_tiny@384",
    "regnety_8g@224",
    "restv2_small@224",
    "restv2_small@384",
    "convnext_small@224",
    "swin_small@224",
    "focal_small@224",
    "restv1_large[stem=pool]@224",
    "restv2_base@224",
    "restv2_base@384",
    "regnety_16g@224",
    "convnext_base@224",
    "swin_base@224",
    "focal_base@224",
    "restv2_large@224",
    "convnext_base@384",
    "swin_base@384",
    "restv2_large@384",
)

# One row a switch of ResTv2-T; several of the paper's rows are the same model.
TABLE2 = (
    "restv2_tiny@224",
    "restv2_tiny[target=none]@224",
    "restv2_tiny[target=x]@224",
    "restv2_tiny[target=k]@224",
    "restv2_tiny[upsample=nearest]@224",
    "restv2_tiny[upsample=bilinear]@224",
    "restv2_tiny[branches=convnet]@224",
    "restv2_tiny[branches=convnetv2]@224",
    "restv2_tiny[branches=convnetv3]@224",
    "restv2_tiny[pe=none]@224",
    "restv2_tiny[pe=ape]@224",
    "restv2_tiny[pe=rpe]@224",
    "restv2_tiny[pe=peg]@224",
)

# What the paper calls ResTv1-Lite there has ResTv2's stem and embeddings: with them the printed numbers come out.
TABLE6 = (
    "pvt_tiny@224",
    "pvt_tiny[attention=msa]@224",
    "pvt_tiny[attention=emsav2]@224",
    "restv2_lite[attention=emsa,mhim]@224",
    "restv2_lite[attention=msa]@224",
    "restv2_lite[mhim]@224",
)

TABLE7 = ("restv2_lite@224", "restv2_lite[mhim]@224", "restv2_tiny@224", "restv2_tiny[mhim]@224")

TABLE9 = ("restv2_tiny@224", "restv2_small@224", "restv2_base@224", "restv2_large@224")


def _training(kind: str, quick: bool) -> tuple[str, ...]:
    """Table 8's models; on a CPU a step of the smallest takes seconds, and the others would take minutes."""
    models = (
        ("restv2_lite", "restv2_tiny")
        if kind == "cpu"
        else (
            *("restv2_tiny", "restv2_small", "restv2_base", "restv2_large"),
            *("swin_tiny", "convnext_tiny"),
        )
    )
    return tuple(f"{model}@224:train" for model in models)


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
            _always(*TABLE1),
        ),
        Study(
            "table2",
            "What does each part of EMSAv2 cost: upsample target and strategy, branches, positional embedding?",
            _always(*TABLE2),
            convention="paper",
        ),
        Study(
            "table6",
            "What do downsampling and upsampling in attention cost, beside standard attention?",
            _always(*TABLE6),
            convention="paper",
        ),
        Study(
            "table7",
            "How much slower does the multi-head interaction module make ResTv2?",
            _always(*TABLE7),
            pairs=(
                ("restv2_lite[mhim]@224", "restv2_lite@224"),
                ("restv2_tiny[mhim]@224", "restv2_tiny@224"),
            ),
            convention="paper",
        ),
        Study(
            "table8",
            "What does a training step with the settings of Table 8 cost?",
            _training,
        ),
        Study(
            "table9",
            "Why does Table 9 print fewer FLOPs than Table 1 for the same models?",
            _always(*TABLE9),
            convention="paper-no-attention",
        ),
        Study(
            "figure3",
            "Which frequencies do the attention and the upsample branch of ResTv2-T carry, block by block?",
            _always("restv2_tiny@224"),
            harness="fourier",
        ),
        Study(
            "figure4",
            "How alike are the features of the two branches of ResTv2-T, block by block?",
            _always("restv2_tiny@224"),
            harness="cka",
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
