"""The command line as a person and as a program meet it, run in this process."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from click.testing import CliRunner

from bench.__main__ import main
from bench.machine.devices import Device
from bench.machine.gpus import profiles
from tests.support.json_schema import SCHEMA, faults

NO_DRIVER = "no CUDA driver: its library NVML is not on this machine"


def bench(*arguments: str, status: int = 0) -> SimpleNamespace:
    """Run a command, hold it to its exit status, and to saying no traceback."""
    result = CliRunner().invoke(main, arguments, prog_name="python -m bench")
    assert isinstance(result.exception, SystemExit | None), result.exc_info
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return SimpleNamespace(out=result.stdout, err=result.stderr, json=lambda: json.loads(result.stdout))


def record_of(*arguments: str) -> dict[str, Any]:
    """The one record that a command prints as JSON, held to the schema."""
    document = bench(*arguments, "--json").json()
    assert list(faults(document, SCHEMA)) == []
    assert document["command"] == arguments[0]
    (record,) = document["records"]
    return record


def refused(*arguments: str, status: int = 2) -> str:
    """The one line on standard error of a command that did nothing."""
    said = bench(*arguments, status=status)
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    assert not Path("results").is_dir()
    return line.removeprefix("error: ")


def synthetic_h200() -> Device:
    """A device as it would be found on a machine with an H200."""
    return Device("cuda", 0, "NVIDIA H200", "GPU-synthetic", 140.0, "9.0", "580", profile=profiles()["h200"])
