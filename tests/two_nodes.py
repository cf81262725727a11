"""One sweep on two Ray nodes that share nothing but the sweep's folder.

`python tests/two_nodes.py OUT` prints which kdsearch each node ran, how many trials each node finished and
what the sweep says when the second node does not see --output. Needs Linux, root and `unshare`: the second
node lives in a mount namespace in which the driver's checkout, data and caches are empty folders. Ray listens
on every interface whatever its address is, so the cluster demands a token. The tests use the same functions.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from sklearn.datasets import load_digits

import kdsearch
from kdsearch import journal
from kdsearch.records import SweepRecord, replay

SPEC = """
name: two-nodes
data: {dataset: image_folder, root: data, grey: true}
teacher: {resnet: {depth: 8, train: {epochs: 2, lr: 0.1}}}
student:
  resnet: {depth: 8, width: {type: float, low: 0.25, high: 1.0, step: 0.25}}
distill:
  alpha: {type: float, low: 0.1, high: 0.9}
  response: kd
train: {epochs: 30, batch_size: 64, lr: {type: float, low: 0.02, high: 0.2, log: true}}
search: {trials: 8, early_stopping: none}
confirm: {seeds: 0}
"""

# The task is a nested function: Ray ships it whole, where a module's function would have to be importable.
PROBE = """
import json, sys
from kdsearch.search import cluster
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

def ask(hidden):
    @ray.remote(num_cpus=0)
    def look():
        import os, platform, kdsearch.search.worker
        files = {folder: len(os.listdir(folder)) for folder in hidden}
        return {"node": platform.node(), "kdsearch": kdsearch.__file__, "files": files}
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return ray.get([look.options(scheduling_strategy=On(node, soft=False)).remote() for node in nodes])

with cluster.connected(sys.argv[1]):
    print(json.dumps(ask(sys.argv[2:])))
"""

CHECKOUT = Path(kdsearch.__file__).resolve().parents[1]
SECOND = "second-node"
IN_NAMESPACE = """
echo "$1" > /proc/sys/kernel/hostname; shift
while [ "$1" != -- ]; do mount -t tmpfs -o ro none "$1"; shift; done; shift
exec "$@"
"""


@dataclass(frozen=True)
class Cluster:
    """A running Ray of two nodes with one slot each, and the environment that its clients need."""

    address: str
    environment: dict[str, str]


def is_possible() -> bool:
    """Whether this machine lets us make a namespace."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "--uts", "true"], check=False).returncode == 0


def hidden_code() -> Path:
    """The checkout, or its package alone where the installed libraries lie in it or around it."""
    libraries = Path(sys.prefix).resolve()
    apart = not libraries.is_relative_to(CHECKOUT) and not CHECKOUT.is_relative_to(libraries)
    return CHECKOUT if apart else CHECKOUT / "kdsearch"


@contextmanager
def cluster(hidden: Sequence[Path]) -> Iterator[Cluster]:
    """A head and a second node to which the folders `hidden` are empty; ended by their process ids.

    The nodes differ in their umask, so that every file says which of them wrote it (`writer`).
    """
    folder = Path(tempfile.mkdtemp(prefix="kd2-"))  # short: a socket's path may have 107 characters
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "OMP_NUM_THREADS": "1",
    }
    # Ray replaces 127.0.0.1 by an address that can be reached from outside; 127.0.0.2 it leaves alone.
    first, second = "127.0.0.2", "127.0.0.3"
    address = f"{first}:{free_port(first)}"
    head = ["--head", f"--port={address.split(':')[1]}", "--include-dashboard=false"]
    namespace = ["unshare", "--mount", "--uts", "sh", "-ec", IN_NAMESPACE, "sh", SECOND]
    namespace += [*map(str, hidden), "--"]
    try:
        with ExitStack() as nodes:
            nodes.enter_context(node(first, head, [], folder / "1", environment, umask=0o022))
            joins = [f"--address={address}"]
            nodes.enter_context(node(second, joins, namespace, folder / "2", environment, umask=0o027))
            yield Cluster(address, environment)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def writer(path: Path) -> str:
    """Which node wrote a file or folder of the sweep."""
    return "second" if path.stat().st_mode & 0o007 == 0 else "first"


def free_port(host: str) -> int:
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def node(
    host: str,
    options: Sequence[str],
    prefix: Sequence[str],
    folder: Path,
    environment: dict[str, str],
    umask: int,
) -> Iterator[None]:
    """`ray start --block` until the end of the block; its reaper ends what it left behind."""
    folder.mkdir()
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--num-gpus=0"]
    ray += [f"--node-ip-address={host}", f"--temp-dir={folder}", "--object-store-memory=100000000"]
    ray += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
    log = folder / "start.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*prefix, *ray, *options],
            stdout=output,
            stderr=output,
            cwd=folder,  # not in a hidden folder: a working directory outlives what is mounted over it
            env=environment,
            umask=umask,
            start_new_session=True,  # Ctrl-C ends the sweep first
        )
    try:
        wait_for(lambda: "runtime started" in log.read_text() or process.poll() is not None, timeout_s=120)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], object], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Sweep:
    """A sweep whose driver has everything in `driver/`; only `shared/` is meant for both nodes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shared, self.output = (
            folder / "driver",
            folder / "shared",
            folder / "shared" / "sweep",
        )
        self.shared.mkdir(parents=True)
        self.home = self.folder / "home"
        self.home.mkdir(parents=True)
        write_digits(self.folder / "data" / "train")
        (self.folder / "two.yaml").write_text(SPEC)

    @property
    def hidden(self) -> list[Path]:
        """What the second node never sees: code, then spec, data, teachers and MLflow."""
        return [hidden_code(), self.folder]

    def run(self, on: Cluster, *options: str) -> subprocess.CompletedProcess[str]:
        arguments = ["-m", "kdsearch.sweep", "two.yaml", "--output", str(self.output)]
        return self.python(on, *arguments, "--address", on.address, *options)

    def probe(self, on: Cluster) -> list[dict[str, Any]]:
        """What a task sees on each node: its name, its kdsearch, files in the hidden folders."""
        done = self.python(on, "-c", PROBE, on.address, *map(str, self.hidden))
        assert done.returncode == 0, done.stderr
        return sorted(json.loads(done.stdout), key=lambda seen: seen["node"] == SECOND)

    def python(self, on: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**on.environment, "KDSEARCH_HOME": str(self.home), "PYTHONPATH": str(CHECKOUT)}
        environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{self.folder / 'mlflow.db'}"
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )

    def record(self) -> SweepRecord:
        return replay(journal.read(self.output / journal.FILE))

    def students_by_node(self) -> Counter[str]:
        """Saved students, all finished trials here, by the node that wrote them."""
        return Counter(writer(folder) for folder in (self.output / "students").iterdir())


def write_digits(folder: Path) -> None:
    """scikit-learn's digits as one PNG each, so that the driver has data in files."""
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        target = folder / str(label) / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9).astype("uint8")).save(target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.absolute()
    assert not folder.is_relative_to(CHECKOUT), (
        "OUT must lie outside the checkout, which the second node lacks"
    )

    sweep = Sweep(folder / "shared-output")
    with cluster(sweep.hidden) as on:
        for seen in sweep.probe(on):
            print(
                f"{seen['node']}: {seen['kdsearch']}, files in hidden folders {list(seen['files'].values())}"
            )
        done = sweep.run(on)
    print(done.stdout + done.stderr)
    states = Counter(f"{trial.role} {trial.status}" for trial in sweep.record().trials.values())
    print(f"exit {done.returncode}; {dict(states)}; students by node {dict(sweep.students_by_node())}\n")

    apart = Sweep(folder / "output-not-shared")
    with cluster([*apart.hidden, apart.shared]) as on:
        refused = apart.run(on)
    print(f"{refused.stdout}{refused.stderr}exit {refused.returncode} without a shared --output")
    return int(done.returncode != 0 or len(sweep.students_by_node()) != 2 or refused.returncode != 3)


if __name__ == "__main__":
    sys.exit(main())
