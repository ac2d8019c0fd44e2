"""`nmt study NAME`: what each step of a recipe is worth, each the one before it and something more.

reports/experiments/NAME/study.yaml lists the steps. Each becomes a DVC experiment of the present commit, which trains
and evaluates only the models that the step names. A second call goes on where the first was interrupted. The table and
its chart are written beside the list, in git; `dvc repro` puts those of the study `ingredients` into the report page.

A line of that table counts as done wherever it was measured, as long as its command and the test set stay the same: a
study may take several days and machines, and a step that is added costs only its own training. The line names the
commit it is from; --again measures all at the present one.
"""

import argparse
from typing import TYPE_CHECKING

from nmt import lockfile, paths, plots, study, study_table
from nmt.commands.trials import add_jobs, carry_out
from nmt.config import load_params
from nmt.errors import UserError
from nmt.files import read_csv, read_text, write_csv, write_text
from nmt.repository import git
from nmt.tracking.provenance import local_changes

if TYPE_CHECKING:
    _Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: "_Subparsers") -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help=f"there is {paths.study('NAME')}")
    parser.add_argument("--again", action="store_true", help="measure also what stands in the table already")
    parser.add_argument("--dry-run", action="store_true", help="print each step's command, and run nothing")
    add_jobs(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train what is missing, check, and write the table."""
    rows = study.read(arguments.name, local_changes(), load_params().ensembles)
    if arguments.dry_run:
        print("\n".join(f"# {row.step.name}\n{row.command}" for row in rows))
        return 0
    before = {} if arguments.again else lines_before(arguments.name)
    outcome = carry_out([row.trial for row in rows if not study.is_complete(row, before)], arguments.jobs)
    for fault in outcome.faults:
        print(fault)
    lines = study.table(rows, outcome.snapshots, git("rev-parse", "HEAD").strip(), before)
    if not lines:
        raise UserError(f"no step of {arguments.name} has a result; the lines above say why")
    text = study_table.as_markdown(arguments.name, lines)
    write_csv(paths.study_table(arguments.name), lines)
    write_text(paths.study_table(arguments.name).with_suffix(".md"), text)
    picture = paths.study_table(arguments.name).with_suffix(".png")
    plots.dots(picture, study_table.intervals(lines), f"Study: {arguments.name}", "BLEU", from_zero=False)
    print(text)
    return int(bool(outcome.faults))


def lines_before(name: str) -> study.Lines:
    """The study's table as it stands in the working tree, without what was measured on another test set."""
    path = paths.study_table(name)
    written = study_table.from_csv(read_csv(path, study_table.COLUMNS)) if path.exists() else []
    own = present_test_set() if written else None
    if others := sum(line["test_set"] != own for line in written):
        print(f"left out: {others} lines of {path} on another test set; they are measured anew")
    return study.known(written, own)


def present_test_set() -> str | None:
    """The md5 of the test set that this workspace's trials have; where the file is not here, dvc.lock knows it.

    Raises:
        UserError: it was made with other parameters.
    """
    params, stages = load_params(), lockfile.parse(read_text(paths.LOCK))
    if "prepare" not in stages or not lockfile.has_params(stages["prepare"], params.model_dump()):
        raise UserError("the test set is not that of the present parameters; `dvc repro prepare` comes first")
    records = paths.prepared_records("test")
    if records.exists():
        return lockfile.file_md5(records)
    known = (lockfile.test_set(stages, variant, seed) for variant in params.variants for seed in params.seeds)
    return next(filter(None, known), None)
