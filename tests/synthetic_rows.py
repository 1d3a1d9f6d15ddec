"""Synthetic rows for tests of the reports. Nothing here was measured, and every device's name says so."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from bench.cases import Case, parse
from bench.record import SCHEMA, key_of
from bench.studies import STUDIES

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

# core GMACs at 224 and achieved GMAC/s: invented, in a plausible order
GMACS = {
    "regnety_4g": 3.99,
    "regnety_8g": 7.99,
    "regnety_16g": 15.94,
    "convnext_tiny": 4.46,
    "convnext_small": 8.69,
    "convnext_base": 15.36,
    "swin_tiny": 4.49,
    "swin_small": 8.74,
    "swin_base": 15.44,
    "restv2_tiny": 4.083,
    "restv2_small": 5.954,
    "restv2_base": 7.860,
    "restv2_large": 13.801,
}
GMACS_384 = {
    "restv2_tiny": 12.629,
    "restv2_small": 18.377,
    "restv2_base": 24.253,
    "restv2_large": 42.292,
    "convnext_base": 45.12,
    "swin_base": 47.1,
}
PARAMETERS = {
    "regnety_4g": 20_646_656,
    "regnety_8g": 39_180_068,
    "regnety_16g": 83_590_140,
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "swin_tiny": 28_288_354,
    "swin_small": 49_606_258,
    "swin_base": 87_768_224,
    "restv2_tiny": 30_434_800,
    "restv2_small": 41_210_000,
    "restv2_base": 55_970_000,
    "restv2_large": 86_530_000,
}
RATE = {"regnety": 31.0, "convnext": 42.0, "swin": 47.0, "restv2": 58.0}
PAPER_OVER_CORE = 1.0035  # of ResTv2: about what the bias, norm and attention terms add


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
        "check": {"against": "eager in fp64", "error": 1e-6, "bound": 1e-4},
        "peak_memory_bytes": None,
        "operators": ["aten.convolution"],
        **more,
    }


def gmacs(case: Case) -> float:
    """Invented, but right where COUNTS.md or the paper has the number."""
    if case.size == (384, 384) and case.model in GMACS_384:
        return GMACS_384[case.model]
    return GMACS[case.model] * case.size[0] * case.size[1] / 224**2


def macs_result(case: Case) -> dict[str, Any]:
    core = round(gmacs(case) * 1e9)
    linear = {"regnety": 0.001, "convnext": 0.85, "swin": 0.95, "restv2": 0.78}[case.model.partition("_")[0]]
    matmul = {"swin": 0.04, "restv2": 0.03}.get(case.model.partition("_")[0], 0.0)
    by_operator = {"linear": round(core * linear), "matmul": round(core * matmul)}
    by_operator = {"conv": core - sum(by_operator.values()), **by_operator}
    more = round(core * (PAPER_OVER_CORE - 1)) if case.model.startswith("restv2") else 0
    paper = {**by_operator, "norm": more // 2, "activation": more - more // 2}
    conventions = {
        name: {"macs": sum(parts.values()), "by_operator": parts}
        for name, parts in (
            ("core", by_operator),
            ("fvcore", paper),
            ("paper", paper),
            ("paper-no-attention", by_operator),
        )
    }
    check = {
        "counter": "torch FlopCounterMode",
        "compared_with": "core",
        "macs": core - core // 500,
        "ours": core,
        "why": "leaves out what is not registered",
    }
    return {"parameters": PARAMETERS[case.model], "conventions": conventions, "cross_checks": [check]}


def count_row(text: str, **more: Any) -> dict[str, Any]:
    return row("macs", text, macs_result(parse(text)), **more)


def throughput_row(text: str, batch: int = 1, dtype: str = "fp32", **more: Any) -> dict[str, Any]:
    """A throughput row whose speed follows the invented rates, better at larger batches and sizes."""
    case = parse(text).resolve(batch, dtype)
    speed_up = 20 * (5 if dtype == "fp16" else 1) if more.get("device", CPU)["kind"] == "cuda" else 1
    images = case.batch or 1
    work = images * case.size[0] * case.size[1] / 224**2
    rate = RATE[case.model.partition("_")[0]] * speed_up * (work / (work + 0.7))
    return row("throughput", str(case), timing_result(gmacs(case) * images / rate, images), **more)


def study_rows(name: str = "table1", kind: str = "cpu", **more: Any) -> list[dict[str, Any]]:
    """Counts and throughput of every case of a study, and the machine's peaks."""
    cases = STUDIES[name].cases(kind, False)
    more = {"study": name, "device": CPU if kind == "cpu" else H200, **more}
    batch, dtype = (1, "fp32") if kind == "cpu" else (64, "fp16")
    rows = [count_row(text.split(":")[0], **more) for text in cases]
    rows += [throughput_row(text, batch, dtype, **more) for text in cases]
    if kind == "cpu":
        rows.append(row("peaks", "cpu", {"tflops": {"fp32": 0.15}, "bandwidth_gb_s": 12.3}, **more))
    return rows


def write(root: Path, rows: list[dict[str, Any]], name: str = "run.jsonl") -> Path:
    """`rows` as a results folder under `root`; returns that folder."""
    folder = root / rows[0]["device"]["key"]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a") as file:
        file.writelines(json.dumps(each) + "\n" for each in rows)
    return folder
