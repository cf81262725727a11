"""A trial that trains several students: each one is a student of its own in every result."""

from __future__ import annotations

import csv
import dataclasses
import json

import journals
import pytest

from kdsearch import cli, online, pick, progress, report, results, summary, words
from kdsearch.mlflow_runs import trial_run
from kdsearch.records import Choice, TrialConfig, replay, student_ids

DML = Choice("dml", {"peer_width": 0.5, "peers": 2, "temperature": 1.0, "weight": 1.0})


def mutual(**changes):
    return dataclasses.replace(journals.config(distill={}), online=DML, **changes)


def story():
    """An ordinary trial, and one of two peers, the smaller of which nothing dominates."""
    sweep = journals.Story().teacher(accuracy=0.8, params=1_000_000)
    sweep.trial(0, [0.40, 0.60], params=200_000)
    sweep.trial(1, [0.50, 0.70], params=100_000, trial_config=mutual(), peers={20_000: [0.45, 0.65]})
    return sweep


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return report.write(story().write(tmp_path_factory.mktemp("peers")))


def rows(folder, name):
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def columns(found, *names):
    return [tuple(row[name] for name in names) for row in found]


def test_only_a_trial_of_several_students_numbers_them():
    assert student_ids("t0007", 1) == ("t0007",)
    assert student_ids("t0007", 3) == ("t0007.s1", "t0007.s2", "t0007.s3")


def test_peers_are_the_student_and_narrower_ones():
    student, method = (
        Choice("resnet", {"depth": 8, "width": 0.75}),
        Choice("dml", {"peers": 3, "peer_width": 0.5}),
    )

    found = online.peers(student, method)

    assert found[0] == student
    assert [peer.options for peer in found] == [{"depth": 8, "width": w} for w in (0.75, 0.375, 0.1875)]


def test_equal_peers_need_no_width():
    student = Choice("torchvision/resnet18", {"pretrained": False})

    assert online.peers(student, Choice("dml")) == (student, student)


def test_without_an_online_method_there_is_one_student():
    assert online.peers(Choice("mlp"), Choice("none")) == (Choice("mlp"),)


def test_trials_csv_has_a_row_for_every_peer_with_its_own_values(written):
    found = rows(written.folder, "trials.csv")

    names = ("trial_id", "student_id", "params", "val_accuracy", "student.width", "on_front")
    assert columns(found, *names) == [
        ("t0000", "t0000", "200000", "0.6", "0.5", "false"),
        ("t0001", "t0001.s1", "100000", "0.7", "0.5", "true"),
        ("t0001", "t0001.s2", "20000", "0.65", "0.25", "true"),
    ]
    assert columns(found[1:], "retention", "compression") == [
        (str(0.7 / 0.8), "10.0"),
        (str(0.65 / 0.8), "50.0"),
    ]
    assert (
        columns(found[1:], "distill.online", "distill.online.peers", "epochs", "time_s")
        == [("dml", "2", "2", "3.0")] * 2
    )


def test_a_peer_alone_can_be_on_the_front(tmp_path):
    sweep = story()
    sweep.trial(2, [0.75, 0.75], params=90_000)  # dominates the first of the peers

    assert [student.student_id for student in results.front(replay(sweep.events))] == ["t0001.s2", "t0002"]


def test_pareto_csv_and_the_summary_name_the_students(written):
    assert columns(rows(written.folder, "pareto.csv"), "student_id", "params") == [
        ("t0001.s2", "20000"),
        ("t0001.s1", "100000"),
    ]
    assert written.summary["front"] == ["t0001.s2", "t0001.s1"]
    assert written.summary["trials"]["search"]["completed"] == 2


def test_curves_csv_has_one_row_an_epoch_with_every_peers_accuracy(written):
    found = rows(written.folder, "curves.csv")

    assert list(found[0])[:8] == [
        *("trial_id", "epoch", "train_loss", "val_accuracy", "time_s"),
        *("train_loss.s2", "val_accuracy.s2", "label"),
    ]
    assert columns(found, "trial_id", "epoch", "val_accuracy", "val_accuracy.s2") == [
        ("t0000", "1", "0.4", ""),
        ("t0000", "2", "0.6", ""),
        ("t0001", "1", "0.5", "0.45"),
        ("t0001", "2", "0.7", "0.65"),
    ]


def test_a_peer_that_failed_with_its_trial_has_its_row():
    sweep = journals.Story()
    sweep.trial(0, [], params=100_000, status="failed", trial_config=mutual(), peers={20_000: []})

    found = results.trial_rows(replay(sweep.events))

    assert columns(found, "student_id", "status", "params", "val_accuracy") == [
        ("t0000.s1", "failed", 100_000, None),
        ("t0000.s2", "failed", 20_000, None),
    ]


def test_the_report_and_its_figures_show_the_peers(written):
    text = (written.folder / "report.md").read_text()

    assert "2 of 3 students of completed search trials" in text
    assert "t0001.s2" in text
    assert "dml peer_width 0.5" in text
    assert (written.folder / "figures" / "front.png").exists()


def test_the_report_is_the_same_when_rebuilt(written):
    before = (written.folder / "report.html").read_bytes()

    report.write(written.folder)

    assert (written.folder / "report.html").read_bytes() == before


def test_pick_returns_the_peers_own_folder(tmp_path, capsys):
    folder = story().write(tmp_path / "sweep")

    code = cli.guarded(
        pick.command, [str(folder), "--max-params", "50k", "--json", "--out", str(tmp_path / "out")]
    )

    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert answer["student_id"] == "t0001.s2"
    assert answer["on_front"] is True
    assert answer["config"]["student.width"] == 0.25
    assert answer["path"] == str(folder / "students" / "t0001.s2")
    assert (tmp_path / "out" / "student.safetensors").read_bytes() == b"weights of t0001.s2"


def test_the_best_of_a_size_band_may_be_a_peer():
    small, medium, large = progress.best_by_band(replay(story().events))

    assert small is not None
    assert small.student_id == "t0001.s2"
    assert medium is not None
    assert medium.student_id == "t0001.s1"
    assert large is not None


def test_methods_are_compared_with_every_peer_in_its_own_band():
    groups = summary.groups(replay(story().events), lambda config: [results.method_label(config)])

    dml = next(group for group in groups if group.label == "dml")
    assert [cell and (cell.n, cell.best) for cell in dml.bands] == [(1, 0.65), (1, 0.7), None]


def test_the_sampler_is_told_the_first_student():
    trial = replay(story().events).trials["t0001"]

    assert (trial.val_accuracy, trial.cost["params"]) == (0.7, 100_000)


def test_mlflow_has_every_peers_size_and_curve_in_the_trials_run():
    sweep = replay(story().events)

    run = trial_run(sweep, sweep.trials["t0001"])

    def values(name):
        return [point.value for point in run.points if point.name == name]

    assert run.name == "t0001 resnet d20 w0.5 dml"
    assert (values("params"), values("params.s2")) == ([100_000], [20_000])
    assert (values("compression"), values("compression.s2")) == ([10], [50])
    assert (values("val_accuracy"), values("val_accuracy.s2")) == ([0.5, 0.7], [0.45, 0.65])
    assert values("retention.s2") == pytest.approx([0.45 / 0.8, 0.65 / 0.8])
    assert values("term/label.s2") == pytest.approx([2 * 0.55, 2 * 0.35])
    assert run.params["distill.online"] == "dml"


def test_a_configuration_survives_json_and_older_journals_have_no_peers():
    config = mutual()
    older = {name: value for name, value in config.to_json().items() if name != "online"}

    assert TrialConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert TrialConfig.from_json(older).online == Choice("none")


def test_a_recipe_in_words():
    assert words.recipe(mutual()) == "dml peer_width 0.5"
