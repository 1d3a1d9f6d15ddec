"""`python -m reports`: from result rows to tables, figures and one page, without torch."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from rich.console import Console

from bench.errors import Failure
from bench.studies import STUDIES
from reports import measured, render, study_tables
from reports.about import about
from reports.measured import Results
from reports.table import Table, without_repeats

RESULTS = Path("results")
EVERYTHING = "everything"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("part", type=click.Choice([EVERYTHING, "tables", "page"]), default=EVERYTHING)
@click.option(
    "--gpu", "key", metavar="KEY", help="A folder under results/ (default: the one of the last run)."
)
def main(part: str, key: str | None) -> None:
    """Write tables, figures and a page from the rows in results/KEY/ to results/KEY/report/.

    PART is tables (printed too), page (with its figures), or everything.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a log that knows only ASCII still gets all
    try:
        report(part, key)
        sys.stdout.flush()
    except OSError as error:
        print(f"error: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        os._exit(1)  # what is left in the buffer has nowhere to go, and Python would try again
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(failure.status)


def report(part: str, key: str | None) -> None:
    """Build `part` for the device `key`, print what is to be read, write the rest."""
    results = measured.load(RESULTS, key)
    console = Console(highlight=False, width=max(80, Console().width))
    for problem in results.problems:
        print(f"warning: {problem}", file=sys.stderr)
    files: dict[str, bytes] = {}
    if part != "page":
        shown = study_tables.all_tables(results)
        files |= table_files(results, shown)
        # rich would cut a table that is too wide; the terminal wraps it, and every number stays whole
        for table in without_repeats(shown):
            console.print(render.to_terminal(table), "", crop=False)
    if part != "tables":
        files |= page_files(results)
    folder = results.folder / "report"
    write(folder, files)
    print(f"Written to {folder}/: {', '.join(files)}")


def table_files(results: Results, shown: Sequence[Table]) -> dict[str, bytes]:
    """Markdown of the tables that are `shown`, and CSV of the studies that were run, by file name."""
    from reports import frame  # pandas takes half a second to import, and the page does without it

    texts = {f"{table.name}.md": render.to_markdown(table) for table in shown}
    for name in (study for study in results.studies if STUDIES[study].is_timed):
        lines = frame.frame(results, name)
        if about(name).is_long:
            lines = lines[lines["outcome"] != "missing"]
        texts[f"{name}.csv"] = lines.to_csv(index=False)
        if STUDIES[name].pairs(results.kind, False):
            texts[f"{name}_pairs.csv"] = frame.pairs_frame(results, name).to_csv(index=False)
    return {name: text.encode() for name, text in texts.items()}


def page_files(results: Results) -> dict[str, bytes]:
    """Figures and the page by file name."""
    from reports import page, plots  # matplotlib takes a second to import, and the tables do without it

    figures = plots.all_plots(results)
    files: dict[str, bytes] = {}
    for figure in figures:
        files |= {f"{figure.name}.svg": figure.svg_file, f"{figure.name}.png": figure.png}
    return {**files, "index.html": page.render(results, figures).encode()}


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all of `files` or none: each beside its place first, and renamed once every one of them is whole.

    Raises:
        Failure: the folder cannot be written, or the disk is full.
    """
    waiting: list[tuple[str, Path]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            handle, path = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
            waiting.append((path, folder / name))
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(path, 0o644)  # mkstemp's is for its owner alone, and a page is to be shown
        while waiting:
            os.replace(*waiting[0])
            waiting.pop(0)
    except OSError as error:
        raise Failure(f"cannot write {folder}: {error.strerror}") from None
    finally:
        for path, _ in waiting:
            with contextlib.suppress(OSError):
                os.unlink(path)


if __name__ == "__main__":
    main(prog_name="python -m reports")
