"""Operator times that others measured and published, through the join, where PUBLIC_GPU_DATA names their folder."""

from __future__ import annotations

import ast
import csv
import gzip
import os
from pathlib import Path

import pytest

from bench.trace.joined import Call, Joined, peaks_by_name
from bench.trace.operators import Operator, call_of
from bench.trace.timeline import Span, Work

FOLDER = Path(os.environ.get("PUBLIC_GPU_DATA") or "")
needs_folder = pytest.mark.skipif(
    not os.environ.get("PUBLIC_GPU_DATA"),
    reason="PUBLIC_GPU_DATA does not name the folder of public GPU measurements",
)
RESNET50 = FOLDER / "v100_resnet50_train_b32_fp32.trace.json.gz"
H100 = "NVIDIA H100 80GB HBM3"


def lines_of(name: str) -> list[dict[str, str]]:
    """The rows of a published table."""
    with gzip.open(FOLDER / name, "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table_of(name: str) -> Joined:
    """The operators of a published table as calls; they are the innermost ones, with their GPU time."""
    calls = []
    for row in lines_of("operator_times.csv.gz"):
        if name in row["trace"]:
            shapes = ast.literal_eval(
                row["input_dims"].replace("[", "(").replace("]", ",)").replace("(,)", "()")
            )
            values = ast.literal_eval(row["concrete_inputs"] or "()")
            operator = Operator(row["op"], shapes, tuple(ast.literal_eval(row["input_types"])), tuple(values))
            call, kind = call_of(operator)
            span = Span("operator", row["op"], 0, 0, ("", ""), operator=operator)
            works = [Work(row["kernels"], 0, float(row["gpu_us"]), "0", "0", span, span)]
            calls.append(Call(call, kind, works))
    return Joined(calls, device=H100, peaks=peaks_by_name(H100))
