"""Synthetic rows for tests of the reports. Nothing here was measured, and every device's name says so."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from bench import images
from bench.cases import Case, parse
from bench.conventions import BY_CALL
from bench.record import SCHEMA, key_of
from bench.studies import STUDIES, Study
from kernels.emsa_upsample import cost
from kernels.mlp import cost as mlp
from models.config import CoreConfig, MLPConfig
from models.cost import stage_work
from models.variants import MODELS, TABLE3
from tests.support import detector_macs

CPU = {
    "kind": "cpu",
    "index": None,
    "name": "SYNTHETIC CPU",
    "uuid": None,
    "memory_gib": 8.0,
    "compute_capability": None,
    "driver": None,
    "mig": None,
    "profile": None,
    "key": "cpu",
}
H200 = {
    **CPU,
    "kind": "cuda",
    "index": 0,
    "name": "SYNTHETIC H200",
    "uuid": "GPU-synthetic",
    "memory_gib": 139.8,
    "compute_capability": "9.0",
    "driver": "580.0",
    "profile": "h200",
    "key": "h200",
}

# Parameters in millions, GMACs in `core`, `paper` and `paper-no-attention`, by model, options and size; `fvcore` is
# given as `core`. All of it is input: a report has to show what stands here, whatever it is, and to find that it prints
# as the paper's number or does not. No test takes one of these numbers for the truth: tests of counting hold our counts
# against the paper and against closed forms. Most are near the truth, so that the reports have something like it to
# say; what is below the third digit is invented.
COUNTED = {
    "regnety_4g@224": (20.646656, 3.99, 3.99, 3.99),
    "regnety_8g@224": (39.180068, 7.99, 7.99, 7.99),
    "regnety_16g@224": (83.590140, 15.94, 15.94, 15.94),
    "convnext_tiny@224": (28.589128, 4.46, 4.46, 4.46),
    "convnext_small@224": (50.223688, 8.69, 8.69, 8.69),
    "convnext_base@224": (88.591464, 15.36, 15.36, 15.36),
    "convnext_base@384": (88.591464, 45.12, 45.12, 45.12),
    "swin_tiny@224": (28.288354, 4.49, 4.52, 4.36),
    "swin_small@224": (49.606258, 8.74, 8.79, 8.51),
    "swin_base@224": (87.768224, 15.44, 15.50, 15.07),
    "swin_base@384": (87.768224, 47.1, 47.3, 44.5),
    "focal_tiny@224": (28.880, 4.95, 4.99, 4.55),
    "focal_small@224": (51.142, 9.47, 9.55, 8.72),
    "focal_base@224": (89.815, 16.42, 16.53, 15.37),
    "restv1_base[stem=pool]@224": (30.278, 4.381, 4.41, 4.270),
    "restv1_large[stem=pool]@224": (51.627, 8.112, 8.15, 7.920),
    "restv2_tiny@224": (30.4348, 4.083, 4.097, 3.986),
    "restv2_tiny@384": (30.4348, 12.629, 12.669, 11.712),
    "restv2_small@224": (41.21, 5.954, 5.971, 5.816),
    "restv2_small@384": (41.21, 18.377, 18.427, 17.091),
    "restv2_base@224": (55.97, 7.860, 7.881, 7.678),
    "restv2_base@384": (55.97, 24.253, 24.314, 22.561),
    "restv2_large@224": (86.53, 13.801, 13.831, 13.526),
    "restv2_large@384": (86.53, 42.292, 42.380, 39.745),
    "restv2_lite@224": (10.6607, 1.436, 1.4450, 1.371),
    "restv2_lite[mhim]@224": (10.6609, 1.438, 1.4465, 1.371),
    "restv2_lite[attention=emsa,mhim]@224": (10.50, 1.43, 1.44, 1.366),
    "restv2_lite[attention=msa]@224": (10.48, 4.36, 4.37, 1.36),
    "restv2_tiny[mhim]@224": (30.43505, 4.085, 4.0993, 3.986),
    "restv2_tiny[target=none]@224": (30.196, 4.066, 4.080, 3.969),
    "restv2_tiny[target=x]@224": (30.4348, 4.083, 4.097, 3.986),
    "restv2_tiny[target=k]@224": (30.4348, 4.083, 4.097, 3.986),
    "restv2_tiny[upsample=nearest]@224": (30.196, 4.066, 4.082, 3.971),
    "restv2_tiny[upsample=bilinear]@224": (30.196, 4.066, 4.082, 3.971),
    "restv2_tiny[branches=convnet]@224": (26.11, 3.545, 3.56, 3.56),
    "restv2_tiny[branches=convnetv2]@224": (26.67, 4.074, 4.09, 4.09),
    "restv2_tiny[branches=convnetv3]@224": (32.585, 4.366, 4.382, 4.382),
    "restv2_tiny[pe=none]@224": (30.42, 4.078, 4.092, 3.981),
    "restv2_tiny[pe=ape]@224": (30.98, 4.078, 4.092, 3.981),
    "restv2_tiny[pe=rpe]@224": (30.48, 4.078, 4.092, 3.981),
    "restv2_tiny[pe=peg]@224": (30.43, 4.083, 4.097, 3.986),
    "pvt_tiny@224": (13.229, 1.925, 1.937, 1.867),
    "pvt_tiny[attention=msa]@224": (11.36, 4.80, 4.81, 1.74),
    "pvt_tiny[attention=emsav2]@224": (13.392, 1.934, 1.947, 1.877),
    # models under heads; the last but one is also in core+norm
    "restv2_tiny[detections=30,head=mask_rcnn,style=global]@224": (49.938, 230.86, 231.28, 194.63),
    "restv2_tiny[detections=30,head=mask_rcnn,style=win]@224": (49.938, 204.27, 204.74, 201.05),
    "restv2_tiny[detections=30,head=mask_rcnn,style=cwin]@224": (50.010, 204.78, 205.25, 201.56),
    "restv2_tiny[detections=30,head=mask_rcnn,style=hwin]@224": (49.938, 218.42, 218.86, 198.69),
    "resnet50[head=mask_rcnn]@800x1280": (44.396, 259.316, 260.181, 260.181),
    "convnext_tiny[head=mask_rcnn]@800x1280": (48.095, 261.904, 262.302, 262.302),
    "swin_tiny[head=mask_rcnn]@800x1280": (47.795, 266.553, 266.932, 263.827),
    "restv2_tiny[head=mask_rcnn]@800x1280": (49.938, 298.133, 298.603, 252.523),
    "resnet101[head=mask_rcnn]@800x1280": (63.388, 335.076, 336.254, 336.254),
    "swin_small[head=mask_rcnn]@800x1280": (69.113, 358.595, 359.047, 353.818),
    "restv2_small[head=mask_rcnn]@800x1280": (60.709, 353.827, 354.369, 289.857),
    "restv2_base[head=mask_rcnn]@800x1280": (75.469, 411.727, 412.343, 327.863),
    "resnet50c[head=upernet]@512x2048": (66.516, 951.279, 952.021, 952.021),
    "convnext_tiny[head=upernet]@512x2048": (60.243, 938.485, 939.099, 939.099),
    "swin_tiny[head=upernet]@512x2048": (59.942, 944.385, 945.074, 941.823),
    "restv2_tiny[head=upernet]@512x2048": (62.085, 976.717, 977.426, 929.108),
    "resnet101c[head=upernet]@512x2048": (85.508, 1028.856, 1029.812, 1029.812),
    "convnext_small[head=upernet]@512x2048": (81.877, 1026.846, 1027.602, 1027.602),
    "swin_small[head=upernet]@512x2048": (81.260, 1037.417, 1038.294, 1032.941),
    "restv2_small[head=upernet]@512x2048": (72.857, 1034.201, 1035.064, 967.418),
    "restv2_base[head=upernet]@512x2048": (87.616, 1093.980, 1095.005, 1006.421),
    # two products of N queries with 49 keys, and nine taps a query, over C channels
    "restv2_tiny[style=global]@224": (30.4348, 4.083, 4.097, 3.986),
    "restv2_tiny[style=win]@224": (30.4348, 4.4, 4.5, 4.4),
    "restv2_tiny[style=cwin]@224": (30.51, 4.5, 4.6, 4.5),
    "restv2_tiny[style=hwin]@224": (30.4348, 4.3, 4.4, 4.2),
    "core_tiny[stage=1]@224": (0.0616, 0.032213, 0.0325, 0.0030),
    "core_tiny[stage=2]@224": (0.0311, 0.016106, 0.0163, 0.0015),
    "core_tiny[stage=3]@224": (0.0161, 0.008053, 0.0082, 0.0008),
    "core_tiny[stage=4]@224": (0.0092, 0.004027, 0.0041, 0.0004),
    "core_large[stage=1]@224": (0.0822, 0.042950, 0.0434, 0.0040),
    "core_large[stage=2]@224": (0.0415, 0.021475, 0.0217, 0.0020),
    "core_large[stage=3]@224": (0.0215, 0.010738, 0.0109, 0.0010),
    "core_large[stage=4]@224": (0.0123, 0.005369, 0.0055, 0.0005),
    # two products of N tokens over 4C hidden channels
    "mlp_tiny[stage=1]@224": (0.0742, 0.231211, 0.231211, 0.231211),
    "mlp_tiny[stage=2]@224": (0.2959, 0.231211, 0.231211, 0.231211),
    "mlp_large[stage=1]@224": (0.1317, 0.411042, 0.411042, 0.411042),
    "mlp_large[stage=2]@224": (0.5256, 0.411042, 0.411042, 0.411042),
}
CLOSED_FORM = {"focal_tiny": 4.9, "focal_small": 9.4, "focal_base": 16.4}  # GMACs: the printed ones

# Achieved GMAC/s by family, and what options and training multiply a time by: invented.
RATE = {
    "regnety": 31.0,
    "convnext": 42.0,
    "swin": 47.0,
    "focal": 21.0,
    "restv1": 39.0,
    "restv2": 58.0,
    "pvt": 52.0,
    "core": 9.0,
    "mlp": 55.0,
    "attention": 61.0,
    "resnet50": 71.0,
    "resnet50c": 71.0,
    "resnet101": 74.0,
    "resnet101c": 74.0,
}
MODULES = {  # shares of the time
    "mask_rcnn": {"backbone": 0.5, "fpn": 0.15, "rpn": 0.12, "heads": 0.23},
    "upernet": {"backbone": 0.2, "decoder": 0.8},
}
SLOWER = {
    "target=none": 0.93,
    "target=k": 1.02,
    "upsample=nearest": 1.06,
    "upsample=bilinear": 1.17,
    "branches=convnet": 0.78,
    "branches=convnetv2": 0.91,
    "branches=convnetv3": 0.97,
    "pe=none": 0.98,
    "attention=msa": 0.62,
    "attention=emsav2": 1.2,
    "mhim": 1.04,
    "train": 3.1,
    "cold": 1.3,
    "sdpa=math": 2.1,
}
FASTER = {"sdpa": 1.4, "compile": 2.0, "fused": 3.5, "fused+compile": 4.0}
LINEAR = {
    "regnety": 0.001,
    "convnext": 0.85,
    "swin": 0.9,
    "focal": 0.86,
    "restv1": 0.75,
    "core": 0.0,
    "mlp": 1.0,
}  # share of core MACs


def row(harness: str, case: str, result: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    """A whole row of the schema, ok unless `more` says otherwise."""
    device = more.pop("device", CPU)
    return {
        "schema": SCHEMA,
        "key": key_of(harness=harness, case=case, device=device["key"], protocol=more.get("protocol")),
        "harness": harness,
        "study": "table1",
        "case": case,
        "outcome": "ok",
        "reason": None,
        "notes": [],
        "when": "2026-11-22T12:00:00+00:00",
        "protocol": {"name": "default", "interval": 0.02, "time_cap_s": 10.0},
        "device": device,
        "environment": {
            "host": {"cpu": "SYNTHETIC CPU", "cores": 2, "memory_gib": 8.0, "load": 0.1},
            "versions": {"python": "3.13.0", "torch": "2.11.0"},
            "source": {"commit": "0123456789abcdef", "dirty": False, "hash": "feedface"},
            "threads": 2,
        },
        "readings": {"before": {"load": 0.1}, "after": {"load": 1.9}},
        "result": result,
        **more,
    }


def timing_result(
    seconds: float, batch: int = 1, n: int = 15, spread: float = 0.01, **more: Any
) -> dict[str, Any]:
    noise = random.Random(seconds)
    return {
        "samples_s": [seconds * (1 + spread * noise.uniform(-1, 1)) for _ in range(n)],
        "iterations_per_sample": 1,
        "warmup_iterations": 3,
        "stopped_by": "interval",
        "discarded": 0,
        "statistic": "median",
        "batch_requested": batch,
        "batch": batch,
        "mix": None,
        "check": {"against": "eager in fp64", "error": 1e-6, "bound": 1e-4},
        "peak_memory_bytes": None,
        "operators": ["aten.convolution"],
        **more,
    }


def counted(case: Case) -> tuple[float, ...]:
    """The counts of a case in COUNTED; MACs at a size that stands nowhere follow the pixels."""
    options = tuple((name, value) for name, value in case.options if name in case.model_options)
    if case.attention:
        return _attention(case)
    known = [str(Case(case.model, options, size)).removesuffix(":eager") for size in (case.size, (224, 224))]
    if known[0] in COUNTED:
        return COUNTED[known[0]]
    parameters, *macs = COUNTED[known[1]]
    return parameters, *(count * case.size[0] * case.size[1] / 224**2 for count in macs)


def _attention(case: Case) -> tuple[float, ...]:
    """The counts of a block's attention alone: MACs of the closed form, invented parameters."""
    assert case.attention
    config, stage, style, part = case.attention
    if part == "copies":
        return 0.0, 0.0, 0.0, 0.0
    (work,) = [work for work in stage_work(config, case.size, style) if work.stage == stage]
    macs = work.executed_macs / 1e9
    return 0.04 * 4**stage, macs, 1.01 * macs, 0.6 * macs


def gmacs(case: Case) -> float:
    """GMACs in `core`."""
    return counted(case)[1]


def macs_result(case: Case) -> dict[str, Any]:
    parameters, core, paper, without_attention = counted(case)
    if case.mix and case.head == "mask_rcnn":
        return detector_result(case, parameters)
    family = case.model.partition("_")[0]
    linear = round(LINEAR.get(family, 0.78) * core * 1e9)
    # what the attention products are, as far as the conventions tell
    matmul = (
        0
        if family.startswith(("regnety", "convnext", "resnet"))
        else max(0, round((paper - without_attention) * 1e9))
    )
    linear = min(linear, round(core * 1e9) - matmul)
    parts = {"linear": linear, "matmul": matmul, "conv": round(core * 1e9) - linear - matmul}

    def by_operator(gmacs: float, **parts: int) -> dict[str, Any]:
        total = round(gmacs * 1e9)
        return {"macs": total, "by_operator": {**parts, "norm": total - sum(parts.values())}}

    conventions = {
        "core": {"macs": sum(parts.values()), "by_operator": parts},
        "core+norm": by_operator(paper, **parts),
        "core+norm-no-attention": by_operator(without_attention, linear=linear, conv=parts["conv"]),
        "fvcore": {"macs": sum(parts.values()), "by_operator": parts},
        "paper": by_operator(paper, **parts),
        "paper-no-attention": by_operator(without_attention, linear=linear, conv=parts["conv"]),
    }
    if case.model in CLOSED_FORM:
        macs = round(CLOSED_FORM[case.model] * 1e9)
        conventions["closed-form"] = {"macs": macs, "by_operator": {}}  # as a formula has it
    check = {
        "counter": "torch FlopCounterMode",
        "compared_with": "core",
        "macs": round(core * 1e9) - round(core * 1e9) // 500,
        "ours": round(core * 1e9),
        "why": "leaves out what is not registered",
    }
    least_traffic = None
    if isinstance(config := MODELS.get(case.model), CoreConfig):
        shape = config.shape(case.size, **case.model_options)
        least_traffic = cost.least_traffic(shape.map_size, shape.dim, shape.reduction)
    elif isinstance(config, MLPConfig):
        shape, hidden = config.shape(case.size, **case.model_options), config.hidden(**case.model_options)
        least_traffic = mlp.least_traffic(math.prod(shape.map_size), shape.dim, hidden)
    return {
        "parameters": round(parameters * 1e6),
        "conventions": conventions,
        "least_traffic": least_traffic,
        "cross_checks": [check],
    }


def detector_result(case: Case, parameters: float) -> dict[str, Any]:
    """The counts of a detector of Table 3: the closed form's, over the images of the mix."""
    assert case.mix
    options = dict(case.options)
    shapes = images.shapes(images.read(case.mix.source))
    mean = detector_macs.average(TABLE3, str(options["style"]), shapes, int(str(options["detections"])))
    whole = {name: round(macs) for name, macs in mean.items()}
    core = {name: whole[name] for name in ("conv", "linear", "matmul")}
    conventions = {
        name: {"macs": sum(parts.values()), "by_operator": parts}
        for name, parts in (("core", core), *((convention, whole) for convention in BY_CALL[1:]))
    }
    return {
        "parameters": round(parameters * 1e6),
        "conventions": conventions,
        "least_traffic": None,
        "cross_checks": [],
    }


def count_row(text: str, **more: Any) -> dict[str, Any]:
    return row("macs", text, macs_result(parse(text)), **more)


def seconds(case: Case, device: dict[str, Any] = CPU) -> float:
    """Seconds of one iteration over the batch, by the invented rates: better at larger batches and sizes."""
    speed_up = 20 * (5 if case.dtype in ("fp16", "bf16") else 1) if device["kind"] == "cuda" else 1
    work = (case.batch or 1) * case.size[0] * case.size[1] / 224**2
    rate = RATE[case.model.partition("_")[0]] * speed_up * (work / (work + 0.7))
    options = [name if value is True else f"{name}={value}" for name, value in case.options]
    slower = math.prod(SLOWER.get(name, 1.0) for name in [*options, case.mode])
    if case.attention and case.attention.part == "copies":  # no MACs, and still some time
        return 5e-9 * work * 224**2 / speed_up / case.attention.stage
    return gmacs(case) * (case.batch or 1) / rate * slower / FASTER.get(case.impl, 1.0)


# Shares of the time of a profile by operator and by module, and which MACs a module has: invented.
PROFILED = {"linear": 0.3, "copy": 0.25, "norm": 0.15, "conv": 0.15, "matmul": 0.1, "softmax": 0.05}
PROFILED_MODULES = {"stage1.0.attn": 0.5, "stage1.0.mlp": 0.3, "stem": 0.2}


def profiled(
    times_ms: dict[str, float], macs: dict[str, int], modules: list[dict[str, Any]]
) -> dict[str, Any]:
    """Parts of a profile's result that a time's has not: lines by operator of these times and MACs, and by module."""
    whole_ms, whole_macs = sum(times_ms.values()), sum(macs.values())
    lines = [
        {
            **{"phase": "all", "name": name, "calls": 1, "ms": ms, "share": ms / whole_ms},
            **{"macs": macs.get(name, 0), "macs_share": macs.get(name, 0) / (whole_macs or 1)},
            **{"macs_known": 1.0, "bytes_known": 1.0},
        }
        for name, ms in times_ms.items()
    ]
    return {
        **{"profiled_s": [1.25e-3 * whole_ms] * 3, "perturbation": 1.25, "steps": 3, "scale": 0.8},
        **{"busy_s": None, "idle_share": None, "outside_share": 0.0, "device_share": None},
        **{"calls": len(lines), "launches": None, "macs": whole_macs, "known": 1.0, "attributed": 1.0},
        **{"unattributed": [], "unjoined": []},
        "lines": {"operator": lines, "call": lines, "kernel": [], "module": modules},
    }


def _profiled_case(case: Case, whole_s: float) -> dict[str, Any]:
    """The profile of a case, by the invented shares."""
    counts = macs_result(case)["conventions"]["core"]["by_operator"]
    modules = [
        {
            "phase": "all",
            "name": name,
            "calls": 1,
            "ms": 1e3 * whole_s * share,
            "share": share,
            "macs_known": 1.0,
        }
        | {"macs": counts["linear"] if name.endswith("mlp") else counts["conv"] if name == "stem" else 0}
        for name, share in PROFILED_MODULES.items()
    ]
    return profiled({name: 1e3 * whole_s * share for name, share in PROFILED.items()}, counts, modules)


def throughput_row(text: str, batch: int = 1, dtype: str = "fp32", **more: Any) -> dict[str, Any]:
    """A timed case, back to back unless `more` names another harness."""
    harness = more.pop("harness", "throughput")
    case = parse(text).resolve(batch, dtype)
    whole = seconds(case, more.get("device", CPU))
    result = timing_result(whole, case.batch or 1)
    shares = MODULES.get(case.head, {})
    if harness == "profile":
        result |= _profiled_case(case, whole)
    result["parts_s"] = {name: [share * whole] * 15 for name, share in shares.items()} or None
    return row(harness, str(case), result, **more)


def compare_row(
    first: str, other: str, ratio: float, batch: int = 1, dtype: str = "fp32", n: int = 15, **more: Any
) -> dict[str, Any]:
    """Interleaved blocks in which the first takes `ratio` times as long as the other, give or take a little."""
    texts = [str(parse(text).resolve(batch, dtype)) for text in (first, other)]
    noise = random.Random(first)
    blocks = [[ratio * (1 + 0.01 * noise.uniform(-1, 1)), 1.0, 1.0, ratio] for _ in range(n)]
    result = {
        "a": texts[0],
        "b": texts[1],
        "blocks": blocks,
        "iterations_per_sample": [1, 1],
        "stopped_by": "interval",
        "discarded": 0,
        "throttled": False,
        "power_capped": False,
        "checks": [None, None],
        "operators": [["aten.convolution"]] * 2,
        "batch_requested": [parse(text).batch for text in texts],
        "batch": [parse(text).batch for text in texts],
    }
    return row("compare", " / ".join(texts), result, **more)


def _counted_as(text: str) -> str:
    """The case without what changes no count."""
    case = parse(text)
    options = tuple((name, value) for name, value in case.options if name in case.model_options)
    return str(Case(case.model, options, case.size, mix=case.mix)).removesuffix(":eager")


def study_rows(name: str = "table1", kind: str = "cpu", **more: Any) -> list[dict[str, Any]]:
    """Counts and times of every case of a built-in study, its comparisons, and the machine's peaks."""
    return rows_of(STUDIES[name], kind, **more)


def rows_of(study: Study, kind: str = "cpu", **more: Any) -> list[dict[str, Any]]:
    """Counts and times of every case of any study, its comparisons, and the machine's peaks."""
    cases = study.cases(kind, False)
    more = {"study": study.name, "device": CPU if kind == "cpu" else H200, **more}
    batch, dtype = (1, "fp32") if kind == "cpu" else (64, "fp16")
    rows = [count_row(text, **more) for text in dict.fromkeys(map(_counted_as, cases))]
    for text in cases:  # no training with fp16 weights
        own_dtype = "bf16" if text.endswith(":train") and dtype == "fp16" else dtype
        rows.append(throughput_row(text, batch, own_dtype, harness=study.harness, **more))
    for first, other in study.pairs(kind, False):
        own_dtype = "bf16" if first.endswith(":train") and dtype == "fp16" else dtype
        one, two = (seconds(parse(text).resolve(batch, own_dtype)) for text in (first, other))
        rows.append(compare_row(first, other, one / two, batch, own_dtype, **more))
    if kind == "cpu":
        rows.append(row("peaks", "cpu", {"tflops": {"fp32": 0.15}, "bandwidth_gb_s": 12.3}, **more))
    return rows


VISITS = 5


def visits_of(written: dict[str, Any]) -> list[dict[str, Any]]:
    """A row of a time or a comparison as its visits, samples dealt out in turn; any other row as it is."""
    result = written.get("result")
    name = next(
        (name for name in ("samples_s", "blocks") if isinstance(result, dict) and name in result), None
    )
    protocol = written.get("protocol")
    if (
        not (name and written["outcome"] == "ok" and isinstance(result, dict) and isinstance(protocol, dict))
        or protocol.get("name") != "default"
        or "visits" in protocol
        or not isinstance(result[name], list)
        or len(result[name]) < VISITS
    ):
        return [written]
    rows = []
    for visit in range(VISITS):
        parts = result.get("parts_s")
        own = {
            **result,
            name: result[name][visit::VISITS],
            **(
                {"parts_s": {part: seconds[visit::VISITS] for part, seconds in parts.items()}}
                if isinstance(parts, dict)
                and all(isinstance(seconds, list) and len(seconds) >= VISITS for seconds in parts.values())
                else {}
            ),
        }
        rows.append(
            {
                **written,
                "key": f"{written['key']}-{visit}",
                "group": written["key"],
                "visit": visit,
                "protocol": {**protocol, "visits": VISITS},
                "result": own,
            }
        )
    return rows


def write(root: Path, rows: list[dict[str, Any]], name: str = "run.jsonl") -> Path:
    """Write `rows` into a results folder under `root`, each time as its visits; returns that folder."""
    rows = [visit for written in rows for visit in visits_of(written)]
    folder = root / rows[0]["device"]["key"]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a") as file:
        file.writelines(json.dumps(written) + "\n" for written in rows)
    return folder
