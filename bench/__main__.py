"""`python -m bench`: list what there is, run studies, and count, measure or compare a case."""

from __future__ import annotations

import os
import signal
import sys

# Ctrl-C while the rest is imported, which takes a second, ends it with a line and no traceback.
if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"stopped\n"), os._exit(130)))
    from bench.errors import outside_of_the_environment

    if line := outside_of_the_environment():
        raise SystemExit(line)

import io
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
from click.shell_completion import add_completion_class

from bench import answers, cases, describe, kept, listings, progress, record, roofline, screen, shard, studies
from bench.cli import (
    MEASURES,
    CaseOrTrace,
    CaseType,
    ForBash,
    Group,
    as_json,
    device_and_rules,
    device_of,
    fail_if_any,
    forms,
    gpu_option,
    print_json,
    print_lines,
    print_records,
    print_rows,
    quick_option,
    study_option,
    summed_up,
)
from bench.conventions import CONVENTIONS, NO_FORMULA
from bench.errors import Failure, UsageError
from bench.jobs import ANALYSES, Expectations, job_of, jobs_of
from bench.machine import devices, provenance
from bench.machine.devices import Device
from bench.protocols import PROTOCOLS
from bench.runner import Runner, ask
from bench.screen import Screen
from bench.study import keep
from bench.trace.operators import BY
from bench.traffic import Traffic, of_row

RESULTS = Path("results")

EPILOG = """A case is written model[options]@size:bN:dtype:impl:mode, every part after the model optional:
restv2_tiny, restv2_tiny[mhim]@384:b64:fp16:sdpa, swin_tiny@800x1344:b1, timm:vit_small_patch16_224:compile,
my_package.nets:Net@224. Quote it: a shell reads brackets. The mode is infer, or train for a step of training.

A model of timm's goes by its name with a tag or without; where no size is written it has its own, as timm says.
What a class of yours is called with, if not an image, [inputs=1x28x28+10] says, or its attribute INPUTS.

In place of a size stand sizes of real images: @coco (COCO val2017), @coco500 (its first 500), @FOLDER/ or @FILE.json
of yours, and ~N after any of them for the number of shapes that are timed in place of all. Your own module is looked
for in the current folder and in PYTHONPATH.

Exit status: 0 done, 1 something fell short or failed, 2 wrong usage, 3 undecided, 130 stopped by Ctrl-C."""

COMPLETION = "_BENCH_COMPLETE"  # the variable by which click's script asks for what a word may go on as


def _version(ctx: click.Context, _: click.Parameter, is_asked: bool) -> None:
    """Print the commit and the versions that decide a time."""
    if not is_asked:
        return
    source = provenance.source()
    dirty = " with local changes" if source["dirty"] else ""
    click.echo(f"commit {source['commit'] or 'unknown'}{dirty}")
    for name, version in provenance.versions().items():
        click.echo(f"{name} {version or 'not there'}")
    ctx.exit()


@click.group(cls=Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Print the commit and the versions that decide a time.",
)
def main() -> None:
    """FLOPs are not speed: measure, count and compare ResTv2 and its peers."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal under latin-1 has no ² and no …
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as on Ctrl-C, the worker goes with us


@main.command("studies")
@forms
def list_studies(form: str | None) -> None:
    """The studies, and the question of each."""
    if form:
        records = (answers.records_of_study(study) for study in studies.STUDIES.values())
        print_records("studies", [record for of_study in records for record in of_study], form)
    else:
        print_lines(listings.studies_lines())


@main.command("models")
@as_json
def list_models(as_json: bool) -> None:
    """The models: options and implementations."""
    if as_json:
        print_json(listings.models_data())
    else:
        print_lines(listings.models_lines())


@main.command("gpus")
@as_json
def list_gpus(as_json: bool) -> None:
    """GPUs whose peaks are known, and what is here."""
    here = devices.devices()
    if as_json:
        print_json(listings.gpus_data(here))
    else:
        print_lines(listings.gpus_lines(here))


@main.command()
@study_option
@gpu_option
@quick_option
@click.option(
    "--protocol", default="default", metavar="NAME", help="default, or paper: batch 64, fp32, mean of 30."
)
@click.option("--fresh", is_flag=True, help="Measure again what is there already.")
@click.option(
    "--shard",
    "which",
    metavar="I/N",
    help="Do the I-th of N equal shares (default: the one that Slurm, SkyPilot or Kubernetes names, else all).",
)
@click.option(
    "--dry-run", is_flag=True, help="List the rows with the seconds they may take, and measure none."
)
@forms
def run(
    names: tuple[str, ...],
    gpu: str,
    quick: bool,
    protocol: str,
    fresh: bool,
    which: str | None,
    dry_run: bool,
    form: str | None,
) -> None:
    """Run studies, and keep every row.

    Each row goes to results/<gpu>/ as soon as it is measured; a row that is there already is used again. Shards may run
    at once, on devices of one type and one disk or several; all their files in one folder are the whole.
    """
    ours, named_by = shard.of_environment() if which is None else (shard.parse(which), "--shard")
    chosen = [studies.find(name) for name in dict.fromkeys(names or studies.DEFAULT)]
    for name, count in Counter(study.name for study in chosen).items():
        if count > 1:
            raise UsageError(f"{count} of the studies are named {name!r}: run them one by one")
    device, rules = device_and_rules(gpu, protocol, quick)
    # every study's jobs first: one that cannot be run must not be found out after hours of another
    planned = [(study, jobs_of(study, device, rules, quick=quick)) for study in chosen]
    own = frozenset[shard.Identity]()
    if ours:
        everything = [job for _, jobs in planned for job in jobs]
        mine, own = shard.shares(everything, shard.expectations(device), device, ours.count)[ours.number - 1]
        planned = [(study, [job for job in jobs if shard.identity(job) in mine]) for study, jobs in planned]
        click.echo(f"shard {ours} of the run, as {named_by} says", err=True)
    if dry_run:
        rows = record.read(RESULTS / device.key).rows if (RESULTS / device.key).is_dir() else []
        expected = Expectations(rows, device)
        distinct = {shard.identity(job): job for _, jobs in planned for job in jobs}.values()
        return print_lines(listings.jobs_lines([(job, expected.of_all_visits(job)) for job in distinct]))
    terminal, summaries = Screen(), []
    for study, jobs in planned:
        keep(study, RESULTS / device.key)
        terminal.say(f"{study.name} on {device}, protocol {rules.name}")
        summary = Runner(device, RESULTS / device.key, terminal, ours, own).run(jobs, study.name, fresh=fresh)
        terminal.say(summed_up(summary))
        summaries.append(summary)
    if form:
        runs = [
            {
                "study": study.name,
                "device": device.key,
                "measured": summary.measured,
                "reused": summary.reused,
                "failed": summary.failed,
                "refused": summary.refused,
                **{f"{part}_s": seconds for part, seconds in summary.seconds.items()},
            }
            for study, summary in zip(chosen, summaries, strict=True)
        ]
        print_rows("run", [row for summary in summaries for row in summary.rows], form, runs=runs)
    if any(summary.failed for summary in summaries):  # a study also asks for what not every device runs
        sys.exit(1)


@main.command()
@as_json
def status(as_json: bool) -> None:
    """Say how far runs are, shard by shard: rows done and failed, and the time left.

    From the files in results/ alone, on any machine that sees them.
    """
    found = progress.find(RESULTS)
    if as_json:
        print_json([one.as_dict() for one in found])
    else:
        print_lines(progress.lines(found) if found else ["nothing was run here"])


@main.command()
@click.option(
    "--gpu",
    "gpus",
    multiple=True,
    required=True,
    metavar="NAME",
    help="A type, as `gpus` or slurm.toml has it.",
)
@study_option
@quick_option
@click.option(
    "--shards", type=click.IntRange(1), default=1, metavar="N", show_default=True, help="Tasks in each array."
)
@click.option("--submit", is_flag=True, help="Submit the jobs in place of printing the commands.")
def slurm(gpus: tuple[str, ...], names: tuple[str, ...], quick: bool, shards: int, submit: bool) -> None:
    """Run studies on a Slurm cluster: an array for each type of GPU, and a report when all have ended.

    Only shards that have rows missing are submitted. The report's job does it again until none has, or until nothing
    more is measured. slurm.toml, in this folder, has what your site asks of sbatch; bench/slurm.py says how.
    """
    from bench import slurm as cluster  # not above: no other command submits

    asked = cluster.Asked(tuple(dict.fromkeys(names or studies.DEFAULT)), shards, quick)
    found = cluster.arrays(asked, cluster.kinds(gpus), RESULTS)
    for array in found:
        if array.running:
            click.echo(f"{array.kind.name}: {len(array.running)} shards run already", err=True)
    jobs, set_up = cluster.batches(asked, found), cluster.set_ups(found)
    if not jobs:
        click.echo("nothing is missing that does not run already", err=True)
        return
    cluster.check_progress(found)
    if submit:
        print_lines(f"{name}: job {number}" for name, number in cluster.submit(set_up, jobs).items())
    else:
        print_lines(cluster.as_shell(set_up, jobs))


@main.command()
@click.argument("case", type=CaseType())
@click.option("--convention", type=click.Choice(CONVENTIONS), default="paper", show_default=True)
@click.option("--by", type=click.Choice(("operator", "module")), default="operator", show_default=True)
@click.option(
    "--depth",
    type=click.IntRange(1),
    metavar="N",
    help="By module: a module N names deep with all that is in it (default: the innermost).",
)
@click.option("--check", is_flag=True, help="Compare with fvcore, which runs the model on real tensors.")
@forms
def macs(
    case: cases.Case, convention: str, by: str, depth: int | None, check: bool, form: str | None
) -> None:
    """Count the parameters, MACs, launches and bytes of a case.

    For one image, without running the arithmetic; for a case that trains, of its forward. Bytes are those that
    operators read and write, in the case's dtype: for each image, and once a call for weights.
    """
    device = devices.cpu_device()
    harness = "checked_breakdown" if check else "breakdown"
    job = job_of(harness, device, PROTOCOLS["default"][device.kind], case)
    counts, notes = kept.once(job, device, ask)
    if convention not in counts["conventions"]:
        raise UsageError(NO_FORMULA.format(convention=convention))
    total, parts = (counts["conventions"][convention][name] for name in ("macs", f"by_{by}"))
    if depth:
        if by != "module":
            raise UsageError("--depth is of modules: give --by module with it")
        parts = describe.rolled_up(parts, depth)
    moved = of_row(counts["traffic"], by)
    moved = describe.rolled_up(moved, depth, Traffic.plus) if depth else moved
    owned = counts["parameters_by_module"]
    owned = describe.rolled_up(owned, depth) if depth else owned
    if form:
        row = {"harness": "macs", "case": str(case), "outcome": "ok", "result": counts, "notes": notes}
        counted = answers.record_of(row, convention)
        if by == "module":
            counted["macs_by_module"] = parts
            counted["parameters_by_module"] = owned
            counted["traffic_by_module"] = {
                name: answers.flat_traffic(part, row) for name, part in moved.items()
            } or None
        return print_records("macs", [counted], form)
    in_all = f"{counts['parameters']:,} parameters, {total:,} MACs{describe.in_short(total)}"
    click.echo(
        f"{case}: {in_all} as `{convention}` counts"
        + (", of the forward alone" if case.mode == "train" else "")
    )
    dtype, batch = case.dtype or "fp32", case.batch or 1
    if moved:
        print_lines(describe.moved_in_all(counts["traffic"]["of"], moved, dtype, batch))
    print_lines(describe.counted(parts, moved, owned if by == "module" else {}, dtype, batch))
    for name, times in counts["uncounted"].items():
        click.echo(f"  not counted: {name}, {times} times")
    for other in counts["cross_checks"]:
        click.echo(f"  {describe.agreement(other)}")
    for note in notes:
        click.echo(f"  {note}")


@main.command()
@click.argument("case", type=CaseType())
@gpu_option
@quick_option
@forms
def measure(case: cases.Case, gpu: str, quick: bool, form: str | None) -> None:
    """Measure one case, now.

    MACs, throughput, latency and peak memory: four visits on a CPU and five on a GPU, each in a process that first
    warms the machine up, and so minutes; --quick is a single one, of seconds.
    """
    device, rules = device_and_rules(gpu, "default", quick)
    jobs = [job_of(harness, device, rules, case) for harness in ("macs", "throughput", "latency")]
    summary = Runner(device, RESULTS / device.key, Screen(announce=False)).run(jobs, "measure", fresh=True)
    if form:
        print_rows("measure", summary.rows, form)
    else:
        for row in summary.rows:
            click.echo(screen.describe(row))
            if row["harness"] == "throughput" and row["result"]:
                print_lines(describe.memory_and_check(row["result"]))
    fail_if_any([summary])


@main.command()
@click.argument("first", type=CaseType(), metavar="CASE")
@click.argument("second", type=CaseType(), metavar="CASE")
@gpu_option
@quick_option
@forms
def compare(first: cases.Case, second: cases.Case, gpu: str, quick: bool, form: str | None) -> None:
    """Compare two cases, in turns: A B B A, or B A A B.

    How many times as long the first takes for an image, with a 95 % interval and a verdict; --quick has one visit, and
    no verdict.
    """
    for case in (first, second):
        cases.check(case, "compare")
    device, rules = device_and_rules(gpu, "default", quick)
    job = job_of("compare", device, rules, first, second)
    summary = Runner(device, RESULTS / device.key, Screen(announce=False)).run([job], "compare", fresh=True)
    if form:
        print_rows("compare", summary.rows, form)
    else:
        click.echo(screen.describe(summary.rows[0]))
    fail_if_any([summary])


@main.command()
@click.argument("case", type=CaseType())
@gpu_option
@forms
def branches(case: cases.Case, gpu: str, form: str | None) -> None:
    """Look at what the attention and the upsample branch of each block carry.

    Their frequencies (figure 3 of the paper) and how alike they are (figure 4). A case says of which weights and
    images: "restv2_tiny[weights=FILE,images=FOLDER]"; without them weights are initial, and images synthetic.
    """
    device, rules = device_and_rules(gpu, "default", False)
    jobs = [job_of(harness, device, rules, case) for harness in ANALYSES]
    summary = Runner(device, RESULTS / device.key, Screen(announce=False)).run(jobs, "branches")
    if form:
        print_rows("branches", summary.rows, form)
    else:
        for row in summary.rows:
            click.echo(screen.describe(row))
            print_lines(describe.blocks(row))
    fail_if_any([summary])


@main.command()
@click.argument("what", type=CaseOrTrace(), metavar="CASE|TRACE.json[.gz]")
@click.option("--by", type=click.Choice(BY), default="operator", show_default=True)
@gpu_option
@quick_option
@click.option(
    "--keep-trace",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Of a case: keep the last visit's trace there, for Perfetto or chrome://tracing.",
)
@forms
@click.pass_context
def profile(
    ctx: click.Context,
    what: cases.Case | Path,
    by: str,
    gpu: str,
    quick: bool,
    keep_trace: Path | None,
    form: str | None,
) -> None:
    """Show where the time goes, beside the MACs: of a case, or of a trace.

    Time, MACs, bytes and rates by operator, by call (convolutions by the size of their filter), by kernel or by module.
    A case is measured now, without torch.profiler and with it. A trace is what torch.profiler exported, on any machine:
    a file, or a name that ends in .json or .gz; nothing is run for it. `python -m reports` draws both: cases that were
    measured with the rest, a trace by `python -m reports profile TRACE`.
    """
    from bench import profiles  # not above: no other command reads a trace
    from bench.trace import told

    if isinstance(what, Path):
        if gpu != "auto" or quick or keep_trace:
            raise UsageError(
                f"--gpu, --quick and --keep-trace are for a case, and {what} is taken for a trace"
            )
        try:
            joined = told.read(what)
        except UsageError as error:
            raise error if what.exists() else UsageError(f"{error}; it is taken for a trace") from None
        if form:
            records, whole = told.document(joined, by)
            print_records("profile", records, form, trace=whole)
        else:
            print_lines(told.lines(joined, by))
            click.echo(f"figures and a page of it: python -m reports profile {shlex.quote(str(what))}")
        return
    ctx.meta[MEASURES] = True
    device, rules = device_and_rules(gpu, "default", quick)
    job = job_of("profile", device, rules, what)
    jobs = [job_of("peaks", device, rules), job] if device.kind == "cpu" else [job]
    with profiles.kept(keep_trace):
        summary = Runner(device, RESULTS / device.key, Screen(announce=False)).run(
            jobs, "measure", fresh=True
        )
    row, peaks = summary.rows[-1], None
    if device.kind == "cpu":
        peaks = roofline.peaks_of(devices.as_dict(device), summary.rows[0]["result"])
    is_ok = row["outcome"] == "ok"
    if form:
        records = [part.record() for part in profiles.parts(row, by, peaks)] if is_ok else []
        about = profiles.summary(row) if is_ok else None
        print_records("profile", records, form, row=answers.record_of(row), profile=about)
    if not form or not is_ok:
        click.echo(screen.describe(row), err=bool(form))
    if is_ok and not form:
        print_lines(profiles.lines(row, by, peaks))
    fail_if_any([summary])


@main.command()
@click.argument("chosen", nargs=-1, type=CaseType(), metavar="[CASE]...")
@click.option(
    "--base",
    metavar="REV",
    help="The revision to compare with, as git names it (default: the figures accepted for this GPU).",
)
@click.option(
    "--module",
    "own",
    multiple=True,
    type=CaseType(),
    metavar="CASE",
    help="A case of your own module, module:Class: the revisions are those of the repository that you are in.",
)
@gpu_option
@click.option(
    "--fresh", is_flag=True, help="Measure again what is there already, but for the machine's noise."
)
@forms
def regress(
    chosen: tuple[cases.Case, ...],
    base: str | None,
    own: tuple[cases.Case, ...],
    gpu: str,
    fresh: bool,
    form: str | None,
) -> None:
    """Compare what is checked out with a base commit, or with what was accepted: faster, slower, or the same?

    With --base two processes, one a revision, take turns at each case of the suite, or at those that are named;
    restarts of both are what the interval is over. Without it, what is compared with are the figures of
    bench/baselines/<gpu>.json, in seconds and in what this machine takes for a matrix product and for a copy. Exit
    status 1: a case is slower, and fresh processes confirmed it; 3: one is undecided. On a CPU what counts is CPU
    time, on one thread. What is finished is kept in results/<gpu>/regress/.
    """
    from bench import regress as gate
    from bench import trend

    if chosen and own:
        raise UsageError("--module is of your repository and a CASE of this one: compare one after the other")
    if foreign := [case for case in own if not case.is_users]:
        raise UsageError(f"--module takes a case of your own module, module:Class, and {foreign[0]} is none")
    if users := [case for case in chosen if case.is_users]:
        raise UsageError(f"{users[0]} is of a module of yours: write --module '{users[0]}'")
    if own and base is None:
        raise UsageError(
            "figures are accepted for cases of this repository alone: give --base REV with --module"
        )
    device = device_of(gpu)
    repository, asked = gate.repository_of(own), own or _suite(chosen, device)
    results, terminal = RESULTS / device.key, Screen()
    if base is None:
        outcome = trend.compare(repository, asked, device, results, terminal, fresh=fresh)
    else:
        outcome = gate.compare(repository, base, asked, device, results, terminal, fresh=fresh)
    if form:
        print_records("regress", answers.records_of_outcome(outcome), form)
    else:
        print_lines(describe.outcome(outcome))
    sys.exit(outcome.exit_status)


@main.command()
@click.argument("case", type=CaseType())
@click.option("--gpu", required=True, metavar="NAME", help="One that `gpus` lists; it need not be here.")
@forms
def predict(case: cases.Case, gpu: str, form: str | None) -> None:
    """Predict the time of a case on a GPU that need not be there.

    From MACs and bytes, which are counted, and two rates: of your own rows of that GPU, else of published speeds of it,
    else its datasheet's peaks times the shares that other GPUs reach. A case that you measured on another GPU is
    carried over by one factor. It says which, and an interval that nine in ten measurements should lie in.
    """
    from bench import prediction, speeds

    profile = prediction.profile_of(gpu)
    case = case.resolve(profile.batch, profile.dtype)
    if case.mode != "infer":
        raise UsageError(f"{case}: inference is predicted, and no step of training")
    device = devices.cpu_device()
    counts, notes = ask(job_of("breakdown", device, PROTOCOLS["default"][device.kind], case), device)
    work = speeds.work_of(counts, case.dtype or "fp32", case.batch or 1)
    if work is None:
        raise UsageError(f"{case}: {'; '.join(notes) or 'its bytes are not known'}")
    campaigns = speeds.of_folders(RESULTS, required=False)
    made = prediction.predict(case, work, profile, campaigns, prediction.published())
    if form:
        print_records("predict", [prediction.record(case, work, profile, made)], form)
    else:
        print_lines(prediction.lines(case, work, profile, made))
        print_lines(f"  {note}" for note in notes)


@main.command()
@click.argument("file", type=click.Path(path_type=Path), default=RESULTS, metavar="[FILE.csv|FOLDER]")
@forms
def fit(file: Path, form: str | None) -> None:
    """Fit time to MACs, bytes and launches, beside MACs alone.

    Of the rows in results/, or in a folder of it; of a file as timm publishes it (benchmark-*.csv), read as it is; or
    of a table of the paper's (reports/paper/table1.csv). Each family is predicted by the others, and only those errors
    are told. A model of timm's that bench/counted.csv has not is left out.
    """
    from bench import fitting, speeds  # not above: numpy takes a tenth of a second

    fits = []
    for campaign in speeds.read(file):
        fits.append(fitting.fitted(campaign))
        if not form:
            print_lines(fitting.lines(campaign, fits[-1]))
    if form:
        print_records("fit", [fitting.record(each) for each in fits if each], form)
    if not any(fits):
        raise Failure("no campaign has rows enough to be fitted")


@main.command()
@click.argument("chosen", nargs=-1, type=CaseType(), metavar="[CASE]...")
@click.option(
    "--reason", required=True, metavar="TEXT", help="Why these figures hold from now on; it is kept."
)
@gpu_option
@click.option("--fresh", is_flag=True, help="Measure again what is there already.")
def baseline(chosen: tuple[cases.Case, ...], reason: str, gpu: str, fresh: bool) -> None:
    """Measure what is checked out, and accept it as the figures of this GPU.

    They go to bench/baselines/<gpu>.json, to be committed; `regress` without --base compares with them. Figures of a
    CPU hold for its kind alone. Of the suite, or of the cases that are named; the others keep theirs.
    """
    from bench import trend
    from bench.regress import repository_of

    device = device_of(gpu)
    path, accepted = trend.accept(
        *(repository_of(()), _suite(chosen, device), device, RESULTS / device.key, Screen(), reason),
        fresh=fresh,
    )
    print_lines(describe.accepted(accepted))
    click.echo(f"written to {path}: commit it")


def _suite(chosen: Sequence[cases.Case], device: Device) -> Sequence[cases.Case]:
    """The cases that are named, or the suite of a device."""
    from bench.suite import SUITE

    return chosen or [cases.parse(text) for text in SUITE[device.kind]]


if __name__ == "__main__":
    add_completion_class(ForBash)
    completes = COMPLETION in os.environ
    main(prog_name="bench" if completes else "python -m bench", complete_var=COMPLETION)
