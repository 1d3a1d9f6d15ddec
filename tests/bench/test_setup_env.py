"""bench/setup_env.py and the Makefile: the right stack, made once, repaired when broken. No network.

The environments made here are real ones, by the real venv and pip, from a package of a few bytes.
"""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

from bench import setup_env
from bench.errors import Failure
from tests.support.sweeps import sweep

REPOSITORY = Path(__file__).resolve().parents[2]
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def write_wheel(folder: Path, version: str) -> None:
    """A wheel of a package `tiny` that knows its version and nothing else."""
    info = f"tiny-{version}.dist-info"
    with zipfile.ZipFile(folder / f"tiny-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", f"version = '{version}'\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


class Checkout:
    """A copy of what set-up reads, whose one dependency is `tiny`; wheels of 1.0 and 2.0 lie beside it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "check out"  # the blank belongs to the test
        self.programs = folder / "programs"
        self.constraints = self.root / "constraints" / "cuda13.txt"
        self.venv = self.root / ".venv"
        wheels = folder / "wheels"
        for path in (self.root / "bench" / "machine", self.root / "constraints", self.programs, wheels):
            path.mkdir(parents=True)
        for name in ("__init__.py", "errors.py", "setup_env.py", "machine/__init__.py", "machine/gpus.py"):
            shutil.copy(REPOSITORY / "bench" / name, self.root / "bench" / name)
        shutil.copy(REPOSITORY / "bench/machine/gpus.toml", self.root / "bench/machine")
        (self.root / "pyproject.toml").write_text(
            "[project]\ndependencies = ['tiny']\n[dependency-groups]\ndev = []\n"
        )
        self.pin("1.0")
        (self.root / "constraints" / "cuda12.txt").write_text("# python: 3.98 3.99\ntiny==1.0\n")
        for version in ("1.0", "2.0", "3.0"):
            write_wheel(wheels, version)
        self.environment = {
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "HOME": str(folder),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": wheels.as_uri(),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def pin(self, version: str) -> None:
        self.constraints.write_text(f"# python: {THIS}\ntiny=={version}\n")

    def pretend(self, python: str) -> None:
        """An environment that looks whole; `setup_env.ROOT` has to be this checkout."""
        (self.venv / "bin").mkdir(parents=True)
        (self.venv / "bin" / "python").symlink_to(sys.executable)
        (self.venv / "stamp").write_text(setup_env.fingerprint("cuda13", python))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            # -S: nothing is installed where this has to run
            [sys.executable, "-S", "-m", "bench.setup_env", *arguments],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def set_up(self, *arguments: str) -> tuple[int, str, str]:
        """Status, standard output, standard error."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err
        return process.returncode, out, err

    def installed(self) -> str:
        command = [str(self.venv / "bin" / "python"), "-c", "import tiny; print(tiny.version)"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture(scope="module")
def set_up_twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, list[tuple[int, str]]]:
    """A checkout that two have set up at once, with the status and standard error of each."""
    checkout = Checkout(tmp_path_factory.mktemp("ready"))
    both = [checkout.start(), checkout.start()]
    errors = [process.communicate(timeout=120)[1] for process in both]
    return checkout, [(process.returncode, error) for process, error in zip(both, errors, strict=True)]


@pytest.fixture(scope="module")
def ready_checkout(set_up_twice: tuple[Checkout, list[tuple[int, str]]]) -> Checkout:
    """One that is set up; tests leave it so."""
    return set_up_twice[0]


def test_our_source_is_compiled_with_it_even_where_imports_write_no_bytecode(
    ready_checkout: Checkout,
) -> None:
    sources = ready_checkout.root.glob("bench/**/*.py")
    made = {path.name.split(".")[0] for path in ready_checkout.root.glob("bench/**/__pycache__/*.pyc")}
    assert {path.stem for path in sources} == made and "gpus" in made


# ---- which stack


# Synthetic listings, in the order of the fields that are asked for.
A100, V100 = "GPU-a100, {}, 8.0, NVIDIA A100-SXM4-80GB", "GPU-v100, {}, 7.0, Tesla V100-SXM2-16GB"
MIXED = f"0, {V100.format('590.1')}\n1, {A100.format('590.1')}"


@pytest.mark.parametrize(
    ("gpu", "listing", "stack"),
    [
        ("cpu", f"0, {V100.format('535.1.2')}", "cuda13"),
        ("auto", "exit 9", "cuda13"),
        ("auto", "No devices were found", "cuda13"),
        ("auto", f"0, {A100.format('580.65.06')}", "cuda13"),
        ("auto", f"0, {A100.format('535.183.01')}", "cuda12"),
        ("auto", f"0, {V100.format('580.65.06')}", "cuda12"),
        ("auto", MIXED, "cuda12"),
        ("1", MIXED, "cuda13"),
        ("a100:1", MIXED, "cuda13"),
        ("A100", MIXED, "cuda13"),
        ("GPU-a1", MIXED, "cuda13"),  # a UUID is that of its GPU, not of the first
        ("GPU-v1", MIXED, "cuda12"),
        ("a100", "exit 9", "cuda13"),
        ("v100", "exit 9", "cuda12"),
        ("t4", "exit 9", "cuda12"),
        ("v100:1", "exit 9", "cuda12"),
        ("a100-mig-1g.10gb", f"0, {A100.format('580.1')}", "cuda13"),
        ("MIG-77", f"0, {A100.format('580.1')}", "cuda13"),
        # without a profile
        ("auto", "0, GPU-1, 590.1, 8.9, NVIDIA L4", "cuda13"),
        ("auto", "0, GPU-1, 535.1, 8.6, NVIDIA A10", "cuda12"),
        ("auto", "0, GPU-1, 580.1, 12.0, NVIDIA GeForce RTX 5090", "cuda13"),
        ("auto", "0, GPU-1, 580.1, 10.0, NVIDIA GB200", "cuda13"),
        ("auto", "0, GPU-1, 580.1, 7.0, Tesla V100-SXM3-32GB", "cuda12"),
        ("auto", "0, GPU-1, 580.1, 7.0, Tesla V100-DGXS-32GB", "cuda12"),
        ("auto", "0, GPU-1, 580.1, 7.0, NVIDIA TITAN V", "cuda12"),
        ("auto", "0, GPU-1, 580.1, 7.0, Quadro GV100", "cuda12"),
        ("auto", "0, GPU-1, 580.1, 6.0, Tesla P100-PCIE-16GB", "cuda12"),
        ("auto", "0, GPU-1, 580.1, 6.1, NVIDIA GeForce GTX 1080 Ti", "cuda12"),
        ("nvidia-nvidia-l4", "0, GPU-1, 590.1, 8.9, NVIDIA NVIDIA L4", "cuda13"),
        ("nvidia-geforce-gtx-1080-ti", "0, GPU-1, 580.1, 6.1, NVIDIA GeForce GTX 1080 Ti", "cuda12"),
    ],
)
def test_stack_follows_compute_capability_and_driver(
    gpu: str, listing: str, stack: str, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = listing if listing.startswith("exit") else f"echo '{listing}'"  # synthetic readings
    write_program(checkout.programs / "nvidia-smi", script)
    monkeypatch.setenv("PATH", str(checkout.programs))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert setup_env.choose_stack(gpu)[0] == stack


@pytest.mark.parametrize(
    ("listing", "why"),
    [
        ("0, GPU-1, 570.1, 12.0, NVIDIA GeForce RTX 5090", "needs a driver from 580 on"),
        ("0, GPU-1, 572.1, 10.0, NVIDIA GB200", "needs a driver from 580 on"),
        ("0, GPU-1, 450.1, 7.0, Tesla V100-SXM2-16GB", "the driver is too old; 525 is the oldest"),
        ("0, GPU-1, 470.1, 8.0, NVIDIA A100-SXM4-80GB", "the driver is too old; 525 is the oldest"),
        ("0, GPU-1, 470.1, 3.7, Tesla K80", "the driver is too old"),
        ("0, GPU-1, 535.1, 3.7, Tesla K80", "no stack of ours has kernels for it"),
    ],
)
def test_what_no_stack_can_drive_is_refused_before_anything_is_downloaded(
    listing: str, why: str, checkout: Checkout
) -> None:
    write_program(checkout.programs / "nvidia-smi", f"echo '{listing}'")
    status, _, err = checkout.set_up()
    assert (status, err.count("\n")) == (1, 1)
    assert why in err
    assert not checkout.venv.exists()


@pytest.mark.parametrize(
    ("mask", "stack"),
    [("1", "cuda13"), ("0", "cuda12"), ("GPU-a", "cuda13"), ("1,0", "cuda13"), ("", "cuda13")],
)
def test_stack_follows_the_gpu_that_is_visible(
    mask: str, stack: str, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(checkout.programs / "nvidia-smi", f"echo '{MIXED}'")
    monkeypatch.setenv("PATH", str(checkout.programs))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert setup_env.choose_stack("auto")[0] == stack


def test_an_older_nvidia_smi_is_asked_what_it_knows(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before driver 470 or so it does not know compute_cap; the profile does."""
    write_program(
        checkout.programs / "nvidia-smi",
        'case "$*" in *compute_cap*) exit 2;; *) echo "0, GPU-1, 535.1, Tesla V100-SXM2-16GB";; esac',
    )
    monkeypatch.setenv("PATH", str(checkout.programs))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert setup_env.choose_stack("auto") == (
        "cuda12",
        "Tesla V100-SXM2-16GB, driver 535, compute capability 7.0",
    )


@pytest.mark.parametrize(
    ("gpu", "line"),
    [
        ("a10", "unknown GPU 'a10'; did you mean a100?"),
        ("v100:", "unknown GPU 'v100:'; did you mean v100?"),
        ("v100:x", "unknown GPU 'v100:x'; did you mean v100?"),
        ("", "unknown GPU ''; known are cpu, auto, v100, "),
        ("cpu:0", "unknown GPU 'cpu:0'; did you mean cpu?"),
        ("3", "GPU 3 is not here: 0 (NVIDIA B200)"),
    ],
)
def test_unknown_gpu_is_wrong_usage(gpu: str, line: str, checkout: Checkout) -> None:
    write_program(checkout.programs / "nvidia-smi", "echo '0, GPU-1, 590.1, 10.0, NVIDIA B200'")
    status, out, err = checkout.set_up("--gpu", gpu)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"setup: {line}")


@sweep
def test_a_named_gpu_may_be_set_up_for_ahead_but_must_be_here_to_be_measured_on(
    ready_checkout: Checkout,
) -> None:
    program = ready_checkout.programs / "nvidia-smi"
    write_program(program, "echo '0, GPU-1, 590.1, 10.0, NVIDIA B200'")
    assert ready_checkout.set_up("--gpu", "b200", "--here")[0] == 0
    status, out, err = ready_checkout.set_up("--gpu", "v100", "--here")
    program.unlink()
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("setup: GPU v100 is not here: 0 (NVIDIA B200); GPU=auto takes what is there")


def test_gpu_too_new_for_its_driver(checkout: Checkout) -> None:
    write_program(checkout.programs / "nvidia-smi", "echo '0, GPU-1, 570.1, 10.0, NVIDIA B200'")
    status, _, err = checkout.set_up()
    assert status == 1
    assert "needs a driver from 580 on" in err


# ---- which Python


def test_python_without_wheels_names_those_with(checkout: Checkout) -> None:
    status, _, err = checkout.set_up("--gpu", "v100")
    assert status == 1
    assert err.count("\n") == 1
    assert "cuda12: 3.98, 3.99" in err
    assert "none of them is on PATH: install one, and type: make PYTHON=python3.99" in err

    write_program(checkout.programs / "python3.98", "exit 0")
    write_program(checkout.programs / "python3.99", "exit 127")  # a pyenv shim
    assert "- type: make PYTHON=python3.98" in checkout.set_up("--stack", "cuda12")[2]


def test_python_without_venv(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_env, "ROOT", checkout.root)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Failure, match=f"apt install python{THIS}-venv"):
        setup_env.ensure("cuda13", "")


# ---- the environment


def test_two_at_once(set_up_twice: tuple[Checkout, list[tuple[int, str]]]) -> None:
    checkout, ended = set_up_twice
    assert [status for status, _ in ended] == [0, 0], ended
    errors = "".join(error for _, error in ended)
    assert errors.count("making .venv") == 1
    assert errors.count("waiting for another set-up") == 1
    assert checkout.installed() == "1.0"


def test_second_run_changes_nothing(ready_checkout: Checkout) -> None:
    (ready_checkout.venv / "untouched").touch()
    python = ready_checkout.venv / "bin" / "python"
    assert ready_checkout.set_up("--print-python") == (0, f"{python}\n", "")
    assert (ready_checkout.venv / "untouched").exists()
    assert ready_checkout.installed() == "1.0"


def test_changed_requirements_are_not_ready(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_env, "ROOT", checkout.root)
    assert not setup_env.is_ready("cuda13")
    checkout.pretend(THIS)
    assert setup_env.is_ready("cuda13")
    project = checkout.root / "pyproject.toml"
    project.write_text(project.read_text().replace("'tiny'", "'tiny', 'more'"))
    assert not setup_env.is_ready("cuda13")


@pytest.mark.parametrize("lost", ["stamp", "bin/python"])
def test_broken_environment_is_not_ready(
    lost: str, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_env, "ROOT", checkout.root)
    checkout.pretend(THIS)
    (checkout.venv / lost).unlink()
    assert not setup_env.is_ready("cuda13")
    (checkout.venv / lost).symlink_to("/nowhere/it")
    assert not setup_env.is_ready("cuda13")


def test_other_python_makes_it_again_only_where_it_could(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_env, "ROOT", checkout.root)
    checkout.constraints.write_text("# python: 3.98 3.99\ntiny==1.0\n")
    checkout.pretend("3.98")
    assert setup_env.is_ready("cuda13")
    monkeypatch.setattr(setup_env, "PYTHON", "3.99")
    assert not setup_env.is_ready("cuda13")


@sweep
def test_changed_constraints_make_it_again(ready_checkout: Checkout) -> None:
    ready_checkout.pin("2.0")
    status, _, err = ready_checkout.set_up()
    assert status == 0, err
    assert ready_checkout.installed() == "2.0"


def test_a_link_to_an_environment_of_other_versions_is_refused_and_leads_to_what_it_led_to(
    checkout: Checkout, tmp_path: Path
) -> None:
    """Another checkout's, perhaps: to make it anew would empty it."""
    others = tmp_path / "others"
    others.mkdir()
    (others / "precious").write_text("kept")
    checkout.venv.symlink_to(others)
    status, _, err = checkout.set_up()
    assert status == 1
    assert ".venv is a link to an environment of other versions: remove the link" in err
    assert [file.name for file in others.iterdir()] == ["precious"]


@sweep
@pytest.mark.parametrize("moment", ["making", "installing"])
def test_killed_set_up_is_repaired(moment: str, checkout: Checkout) -> None:
    """Its child lives on for a moment: the next set-up has to wait for it, not to work beside it."""
    killed = checkout.start()
    assert killed.stderr
    assert any(moment in line for line in killed.stderr)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (checkout.venv / "stamp").exists()

    status, _, err = checkout.set_up()
    assert status == 0, err
    assert checkout.installed() == "1.0"


@sweep
def test_failed_install_says_so_and_leaves_no_stamp(checkout: Checkout) -> None:
    checkout.pin("9.9")
    status, out, err = checkout.set_up("--print-python")
    assert (status, out) == (1, "")
    assert "tiny==9.9" in err
    assert err.splitlines()[-1].startswith("setup: could not install the cuda13 stack")
    assert not (checkout.venv / "stamp").exists()


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by NewConnectionError",
            "the package index cannot be reached",
        ),
        ("ERROR: No matching distribution found", "could not install the cuda13 stack: see above"),
    ],
)
def test_failure_is_one_clear_line(
    output: str, line: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "lock").open("w") as lock, pytest.raises(Failure, match=re.escape(line)):
        setup_env.watch(["sh", "-c", f"echo '{output}'; exit 1"], "cuda13", lock)
    assert output in capfd.readouterr().err


# ---- the files themselves


def pins(stack: str) -> dict[str, str]:
    """Version by normalised name."""
    lines = (REPOSITORY / "constraints" / f"{stack}.txt").read_text().splitlines()
    found = [re.fullmatch(r"([\w.-]+)==([\w.!+]+)", line) for line in lines if not line.startswith("#")]
    assert all(found), f"{stack}: a line is neither a comment nor name==version"
    return {re.sub(r"[-_.]+", "-", match[1].lower()): match[2] for match in found if match}


@pytest.mark.parametrize("stack", setup_env.VENVS)
def test_every_dependency_is_pinned(stack: str) -> None:
    assert set(setup_env.dependencies()) <= pins(stack).keys()


def test_installed_versions_are_the_pinned_ones() -> None:
    """All of them, dependencies of dependencies too; but venv brings its own pip and setuptools."""
    venvs = {REPOSITORY / name: stack for stack, name in setup_env.VENVS.items()}
    if Path(sys.prefix) not in venvs:
        pytest.skip("runs in an environment that make setup did not make")
    pinned = pins(venvs[Path(sys.prefix)])
    # of this folder alone: once setuptools is imported, what it brings inside itself is on sys.path too
    there = distributions(path=[sysconfig.get_path("purelib")])
    installed = {re.sub(r"[-_.]+", "-", d.name.lower()): d.version for d in there}
    assert "torch" in installed
    for name in installed.keys() - {"pip", "setuptools"}:
        assert installed[name] == pinned.get(name), f"{name} is not as constraints/ have it"


def test_make_alone_lists_every_target() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: help (.+)$", makefile, re.MULTILINE)
    assert phony
    listing = subprocess.run(["make"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  (\S+)  +\S", listing, re.MULTILINE) == phony[1].split()


@pytest.mark.parametrize(
    ("study", "asked"),
    [
        ("", []),
        ("table2", ["table2"]),
        ("table2  sweep", ["table2", "sweep"]),
        ("a user's $(touch hit) study.toml", ["a user's $(touch hit) study.toml"]),
        ("table2 *", ["table2", "*"]),
    ],
)
def test_a_study_reaches_the_command_whatever_its_path_holds(tmp_path, study, asked):
    """A stand-in for Python answers the set-up with a program that prints what it is asked."""
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\n')
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {program}\n")
    for script in (program, python):
        script.chmod(0o755)
    if study.endswith(".toml"):
        (tmp_path / study).touch()
    command = ["make", "-s", "-f", str(REPOSITORY / "Makefile"), "bench", f"PYTHON={python}"]
    written = study.replace("$", "$$")  # as make wants it
    done = subprocess.run(
        [*command, f"STUDY={written}"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    words = [line[1:-1] for line in done.stdout.splitlines()]
    run = words[: words.index("-m", 1)]  # the report's are after it
    assert [word for flag, word in itertools.pairwise(run) if flag == "--study"] == asked
    assert not (tmp_path / "hit").exists()


def make_bench(folder: Path, *variables: str, target: str = "bench") -> subprocess.CompletedProcess[str]:
    """`make bench`, or another target, in a folder, whose Python answers everything with what it is asked."""
    program, python = folder / "program", folder / "python"
    program.write_text('#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\n')
    python.write_text(f'#!/bin/sh\nfor word in "$@"; do echo "[$word]" >&2; done\necho {program}\n')
    for script in (program, python):
        script.chmod(0o755)
    return subprocess.run(
        ["make", "-s", "-f", str(REPOSITORY / "Makefile"), target, f"PYTHON={python}", *variables],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


INJECTIONS = (
    "x'; touch hit; '",
    'x"; touch hit; "',
    "$$(touch hit)",
    "`touch hit`",
    "x | touch hit",
    "-\ntouch hit",
)


@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.parametrize("name", ["GPU", "STACK", "STUDY", "QUICK", "CASE"])
def test_what_make_is_given_is_never_run(tmp_path: Path, name: str, text: str) -> None:
    done = make_bench(tmp_path, f"{name}={text}", target="profile" if name == "CASE" else "bench")
    assert not (tmp_path / "hit").exists()
    if name == "GPU":
        given = text.replace("$$", "$")
        assert f"<{given}>" in done.stdout and f"[{given}]" in done.stderr


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("STUDIES=table2", "unknown variable STUDIES; did you mean STUDY?"),
        ("study=table2", "unknown variable study; did you mean STUDY?"),
        ("gpu=v100", "unknown variable gpu; did you mean GPU?"),
        ("quick=1", "unknown variable quick; did you mean QUICK?"),
        ("case=restv2_tiny", "unknown variable case; did you mean CASE?"),
        (
            "PROTOCOL=paper",
            "unknown variable PROTOCOL; known are GPU STUDY CASE QUICK BASE REASON STACK PYTHON",
        ),
    ],
)
def test_a_variable_that_make_does_not_know_is_an_error(tmp_path: Path, variable: str, said: str) -> None:
    done = make_bench(tmp_path, variable)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(("quick", "is_quick"), [("1", True), ("0", False), ("", False), ("yes", True)])
def test_quick_is_on_unless_it_is_empty_or_zero(tmp_path: Path, quick: str, is_quick: bool) -> None:
    assert ("<--quick>" in make_bench(tmp_path, f"QUICK={quick}").stdout) == is_quick


@pytest.mark.parametrize("case", ["swin_tiny@224:b8", "my traces/it.json.gz"])
def test_a_profile_is_of_the_case_as_it_is_written(tmp_path: Path, case: str) -> None:
    done = make_bench(tmp_path, f"CASE={case}", "GPU=cpu", target="profile")
    assert done.stdout.splitlines()[2:] == ["<profile>", "<--gpu>", "<cpu>", "<-->", f"<{case}>"]
    assert "<--quick>" in make_bench(tmp_path, f"CASE={case}", "QUICK=1", target="profile").stdout


def test_a_regression_is_beside_a_commit_or_what_was_accepted(tmp_path: Path) -> None:
    asked = make_bench(tmp_path, "BASE=origin/a b", "GPU=cpu", target="regress").stdout.splitlines()
    assert asked[2:] == ["<regress>", "<--base>", "<origin/a b>", "<--gpu>", "<cpu>"]
    asked = make_bench(tmp_path, "GPU=cpu", target="regress").stdout.splitlines()
    assert asked[2:] == ["<regress>", "<--gpu>", "<cpu>"]


def test_figures_are_accepted_for_a_reason_as_it_is_written(tmp_path: Path) -> None:
    asked = make_bench(tmp_path, "REASON=it's `ls`, and more", "GPU=cpu", target="baseline").stdout
    assert asked.splitlines()[2:] == ["<baseline>", "<--gpu>", "<cpu>", "<--reason>", "<it's `ls`, and more>"]
    done = make_bench(tmp_path, target="baseline")
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs a REASON" in done.stderr


def test_a_profile_of_nothing_is_wrong_usage(tmp_path: Path) -> None:
    done = make_bench(tmp_path, target="profile")
    assert (done.returncode, done.stdout) == (2, "")
    assert "make profile CASE=restv2_tiny" in done.stderr
