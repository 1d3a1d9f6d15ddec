"""Provenance of a row: host, versions, commit, and a hash of the source that ran. No torch.

Parent and worker get the same answers, because nothing is imported to give them.
"""

import ast
import hashlib
import importlib
import importlib.util
import os
import platform
import re
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
OURS = ("bench", "kernels", "models")  # the packages that a measurement runs
IMPORTERS = ("import_module", "__import__")  # functions that import
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # of a statement: what holds others
PACKAGES = ("torch", "triton", "torchvision", "timm", "numpy")


def host(root: Path = Path("/")) -> dict[str, Any]:
    """CPU, cores, memory in GiB, load over one minute, system.

    `physical_cores` is the machine's, None if it does not tell; `available_cores` is what affinity and the container's
    quota leave to this process, at least one: `affinity_cores` and `quota_cores`, a fraction, or None without a quota.
    `cpu_id` is a hash of family, model, stepping and instructions, which the name of a virtual CPU does not tell.
    `memory_gib` is the smaller of the machine's and the container's.

    Args:
        root: where /proc and /sys are.
    """
    cpuinfo = text_of(root / "proc/cpuinfo")
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    release = re.search(r'^PRETTY_NAME="?([^"\n]+)', text_of(root / "etc/os-release"), re.MULTILINE)
    return {
        "cpu": model[1].strip() if model else platform.processor() or platform.machine(),
        "cpu_id": _cpu_id(cpuinfo),
        "physical_cores": _physical_cores(cpuinfo),
        "available_cores": _available_cores(root),
        "affinity_cores": _affinity_cores(),
        "quota_cores": min(_cgroup_cores(root), default=None),
        "memory_gib": _memory_gib(root),
        "load_average": load_average(),
        "system": release[1] if release else platform.system(),
        "kernel": platform.release(),
    }


def versions() -> dict[str, str | None]:
    """Versions of Python, of the packages that decide a time, and of torch's CUDA and cuDNN; None if absent.

    Read from the packages' metadata and never from an imported torch, so that parent and worker say the same.
    """
    cuda = _torch_cuda()
    cudnn = f"nvidia-cudnn-cu{cuda.partition('.')[0]}" if cuda else None
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "cuda": cuda,
        "cudnn": _version(cudnn) if cudnn else None,
    }


def source(root: Path = ROOT) -> dict[str, Any]:
    """The `commit` of the checkout, and whether what can run is `dirty`: OURS, untracked files in there included.

    A user's folder of images beside it changes nothing that is measured; a user's module is in the hash of the source.

    Both are None without git, outside a checkout, and where `root` lies inside another project's repository.
    """
    unknown = {"commit": None, "dirty": None}
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top.strip()).resolve() != root.resolve():
        return unknown
    status = _git(root, "status", "--porcelain=v2", "--branch", "--", *OURS)
    if status is None:
        return unknown
    lines = status.splitlines()
    commit = next((line.split()[2] for line in lines if line.startswith("# branch.oid ")), None)
    dirty = any(not line.startswith("#") for line in lines)
    return {"commit": None if commit == "(initial)" else commit, "dirty": dirty}


def slurm(environ: Mapping[str, str] = os.environ) -> dict[str, str | bool | None] | None:
    """The Slurm job that this process is of: its number, array and task, node, partition, and cluster; None outside.

    `shared` says whether other jobs may run on the node at the same time; None where `scontrol` does not tell.
    """
    if "SLURM_JOB_ID" not in environ:
        return None
    names = {
        "job": "SLURM_JOB_ID",
        "array": "SLURM_ARRAY_JOB_ID",
        "task": "SLURM_ARRAY_TASK_ID",
        "node": "SLURMD_NODENAME",
        "partition": "SLURM_JOB_PARTITION",
        "cluster": "SLURM_CLUSTER_NAME",
    }
    told = said_by("scontrol", "show", "job", environ["SLURM_JOB_ID"], "--oneliner")
    sharing = re.search(r"\bOverSubscribe=(\S+)", told or "")
    return {
        **{field: environ.get(name) for field, name in names.items()},
        "shared": sharing[1] != "NO" if sharing else None,
    }


def source_hash(paths: Iterable[str | Path], root: Path = ROOT) -> str:
    """SHA-256, in hex, of the names and contents of files; a folder stands for the .py files in it.

    Paths are relative to the repository or absolute. Names count relative to the repository, or outside it to the
    folder that the path is in, so that a copy elsewhere has the same hash. Hidden folders are left out.

    Raises:
        FileNotFoundError: a path is not there.
    """
    root = root.resolve()
    files = {source for path in paths for source in _sources((root / path).resolve(), root)}
    digest = hashlib.sha256()
    for name, file in sorted(files):
        content = file.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def import_closure(file: Path, root: Path = ROOT) -> list[Path]:
    """The file and every file of ours that it imports, directly or not, relative to the repository and in order.

    Read from the source: imports inside functions count, and `import_module` with a literal name; imports for the type
    checker alone do not. A package's `__init__.py` counts with each of its modules.
    """
    root, todo, closure, known = root.resolve(), [file.resolve()], set[Path](), set[str]()
    while todo:
        path = todo.pop()
        if path not in closure:
            closure.add(path)
            names = set(_imported(path.read_bytes(), path.relative_to(root).parent.parts)) - known
            known |= names
            todo += [source for name in names for source in _files_of(name, root)]
    return sorted(path.relative_to(root) for path in closure)


@cache
def _imported(source: bytes, package: tuple[str, ...]) -> tuple[str, ...]:
    """Dotted names that a file of a package imports. `from a import b` gives a.b, a module or a name in one."""
    names, todo = list[str](), list[ast.AST]([ast.parse(source)])
    calls = any(name.encode() in source for name in IMPORTERS)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING":
            todo += node.orelse
            continue
        if calls:
            todo += ast.iter_child_nodes(node)
        else:  # an import is a statement, and most of a source is expressions
            todo += (part for name in BLOCKS for part in getattr(node, name, ()) if isinstance(part, ast.AST))
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            names += [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and _last_name(node.func) in IMPORTERS:
            names += [
                name.value
                for name in node.args
                if isinstance(name, ast.Constant) and isinstance(name.value, str)
            ]
    return tuple(names)


def _last_name(node: ast.expr) -> str:
    """`c` of the expressions c and a.b.c; of others nothing."""
    return getattr(node, "attr", getattr(node, "id", ""))


def _files_of(name: str, root: Path) -> Iterator[Path]:
    """The files that run when a dotted name of ours is imported; none for a name of somebody else's."""
    parts = name.split(".")
    if parts[0] not in OURS:
        return
    for length in range(1, len(parts) + 1):
        path = root.joinpath(*parts[:length])
        candidates = (path / "__init__.py", path.with_suffix(".py"))
        yield from (candidate for candidate in candidates if candidate.is_file())


def _sources(path: Path, root: Path) -> Iterator[tuple[str, Path]]:
    base = root if path.is_relative_to(root) else path.parent
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there to be hashed")
    for file in path.rglob("*.py") if path.is_dir() else [path]:
        inside = file.relative_to(path).parts
        if not any(part.startswith(".") for part in inside):
            yield file.relative_to(base).as_posix(), file


def _physical_cores(cpuinfo: str) -> int | None:
    return _cores(cpuinfo, None)


def _cores(cpuinfo: str, ours: Collection[int] | None) -> int | None:
    """Physical cores behind the processors of these numbers, or behind all; None if the machine does not tell."""
    cores = set()
    for processor in cpuinfo.split("\n\n"):
        number = re.search(r"^processor\s*:\s*(\d+)$", processor, re.MULTILINE)
        ids = re.findall(r"^(?:physical id|core id)\s*:\s*(\d+)$", processor, re.MULTILINE)
        if len(ids) == 2 and (ours is None or (number and int(number[1]) in ours)):
            cores.add(tuple(ids))
    return len(cores) or None


def threads(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> int:
    """Threads to compute with: OMP_NUM_THREADS where it is set, else a thread a physical core of those that are ours.

    Two threads of one core share its vector units, and a second one mostly waits for the first.
    """
    asked = environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    cores = _cores(text_of(root / "proc/cpuinfo"), ours)
    return max(1, min(_available_cores(root), cores or _available_cores(root)))


def _cpu_id(cpuinfo: str) -> str | None:
    first = cpuinfo.partition("\n\n")[0]
    names = "vendor_id|cpu family|model|stepping|flags|Features|CPU (?:implementer|architecture|variant|part|revision)"
    fields = re.findall(rf"^({names})\s*:\s*(.*)$", first, re.MULTILINE)
    return hashlib.sha256(repr(fields).encode()).hexdigest()[:12] if fields else None


def _affinity_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _available_cores(root: Path) -> int:
    quotas = [_affinity_cores(), *_cgroup_cores(root)]
    return max(1, int(min(quotas)))


def _cgroup_cores(root: Path) -> Iterator[float]:
    """CPU quotas, in cores, of this process's control group and those above it, versions 2 and 1."""
    for folder in cgroups(root, ""):
        quota, _, period = text_of(folder / "cpu.max").partition(" ")
        if quota.isdecimal():
            yield int(quota) / int(period)
    for folder in cgroups(root, "cpu"):
        quota, period = (text_of(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal():  # -1: no quota
            yield int(quota) / int(period)


def _memory_gib(root: Path) -> float | None:
    total = re.search(r"^MemTotal:\s*(\d+) kB$", text_of(root / "proc/meminfo"), re.MULTILINE)
    limits = [int(total[1]) * 1024] if total else []
    for controller, name in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):
        for folder in cgroups(root, controller):
            limit = text_of(folder / name).strip()
            if limit.isdecimal():  # "max": none; version 1 writes a number beyond any machine
                limits.append(int(limit))
    return round(min(limits) / GIB, 2) if limits else None


def cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control group and its ancestors; controller "" is version 2.

    Inside a container /proc/self/cgroup may name the path on the host, which is not there: the mount's top is then the
    container's own group, and is always among the answers.
    """
    mounted = root / "sys/fs/cgroup" / controller
    for line in text_of(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            group = mounted / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(mounted))


def load_average() -> float | None:
    """The host's load over the last minute; None where the system does not tell."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _version(distribution: str) -> str | None:
    from importlib import metadata  # not above: most commands tell no versions

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _torch_cuda() -> str | None:
    """The CUDA version that torch was built with, from its version.py, without importing torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = text_of(Path(spec.origin).with_name("version.py"))
    line = re.search(r"^cuda\b.*=\s*'([\d.]+)'", text, re.MULTILINE)
    return line[1] if line else None


def _git(root: Path, *arguments: str) -> str | None:
    # no optional locks: a status in the background must not stand in the way of the user's own git
    return said_by("git", "--no-optional-locks", "-C", str(root), *arguments)


def said_by(*command: str) -> str | None:
    """Output of a command of the system; None where it is not there, fails, or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def text_of(path: Path) -> str:
    """A file's text, empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
