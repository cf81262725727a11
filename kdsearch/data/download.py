"""Fetch a data set's official file, once, whoever asks at the same time.

Goes in: a URL, its official MD5 and where the file belongs. Comes out: the verified file,
whole or not at all.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from kdsearch.data import DataError

log = logging.getLogger(__name__)

# torchvision's download waits for ever on a network that swallows packets.
_TIMEOUT_S = 30.0


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: the second of two processes then finds the files that the first one put there.

    Raises DataError where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".kdsearch.lock").acquire()
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error})") from error
    with lock:
        yield


def download(url: str, md5: str, target: Path, otherwise: str) -> None:
    """Put the file at `url` to `target`. Raises DataError, ending in `otherwise` (what the user can do)."""
    from torchvision.datasets.utils import download_url

    log.info("downloading %s", url)
    usual_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as folder:
            download_url(url, folder, filename=target.name, md5=md5)
            (Path(folder) / target.name).replace(target)
    except (OSError, RuntimeError) as error:  # RuntimeError: the MD5 differs
        raise DataError(
            f"{target}: not there, and downloading {url} failed ({error}). {otherwise}"
        ) from error
    finally:
        socket.setdefaulttimeout(usual_timeout)
