"""GPU profiles: vendors' peak rates and our defaults, read from `gpus.toml` and validated.

Pure data, no torch, no GPU. A CPU has no profile: its peaks are measured on the spot.
"""

import functools
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import UsageError

PROFILES_FILE = Path(__file__).with_name("gpus.toml")
PEAK_DTYPES = ("fp64", "fp32", "tf32", "fp16", "bf16")
RUN_DTYPES = ("fp64", "fp32", "fp16", "bf16")
STACKS = ("cuda12", "cuda13")

# A profile's name is a folder under results/, a word on the command line and a value of make's GPU=.
# "nvidia-..." is left to GPUs without a profile (devices.Device.key), so that the two never share a
# folder.
NAME = re.compile(r"(?!(?:auto|cpu)$|nvidia-)[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class GpuProfile:
    """One variant of one GPU. `gpus.toml` describes the fields and their units at its top.

    `peak_tflops` maps a dtype to its dense peak in 1e12 FLOP/s (1 MAC = 2 FLOP). A dtype that is not in it, and a
    bandwidth that is None, are unknown: nothing may be assumed for them.
    """

    name: str
    title: str
    match: tuple[str, ...]
    compute_capability: str
    memory_gb: float
    stack: str
    dtype: str
    batch: int
    source: str
    bandwidth_gb_s: float | None = None
    peak_tflops: dict[str, float] = field(default_factory=dict, hash=False)

    def matches(self, device_name: str) -> bool:
        """Whether the whole of `device_name`, as NVML or torch reports it, is this GPU."""
        return any(re.fullmatch(pattern, device_name.strip(), re.IGNORECASE) for pattern in self.match)


def profiles(path: Path = PROFILES_FILE) -> dict[str, GpuProfile]:
    """Every profile of a file by name, in the file's order.

    Raises:
        UsageError: the file is absent or no TOML, a key is unknown or missing, or a value is of the wrong kind; the
            line names file, table and key.
    """
    return dict(_read(path))


def profile_for(device_name: str, path: Path = PROFILES_FILE) -> GpuProfile | None:
    """The profile of a GPU by the name that NVML or torch reports; None if no profile fits exactly.

    Raises:
        UsageError: two profiles claim the name, or what `profiles` raises.
    """
    matching = [profile for profile in _read(path).values() if profile.matches(device_name)]
    if len(matching) > 1:
        tables = " and ".join(f"[{profile.name}]" for profile in matching)
        raise UsageError(f"{path}: {tables} both match '{device_name}'; narrow their key 'match'")
    return matching[0] if matching else None


@functools.cache
def _read(path: Path) -> dict[str, GpuProfile]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as GPU profiles: {error}") from error
    return {name: _profile(path, name, table) for name, table in tables.items()}


def _profile(path: Path, name: str, table: Any) -> GpuProfile:
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{path}: [{name}]: not a usable name: lower-case letters, digits and single dashes, "
            "a letter first; not 'auto', 'cpu' or 'nvidia-...'"
        )
    if not isinstance(table, dict):
        raise UsageError(f"{path}: '{name}' is not a table; a profile starts with [{name}]")
    for key in table:
        if key not in FIELDS:
            raise UsageError(f"{path}: [{name}]: unknown key '{key}'; the keys are {', '.join(FIELDS)}")
    for key in FIELDS:
        if key not in table and key not in OPTIONAL:
            raise UsageError(f"{path}: [{name}]: key '{key}' is missing")
    values = {}
    for key, value in table.items():
        try:
            values[key] = FIELDS[key](value)
        except ValueError as error:
            raise UsageError(f"{path}: [{name}]: key '{key}': {error}") from error
    return GpuProfile(name=name, **values)


# One reader per kind of value: returns the value as GpuProfile holds it, or raises ValueError saying what is
# wrong.


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected text, found {value!r}")
    return value


def _positive(value: Any) -> float:
    # TOML also has inf and nan; a bool is an int in Python
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"expected a number above 0, found {value!r}")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"expected a whole number above 0, found {value!r}")
    return value


def _one_of(*choices: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}, found {value!r}")
        return str(value)

    return read


def _capability(value: Any) -> str:
    if not re.fullmatch(r"\d+\.\d", _text(value)):
        raise ValueError(f'expected text such as "9.0", found {value!r}')
    return str(value)


def _patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"expected a list of regular expressions, found {value!r}")
    for pattern in value:
        try:
            re.compile(_text(pattern))
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    return tuple(value)


def _peaks(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a table of rates by dtype, found {value!r}")
    for dtype in value:
        if dtype not in PEAK_DTYPES:
            raise ValueError(f"unknown dtype '{dtype}'; they are {', '.join(PEAK_DTYPES)}")
    return {dtype: _positive(rate) for dtype, rate in value.items()}


FIELDS: dict[str, Callable[[Any], Any]] = {
    "title": _text,
    "match": _patterns,
    "compute_capability": _capability,
    "memory_gb": _positive,
    "bandwidth_gb_s": _positive,
    "stack": _one_of(*STACKS),
    "dtype": _one_of(*RUN_DTYPES),
    "batch": _count,
    "source": _text,
    "peak_tflops": _peaks,
}
OPTIONAL = ("bandwidth_gb_s", "peak_tflops")  # blank where no datasheet says it
