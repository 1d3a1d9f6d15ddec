"""Environment variables: refused where they make a time meaningless, recorded where they may change it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bench.errors import UsageError
from bench.machine import variables


@pytest.mark.parametrize("name", variables.REFUSED)
def test_what_makes_a_time_meaningless_is_refused_with_its_reason(name):
    with pytest.raises(UsageError, match=f"{name}=1 is set: {variables.REFUSED[name][:20]}"):
        variables.check({"PATH": "/bin", name: "1"})
    variables.check({name: "0"})
    variables.check({name: ""})
    variables.check({})


# Each is documented to choose kernels, precision, threads or memory; issue 15 names them.
@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA_TF32_OVERRIDE",
        "CUBLAS_WORKSPACE_CONFIG",
        "CUBLASLT_WORKSPACE_SIZE",
        "TORCH_CUDNN_V8_API_DISABLED",
        "TORCH_CUDNN_USE_HEURISTIC_MODE_B",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
        "PYTORCH_CUDA_ALLOC_CONF",
        "PYTORCH_ALLOC_CONF",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
        "CUDA_MODULE_LOADING",
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "ATEN_CPU_CAPABILITY",
        "ONEDNN_MAX_CPU_ISA",
        "ONEDNN_DEFAULT_FPMATH_MODE",
        "DNNL_MAX_CPU_ISA",
        "MKL_ENABLE_INSTRUCTIONS",
        "MKL_NUM_THREADS",
        "MKL_DEBUG_CPU_TYPE",
        "OMP_NUM_THREADS",
        "OMP_THREAD_LIMIT",
        "OMP_PROC_BIND",
        "OMP_WAIT_POLICY",
        "GOMP_CPU_AFFINITY",
        "KMP_AFFINITY",
        "KMP_BLOCKTIME",
        "MALLOC_ARENA_MAX",
        "GLIBC_TUNABLES",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "TORCHINDUCTOR_MAX_AUTOTUNE",
        "TORCHINDUCTOR_FREEZING",
        "TRITON_F32_DEFAULT",
        "CXX",
        "CXXFLAGS",
    ],
)
def test_what_may_change_a_time_is_recorded(name):
    assert variables.recorded({name: "x", "HOME": "/home/somebody"}) == {name: "x"}


@pytest.mark.parametrize(
    "name",
    [
        "CUDA_VISIBLE_DEVICES",  # the device itself
        "CUDA_HOME",
        "TORCH_HOME",
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
        "TORCH_LOGS",
        "NVIDIA_VISIBLE_DEVICES",
        "CCACHE_DIR",
        "HOSTNAME",
        "USER",
        "PATH",
    ],
)
def test_what_says_only_where_or_who_is_not(name):
    assert variables.recorded({name: "x"}) == {}


@pytest.mark.parametrize(
    ("cuda", "may"),
    [
        *(("13.0", True), ("12.6", True), ("12.10", True), ("12.5", False), ("12.4", False)),
        *(("9.2", False), (None, False), ("", False)),
    ],
)
def test_cupti_is_torn_down_only_where_a_cuda_graph_survives_it(cuda, may):
    """PyTorch's issue 112507: before CUDA 12.6 the next graph crashes."""
    assert variables.tears_down_cupti(cuda) is may


def test_the_cuda_of_torch_is_known_before_torch_is_imported():
    import torch

    assert variables.cuda_of_torch() == torch.version.cuda


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("cuda: Optional[str] = '12.4'\nhip: Optional[str] = None\n", "12.4"),
        ('cuda = "11.8"\n', "11.8"),
        ("cuda: Optional[str] = None\n", None),
        ("__version__ = '2.5.1+cu124'\n", None),
    ],
)
def test_the_cuda_of_torch_is_read_from_its_file(tmp_path, monkeypatch, text, cuda):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise AssertionError('imported')")
    (tmp_path / "torch/version.py").write_text(text)
    spec = SimpleNamespace(origin=str(tmp_path / "torch/__init__.py"))
    monkeypatch.setattr(variables.importlib.util, "find_spec", lambda name: spec)
    assert variables.cuda_of_torch() == cuda
