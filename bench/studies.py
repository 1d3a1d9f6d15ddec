"""The built-in studies, as data: what is run for the paper's tables and figures, and for our own questions."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from bench.cases import unknown
from bench.study import Cases, Pairs, Study, always, read

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

# What upsampling gives up of what downsampling won, over standard attention: the paper's sentence of appendix A.
TABLE6_PAIRS = (
    ("pvt_tiny[attention=emsav2]@224", "pvt_tiny[attention=msa]@224"),
    ("restv2_lite[mhim]@224", "restv2_lite[attention=msa]@224"),
)

TABLE7 = ("restv2_lite@224", "restv2_lite[mhim]@224", "restv2_tiny@224", "restv2_tiny[mhim]@224")

TABLE9 = ("restv2_tiny@224", "restv2_small@224", "restv2_base@224", "restv2_large@224")


# A study's cases are measured apart, in rounds; what is said of two of them stands on these pairs, taken in turns.


def _beside(cases: Cases, *references: str) -> Pairs:
    """Each case beside the last of the references at or above it; above them all, beside the first.

    None in a quick look, from whose one visit nothing could be concluded.
    """

    def pairs(kind: str, quick: bool) -> tuple[tuple[str, str], ...]:
        asked, found = () if quick else cases(kind, quick), []
        base = next((case for case in asked if case in references), "")
        for case in asked:
            if case in references:
                base = case
            else:
                found.append((case, base))
        return tuple(found)

    return pairs


# Models of Table 1 of nearly the same size, of which one does more arithmetic, or of whose speeds the paper says
# something; ResTv2-T at both its sizes; and the ConvNets in both memory formats.
# On a CPU they would take the default study beyond five minutes.
TABLE1_PAIRS = (
    ("regnety_4g@224", "restv2_tiny@224"),
    ("convnext_tiny@224", "restv2_tiny@224"),
    ("swin_tiny@224", "restv2_tiny@224"),
    ("focal_tiny@224", "restv2_tiny@224"),
    ("regnety_8g@224", "restv2_small@224"),
    ("convnext_small@224", "restv2_base@224"),
    ("regnety_8g@224", "restv2_base@224"),
    ("convnext_base@224", "restv2_large@224"),
    ("regnety_16g@224", "restv2_large@224"),
    ("focal_tiny@224", "swin_tiny@224"),
    ("swin_small@224", "restv2_base@224"),
    ("focal_small@224", "restv2_base@224"),
    ("swin_base@224", "restv2_large@224"),
    ("restv2_tiny@384", "restv2_tiny@224"),
    # NCHW, in which all of Table 1 runs, costs convolutions on tensor cores a transposition each.
    *(
        (f"{model}[channels_last]@224", f"{model}@224")
        for model in (
            *("regnety_4g", "regnety_8g", "regnety_16g"),
            *("convnext_tiny", "convnext_small", "convnext_base"),
        )
    ),
)


def _table1_pairs(kind: str, quick: bool) -> tuple[tuple[str, str], ...]:
    return TABLE1_PAIRS if kind == "cuda" and not quick else ()


def _table6_pairs(kind: str, quick: bool) -> tuple[tuple[str, str], ...]:
    references = _beside(always(*TABLE6), "pvt_tiny@224", "restv2_lite[attention=emsa,mhim]@224")(kind, quick)
    return () if quick else (*references, *TABLE6_PAIRS)


def _training(kind: str, quick: bool) -> tuple[str, ...]:
    """Table 8's models, one step each; on a CPU the small ones, where the others would take minutes."""
    models = (
        ("restv2_lite", "restv2_tiny")
        if kind == "cpu"
        else (
            *("restv2_tiny", "restv2_small", "restv2_base", "restv2_large"),
            *("swin_tiny", "convnext_tiny"),
        )
    )
    return tuple(f"{model}@224:train" for model in models)


def _training_pairs(kind: str, quick: bool) -> tuple[tuple[str, str], ...]:
    """Each step beside an inference of the same model; none in a quick look, from which nothing could be concluded."""
    return () if quick else tuple((text, text.removesuffix(":train")) for text in _training(kind, quick))


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


def _sweep_pairs(kind: str, quick: bool) -> tuple[tuple[str, str], ...]:
    """The ends of each sweep in turns, the larger first; none in a quick look.

    A GPU's smallest pieces are launches: there the sweep of batches is held against a middle one.
    """
    if quick:
        return ()
    sizes, batches, at = SWEEP_SIZES[kind], SWEEP_BATCHES[kind], 1 if kind == "cpu" else 8
    low = batches[len(batches) // 2 if kind == "cuda" else 0]
    by_batch = [(f"{model}@224:b{batches[-1]}", f"{model}@224:b{low}") for model in SWEEP_MODELS]
    by_size = [(f"{model}@{sizes[-1]}:b{at}", f"{model}@{sizes[0]}:b{at}") for model in SWEEP_MODELS]
    return (*by_batch, *by_size)


# The fused kernels beside what there is without them: alone, a stage at a time, and in whole models.
CORE_MODELS = ("core_tiny", "core_large")
STAGES = (1, 2, 3, 4)
CORE_SIZES = ("224", "384", "800x1344")
CORE_BATCHES = (1, 8, 64, 256)
SDPA_KERNELS = {"cpu": ("flash", "math"), "cuda": ("flash", "efficient", "cudnn", "math")}
WHOLE_MODELS = ("restv2_tiny", "restv2_large")


def _cores(kind: str, quick: bool) -> tuple[str, ...]:
    """The cores, each with a hole for further options and another for the implementation."""
    if kind == "cpu":  # one small batch, without the launches that a graph would hide
        return tuple(f"core_tiny[{{also}}stage={stage}]@224:b1:{{impl}}" for stage in STAGES)
    models: tuple[str, ...] = CORE_MODELS
    where = tuple(product(CORE_SIZES, CORE_BATCHES))
    if quick:  # batches that fill a GPU: below them, a time at 224 says little of the kernel
        models, where = CORE_MODELS[:1], (("224", 64), ("224", 256), ("800x1344", 8))
    return tuple(
        f"{model}[{{also}}graph,stage={stage}]@{size}:b{batch}:{{impl}}"
        for model, stage, (size, batch) in product(models, STAGES, where)
    )


# The MLP alone, where it is fused: two stages of each model.
MLP_STAGES = (1, 2)
MLP_SIZES, MLP_BATCHES = ("224", "800x1344"), (8, 64)


def _mlps(quick: bool) -> tuple[str, ...]:
    """The feed-forwards, each with a hole for further options and another for the implementation; for a GPU."""
    grid = product(("mlp_tiny", "mlp_large"), MLP_STAGES, MLP_SIZES, MLP_BATCHES)
    if quick:
        grid = product(("mlp_tiny",), MLP_STAGES, MLP_SIZES[:1], MLP_BATCHES[-1:])
    return tuple(
        f"{model}[{{also}}graph,stage={stage}]@{size}:b{batch}:{{impl}}" for model, stage, size, batch in grid
    )


MLP_IMPLS = ("eager", "compile", "fused")  # without attention there is no sdpa

# A model with MHIM, which SDPA cannot run.
WITH_MHIM = tuple(
    (f"restv2_tiny[mhim]@224:{impl}", "restv2_tiny[mhim]@224:fused") for impl in ("eager", "compile")
)

# The attention of a block in windows, on an image that they pad, beside the same block's over the whole map.
WINDOWED = "attention_tiny[graph,stage={stage},style=win]@800x1344:b8:{impl}"
GLOBAL = "attention_tiny[graph,stage={stage}]@800x1344:b8:{impl}"


def _inside_windows(quick: bool) -> list[tuple[str, str]]:
    """Pairs of a block's attention on a GPU: each implementation in them, and fused without, beside fused in them."""
    stages = STAGES[:1] if quick else STAGES
    return [
        (other.format(stage=stage, impl=impl), WINDOWED.format(stage=stage, impl="fused"))
        for stage in stages
        for other, impl in (*((WINDOWED, impl) for impl in ("eager", "sdpa", "compile")), (GLOBAL, "fused"))
    ]


def _core_impls(kind: str, quick: bool) -> tuple[str, ...]:
    """The implementations of a core; a CPU has no fused kernel, and takes half a minute for each it compiles."""
    if kind == "cpu":
        return ("eager", "sdpa") if quick else ("eager", "sdpa", "compile")
    return ("eager", "sdpa", "compile", "fused")


def _kernels(kind: str, quick: bool) -> tuple[str, ...]:
    """The cores warm and cold, and SDPA by each of its kernels; on a GPU the MLPs likewise; then the models."""
    texts = []
    for core in _cores(kind, quick):
        impls = _core_impls(kind, quick)
        texts += [core.format(also=also, impl=impl) for also in ("", "cold,") for impl in impls]
        texts += [core.format(also=f"sdpa={kernel},", impl="sdpa") for kernel in SDPA_KERNELS[kind]]
    if kind == "cuda":
        texts += [
            mlp.format(also=also, impl=impl)
            for mlp in _mlps(quick)
            for also in ("", "cold,")
            for impl in MLP_IMPLS
        ]
        texts += dict.fromkeys(text for pair in _inside_windows(quick) for text in pair)
        texts += dict.fromkeys(text for pair in WITH_MHIM for text in pair)
    impls = (*_core_impls(kind, quick), *(("fused+compile",) if kind == "cuda" else ()))
    models = WHOLE_MODELS if kind == "cuda" and not quick else WHOLE_MODELS[:1]
    return (*texts, *(f"{model}@224:{impl}" for model in models for impl in impls))


def _kernel_pairs(kind: str, quick: bool) -> tuple[tuple[str, str], ...]:
    """Each implementation beside the fused kernel; on a CPU beside eager."""
    impls, ours = _core_impls(kind, quick), "fused" if kind == "cuda" else "eager"
    pairs = [
        (core.format(also="", impl=impl), core.format(also="", impl=ours))
        for core in _cores(kind, quick)
        for impl in impls
        if impl != ours
    ]
    if kind == "cuda":
        pairs += [
            (mlp.format(also="", impl=impl), mlp.format(also="", impl="fused"))
            for mlp in _mlps(quick)
            for impl in MLP_IMPLS[:-1]
        ]
        pairs += [*_inside_windows(quick), *WITH_MHIM]
        for model in WHOLE_MODELS[:1] if quick else WHOLE_MODELS:
            pairs += [(f"{model}@224:{impl}", f"{model}@224:fused") for impl in ("eager", "sdpa")]
            pairs += [(f"{model}@224:{impl}", f"{model}@224:fused+compile") for impl in ("compile",)]
    return tuple(pairs)


# Where the time goes: Table 1, the ways to run ResTv2-T, a step of training, MHIM, and windows on an image that they
# pad. A quick look on a CPU takes the small ones, and of windows the paper's comparison.
PROFILED_QUICKLY = ("regnety_4g@224", "convnext_tiny@224", "swin_tiny@224", "restv2_tiny@224")


def _profile(kind: str, quick: bool) -> tuple[str, ...]:
    """Models, implementations, training, MHIM and styles; on a CPU windows on a smaller image, which takes a second."""
    small = quick and kind == "cpu"
    impls = (
        ("sdpa",) if small else ("sdpa", "compile", *(("fused", "fused+compile") if kind == "cuda" else ()))
    )
    styles, size = (STYLES[:2] if small else STYLES), "400x672" if kind == "cpu" else APART[0]
    texts = (
        *(PROFILED_QUICKLY if small else TABLE1),
        *(f"restv2_tiny@224:{impl}" for impl in impls),
        "restv2_tiny@224:train",
        *TABLE7,
        *(f"restv2_tiny[style={style}]@{size}:b1" for style in styles),
    )
    return tuple(dict.fromkeys(texts))


# Windows in the backbone of a detector: over the sizes of COCO's images, and where one reason at a time is taken away.
STYLES = ("global", "win", "cwin", "hwin")
APART = (
    "800x1344",  # padded to windows, and copied into them
    "768x1280",  # a multiple of every window: nothing is padded
    "3840x256",  # as many pixels, one window wide: nor is anything copied, but attention is still by windows
)


# One block's attention, so that the rest of a backbone hides nothing: in windows, their copies alone, and without them.
# On a GPU from a graph: the launches of a block take longer than what they launch.
BLOCK = "attention_tiny[{also}stage={stage}]@{size}:b1"
BLOCK_IN_WINDOWS = "attention_tiny[{also}stage={stage},style=win]@{size}:b1"
BLOCK_COPIES = "attention_tiny[{also}part=copies,stage={stage},style=win]@{size}:b1"
BLOCK_INSIDE = "attention_tiny[{also}part=inside,stage={stage},style=win]@{size}:b1"
BLOCKS = {
    APART[0]: (BLOCK, BLOCK_IN_WINDOWS, BLOCK_COPIES, BLOCK_INSIDE),
    APART[1]: (BLOCK, BLOCK_IN_WINDOWS, BLOCK_INSIDE),
}


def _blocks(kind: str, texts: tuple[str, ...], size: str) -> list[str]:
    """The texts of one block's attention, by stage."""
    also = "graph," if kind == "cuda" else ""
    return [text.format(also=also, stage=stage, size=size) for stage in STAGES for text in texts]


def _mix(kind: str) -> str:
    """The mix that windows are timed on, quick or not, or the report would not show it; a CPU takes one shape."""
    return "coco~16" if kind == "cuda" else "coco~1"


def _windows(kind: str, quick: bool) -> tuple[str, ...]:
    """Each style over the mix, then sizes that leave out padding and copies, then blocks alone."""
    over_mix = [f"restv2_tiny[style={style}]@{_mix(kind)}:b1" for style in STYLES]
    apart = [f"restv2_tiny[style={style}]@{size}:b1" for size in APART for style in STYLES[:2]]
    return (
        *over_mix,
        *apart,
        *(text for size, texts in BLOCKS.items() for text in _blocks(kind, texts, size)),
    )


def _window_pairs(kind: str, quick: bool) -> tuple[tuple[str, str], ...]:
    at = [(style, _mix(kind)) for style in STYLES[1:]]
    at += [("win", size) for size in APART]
    backbones = [
        (f"restv2_tiny[style={style}]@{shape}:b1", f"restv2_tiny[style=global]@{shape}:b1")
        for style, shape in at
    ]
    blocks = [
        pair
        for size in BLOCKS
        for pair in zip(
            *(_blocks(kind, (text,), size) for text in (BLOCK_IN_WINDOWS, BLOCK)),
            strict=True,
        )
    ]
    return (*backbones, *blocks)


# Table 3: one Mask R-CNN in the paper's order of styles, over the images whose mean the paper prints. As many
# detections as its FLOPs come to, 27 to 44, but the same for every style.
TABLE3_DETECTIONS = 30
TABLE3_STYLES = ("win", "cwin", "hwin", "global")


def _table3_case(kind: str, style: str) -> str:
    shapes = 8 if kind == "cuda" else 1
    return f"restv2_tiny[detections={TABLE3_DETECTIONS},head=mask_rcnn,style={style}]@coco500~{shapes}:b1"


def _table3(kind: str, quick: bool) -> tuple[str, ...]:
    return tuple(_table3_case(kind, style) for style in TABLE3_STYLES)


def _table3_pairs(kind: str, quick: bool) -> tuple[tuple[str, str], ...]:
    """Each style beside the global one; the first is the paper's claim, and all that a quick look on a CPU takes."""
    styles = TABLE3_STYLES[:1] if quick and kind == "cpu" else TABLE3_STYLES[:-1]
    return tuple((_table3_case(kind, style), _table3_case(kind, "global")) for style in styles)


# Tables 4 and 5, in the paper's order. A quick look on a CPU takes small images, and counts the paper's.
TABLE4 = (
    *("resnet50", "convnext_tiny", "swin_tiny", "restv2_tiny"),
    *("resnet101", "swin_small", "restv2_small", "restv2_base"),
)
TABLE5 = (
    *("resnet50c", "convnext_tiny", "swin_tiny", "restv2_tiny"),
    *("resnet101c", "convnext_small", "swin_small", "restv2_small", "restv2_base"),
)


def _under(head: str, models: tuple[str, ...], size: str, small: str) -> tuple[Cases, Cases]:
    """The cases of a table of heads, those that are timed and those that are counted besides."""

    def at(size: str) -> tuple[str, ...]:
        return tuple(f"{model}[head={head}]@{size}:b1" for model in models)

    def timed(kind: str, quick: bool) -> tuple[str, ...]:
        return at(small if quick and kind == "cpu" else size)

    return timed, always(*at(size))


_table4, _table4_counted = _under("mask_rcnn", TABLE4, "800x1280", "192x320")
_table5, _table5_counted = _under("upernet", TABLE5, "512x2048", "128x512")


STUDIES = {
    study.name: study
    for study in (
        Study(
            "table1",
            "How fast is each model of the paper's Table 1, and how many MACs does it take?",
            always(*TABLE1),
            pairs=_table1_pairs,
        ),
        Study(
            "table2",
            "What does each part of EMSAv2 cost: upsample target and strategy, branches, positional embedding?",
            always(*TABLE2),
            pairs=_beside(always(*TABLE2), "restv2_tiny@224"),
            convention="paper",
        ),
        Study(
            "table3",
            "Windows save Mask R-CNN a tenth of its FLOPs: what do they do to its time, and in which part?",
            _table3,
            pairs=_table3_pairs,
            convention="fvcore",
        ),
        Study(
            "table4",
            "How fast is Mask R-CNN with each backbone of Table 4, and how many MACs does it take?",
            _table4,
            pairs=_beside(
                _table4, "restv2_tiny[head=mask_rcnn]@800x1280:b1", "restv2_tiny[head=mask_rcnn]@192x320:b1"
            ),
            counted=_table4_counted,
            convention="core+norm-no-attention",
        ),
        Study(
            "table5",
            "How fast is UperNet with each backbone of Table 5, and how many MACs does it take?",
            _table5,
            pairs=_beside(
                _table5, "restv2_tiny[head=upernet]@512x2048:b1", "restv2_tiny[head=upernet]@128x512:b1"
            ),
            counted=_table5_counted,
            convention="core+norm",
        ),
        Study(
            "table6",
            "What do downsampling and upsampling in attention cost, beside standard attention?",
            always(*TABLE6),
            pairs=_table6_pairs,
            convention="paper",
        ),
        Study(
            "table7",
            "How much slower does the multi-head interaction module make ResTv2?",
            always(*TABLE7),
            pairs=lambda kind, quick: (
                ("restv2_lite[mhim]@224", "restv2_lite@224"),
                ("restv2_tiny[mhim]@224", "restv2_tiny@224"),
            ),
            convention="paper",
        ),
        Study(
            "table8",
            "What does a training step with the settings of Table 8 cost?",
            _training,
            pairs=_training_pairs,
        ),
        Study(
            "table9",
            "Why does Table 9 print fewer FLOPs than Table 1 for the same models?",
            always(*TABLE9),
            convention="paper-no-attention",
        ),
        Study(
            "figure3",
            "Which frequencies do the attention and the upsample branch of ResTv2-T carry, block by block?",
            always("restv2_tiny@224"),
            harness="fourier",
        ),
        Study(
            "figure4",
            "How alike are the features of the two branches of ResTv2-T, block by block?",
            always("restv2_tiny@224"),
            harness="cka",
        ),
        Study(
            "sweep",
            "How does speed per MAC grow with batch and resolution: what does density buy?",
            _sweep,
            pairs=_sweep_pairs,
        ),
        Study(
            "kernels",
            "How near to the roof are the fused kernels of EMSAv2 and the MLP, and what do they save over the others?",
            _kernels,
            pairs=_kernel_pairs,
        ),
        Study(
            "profile",
            "Where does the time go, by operator, and where do the MACs?",
            _profile,
            harness="profile",
        ),
        Study(
            "windows",
            "Windows save MACs: what do they cost in time, and how much of that is padding, how much copying?",
            _windows,
            pairs=_window_pairs,
        ),
    )
}
DEFAULT = ("table1",)


def find(name: str) -> Study:
    """The study of a name, or of the file that a name ending in .toml is.

    Raises:
        UsageError: there is none, with the nearest that there is; or what `load` raises.
    """
    if name.endswith(".toml"):
        return load(Path(name))
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return STUDIES[name]


def load(path: Path) -> Study:
    """A user's own study, from a TOML file; `bench/study.py` says what may stand in it.

    Raises:
        UsageError: one line that names the file and, where one is to blame, the key.
    """
    return read(path, taken=STUDIES)
