"""Makes the virtual environment that a GPU needs, with the exact versions of `constraints/`.

    python3 -m bench.setup_env [--gpu NAME] [--here] [--stack NAME] [--print-python]

It runs before any environment exists, so it needs nothing but the standard library. There is one environment per
stack: `.venv` (cuda13, the default) and `.venv-cuda12`. A stamp inside, written last, says what it was made from;
without a stamp that fits, the environment is made again from nothing, which also repairs a half-finished one. Exit
statuses: 0 ready, 1 it could not be made, 2 wrong usage. Only `--print-python` writes to standard output.
"""

from __future__ import annotations

import argparse
import difflib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

from bench.errors import Failure, UsageError

ROOT = Path(__file__).resolve().parent.parent
VENVS = {"cuda13": ".venv", "cuda12": ".venv-cuda12"}
STAMP = "stamp"
OURS = ("bench", "kernels", "models", "reports")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
# Of each stack: the oldest driver, and the compute capabilities that its PyTorch has kernels for, both included.
DRIVERS = {"cuda13": 580, "cuda12": 525}
CAPABILITIES = {"cuda13": (7.5, 12.1), "cuda12": (5.0, 9.0)}
CUDA13_FROM = 8.0  # older than that, cuda12 is taken: Triton's newer releases leave Turing aside


def say(text: str) -> None:
    """Print one line of progress; standard output stays free for `--print-python`."""
    print(f"setup: {text}", file=sys.stderr, flush=True)


# ---- which stack


class Card(NamedTuple):
    """A GPU as nvidia-smi lists it; `driver` is the major version, `capability` None where nvidia-smi is too old."""

    number: str
    name: str
    driver: int
    uuid: str
    capability: float | None

    def __str__(self) -> str:
        return f"{self.name}, driver {self.driver}"


def devices() -> list[Card]:
    """The GPUs of this machine; none where nvidia-smi is missing or fails."""
    for fields in ("index,uuid,driver_version,compute_cap,name", "index,uuid,driver_version,name"):
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        try:
            listing = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return []
        line = r"^(\d+), (\S*), (\d+)\.[\d.]+, (?:(\d+\.\d+), )?(.+?)\s*$"
        rows = re.findall(line, listing.stdout, re.MULTILINE)
        if listing.returncode == 0 and rows:
            return [
                Card(number, name, int(driver), uuid, float(capability) if capability else None)
                for number, uuid, driver, capability, name in rows
            ]
    return []


def seen(there: list[Card], mask: str | None) -> list[Card]:
    """The GPUs that a CUDA_VISIBLE_DEVICES names, in its order; all without one, or where it names slices."""
    if mask is None or "MIG-" in mask:
        return there
    entries = [entry.strip() for entry in mask.split(",")]
    return [
        card
        for entry in entries
        for card in there
        if entry == card.number or (entry.startswith("GPU-") and card.uuid.startswith(entry))
    ]


def choose_stack(gpu: str, *, here: bool = False) -> tuple[str, str]:
    """The stack for `auto`, `cpu`, a profile, `INDEX`, `PROFILE:INDEX` or a UUID, and why in a few words.

    The GPU's compute capability and the driver decide. Setting up ahead of a GPU's arrival is allowed by its profile,
    unless it must be `here`: nobody wants to wait minutes to hear that it is not.

    Raises:
        UsageError: an unknown or absent name.
        Failure: a GPU that no stack can drive.
    """
    from bench.machine.gpus import profile_for, profiles  # needs Python 3.11: `check_python` comes first

    if gpu.lower() == "cpu":
        return "cuda13", "no GPU asked for"
    if gpu.startswith(("GPU-", "MIG-")):
        return _stack_of_uuid(gpu)
    name, _, index = (f"auto:{gpu}" if gpu.isdecimal() else gpu.lower()).partition(":")
    own = name.startswith("nvidia-")  # a board without a profile, by its own name
    name = "auto" if own else name.partition("-mig-")[0]
    known = ["cpu", "auto", *profiles()]
    if name not in known[1:] or (":" in gpu and not index.isdecimal()):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}, or a GPU's index"
        raise UsageError(f"unknown GPU '{gpu}'; {hint}")

    asked, there = profiles().get(name), devices()
    visible = seen(there, os.environ.get("CUDA_VISIBLE_DEVICES"))
    fitting = [
        card
        for card in visible
        if index in ("", card.number)
        and (not asked or asked.matches(card.name))
        and (not own or _slug(card.name) == gpu.lower().partition(":")[0].partition("-mig-")[0])
    ]
    if not fitting:
        if asked and not here:
            return asked.stack, f"profile {name}"
        if asked or index or own:
            listing = ", ".join(f"{card.number} ({card.name})" for card in visible) or "nvidia-smi lists none"
            raise UsageError(
                f"GPU {gpu} is not here: {listing}; GPU=auto takes what is there, the CPU included"
            )
        return "cuda13", "no GPU found"
    card = fitting[0]
    if (capability := card.capability) is None and (profile := profile_for(card.name)):
        capability = float(profile.compute_capability)
    return stack_for(card, capability)


def _stack_of_uuid(uuid: str) -> tuple[str, str]:
    """The stack of the GPU with this UUID. nvidia-smi's query lists no slices: any card stands for those.

    Raises:
        UsageError: no GPU has it.
        Failure: no stack can drive it.
    """
    there = devices()
    fitting = there if uuid.startswith("MIG-") else [card for card in there if card.uuid.startswith(uuid)]
    if not fitting:
        listing = ", ".join(f"{card.uuid} ({card.name})" for card in there) or "nvidia-smi lists none"
        raise UsageError(f"GPU {uuid} is not here: {listing}; GPU=auto takes what is there, the CPU included")
    return stack_for(fitting[0], fitting[0].capability)


def stack_for(card: Card, capability: float | None) -> tuple[str, str]:
    """The stack of a GPU, and why.

    Args:
        capability: its compute capability; None if nobody knows it, and the driver alone decides.

    Raises:
        Failure: no stack can drive it; said before anything is downloaded.
    """
    why = f"{card}, compute capability {capability or 'unknown'}"
    if card.driver < DRIVERS["cuda12"]:
        raise Failure(
            f"{why}: the driver is too old; {DRIVERS['cuda12']} is the oldest that runs a stack of ours"
        )
    newest = card.driver >= DRIVERS["cuda13"]
    if capability is None:
        return ("cuda13" if newest else "cuda12"), why
    if capability < CAPABILITIES["cuda12"][0] or capability > CAPABILITIES["cuda13"][1]:
        raise Failure(f"{why}: no stack of ours has kernels for it")
    if capability > CAPABILITIES["cuda12"][1] and not newest:
        raise Failure(f"{why}: this GPU needs a driver from {DRIVERS['cuda13']} on")
    return ("cuda13" if newest and capability >= CUDA13_FROM else "cuda12"), why


def _slug(name: str) -> str:
    """A board's name as a word of the command line, as `Device.key` has it."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return words if words.startswith("nvidia-") else f"nvidia-{words}"


# ---- which Python


def constraints(stack: str) -> str:
    """The text of a stack's constraints."""
    return (ROOT / "constraints" / f"{stack}.txt").read_text(encoding="utf-8")


def pythons(stack: str) -> list[str]:
    """The Pythons ("3.11", …) that have wheels for a stack: the `# python:` line of its constraints."""
    line = re.search(r"^# python: (.+)$", constraints(stack), re.MULTILINE)
    assert line, f"constraints/{stack}.txt has no '# python:' line"
    return line[1].split()


def check_python(stacks: Iterable[str]) -> None:
    """Look whether one of the stacks has wheels for this Python.

    Raises:
        Failure: none has; the line says what to type.
    """
    wheels = {stack: pythons(stack) for stack in stacks}
    if any(PYTHON in versions for versions in wheels.values()):
        return
    listing = "; ".join(f"{stack}: {', '.join(versions)}" for stack, versions in wheels.items())
    usable = min(wheels.values(), key=len)
    on_path = [version for version in usable if runs(f"python{version}")]
    hint = "type" if on_path else "none of them is on PATH: install one, and type"
    raise Failure(
        f"Python {PYTHON} has no wheels for this stack. The ones that have are, for {listing}"
        f" - {hint}: make PYTHON=python{(on_path or usable)[-1]} …"
    )


def runs(python: str) -> bool:
    """Whether an interpreter is on PATH and starts; pyenv puts many there that do not."""
    try:
        return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0
    except OSError:
        return False


# ---- the environment


def dependencies() -> list[str]:
    """The packages to install: the project's dependencies and the tools of its dev group."""
    import tomllib  # needs Python 3.11: `check_python` comes first

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]


def fingerprint(stack: str, python: str) -> str:
    """The text of an environment's stamp: its Python, and a hash of what is installed."""
    parts = repr([*dependencies(), constraints(stack)])
    return f"{python} {hashlib.sha256(parts.encode()).hexdigest()}\n"


def is_ready(stack: str) -> bool:
    """Whether the environment is whole and made from what `constraints/` and pyproject.toml say now."""
    venv = ROOT / VENVS[stack]
    if not (venv / STAMP).is_file() or not os.access(venv / "bin" / "python", os.X_OK):
        return False
    stamp = (venv / STAMP).read_text()
    # with wheels for this Python, this Python it is; else the one that an earlier `make PYTHON=…` named
    python = PYTHON if PYTHON in pythons(stack) else stamp.partition(" ")[0]
    return stamp == fingerprint(stack, python)


def ensure(stack: str, why: str) -> Path:
    """The interpreter of a stack's environment, which is made first where it is not ready.

    Raises:
        Failure: it cannot be made.
    """
    venv = ROOT / VENVS[stack]
    if not is_ready(stack):
        check_python([stack])
        with open(f"{venv}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another set-up of {venv.name}, or what a killed one left running, to end")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_ready(stack):
                say(f"making {venv.name} with Python {PYTHON} for the {stack} stack ({why})")
                make(stack, lock)
    return venv / "bin" / "python"


def make(stack: str, lock: IO[str]) -> None:
    """Make an environment from nothing, and stamp it.

    Raises:
        Failure: it cannot be made.
    """
    if not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
        raise Failure(f"this Python has no venv module; on Debian or Ubuntu: apt install python{PYTHON}-venv")
    venv = ROOT / VENVS[stack]
    if venv.is_symlink():  # what is made anew is emptied first
        raise Failure(
            f"{venv.name} is a link to an environment of other versions: remove the link, and run it again"
        )
    (venv / STAMP).unlink(missing_ok=True)  # first of all: a stamp means that all the rest is there
    watch([sys.executable, "-I", "-m", "venv", "--clear", str(venv)], stack, lock)
    pip = [str(venv / "bin" / "python"), "-I", "-m", "pip", "install", "--no-input", "--progress-bar=off"]
    watch([*pip, *dependencies()], stack, lock)
    # as pip does with what it installs, or each process would, where PYTHONDONTWRITEBYTECODE is set
    ours = [name for name in OURS if (ROOT / name).is_dir()]
    command = [str(venv / "bin" / "python"), "-I", "-m", "compileall", "-q", *ours]
    subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True)  # read-only: not at all
    whole = venv / f"{STAMP}.new"
    whole.write_text(fingerprint(stack, PYTHON))
    whole.replace(venv / STAMP)


def watch(command: list[str], stack: str, lock: IO[str]) -> None:
    """Run venv or pip and show its phases.

    It inherits the lock: where we are killed and it lives on, the next set-up waits for its end.

    Raises:
        Failure: it fails; its last lines are printed before.
    """
    # Through the environment, not -c: that way the setuptools that builds fvcore and iopath is the pinned one
    # too, with a pip before 25.3 by the first name and with a later one by the second.
    pins = dict.fromkeys(("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"), f"constraints/{stack}.txt")
    tail: deque[str] = deque(maxlen=20)
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **pins},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=(lock.fileno(),),
    ) as process:
        assert process.stdout
        for line in process.stdout:
            tail.append(line.rstrip())
            # packages of 10 MB and more
            large = re.search(r"(Downloading|Using cached) (?:\S*/)?(\w+-\d[^-]*)-\S+ (\(\d{2,}\..*\))", line)
            if large:
                say(f"  {large[1].lower()} {large[2]} {large[3]}")
            elif line.startswith("Installing collected packages:"):
                say(f"  installing {line.count(',') + 1} packages")
    if process.returncode == 0:
        return
    output = "\n".join(tail)
    print(output, file=sys.stderr)
    # ensurepip keeps the reason to itself
    if re.search("No space left|Disk quota", output) or shutil.disk_usage(ROOT).free < 2**26:
        raise Failure(f"the disk is full; the {stack} environment takes 6 GB, and pip's cache half as much")
    reason = "the package index cannot be reached" if "onnection" in output else "see above"
    raise Failure(f"could not install the {stack} stack: {reason}. Running it again starts over")


def main() -> int:
    """Parse the command line, make what is missing, and return the exit status."""
    parser = argparse.ArgumentParser(prog="bench.setup_env", description="Makes the virtual environment.")
    parser.add_argument(
        "--gpu", default="auto", help="auto, cpu, a name of bench/machine/gpus.toml, INDEX, NAME:INDEX"
    )
    parser.add_argument(
        "--here", action="store_true", help="the GPU is to be measured on now, so it must be here"
    )
    parser.add_argument("--stack", choices=VENVS, help="this stack, whatever the GPU")
    parser.add_argument("--print-python", action="store_true", help="print the interpreter's path")
    arguments = parser.parse_args()
    try:
        check_python(VENVS)
        stack, why = (
            (arguments.stack, "asked for")
            if arguments.stack
            else choose_stack(arguments.gpu, here=arguments.here)
        )
        python = ensure(stack, why)
    except Failure as error:
        say(str(error))
        return error.status
    except OSError as error:
        say(f"{error.filename or 'the environment'}: {error.strerror}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; running it again starts over")
        return 130
    if arguments.print_python:
        print(python)
    else:
        say(f"{VENVS[stack]} is ready ({stack} stack: {why})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
