"""`kdsearch COMMAND ...`, the same as `python -m kdsearch.COMMAND ...`."""

from __future__ import annotations

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
    asked = not arguments or arguments[0] in ("-h", "--help", "help")
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
