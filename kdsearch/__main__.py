"""`kdsearch COMMAND ...`, the same as `python -m kdsearch.COMMAND ...`."""

from __future__ import annotations

import difflib
import importlib
import sys

COMMANDS = {
    "sweep": "run a search from one YAML file to its report",
    "report": "rebuild a sweep's report from its journal",
    "pick": "choose the best student within limits",
    "cache": "list or clear the teacher outputs that are kept on this machine",
    "sync": "log to MLflow what could not be logged during a sweep",
}


def main() -> int:
    arguments = sys.argv[1:]
    if arguments and arguments[0] in COMMANDS:
        sys.argv = [f"kdsearch {arguments[0]}", *arguments[1:]]
        return int(importlib.import_module(f"kdsearch.{arguments[0]}").main())
    print("usage: kdsearch COMMAND ...   (kdsearch COMMAND --help says more)\n")
    for name, meaning in COMMANDS.items():
        print(f"  {name:8} {meaning}")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return 0
    near = difflib.get_close_matches(arguments[0], COMMANDS, 1)
    print(
        f"unknown command {arguments[0]}" + "".join(f" (nearest: {name})" for name in near), file=sys.stderr
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
