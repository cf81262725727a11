"""Paths in a spec that lead nowhere: all of them at once, each with its line and what is there instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdsearch import cli, sweep
from kdsearch.spec import SpecError
from kdsearch.spec_paths import check_paths

SPEC = """\
name: paths
data:
  dataset: image_folder
  root: {root}/flower
  unlabelled: {{folder: {root}/unlabelled}}
teacher:
  ensemble:
    of:
      a: {{checkpoint: {root}/techer}}
      b: {{resnet: {{depth: 8, checkpoint: {root}/b.safetensors}}}}
student: mlp
distill: {{alpha: 0.5, temperature: 4, response: kd}}
train: {{epochs: 1, lr: 0.1}}
search:
  trials: 1
  warm_start: [{root}/before, {root}/earlier]
"""


def written(folder: Path, text: str = SPEC) -> Path:
    file = folder / "paths.yaml"
    file.write_text(text.format(root=folder))
    return file


def there(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).mkdir()


def test_every_path_that_is_not_there_is_named_with_its_line_and_the_nearest(tmp_path: Path) -> None:
    there(tmp_path, "flowers", "teacher", "earlier")
    file = written(tmp_path)

    with pytest.raises(SpecError) as caught:
        check_paths(file)

    assert [(problem.line, problem.key, problem.nearest) for problem in caught.value.problems] == [
        (4, "data.root", f"{tmp_path}/flowers"),
        (5, "data.unlabelled.folder", ""),
        (9, "teacher.ensemble.of.a.checkpoint", f"{tmp_path}/teacher"),
        (10, "teacher.ensemble.of.b.resnet.checkpoint", ""),
        (16, "search.warm_start[0]", ""),
    ]
    assert str(caught.value.problems[4]) == (
        f"{file}:16: search.warm_start[0]: {tmp_path}/before: there is no such file or folder"
    )


def test_what_is_there_is_no_problem_and_a_resumed_sweep_has_its_warm_start(tmp_path: Path) -> None:
    there(tmp_path, "flower", "unlabelled", "techer", "b.safetensors")

    check_paths(written(tmp_path), resumes=True)


def test_an_override_is_blamed_for_its_own_path(tmp_path: Path) -> None:
    file = written(tmp_path, SPEC.split("  unlabelled")[0])

    with pytest.raises(SpecError, match=r"^--set data\.root=/nowhere/at/all: data\.root: /nowhere/at/all: "):
        check_paths(file, ["data.root=/nowhere/at/all"])


def test_data_sets_that_are_fetched_need_no_folder(tmp_path: Path) -> None:
    check_paths(written(tmp_path, "data: {{dataset: cifar10, root: {root}/new}}"))


def test_the_command_says_so_before_it_begins(tmp_path: Path) -> None:
    file = written(
        tmp_path, SPEC.replace("dataset: image_folder\n  root: {root}/flower\n", "dataset: digits\n")
    )
    file.write_text(file.read_text().replace("  unlabelled", "  # unlabelled"))

    with pytest.raises(
        cli.UsageError, match=r":8: teacher\.ensemble\.of\.a\.checkpoint: .*\n.*\n.*warm_start"
    ):
        sweep.command([str(file), "--output", str(tmp_path / "out")])

    assert not (tmp_path / "out").exists()
