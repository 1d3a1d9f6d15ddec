"""The common parts of the commands of `python -m bench`: parameters, errors as a line, the device, ways of printing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem

from bench import answers, cases
from bench.errors import Failure, UsageError
from bench.machine import devices
from bench.machine.devices import Device
from bench.protocols import PROTOCOLS, Rules
from bench.record import Row
from bench.runner import Summary
from bench.text import printable
from models.variants import MODELS

# What a command that was stopped leaves; the others leave nothing.
RESUMES = "; every finished row is kept, and the same command goes on from there"
MEASURES_ANEW = "; every finished row is kept, and the same command measures all of them again"
KEPT = {
    "run": RESUMES,
    "regress": RESUMES,
    "baseline": RESUMES,
    "branches": RESUMES,
    "measure": MEASURES_ANEW,
    "compare": MEASURES_ANEW,
}
MEASURES = "bench.measures"  # in the context of a command that measures what it sometimes only reads


# ---- parameters

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def forms(command: Any) -> Any:
    """The options of a command that can print its rows for a program."""
    for form, help_text in (
        ("md", "Print a table in Markdown."),
        ("csv", "Print CSV: a record a row, no column that is empty throughout."),
        ("json", "Print JSON: a record a row, as bench/answers.schema.json has it."),
    ):
        command = click.option(f"--{form}", "form", flag_value=form, help=help_text)(command)
    return command


gpu_option = click.option(
    "--gpu",
    default="auto",
    metavar="NAME",
    help="auto (the first idle GPU, else the CPU), cpu, a name that `gpus` lists, an index, or name:index.",
)


study_option = click.option(
    "--study",
    "names",
    multiple=True,
    metavar="NAME",
    help="One that `studies` lists, or your own FILE.toml; may be given several times.",
)


quick_option = click.option("--quick", is_flag=True, help="One visit, fewer samples: a look, not a result.")


class CaseType(click.ParamType):
    """A case as a parameter of a command."""

    name = "case"

    def convert(self, value: Any, param: Any, ctx: Any) -> cases.Case:
        """The case of a text."""
        return cases.parse(value)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        """The models whose names begin so."""
        return [CompletionItem(name) for name in MODELS if name.startswith(incomplete)]


class CaseOrTrace(CaseType):
    """A case, or the file of a trace, as a parameter of a command."""

    name = "case or trace"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """A trace's path: of a file, or of what can be nothing else; any other text is a case."""
        if isinstance(value, Path | cases.Case):
            return value
        is_named_so = value.endswith((".json", ".gz")) or "/" in value
        if os.path.lexists(value) and not (os.path.isdir(value) and not is_named_so):
            return Path(value)
        if is_named_so and "@" not in value:
            return Path(value)
        try:
            return super().convert(value, param, ctx)
        except UsageError as error:
            raise UsageError(f"{error}; taken for a case, as no such file is there") from None

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        """The models whose names begin so, else files."""
        return super().shell_complete(ctx, param, incomplete) or [CompletionItem(incomplete, type="file")]


class ForBash(BashComplete):
    """click's script for bash, around a function `bench`: a shell completes names of commands, not of modules."""

    source_template = 'bench() { python -m bench "$@"; }\n' + BashComplete.source_template.replace(
        "$1", "python -m bench"
    )


class Group(click.Group):
    """The commands, with an error that is the user's to mend shown as one line and its exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except Failure as error:
            click.echo(printable(f"error: {error}"), err=True)
            ctx.exit(error.status)
        except BrokenPipeError:  # `| head` has seen enough; click ends that quietly
            raise
        except OSError as error:
            click.echo(f"error: {error.filename or 'input/output'}: {error.strerror}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            measures = ctx.meta.get(MEASURES)
            kept = MEASURES_ANEW if measures else KEPT.get(str(ctx.invoked_subcommand), "")
            click.echo(f"stopped{kept}", err=True)
            ctx.exit(130)


# ---- the device, and what a run ends with


def device_and_rules(gpu: str, protocol: str, quick: bool) -> tuple[Device, Rules]:
    """The device and the rules that a command line asks for.

    Raises:
        UsageError: no such protocol or device, or a quick look at the paper's.
    """
    if protocol not in ("default", "paper"):
        raise cases.unknown("protocol", protocol, ("default", "paper"))
    if quick and protocol != "default":
        raise UsageError(f"--quick shortens the default protocol, and cannot shorten {protocol!r}")
    device = device_of(gpu)
    return device, PROTOCOLS["quick" if quick else protocol][device.kind]


def device_of(gpu: str) -> Device:
    """The device that a command line asks for.

    Raises:
        UsageError: no such device.
    """
    listing = devices.devices()
    device = devices.choose(gpu, listing)
    if gpu == "auto" and device.kind == "cpu":  # also where a GPU is there and its driver is broken
        click.echo(f"no GPU: {listing.reason}; so the CPU", err=True)
    return device


def summed_up(summary: Summary) -> str:
    """A run in one line."""
    seconds = summary.seconds
    text = f"{summary.measured} rows measured, {summary.reused} used again, {summary.failed} failed"
    if summary.refused:
        text += f", {summary.refused} not to be had here"
    counted = seconds["all"] - seconds["imports"]
    if not summary.measured:
        return text
    ours = 1 - (seconds["build"] + seconds["forward"]) / counted
    return f"{text}; {seconds['all']:.0f} s, {100 * ours:.0f} % of it neither imports nor models"


def fail_if_any(summaries: list[Summary]) -> None:
    """End the process with status 1 where a case failed, or was refused."""
    if any(summary.failed or summary.refused for summary in summaries):
        sys.exit(1)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, without what a terminal would obey."""
    for line in lines:
        click.echo(printable(line))


def print_rows(command: str, rows: Sequence[Row], form: str, **more: Any) -> None:
    """Print rows of results as records, in the form that was asked for."""
    print_records(command, [answers.record_of(row) for row in rows], form, **more)


def print_records(command: str, records: Sequence[answers.Record], form: str, **more: Any) -> None:
    """Print records in the form that was asked for; what else there is to say stands in JSON alone."""
    if form == "json":
        print_json(answers.document(command, records, **more))
    else:
        click.echo({"csv": answers.to_csv, "md": answers.to_markdown}[form](records), nl=False)


def print_json(value: Any) -> None:
    """Print a value as JSON, indented."""
    click.echo(json.dumps(value, indent=2))
