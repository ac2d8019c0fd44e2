"""`nmt promote`: make a registered model the champion, `models:/nmt-<source>-<target>@champion`.

The version must beat the present champion on the same test set: the paired bootstrap's p-value has to be below
`promote.p_below`. The tree must be clean and `dvc status` up to date, so that code, data and test set are those of a
commit. The decision, whichever it is, is written to the version in MLflow and to reports/promotions.csv, which is
committed. Exit status 1: not promoted. Going back is promoting an older version, with --force and a reason.
"""

import argparse
import datetime
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nmt import lockfile, paths, testset
from nmt.config import Params, load_params
from nmt.errors import UserError
from nmt.files import parse_csv, read_text, write_csv
from nmt.promotion import Decision, References, Rule, decide
from nmt.repository import dvc, git
from nmt.scoring import bootstrap_of_tests
from nmt.tracking.registry import Registry, registry
from nmt.tracking.result import Result

if TYPE_CHECKING:
    _Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_SHOWN = 5  # paths or stages that an error lists


def register(subparsers: "_Subparsers") -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("promote", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", metavar="VERSION", help="its number, or a variant: the result that lies here")
    parser.add_argument("--seed", type=int, help="of that variant (default: the first in params.yaml)")
    parser.add_argument("--force", metavar="REASON", help="promote without the test and the checks, and say why")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check, decide, write the decision down, and only then move the alias."""
    params = load_params()
    if arguments.force is not None and not arguments.force.strip():
        raise UserError("--force needs a reason; it goes into the log")
    if arguments.force is None:
        _require_clean_tree()
        _require_fresh_results()
    log = _read_log()
    with registry(params.corpus.source, params.corpus.target) as models:
        version, champion = _version(models, params, arguments), models.champion()
        if champion is not None and champion.version == version.version:
            print(f"version {version.version} of {models.name} is the champion already")
            return 0
        if arguments.force is None:
            decision = _tested(models, version, champion, params)
        else:
            decision = Decision(True, f"forced: {' '.join(arguments.force.split())}")
        entry = _entry(models, version, champion, decision, params.promote.metric)
        if log and log[0].keys() != entry.row.keys():
            raise UserError(f"{paths.PROMOTIONS} has other columns than `nmt promote` writes; move it away")
        models.write(version, entry.tags(), entry.sentence())
        write_csv(paths.PROMOTIONS, [*log, entry.row])
        if decision.promoted:
            models.set_champion(version)
    _commit(entry)
    print(entry.sentence())
    return int(not decision.promoted)


def _require_clean_tree() -> None:
    changed = git("status", "--porcelain").splitlines()
    if changed:
        names = ", ".join(line[3:] for line in changed[:_SHOWN])
        raise UserError(f"the tree has changes ({names}); commit them first, so that the champion is that of a commit")


def _require_fresh_results() -> None:
    stale = json.loads(dvc("status", "--json") or "{}")
    if stale:
        names = ", ".join(list(stale)[:_SHOWN])
        raise UserError(f"`dvc status` is not up to date ({names}); `dvc repro`, or `dvc checkout`, comes first")


def _version(models: Registry, params: Params, arguments: argparse.Namespace) -> Any:
    """The version that the user named by its number, or by the variant whose result lies here."""
    if arguments.version.isdecimal():
        return models.version(int(arguments.version))
    seed = params.seeds[0] if arguments.seed is None else arguments.seed
    present = Result.present(arguments.version, seed)
    return models.of_result(present.result_id, f"{arguments.version} as it is here")


def _tested(models: Registry, version: Any, champion: Any | None, params: Params) -> Decision:
    """Hold both to the test set that lies here, which `dvc status` has found to be that of the commit."""
    metric, settings = params.promote.metric, params.compare
    if 2 / (settings.bootstrap_samples + 1) >= params.promote.p_below:
        raise UserError(
            f"{paths.PARAMS}: with compare.bootstrap_samples {settings.bootstrap_samples} no p-value can be below "
            f"promote.p_below {params.promote.p_below}; raise the first"
        )
    records = testset.present(paths.prepared_records("test"), "prepare")
    return decide(
        models.candidate(version, metric),
        None if champion is None else models.candidate(champion, metric),
        References(lockfile.file_md5(records), testset.read_sentences().references),
        metric,
        params.corpus.target,
        Rule(bootstrap_of_tests(params), params.promote.p_below),
    )


@dataclass(frozen=True)
class Entry:
    """A line of the log."""

    row: dict[str, object]

    def tags(self) -> dict[str, object]:
        """What the version itself says."""
        return {key: self.row[key] for key in ("date", "decision", "reason", "champion", "commit")}

    def subject(self) -> str:
        """For git."""
        return f"{self.row['model']} version {self.row['version']}: {self.row['decision']}"

    def sentence(self) -> str:
        """For the version's card, the commit's text and the terminal."""
        return f"{self.row['date']}: version {self.row['version']} {self.row['decision']}, {self.row['reason']}"


def _entry(models: Registry, version: Any, champion: Any | None, decision: Decision, metric: str) -> Entry:
    effect = decision.effect
    now = datetime.datetime.now(datetime.UTC)
    return Entry(
        {
            "date": now.strftime("%Y-%m-%d %H:%M:%S UTC"),
            "model": models.name,
            "version": version.version,
            "result_id": version.tags.get("result_id", ""),
            "decision": "promoted" if decision.promoted else "refused",
            "reason": decision.reason,
            "metric": metric,
            "score": models.score(version, metric),
            "champion": champion.version if champion else "",
            "champion_result_id": champion.tags.get("result_id", "") if champion else "",
            "champion_score": models.score(champion, metric) if champion else "",
            "difference": round(effect.value, 6) if effect else "",
            "low": round(effect.low, 6) if effect else "",
            "high": round(effect.high, 6) if effect else "",
            "p": round(effect.p, 6) if effect else "",
            "commit": git("rev-parse", "HEAD").strip(),
        }
    )


def _read_log() -> list[dict[str, str]]:
    """The lines so far; what is wrong with them is told before anything is done."""
    return parse_csv(read_text(paths.PROMOTIONS), str(paths.PROMOTIONS)) if paths.PROMOTIONS.exists() else []


def _commit(entry: Entry) -> None:
    """Commit the log, that one file; a commit that git refuses is left to the user."""
    try:
        git("add", "--", str(paths.PROMOTIONS))
        message = [f"--message={text}" for text in (entry.subject(), entry.sentence())]
        git("commit", "--quiet", "--only", *message, "--", str(paths.PROMOTIONS))
    except UserError as error:
        print(f"{paths.PROMOTIONS} is written, but not committed: {error}", file=sys.stderr)
