"""A whole sweep as a user runs it: from the command line, on real digits, with Ray and MLflow."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from kill import Killable, Moment, moments

from kdsearch import cli, data, journal, plan, session
from kdsearch import spec as specs
from kdsearch import sweep as sweep_command
from kdsearch.data.views import Views
from kdsearch.models.build import WEIGHTS, load_student

CONTRACT = (
    *("trial_id", "student_id", "role", "status", "epochs", "max_epochs", "seed", "val_accuracy", "params"),
    *("macs", "size_mb", "retention", "compression", "time_s", "on_front", "mlflow_run_id", "error"),
)


def wait_for(condition: Callable[[], object], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def command(sweep: Killable, *options: str) -> subprocess.CompletedProcess[str]:
    """A sweep that is expected to end before it starts Ray."""
    arguments = [
        sys.executable,
        "-m",
        "kdsearch.sweep",
        str(sweep.spec),
        "--output",
        str(sweep.output),
        *options,
    ]
    environment = {**os.environ, "KDSEARCH_HOME": str(sweep.home)}
    return subprocess.run(
        arguments, capture_output=True, text=True, check=False, env=environment, cwd=sweep.folder
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Killable:
    """A small sweep that ran to its end."""
    sweep = Killable(tmp_path_factory.mktemp("done"), trials=4, epochs=4)
    assert sweep.run() == 0, sweep.log()
    return sweep


def rows(sweep: Killable, name: str) -> list[dict[str, str]]:
    with (sweep.output / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_sweep_leaves_the_files_of_the_contract(done: Killable) -> None:
    names = {str(path.relative_to(done.output)) for path in done.output.rglob("*") if path.is_file()}

    assert {"spec.yaml", "events.jsonl", "trials.csv", "curves.csv", "pareto.csv", "summary.json"} <= names
    assert {"report.md", "report.html", "figures/front.png"} <= names
    # Which of the trials go on to the end depends on which of them came to the rung first.
    completed = [trial.student for trial in done.record().of_role("search") if trial.status == "completed"]
    assert completed
    assert {f"{student}/{WEIGHTS}" for student in completed} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pt")) or name.startswith("work")]


@pytest.mark.slow
def test_trials_csv_has_one_row_a_student_and_the_contracts_columns(done: Killable) -> None:
    found = rows(done, "trials.csv")

    assert tuple(found[0])[: len(CONTRACT)] == CONTRACT
    floors = ["c0000", "c0001", "c0002"]
    assert [row["trial_id"] for row in found] == [*floors, "t0000", "t0001", "t0002", "t0003"]
    assert {row["on_front"] for row in found} <= {"true", "false"}
    assert {row["train.lr"] for row in found} != {""}
    assert all(row["mlflow_run_id"] for row in found)


@pytest.mark.slow
def test_a_saved_student_has_the_accuracy_that_the_journal_says(done: Killable) -> None:
    trial = next(trial for trial in done.record().of_role("search") if trial.status == "completed")
    model, description = load_student(done.output / trial.student)
    images = data.load(specs.load(done.spec).data)
    views = Views(images.validation, images.mean, images.std, ())
    batch = views.plain(torch.arange(len(views)))

    with torch.no_grad():
        accuracy = (model(batch.images).argmax(1) == batch.labels).float().mean().item()

    assert accuracy == pytest.approx(trial.val_accuracy)
    assert description["val_accuracy"] == trial.val_accuracy
    assert sum(parameter.numel() for parameter in model.parameters()) == trial.cost["params"]


@pytest.mark.slow
def test_mlflow_has_a_parent_and_every_trial_with_each_epoch_once(done: Killable) -> None:
    assert done.problems() == []


@pytest.mark.slow
def test_the_end_says_the_front_the_report_and_how_to_browse_and_pick(done: Killable) -> None:
    log = done.log()

    assert "Pareto front (teacher: 0." in log
    assert f"report  {done.output.relative_to(done.folder)}/report.html" in log
    assert "browse  mlflow ui --host 127.0.0.1" in log
    assert "pick    python -m kdsearch.pick sweep --max-params" in log


@pytest.mark.slow
def test_an_existing_folder_is_refused_and_both_ways_out_named(done: Killable) -> None:
    refused = command(done)

    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    assert "--output DIR" in refused.stderr


@pytest.mark.slow
def test_a_changed_spec_is_refused_with_its_difference(done: Killable) -> None:
    refused = command(done, "--resume", "--set", "train.epochs=9", "--set", "search.trials=9")

    assert refused.returncode == 2
    assert "train.epochs: 4 -> 9" in refused.stderr
    assert "search.trials" not in refused.stderr


@pytest.mark.slow
def test_fewer_trials_than_before_are_refused(done: Killable) -> None:
    refused = command(done, "--resume", "--set", "search.trials=2")

    assert refused.returncode == 2
    assert "search.trials: 4 -> 2 (may grow, not shrink)" in refused.stderr


@pytest.mark.slow
def test_a_second_driver_in_the_folder_is_refused(done: Killable) -> None:
    with journal.Journal(done.output):
        refused = command(done, "--resume")

    assert refused.returncode == 2
    assert "another sweep is running in this folder" in refused.stderr


@pytest.mark.slow
def test_a_finished_sweep_is_extended_without_rerunning_anything(done: Killable) -> None:
    before = {event["trial_id"] for event in done.events() if event["kind"] == "trial_ended"}

    assert done.run("--resume", "--set", "search.trials=6") == 0, done.log()

    assert done.problems() == []
    started = [e["trial_id"] for e in done.events()[-done.session_length() :] if e["kind"] == "trial_started"]
    assert started == ["t0004", "t0005"]
    assert before.isdisjoint(started)


@pytest.mark.slow
def test_a_sweep_killed_in_a_trial_and_in_its_report_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    sweep = Killable(tmp_path, trials=4, epochs=6)
    in_a_trial = Moment("in a trial", lambda seen: seen.search_epochs() >= 3, 0.2)
    in_the_report = list(moments(seed=1, num_epochs=1))[-1]

    assert sweep.kill_at(in_a_trial), sweep.log()
    assert sweep.kill_at(in_the_report, "--resume"), sweep.log()
    assert sweep.run("--resume") == 0, sweep.log()

    assert sweep.problems() == []


@pytest.mark.slow
def test_a_killed_worker_costs_an_attempt_and_not_the_sweep(tmp_path: Path) -> None:
    sweep = Killable(tmp_path, trials=3, epochs=25)
    process = sweep.start()
    wait_for(lambda: any(event["kind"] == "epoch" for event in sweep.events()))
    worker = next(
        p
        for p in psutil.Process(process.pid).children(recursive=True)
        if "ray::ResourceTrainable" in title(p)
    )
    worker.kill()

    assert process.wait() == 0, sweep.log()
    assert sweep.problems() == []
    assert max(trial.attempt for trial in sweep.record().trials.values()) == 2
    assert "starting it again" in sweep.log()


def title(process: psutil.Process) -> str:
    """What Ray calls the process: Tune wraps a trainable that has resources."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_sweep_keeps_its_state_and_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    sweep = Killable(tmp_path, trials=4, epochs=60)
    process = sweep.start()
    wait_for(lambda: any(event["kind"] == "epoch" for event in sweep.events()))
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)

    assert process.wait() == code
    assert (sweep.record().ended or {})["status"] == "interrupted"
    assert "--resume" in sweep.log()
    assert "Traceback" not in sweep.log()
    wait_for(lambda: not [child for child in children if child.is_running()], timeout_s=30)


@pytest.mark.slow
def test_a_store_that_is_down_costs_a_warning_and_is_made_good_by_sync(tmp_path: Path) -> None:
    sweep = Killable(tmp_path, trials=2, epochs=3)
    (tmp_path / "mlflow.db").mkdir()

    assert sweep.run() == 0, sweep.log()
    assert "MLflow" in sweep.log()
    (tmp_path / "mlflow.db").rmdir()
    synced = subprocess.run(
        [sys.executable, "-m", "kdsearch.sync", str(sweep.output), "--uri", f"sqlite:///{sweep.store}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert synced.returncode == 0, synced.stderr
    assert "6 runs, 6 made" in synced.stdout
    assert sweep.mlflow_problems(sweep.record()) == []


@pytest.mark.slow
def test_a_teacher_that_did_not_converge_ends_the_sweep_with_advice(tmp_path: Path) -> None:
    sweep = Killable(tmp_path, trials=2, epochs=3, teacher_epochs=1)

    assert sweep.run("--set", "teacher.min_accuracy=0.999") == 3
    assert "teacher.min_accuracy asks for 0.999" in sweep.log()
    assert "or lower teacher.min_accuracy and --resume" in sweep.log()
    assert "Traceback" not in sweep.log()
    assert sweep.run("--resume", "--set", "teacher.min_accuracy=0.01") == 0


@pytest.mark.slow
def test_trials_that_all_diverge_end_the_sweep_with_their_reason(tmp_path: Path) -> None:
    sweep = Killable(tmp_path, trials=9, epochs=3)

    assert sweep.run("--set", "train.lr=100", "--set", "train.weight_decay=10") == 3
    ended = [trial for trial in sweep.record().of_role("search") if trial.status != "running"]
    assert {trial.status for trial in ended} == {"failed"}
    assert 5 <= len(ended) < 9
    assert "not finite in epoch" in sweep.log()


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    sweep = Killable(tmp_path, trials=7, epochs=5)

    planned = command(sweep, "--dry-run")

    assert planned.returncode == 0, planned.stderr
    assert "7 of up to 5 epochs and 3 controls" in planned.stdout
    assert "1,078 training and 360 validation images of 1x8x8" in planned.stdout
    assert "distill.temperature" in planned.stdout
    assert [path.name for path in tmp_path.iterdir()] == [sweep.spec.name]


@pytest.mark.parametrize("patch", ["3", "{type: int, low: 2, high: 4}"])
def test_a_dry_run_refuses_students_that_do_not_suit_the_images(tmp_path: Path, patch: str) -> None:
    """Also one in the middle of a range, of which both ends suit them."""
    path = tmp_path / "patches.yaml"
    path.write_text(
        "name: x\ndata: digits\nteacher: {resnet: {depth: 8}}\ntrain: {epochs: 2}\nsearch: {trials: 1}\n"
        f"student: {{vit: {{dim: 12, depth: 1, heads: 3, patch: {patch}}}}}\n"
    )

    with pytest.raises(cli.UsageError, match="student: vit cuts images into patches of 3"):
        list(plan.plan(specs.load(path), tmp_path / "out"))


def test_a_dry_run_times_students_where_they_will_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, whatever the machine has, where trials ask for no GPU; that is worth a warning."""
    path = tmp_path / "x.yaml"
    path.write_text(
        "name: x\ndata: digits\nteacher: {mlp: {}}\nstudent: {mlp: {}}\n"
        "train: {epochs: 2}\nsearch: {trials: 1}\n"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    lines = list(plan.plan(specs.load(path), tmp_path / "out"))
    assert any("there are GPUs and the trials use none of them" in line for line in lines)


def test_a_dry_run_says_that_the_folder_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "name: x\ndata: digits\nteacher: {mlp: {}}\nstudent: {mlp: {}}\n"
        "train: {epochs: 2}\nsearch: {trials: 1}\n"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "events.jsonl").write_text("{}\n")
    arguments = [str(path), "--output", str(tmp_path / "out"), "--dry-run"]
    with pytest.raises(cli.UsageError, match="out exists: go on with it"):
        sweep_command.command(arguments)
    assert "x: a dry run" in capsys.readouterr().out
    assert sweep_command.command([*arguments, "--resume"]) == cli.DONE


def test_an_address_is_no_output_folder(tmp_path: Path) -> None:
    with pytest.raises(cli.UsageError, match="--output .*: an address is no folder"):
        session.check_folder(Path("s3://bucket/x").absolute(), resume=False)


def test_going_on_with_nothing_is_said_with_the_nearest_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, begun = tmp_path / "spec.yaml", []
    spec.write_text(
        "name: x\ndata: digits\nteacher: resnet\nstudent: mlp\ntrain: {epochs: 2}\nsearch: {trials: 1}\n"
    )
    (tmp_path / "first-try").mkdir()
    (tmp_path / "first-try" / journal.FILE).write_text("{}")
    monkeypatch.setattr(sweep_command, "run", lambda spec, output, *rest: begun.append(output.name))

    for name in ("frist-try", "first-try"):
        sweep_command.command([str(spec), "--resume", "--output", str(tmp_path / name)])

    said = f"nothing to resume in {tmp_path / 'frist-try'} (nearest: first-try): begins anew"
    assert capsys.readouterr().out.count("nothing to resume") == 1
    assert session.nothing_to_resume(tmp_path / "frist-try") == said
    assert begun == ["frist-try", "first-try"]


def test_a_bad_spec_exits_2_before_torch_or_ray_are_imported(tmp_path: Path) -> None:
    spec = tmp_path / "bad.yaml"
    spec.write_text(
        "name: x\ndata: {dataset: digitz}\nteacher: resnet\nstudent: resnet\ntrain: {epochs: 2}\n"
    )
    code = (
        "import sys; from kdsearch.sweep import main; code = main();"
        "print(code, sorted({'torch', 'ray', 'optuna', 'mlflow'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(spec)], capture_output=True, text=True, check=False, cwd=tmp_path
    )

    assert done.stdout == "2 []\n"
    assert "bad.yaml:2: data.dataset: digitz" in done.stderr
    assert "digits" in done.stderr
