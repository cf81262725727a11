"""`python -m kdsearch.cache`: what is kept of the teachers' outputs on this machine, and clearing it.

Goes in: the store, `$KDSEARCH_HOME` or ~/.cache/kdsearch. Comes out: a line for each teacher and data set.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

from kdsearch import cli
from kdsearch.home import default_store
from kdsearch.output_cache import FOLDER, Entry, clear, entries

ALL = "all"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kdsearch cache",
        description="List the teacher outputs that sweeps keep on this machine, the longest unused first.",
        epilog="A sweep computes what it misses: clearing costs time, never results. How much may be kept is "
        "resources.cache_gb in the sweep's YAML.",
    )
    parser.add_argument("--clear", metavar="KEY", nargs="*", help="remove these, or all where none is named")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def command(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    store = default_store()
    kept = entries(store)
    if options.clear is None:
        for line in table(kept, store):
            print(line)
        return cli.DONE
    unknown = [key for key in options.clear if not any(entry.key.startswith(key) for entry in kept)]
    if unknown:
        raise cli.UsageError(f"--clear {unknown[0]}: no such key; python -m kdsearch.cache lists them")
    chosen = [e.key for e in kept if not options.clear or e.key.startswith(tuple(options.clear))]
    freed = clear(store, chosen)
    print(f"{freed / 1e6:,.1f} MB of {len(chosen)} teachers' outputs removed from {store / FOLDER}")
    return cli.DONE


def table(kept: Sequence[Entry], store: Path) -> list[str]:
    """The lines to show, with a sum in the end."""
    if not kept:
        return [f"nothing is kept in {store / FOLDER}"]
    rows = [("key", "teacher", "data", "augment", "maps", "epochs", "MB", "last used"), *map(_row, kept)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    total = sum(entry.num_bytes for entry in kept)
    return [*lines, f"{total / 1e6:,.1f} MB in {store / FOLDER}; remove with --clear [KEY ...]"]


def _row(entry: Entry) -> tuple[str, ...]:
    about = entry.about
    used = datetime.datetime.fromtimestamp(entry.last_used).strftime("%Y-%m-%d %H:%M")
    return (
        entry.key[:12],
        str(about.get("teacher", "?"))[:12],
        str(about.get("dataset", "?")),
        ", ".join(name for name, _ in about.get("augment", [])) or "none",
        str(len(about.get("summaries", []))),
        str(entry.num_epochs),
        f"{entry.num_bytes / 1e6:,.1f}",
        used,
    )


def main() -> int:
    return cli.guarded(command)


if __name__ == "__main__":
    sys.exit(main())
