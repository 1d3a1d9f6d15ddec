"""Environment variables that change what runs: those that are refused, each with its reason, and those recorded."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path

from bench.errors import UsageError

OFF = ("", "0", "false", "no", "off", "n", "f")

# A time taken under one of these is of something else than what the row says.
REFUSED = {
    "CUDA_LAUNCH_BLOCKING": "the CPU waits for every kernel",
    "CUDA_DISABLE_PERF_BOOST": "the GPU's clocks are held down",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "every tensor is allocated anew by the driver",
    "TORCH_COMPILE_DISABLE": "torch.compile does nothing, and a `compile` case would time eager operators",
    "TORCHDYNAMO_DISABLE": "torch.compile does nothing, and a `compile` case would time eager operators",
    "TORCHDYNAMO_SUPPRESS_ERRORS": "what fails to compile would be timed as eager operators, and nothing would say so",
    "TORCH_SHOW_DISPATCH_TRACE": "every operator is printed",
    "PYTORCH_SHOW_DISPATCH_TRACE": "every operator is printed",
    "TRITON_DEBUG": "kernels are compiled with checks",
    "CUDA_INJECTION64_PATH": "a profiler is loaded into the process",
    "PYTHONTRACEMALLOC": "every allocation of Python's is traced",
    "PYTHONDEVMODE": "Python checks every allocation",
}

# Beginnings of names. What they do to a time is known for some and not for others, so all of them are in row and key.
RECORDED = (
    *("CUDA_", "CUBLAS", "CUDNN_", "CUDAMPS", "NVIDIA_", "NV_", "NCCL_"),
    *("PYTORCH_", "TORCH", "ATEN_", "TRITON_", "INDUCTOR_", "XFORMERS_", "TIMM_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_", "OPENBLAS_", "BLIS_", "GOTO_", "TBB_"),
    *("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_BIND_NOW", "LD_AUDIT", "MIMALLOC_"),
    *("TCMALLOC_", "JEMALLOC_", "PYTHONMALLOC", "PYTHONOPTIMIZE", "PYTHONHASHSEED", "CC", "CXX", "CFLAGS"),
    *("CXXFLAGS", "NUMEXPR_", "VECLIB_", "QT_MKL"),
)
# What of these says only where something lies or which GPUs are seen; the latter is the device's to tell.
LEFT_OUT = re.compile(
    r"CUDA_VISIBLE_DEVICES|CUDA_DEVICE_ORDER|NVIDIA_(VISIBLE_DEVICES|DRIVER_CAPABILITIES|REQUIRE_.*|PRODUCT_NAME)"
    r"|NV_(?!TF32).*|NVIDIA_.*VERSION|CUDA_VERSION|CC\w+|CXX\w+(?<!FLAGS)"
    r"|.*_(HOME|CACHE|CACHE_DIR|CACHE_PATH|DIRECTORY|LOGS|LOG_DIR|TRACE)|TORCH_LOGS.*|CUDA_(PATH|HOME|ROOT).*"
)


TEARDOWN = "TEARDOWN_CUPTI"  # 1: a profiler takes CUPTI down when it ends
CUPTI_FROM = (12, 6)  # before, CUPTI that was torn down crashes at the next CUDA graph (pytorch#112507)


def tears_down_cupti(cuda: str | None) -> bool:
    """Whether a profiler may take CUPTI down when it ends, by the version of CUDA that torch was built with."""
    found = re.match(r"(\d+)\.(\d+)", cuda or "")
    return found is not None and (int(found[1]), int(found[2])) >= CUPTI_FROM


def cuda_of_torch() -> str | None:
    """The version of CUDA that torch was built with, read without importing torch; None where there is none."""
    spec = importlib.util.find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    text = file.read_text(encoding="utf-8") if file and file.is_file() else ""
    found = re.search(r"""^cuda\b[^=\n]*=\s*['"]([\d.]+)['"]""", text, re.MULTILINE)
    return found[1] if found else None


def refused(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The variables that make a time meaningless, each with the reason."""
    return [
        f"{name}={environ[name]} is set: {why}"
        for name, why in REFUSED.items()
        if environ.get(name, "").strip().lower() not in OFF
    ]


def check(environ: Mapping[str, str] = os.environ) -> None:
    """Look whether a time taken now would mean something.

    Raises:
        UsageError: a variable is set that makes it meaningless; the line names it.
    """
    if found := refused(environ):
        raise UsageError(f"{'; '.join(found)}. Unset it to measure")


def recorded(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that can change a time, by name."""
    return {
        name: value
        for name, value in sorted(environ.items())
        if name.startswith(RECORDED) and not LEFT_OUT.fullmatch(name) and name not in REFUSED
    }
