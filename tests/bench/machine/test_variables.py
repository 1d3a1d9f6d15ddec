"""Environment variables: refused where they make a time meaningless, recorded where they may change it."""

from __future__ import annotations

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
