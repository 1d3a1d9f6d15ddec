"""Small traces written by hand, in the shapes that torch.profiler writes them. No reading of a device."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

H100 = "NVIDIA H100 80GB HBM3"
Event = dict[str, Any]


def _complete(name: str, ts: float, dur: float, cat: str, arguments: Event) -> Event:
    """A complete event, in the words of the trace event format."""
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "args": arguments}


def operator(name: str, ts: float, dur: float, dims: Any = None, **more: Any) -> Event:
    """An operator on a CPU's thread.

    Args:
        more: `pid`, `tid`, `cat`, `id`, `types` (default: all float), `values`, `strides`, `sequence`.
    """
    arguments: dict[str, Any] = {}
    if dims is not None:
        tensors = ["float" if isinstance(each, list) and each else "" for each in dims]
        arguments = {"Input Dims": dims, "Input type": more.get("types", tensors)}
    names = {
        "id": "External id",
        "values": "Concrete Inputs",
        "strides": "Input Strides",
        "sequence": "Sequence number",
    }
    arguments |= {recorded: more[name] for name, recorded in names.items() if name in more}
    place = {"pid": more.get("pid", 10), "tid": more.get("tid", 1)}
    return {**_complete(name, ts, dur, more.get("cat", "cpu_op"), arguments), **place}


def annotation(name: str, ts: float, dur: float, **more: Any) -> Event:
    """A range that is named by hand, or by the profiler's steps and the optimizer."""
    return operator(name, ts, dur, cat="user_annotation", **more)


def launch(correlation: int, ts: float, name: str = "cudaLaunchKernel", **more: Any) -> Event:
    """The call that starts a kernel."""
    place = {"pid": more.get("pid", 10), "tid": more.get("tid", 1)}
    arguments = {"correlation": correlation}
    return {"ph": "X", "cat": "cuda_runtime", "name": name, "ts": ts, "dur": 1, **place, "args": arguments}


def flow(correlation: int, ts: float, **more: Any) -> Event:
    """The beginning of the arrow from a launch to its kernel."""
    place = {"pid": more.get("pid", 10), "tid": more.get("tid", 1)}
    return {"ph": "s", "cat": "ac2g", "name": "ac2g", "id": correlation, "ts": ts, **place}


def kernel(correlation: int, ts: float, dur: float, name: str = "gemm", **more: Any) -> Event:
    """Work of a GPU.

    Args:
        more: `pid`, `stream`, `cat`, `device`, and `external` for the id of the operator that it carries.
    """
    arguments = {
        "correlation": correlation,
        "device": more.get("device", 0),
        "stream": more.get("stream", 7),
        **({"External id": more["external"]} if "external" in more else {}),
    }
    place = {"pid": more.get("pid", 0), "tid": more.get("stream", 7)}
    return {**_complete(name, ts, dur, more.get("cat", "kernel"), arguments), **place}


def launched(name: str, ts: float, us: float, dims: Any = None, number: int = 1, **more: Any) -> list[Event]:
    """An operator, the launch inside it, and its kernel, which starts 5 µs after it and takes `us`."""
    what = more.pop("kernel", "gemm")
    return [
        operator(name, ts, 4, dims, **more),
        launch(number, ts + 1, **{key: more[key] for key in ("pid", "tid") if key in more}),
        kernel(number, ts + 5, us, what),
    ]


def written(path: Path, events: list[Event], device: str | None = H100, **beside: Any) -> Path:
    """A file with these events, gzipped where its name says so."""
    known = [{"id": number, "name": device} for number in range(2)] if device else []
    text = json.dumps({"schemaVersion": 1, "deviceProperties": known, **beside, "traceEvents": events})
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
