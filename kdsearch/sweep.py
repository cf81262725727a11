"""`python -m kdsearch.sweep SPEC.yaml`: from a YAML file to the report of its Pareto front.

Goes in: a spec. Comes out: a folder with the journal, the report and the students.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdsearch import cli, session
from kdsearch import spec as specs
from kdsearch.journal import Journal, JournalError
from kdsearch.progress import Progress
from kdsearch.spec_paths import check_paths

if TYPE_CHECKING:
    from kdsearch.spec import SweepSpec


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kdsearch sweep", description=__doc__.splitlines()[0])
    parser.add_argument("spec", metavar="SPEC.yaml", type=Path, help="the search space")
    parser.add_argument(
        "--set",
        metavar="a.b=v",
        action="append",
        default=[],
        help="override one value of the spec; may be repeated",
    )
    parser.add_argument(
        "--output", metavar="DIR", type=Path, help="the sweep's folder (default: reports/<name>)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted or extended sweep")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, print the plan, train nothing"
    )
    parser.add_argument("--address", metavar="ADDR", help="a running Ray cluster ('auto' or HOST:PORT)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def command(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    try:
        spec = specs.load(options.spec, options.set)
        check_paths(options.spec, options.set, options.resume)
    except specs.SpecError as error:
        raise cli.UsageError(str(error)) from None
    output = (options.output or Path("reports") / spec.name).absolute()
    if options.dry_run:
        from kdsearch import plan

        for line in plan.plan(spec, output):
            Progress().say(line)
        session.check_folder(output, options.resume)
        return cli.DONE
    session.check_folder(output, options.resume)
    progress = Progress()
    if options.resume and (new := session.nothing_to_resume(output)):
        progress.say(new)
    run(spec, output, options.address, progress)
    return cli.DONE


def run(spec: SweepSpec, output: Path, address: str | None, progress: Progress) -> None:
    """Open the sweep's folder for writing and hand over to the pipeline."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        journal = Journal(output)
    except (OSError, JournalError) as error:
        raise cli.UsageError(str(error)) from None
    with journal:
        session.check_same_spec(journal, spec)
        trials = "every listed trial" if spec.search.trials is None else f"{spec.search.trials} trials"
        progress.say(f"{spec.name}: {trials} on {spec.data.dataset}, into {output}")
        from kdsearch import pipeline  # torch and ray take seconds: only after everything cheap was checked

        pipeline.run(spec, output, journal, address, progress)


def main() -> int:
    return cli.guarded(command)


if __name__ == "__main__":
    sys.exit(main())
