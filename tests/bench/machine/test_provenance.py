"""Host, versions, commit, hash of the source, and what a file imports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.machine import provenance
from bench.machine.provenance import import_closure
from tests.support.nvml import GIB

# --- Host, versions, source -------------------------------------------------------------


def test_this_host():
    about = provenance.host()
    assert about["cpu"] and about["kernel"] and about["memory_gib"] > 0
    assert 1 <= about["available_cores"] <= os.cpu_count()
    assert json.dumps(about)


JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_ARRAY_JOB_ID": "5",
    "SLURM_ARRAY_TASK_ID": "2",
    "SLURMD_NODENAME": "n1",
    "SLURM_JOB_PARTITION": "gpu",
    "SLURM_CLUSTER_NAME": "box",
}


@pytest.mark.parametrize(
    ("said", "shared"),
    [
        ("JobId=7 Features=(null) OverSubscribe=NO Contiguous=0", False),  # --exclusive
        ("JobId=7 Features=(null) OverSubscribe=OK Contiguous=0", True),
        ("JobId=7 Features=(null) OverSubscribe=YES Contiguous=0", True),
        ("slurm_load_jobs error: Unable to contact slurm controller", None),
    ],
)
def test_a_job_of_slurms_and_whether_it_has_its_node_alone(tmp_path, monkeypatch, said, shared):
    assert provenance.slurm({}) is None
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\n[ \"$*\" = 'show job 7 --oneliner' ] && echo '{said}'\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    about = {"job": "7", "array": "5", "task": "2", "node": "n1", "partition": "gpu", "cluster": "box"}
    assert provenance.slurm(JOB) == {**about, "shared": shared}
    monkeypatch.setenv("PATH", str(tmp_path / "absent"))
    assert provenance.slurm(JOB) == {**about, "shared": None}


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_host_by_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(54)), raising=False)
    threads = "\n\n".join(
        f"processor : {n}\nmodel name\t: Some CPU @ 2 GHz\nphysical id\t: {n % 2}\ncore id\t\t: {n // 4}"
        for n in range(8)
    )
    about = provenance.host(
        machine(
            tmp_path,
            {
                "proc/cpuinfo": threads + "\n",
                "proc/meminfo": "MemTotal:       33554432 kB\n",
                "etc/os-release": 'NAME="Some"\nPRETTY_NAME="Some Linux 12"\n',
            },
        )
    )
    assert about["cpu"] == "Some CPU @ 2 GHz"
    assert (about["physical_cores"], about["available_cores"], about["memory_gib"]) == (4, 54, 32.0)
    assert about["system"] == "Some Linux 12"


@pytest.mark.parametrize(
    ("files", "cores", "memory_gib"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 54, 32.0),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/cpu.max": "250000 100000\n",
                "sys/fs/cgroup/memory.max": f"{8 * GIB}\n",
            },
            2,
            8.0,
        ),
        # the tightest of the group and those above it
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            },
            3,
            32.0,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1, 32.0),
        # version 1, in a container whose path is the host's
        (
            {
                "proc/self/cgroup": "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
            },
            4,
            4.0,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            54,
            32.0,
        ),
    ],
)
def test_a_containers_limits(tmp_path, monkeypatch, files, cores, memory_gib):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(54)), raising=False)
    about = provenance.host(machine(tmp_path, {"proc/meminfo": "MemTotal: 33554432 kB\n", **files}))
    assert (about["available_cores"], about["memory_gib"]) == (cores, memory_gib)


@pytest.mark.parametrize(
    ("affinity", "quota", "asked", "threads"),
    [
        ({0, 1, 2, 3}, "max 100000", "", 2),  # two threads a core
        ({0, 2}, "max 100000", "", 2),
        ({0, 1}, "max 100000", "", 1),
        ({0, 1, 2, 3}, "150000 100000", "", 1),
        ({0, 1, 2, 3}, "50000 100000", "", 1),
        ({0, 1, 2, 3}, "max 100000", "3", 3),
        ({0}, "max 100000", "4,2", 4),
        ({0, 1, 2, 3}, "max 100000", "many", 2),
    ],
)
def test_threads_are_physical_cores_of_ours_unless_openmp_is_told(
    tmp_path, monkeypatch, affinity, quota, asked, threads
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: affinity, raising=False)
    cpuinfo = "\n\n".join(f"processor : {n}\nphysical id : 0\ncore id : {n // 2}" for n in range(4))
    files = {"proc/cpuinfo": cpuinfo, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota}
    assert provenance.threads(machine(tmp_path, files), {"OMP_NUM_THREADS": asked}) == threads


def test_a_cpu_is_known_by_what_it_is_and_not_by_its_name_alone(tmp_path):
    """Clouds name all of a maker alike: `AMD EPYC`, whichever it is."""
    text = (
        "vendor_id : A\ncpu family : 25\nmodel : 1\nmodel name : AMD EPYC\n"
        "stepping : 1\nflags : fpu avx2\ncpu MHz : 2\n"
    )
    changes = [
        ("family : 25", "family : 26"),
        ("model : 1", "model : 2"),
        ("stepping : 1", "stepping : 2"),
        ("avx2", "avx512f"),
    ]
    texts = [text, *(text.replace(*change) for change in changes)]
    ids = [
        provenance.host(machine(tmp_path / str(n), {"proc/cpuinfo": t}))["cpu_id"]
        for n, t in enumerate(texts)
    ]
    assert len(set(ids)) == len(texts)
    slower = {"proc/cpuinfo": text.replace("MHz : 2", "MHz : 3")}
    assert provenance.host(machine(tmp_path / "slower", slower))["cpu_id"] == ids[0]


def test_versions_are_those_of_torch_without_importing_it():
    """In a process of its own: importing the module and asking for versions must not import torch or NVML."""
    code = (
        "import json, sys; from bench.machine import provenance; versions = provenance.versions();"
        "print(json.dumps([versions, 'torch' in sys.modules, 'pynvml' in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=provenance.ROOT, check=True
    )
    versions, torch_imported, pynvml_imported = json.loads(done.stdout)
    assert not torch_imported and not pynvml_imported
    torch = pytest.importorskip("torch")
    assert versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert versions["cuda"] == torch.version.cuda
    assert versions["python"] == sys.version.split()[0]
    assert versions == provenance.versions(), "the same with torch imported"


def test_a_package_that_is_absent_has_no_version(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package",))
    monkeypatch.setattr(provenance.importlib.util, "find_spec", lambda name: None)
    versions = provenance.versions()
    assert versions["no-such-package"] is versions["cuda"] is versions["cudnn"] is None


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_source_names_the_commit_and_notices_changes(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    assert provenance.source(checkout) == {"commit": commit, "dirty": False}
    (checkout / "my_images").mkdir()
    (checkout / "my_images" / "cat.jpg").write_text("")  # as the README says to do
    (checkout / "my_study.toml").write_text("")
    assert provenance.source(checkout) == {"commit": commit, "dirty": False}
    (checkout / "bench").mkdir()
    (checkout / "bench" / "b.py").write_text("")
    assert provenance.source(checkout) == {"commit": commit, "dirty": True}


def test_source_without_a_commit_a_checkout_or_git(tmp_path, monkeypatch):
    unknown = {"commit": None, "dirty": None}
    assert provenance.source(tmp_path) == unknown
    git(tmp_path, "init", "-q")
    assert provenance.source(tmp_path) == {"commit": None, "dirty": False}
    (tmp_path / "inside").mkdir()
    assert provenance.source(tmp_path / "inside") == unknown, "another project's commit is not ours"
    monkeypatch.setenv("PATH", "")
    assert provenance.source(tmp_path) == unknown


def test_source_hash(tmp_path):
    def project(name: str) -> Path:
        return machine(
            tmp_path / name,
            {"bench/a.py": "a", "bench/sub/b.py": "b", "bench/notes.md": "", "gpus.toml": "t"},
        )

    here, there = project("here"), project("there")
    paths = ["bench", "gpus.toml"]
    first = provenance.source_hash(paths, here)
    assert len(first) == 64 and first == provenance.source_hash(reversed(paths), there), (
        "the place does not matter"
    )
    (there / "bench/notes.md").write_text("changed")
    (there / "bench/.cache").mkdir()
    (there / "bench/.cache/c.py").write_text("c")
    assert provenance.source_hash(paths, there) == first, "only .py files, and no hidden folders"

    for change in (
        lambda root: (root / "bench/sub/b.py").write_text("c"),
        lambda root: (root / "bench/a.py").rename(root / "bench/z.py"),
        lambda root: (root / "gpus.toml").write_text("u"),
        lambda root: (root / "bench/new.py").write_text(""),
    ):
        change(there)
        assert provenance.source_hash(paths, there) != first
        first = provenance.source_hash(paths, there)


def test_source_hash_outside_the_repository_and_of_nothing(tmp_path):
    root = machine(tmp_path / "project", {"a.py": "a"})
    one, two = machine(tmp_path / "one", {"nets.py": "1"}), machine(tmp_path / "two", {"nets.py": "1"})
    same = provenance.source_hash(["a.py", one / "nets.py"], root)
    assert (
        same
        == provenance.source_hash(["a.py", two / "nets.py"], root)
        != provenance.source_hash(["a.py"], root)
    )
    (two / "nets.py").write_text("2")
    both = provenance.source_hash([one / "nets.py", two / "nets.py"], root)
    assert both != provenance.source_hash([one / "nets.py"], root), "files of one name count each"
    with pytest.raises(FileNotFoundError, match="nothing is not there"):
        provenance.source_hash(["nothing"], root)


# --- what a file imports ----------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path) -> Path:
    """A repository in which bench/harness/toy.py imports in every way there is."""
    files = {
        "bench/__init__.py": "",
        "bench/harness/__init__.py": "",
        "bench/harness/toy.py": """
import json
from typing import TYPE_CHECKING

import models
from bench import stats
from bench.cases import parse
from . import beside

if TYPE_CHECKING:
    from bench.runner import Runner


def run():
    from kernels.op import launch
    importlib.import_module("bench.by_name")
""",
        "bench/harness/beside.py": "import bench.errors as errors",
        "bench/harness/worker.py": "",
        "bench/stats.py": "",
        "bench/cases.py": "from models.config import MODELS",
        "bench/errors.py": "",
        "bench/by_name.py": "",
        "bench/runner.py": "import bench.harness.toy",
        "kernels/__init__.py": "",
        "kernels/op.py": "import torch",
        "models/__init__.py": "def build():\n    from models.net import Net",
        "models/net.py": "",
        "models/config.py": "from models import switches",
        "models/switches.py": "",
        "models/unused.py": "",
        "reports/__init__.py": "import bench.cases",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_closure_holds_what_is_imported_anywhere_and_nothing_else(tree):
    closure = import_closure(tree / "bench/harness/toy.py", tree)
    names = [path.as_posix() for path in closure]
    assert names == sorted(names)
    outside = {"bench/runner.py", "bench/harness/worker.py", "models/unused.py", "reports/__init__.py"}
    assert {*names} == {path.relative_to(tree).as_posix() for path in tree.rglob("*.py")} - outside


def test_an_import_counts_in_whatever_block_it_stands(tree):
    """Expressions are not looked through where no function imports; and with one, all is."""
    blocks = """
try:
    import bench.errors
except ImportError as error:
    import bench.by_name
else:
    from bench import stats
finally:
    from kernels import op
while run():
    break
else:
    import models.net
match run():
    case 1:
        from models.config import MODELS
class Net:
    async def run(self):
        async with self:
            for each in self:
                import models.unused
"""
    found = []
    for text in (blocks, f"{blocks}\nvalue = [__import__('bench.runner') for _ in ()]"):
        (tree / "bench/harness/beside.py").write_text(text)
        found.append({path.as_posix() for path in import_closure(tree / "bench/harness/beside.py", tree)})
    modules = "bench/errors bench/by_name bench/stats kernels/op models/net models/config models/switches models/unused"
    packages = "bench kernels models"
    expected = {f"{name}.py" for name in modules.split()} | {
        f"{name}/__init__.py" for name in packages.split()
    }
    assert found[0] == expected | {"bench/harness/beside.py"}
    assert "bench/runner.py" in found[1] and found[1] > found[0]


def test_a_circle_of_imports_ends(tree):
    assert Path("bench/runner.py") in import_closure(tree / "bench/runner.py", tree)
    (tree / "bench/stats.py").write_text("import bench.harness.toy")
    assert import_closure(tree / "bench/stats.py", tree) == import_closure(
        tree / "bench/harness/toy.py", tree
    )
