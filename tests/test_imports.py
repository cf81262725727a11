"""Who may import whom: heavy packages stay behind their one door, and imports point one way."""

import ast
import functools
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kdsearch"


def imported(file):
    """The full names that a file imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def units():
    """What every top-level module or folder of the package imports: of the package, by its own names."""
    graph = {}
    for file in PACKAGE.rglob("*.py"):
        unit = file.relative_to(PACKAGE).with_suffix("").parts[0]
        names = [name.split(".") for name in imported(file)]
        within = {parts[1] for parts in names if parts[0] == "kdsearch"}
        graph[unit] = graph.get(unit, set()) | (within - {unit, "__version__"})
    return graph


def reached(unit):
    """All units that a unit needs, directly or not."""
    found, left = set(), [unit]
    while left:
        new = units()[left.pop()] - found
        found |= new
        left += new
    return found


@pytest.mark.parametrize(("package", "door"), [("ray", "search/"), ("mlflow", "tracking.py")])
def test_a_heavy_package_is_imported_behind_one_door(package, door):
    importers = [
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if package in {name.split(".")[0] for name in imported(file)}
    ]
    assert importers
    assert [importer for importer in importers if not importer.startswith(door)] == []


def test_imports_point_one_way():
    order = list(graphlib.TopologicalSorter(units()).static_order())
    below_the_sweep = ["options", "losses", "training", "search", "pipeline", "sweep"]
    assert sorted(below_the_sweep, key=order.index) == below_the_sweep


@pytest.mark.parametrize("unit", ["data", "losses", "models", "training"])
def test_the_training_half_does_not_know_what_a_sweep_is(unit):
    sweeping = {"journal", "pipeline", "report", "results", "search", "session", "space", "spec", "sweep"}
    assert reached(unit) & (sweeping | {"teacher", "tracking"}) == set()


@pytest.mark.parametrize("unit", ["search", "teacher"])
def test_the_search_does_not_know_what_becomes_of_its_results(unit):
    assert reached(unit) & {"pick", "pipeline", "report", "results", "sweep", "tracking"} == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("kdsearch.spec", "torch ray optuna mlflow numpy pandas"),
        ("kdsearch.space", "torch ray optuna mlflow numpy pandas"),
        ("kdsearch.data, kdsearch.losses, kdsearch.models", "torch ray optuna mlflow numpy pandas"),
        ("kdsearch.sweep", "torch ray mlflow"),
        ("kdsearch.report", "torch ray mlflow"),
        ("kdsearch.pick", "torch ray mlflow"),
        ("kdsearch.tracking_process", "torch ray mlflow"),
        ("kdsearch.pipeline", "mlflow"),
        ("kdsearch.training, kdsearch.teacher", "ray optuna mlflow"),
    ],
)
def test_an_import_leaves_heavy_packages_alone(modules, absent):
    code = f"import sys, {modules}; print(*(set({absent.split()}) & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
