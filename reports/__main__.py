"""`python -m reports`: from result rows, or from a trace, to tables, figures and one page, without torch."""

from __future__ import annotations

import gc
import signal

# Ctrl-C while the rest is imported, which takes a second, ends it without a traceback.
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # looking for garbage takes a tenth of the time, and the report is done before there is much of it
    from bench.errors import outside_of_the_environment

    if line := outside_of_the_environment():
        raise SystemExit(line)

import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from bench.cases import unknown
from bench.errors import Failure, UsageError
from bench.text import printable
from reports import chapters, figures, verdicts
from reports import results as folders
from reports.chapter import Told
from reports.results import Results
from reports.tables import Table, to_markdown, to_terminal, without_repeats

RESULTS = Path("results")
EVERYTHING, TABLES, PAGE = "everything", "tables", "page"
PROFILE, CLAIMS, AUDIT, HISTORY = "profile", "claims", "audit", "history"
WAITING = ".report-"  # how the folder is called in which files wait to be renamed
SHOWN = 20  # problems that the terminal is told one by one


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument(
    "part", type=click.Choice([EVERYTHING, TABLES, PAGE, PROFILE, CLAIMS, AUDIT, HISTORY]), default=EVERYTHING
)
@click.argument("what", nargs=-1)
@click.option(
    "--gpu", "key", metavar="KEY", help="A folder under results/ (default: the one of the last run)."
)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Of a trace: the folder to write to (default: one beside it, with its name).",
)
def main(part: str, what: tuple[str, ...], key: str | None, out: Path | None) -> None:
    """Write tables, figures and a page from the rows in results/KEY/ to results/KEY/report/.

    PART is tables (printed too), page (with its figures), or everything. With WHAT it is of the first of these devices,
    with the others beside it: keys under results/, folders, or files of rows; without, all that lie in results/ stand
    beside the one of the last run.

    Or it is profile, and WHAT a trace that torch.profiler exported, of which the same is written: where its time goes,
    beside its MACs.

    Or it is claims: the paper's sentences, each with its verdict; with WHAT the one of that name.

    Or it is audit: the paper's speeds, each beside what its GPU can do; with WHAT those of a CSV file with the columns
    model, gpu, images_per_s, gmacs and, if need be, dtype, case, size, family, source.

    Or it is history: what was accepted and measured of each case of the regression suite, commit by commit, as a figure
    and for other tools; with WHAT of one case.

    Exit status: 0 done, 1 something failed, a claim is refuted or a speed impossible, 2 wrong usage, 3 nothing of this,
    but a claim or a speed is undecided, or a claim not measured.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # as it is where it was closed
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a log that knows only ASCII gets all
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as on Ctrl-C, nothing half written stays
    try:
        status = dispatch(part, what, key, out)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("stopped; the report is as it was", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `| head` has seen enough
        os._exit(1)
    except OSError as error:
        print(f"error: {printable(str(error.filename or 'output'))}: {error.strerror}", file=sys.stderr)
        os._exit(1)  # what is left in the buffer has nowhere to go, and Python would try again
    except Failure as failure:
        print(f"error: {printable(str(failure))}", file=sys.stderr)
        sys.exit(failure.status)
    if status:
        sys.exit(status)


def dispatch(part: str, what: Sequence[str], key: str | None, out: Path | None) -> int:
    """Do what was asked for; the exit status.

    Raises:
        UsageError: what is given does not go with the part.
    """
    one, more = (what[0] if what else None), what[1:]
    if part == PROFILE and one and not (key or more):
        report_trace(Path(one), out or beside(Path(one)))
        return 0
    if part == CLAIMS and not (out or more):
        return report_claims(one, key)
    if part == AUDIT and not (out or more):
        return report_audit(Path(one) if one is not None else None, key)
    if part == HISTORY and not (out or more):
        report_history(one, key)
        return 0
    if part in (PROFILE, CLAIMS, AUDIT, HISTORY) or (what and key) or out:
        raise UsageError(
            "profile takes a TRACE and --out, claims a NAME and --gpu, audit a FILE and --gpu, "
            "history a CASE and --gpu, all others --gpu or devices"
        )
    report(part, results_of(what, key))
    return 0


def results_of(names: Sequence[str], key: str | None) -> Results:
    """The rows of the first device that is named, with the others beside it; else of `key`, with its neighbours."""
    from reports import beside  # not above: the other parts do without what it imports

    if names:
        first, *sources = [folders.named(RESULTS, name) for name in names]
        _check_distinct(names, [first, *sources])
        results = first.read()
        if not results.rows:
            why = f": {results.problems[0]}" if results.problems else ""
            raise UsageError(f"no measurements in {names[0]}{why}")
    else:
        results = folders.load(RESULTS, key)
        sources = folders.neighbours(RESULTS, results)
    devices = beside.read(sources)
    if names and None in devices:
        raise UsageError(f"no measurements in {names[1 + devices.index(None)]}")
    results.beside = [device for device in devices if device]
    results.problems += beside.of_one(results, results.beside)
    results.problems += [
        f"{each.key}: {each.problems} problem{'s' * (each.problems > 1)} in its rows, as its own report says"
        for each in results.beside
        if each.problems
    ]
    return results


def _check_distinct(names: Sequence[str], sources: Sequence[folders.Source]) -> None:
    """See that no rows are named twice: they would agree with themselves.

    Raises:
        UsageError: some are, with both names.
    """
    seen: dict[Path, str] = {}
    for name, path in zip(names, (source.path.resolve() for source in sources), strict=True):
        for other, earlier in seen.items():
            if path == other or path.parent == other or other.parent == path:
                raise UsageError(f"{earlier} and {name} hold the same rows: name them once")
        seen[path] = name


def report_claims(name: str | None, key: str | None) -> int:
    """Print the paper's sentences with their verdicts, or the one of that name; the exit status.

    Raises:
        UsageError: there is no such claim, with the nearest there is.
    """
    from reports import claim_tables, claims
    from reports.sentences import CLAIMS as sentences

    known = {claim.name: claim for claim in sentences}
    if name is not None and name not in known:
        raise unknown("claim", name, known)
    results = results_if_any(key)
    found = claims.find(results, sentences)
    if name:
        found = [finding for finding in found if finding.claim.name == name]
        print(claim_tables.in_words(found[0]))
    else:
        table = claim_tables.table(found, results.machine if results else None)
        left_out = {column.header for column in (*claim_tables.LONG[1:], claim_tables.BY, claim_tables.PLACE)}
        shown = replace(table.without(left_out), narrow=[])
        console(Console().width).print(to_terminal(shown), "", crop=False)
        print(claim_tables.summary(found))
    return verdicts.exit_status(finding.verdict for finding in found)


def report_audit(file: Path | None, key: str | None) -> int:
    """Print the findings on the paper's speeds, or on those of a file; the exit status."""
    from reports import audit, audit_tables, published

    results = results_if_any(key)
    if file is None:
        found = chapters.audit.findings(results)
    else:
        found = audit.audit(published.read(file), results, published.speeds())
    table = audit_tables.table(found)
    shown = replace(table.without({audit_tables.REASON.header}), narrow=[])
    console(Console().width).print(to_terminal(shown), "", crop=False)
    print(audit_tables.summary(found))
    return verdicts.exit_status(finding.verdict for finding in found)


def report_history(case: str | None, key: str | None) -> None:
    """Print the history of the regression suite, or of a case; write its figure, and files for other tools."""
    from bench.baseline import FOLDER
    from reports import history

    key = key or history.latest(RESULTS, FOLDER)
    if key is None:
        raise Failure(
            f"no history: {RESULTS}/*/regress/ has no rows, and nothing is accepted; `make regress` measures"
        )
    found = history.entries(key, RESULTS / key, FOLDER, case)
    table = history.table(found)
    console(Console().width).print(to_terminal(table), "", crop=False)
    files = {name: text.encode() for name, text in history.files(found).items()}
    plot = history.draw(found)
    folder = RESULTS / key / "report"
    write(folder, {f"{table.name}.md": to_markdown(table).encode(), **files, **figure_files([plot])})
    print(
        f"Written to {folder}/: {', '.join((f'{table.name}.md', *files, f'{plot.name}.svg', f'{plot.name}.png'))}"
    )


def results_if_any(key: str | None) -> Results | None:
    """The rows of the device `key`, or of the last run; None where there are none and none were asked for."""
    return folders.load(RESULTS, key) if key or folders.folders(RESULTS) else None


def report(part: str, results: Results) -> None:
    """Build `part` for a device, print what is to be read, write the rest."""
    screen = console(Console().width)
    for problem in some(results.problems):
        print(f"warning: {problem}", file=sys.stderr)
    told = chapters.tell(results)
    files: dict[str, bytes] = {}
    with drawing(told) if part != "tables" else contextlib.nullcontext():
        tables = [table for chapter in told for table in chapter.tables]
        if part != "page":
            files |= table_files(told, tables)
            # rich would cut a table that is too wide; the terminal wraps it, and every number stays whole
            said = [(chapter, chapter.chapter.summary(chapter)) for chapter in told]
            shown = [table for chapter, words in said if not words for table in chapter.tables]
            for table in without_repeats(shown):
                screen.print(to_terminal(table), "", crop=False)
            for _, words in said:
                if words:
                    screen.print(words, markup=False)
    if part != "tables":
        files |= page_files(results, told)
    folder = results.folder / "report" if results.folder.is_dir() else beside(results.folder)
    write(folder, files)
    print(f"Written to {folder}/: {', '.join(files)}")


def report_trace(trace: Path, folder: Path) -> None:
    """Write tables, figures and a page of where the time of a trace goes; nothing else of the trace is in them."""
    from bench.trace import told
    from reports import page, profiles, traced

    profile = profiles.of_trace(name_of(trace), told.read(trace))
    tables = traced.tables(profile)
    files = {f"{table.name}.md": to_markdown(table).encode() for table in tables}
    with figures.drawing(traced.jobs(profile)) as drawn:
        screen = console(Console().width)
        for table in tables:
            screen.print(to_terminal(table), "", crop=False)
        plots = [plot for plot in drawn if plot]
    files |= figure_files(plots)
    files["index.html"] = page.render_profile(
        profile.title, traced.standfirst(profile), plots, tables
    ).encode()
    write(folder, files)
    print(f"Written to {folder}/: {', '.join(files)}")


def name_of(trace: Path) -> str:
    """The name of a trace's file without what it ends in."""
    return (
        trace.name.removesuffix(".gz")
        .removesuffix(".jsonl")
        .removesuffix(".json")
        .removesuffix(".trace")
        .removesuffix(".pt")
        or trace.name
    )


def beside(trace: Path) -> Path:
    """The folder for the report of a trace: where it lies, with its name.

    Raises:
        UsageError: it has none, and is no file.
    """
    if not trace.name:
        raise UsageError(f"{trace}: is a folder, and no trace")
    return trace.with_name(f"{name_of(trace)}-report")


class Terminal(Console):
    """A terminal. Where nobody reads any more, as behind `| head`, what else is said goes nowhere, and work goes on."""

    def on_broken_pipe(self) -> None:
        """Say no more; the console that this is made of would exit."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console(width: int) -> Console:
    """A terminal of that width, or of 80 columns where it has fewer."""
    return Terminal(highlight=False, width=max(80, width))


def some(problems: Sequence[str]) -> list[str]:
    """The problems to be told one by one; of very many the first, and how many more there are."""
    left = len(problems) - SHOWN
    more = [f"and {left:,} more, all of which the page names"] if left > 0 else []
    return [*problems[:SHOWN], *more]


def table_files(told: Sequence[Told], tables: Sequence[Table]) -> dict[str, bytes]:
    """Markdown of the `tables`, and CSV of the studies that were run, by file name."""
    texts = {f"{table.name}.md": to_markdown(table) for table in tables}
    for chapter in told:
        texts |= chapter.csv
    return {name: text.encode() for name, text in texts.items()}


def page_files(results: Results, told: Sequence[Told]) -> dict[str, bytes]:
    """Figures and the page by file name."""
    from reports import page  # the templates' engine takes a tenth of a second to import

    files = figure_files([plot for chapter in told for plot in chapter.plots])
    return {**files, "index.html": page.render(results, told).encode()}


def figure_files(plots: Sequence[figures.Plot]) -> dict[str, bytes]:
    """Figures by file name; those for a phone stand on the page alone."""
    return {
        name: content
        for plot in plots
        for name, content in ((f"{plot.name}.svg", plot.svg_file), (f"{plot.name}.png", plot.png))
    }


@contextlib.contextmanager
def drawing(told: Sequence[Told]) -> Iterator[None]:
    """Draw every figure of the chapters, in processes of their own, while the caller does something else."""
    for chapter in told:
        _ = chapter.shown, chapter.pairs, chapter.context  # once for all figures
    # what shows most takes longest, and must not be left over when all else is done
    longest_first = sorted(told, key=lambda chapter: len(chapter.shown), reverse=True)
    jobs = [
        (chapter, partial(figure, chapter)) for chapter in longest_first for figure in chapter.chapter.figures
    ]
    with figures.drawing([job for _, job in jobs]) as plots:
        yield
        drawn = list(plots)
    for chapter in told:
        chapter.plots = [
            plot for (owner, _), plot in zip(jobs, drawn, strict=True) if plot and owner is chapter
        ]


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all of `files` or none: into a folder beside them first, from which each is renamed once all are whole.

    The folder goes whatever ends the report; what one that was killed left behind goes with the next.

    Raises:
        Failure: the folder cannot be written, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _left_alone(folder), tempfile.TemporaryDirectory(prefix=WAITING, dir=folder) as waiting:
            for name, content in files.items():
                Path(waiting, name).write_bytes(content)
            for name in files:
                os.replace(Path(waiting, name), folder / name)
    except OSError as error:
        raise Failure(f"cannot write {folder}: {error.strerror}") from None


@contextlib.contextmanager
def _left_alone(folder: Path) -> Iterator[None]:
    """Hold the folder for this report, as far as the file system can, and clear away what killed ones left in it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        # network file systems refuse: two reports at once then may take each other's folder, and one of them says so
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        for left in folder.glob(f"{WAITING}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(handle)


if __name__ == "__main__":
    main(prog_name="python -m reports")
