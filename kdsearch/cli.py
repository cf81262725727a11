"""What all commands share: exit codes, and errors as lines for the person who reads them.

Goes in: a command's function. Comes out: its exit code; no traceback unless `--debug` is given.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

DONE, NO_ANSWER, BAD_USAGE, NOT_FINISHED = 0, 1, 2, 3
INTERRUPTED, TERMINATED = 130, 143


class UsageError(Exception):
    """Bad usage, found before anything was started: exit 2."""


class NotFinishedError(Exception):
    """The sweep could not finish; the message says how to go on: exit 3."""


_got_sigterm = False


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM as a KeyboardInterrupt: the one exception that a wait inside Ray's C++ passes on."""
    global _got_sigterm
    _got_sigterm = True
    raise KeyboardInterrupt


def guarded(command: Callable[[Sequence[str]], int], arguments: Sequence[str] | None = None) -> int:
    """Run a command and turn what it raises into a line on stderr and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return command(arguments)
    except UsageError as error:
        return _fail(error, BAD_USAGE, arguments)
    except NotFinishedError as error:
        return _fail(error, NOT_FINISHED, arguments)
    except KeyboardInterrupt:
        return TERMINATED if _got_sigterm else INTERRUPTED
    except BrokenPipeError:
        return DONE  # the reader of a pipe has seen enough
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(OSError(f"{where}{error.strerror or error}"), NOT_FINISHED, arguments)
    except Exception as error:
        if "--debug" in arguments:
            raise
        text = f"unexpected {type(error).__name__}: {error} (run again with --debug for the traceback)"
        return _fail(RuntimeError(text), NOT_FINISHED, arguments)


def _fail(error: Exception, code: int, arguments: Sequence[str]) -> int:
    if "--debug" in arguments:
        raise error
    for line in str(error).splitlines():
        print(f"error: {line}" if not line.startswith(" ") else line, file=sys.stderr)
    return code
