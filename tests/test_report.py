"""The report's files: contract, determinism, honesty, and what happens to a bad journal."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import confirmed_journals
import journals
import pytest
import yaml
from test_comparison import four_methods, temperatures

from kdsearch import (
    chapters,
    chapters_recipes,
    document,
    figures,
    importance,
    pairing,
    report,
    results,
    words,
)
from kdsearch.figure_style import DARK, LIGHT, style, themed
from kdsearch.records import replay

ROOT = Path(__file__).parents[1]
PNG = b"\x89PNG\r\n\x1a\n"
PICTURES = ("front", "retention", "recipe", "importance", "volume", "curves")  # of a small search

# Written out: these are what other people's scripts rely on.
TRIALS_HEADER = (
    "trial_id,student_id,role,status,epochs,max_epochs,seed,val_accuracy,params,macs,size_mb,retention,"
    "compression,time_s,on_front,mlflow_run_id,error,student.family,student.depth,student.width,"
    "distill.alpha,distill.temperature,distill.label_weight,distill.response,distill.feature,"
    "distill.feature.layer_map,distill.feature.weight,distill.relation,distill.relation.weight,"
    "distill.contrastive,distill.self,distill.schedule,distill.curriculum,train.epochs,train.batch_size,"
    "train.optimizer,train.lr,train.momentum,train.nesterov,train.weight_decay,train.schedule,"
    "train.warmup_epochs,train.milestones,train.gamma,train.label_smoothing"
)
CONFIRM_HEADER = (
    "num_seeds,confirmed_val_accuracy_mean,confirmed_val_accuracy_std,test_accuracy_mean,"
    "test_accuracy_std,no_kd_test_accuracy_mean,gain,gain_low,gain_high,p_on_front,cost_s"
)


def contents(folder):
    found = [path for path in folder.rglob("*") if path.is_file() and "students" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def small_story():
    """One trial of every fate, two of them equal on the front, and a control that beats them."""
    story = journals.Story().teacher(accuracy=0.8, params=1_000_000)
    story.trial(0, [0.2, 0.55], params=10_000, role="control")
    story.trial(0, [0.1, 0.5], params=10_000)
    story.trial(1, [0.1, 0.5], params=10_000)
    story.trial(2, [0.1, 0.7], params=40_000)
    story.trial(3, [0.3], params=20_000, status="stopped", rule="asha rung 1")
    story.trial(4, [], params=20_000, status="failed", error='bad <b>"loss"</b> | x, y')
    story.trial(5, [0.4], params=20_000, status="running")
    return story


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """The report of a simulated sweep with enough trials for every figure; do not change its files."""
    return report.write(journals.realistic(40).write(tmp_path_factory.mktemp("simulated")))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return report.write(small_story().write(tmp_path_factory.mktemp("small")))


def after_confirmation():
    story = journals.realistic(40)
    return confirmed_journals.confirmed(story)


def blocks_of(story):
    """What the report says, without drawing."""
    names = [drawing.name for drawing in figures.DRAWINGS]
    return chapters.chapters(replay(story.events), story.events, dict.fromkeys(names, "no figure here"))


def text_of(story):
    return document.to_markdown(blocks_of(story))


# Files and columns -------------------------------------------------------------------------------------


def test_every_file_of_the_contract_is_written(simulated):
    written = {str(path.relative_to(simulated.folder)) for path in simulated.files}
    pictures = {f"figures/{name}.png" for name in PICTURES}
    tables = {"trials.csv", "curves.csv", "pareto.csv", "summary.json"}
    assert written == {*pictures, *tables, "report.md", "report.html", "spec.yaml"}
    assert written <= contents(simulated.folder).keys()


def test_trials_csv_has_the_contract_columns(simulated):
    assert (simulated.folder / "trials.csv").read_text().splitlines()[0] == TRIALS_HEADER


def test_pareto_csv_has_the_contract_columns_and_blanks_until_confirmation(simulated):
    header = (simulated.folder / "pareto.csv").read_text().splitlines()[0]
    assert header == f"{TRIALS_HEADER},{CONFIRM_HEADER}"
    front = rows_of(simulated.folder / "pareto.csv")
    assert {row[name] for row in front for name in CONFIRM_HEADER.split(",")} == {""}


def test_curves_csv_has_the_contract_columns_and_the_terms_the_labels_first(simulated):
    header = (simulated.folder / "curves.csv").read_text().splitlines()[0]
    assert header == "trial_id,epoch,train_loss,val_accuracy,time_s,label,at,fitnet,kd,rkd,sp"


def test_pareto_csv_is_the_trials_on_the_front_by_params(simulated):
    trials, front = (rows_of(simulated.folder / name) for name in ("trials.csv", "pareto.csv"))
    on_front = [row["trial_id"] for row in trials if row["on_front"] == "true"]
    assert sorted(row["trial_id"] for row in front) == sorted(on_front)
    sizes = [int(row["params"]) for row in front]
    assert sizes == sorted(sizes)


def test_on_front_is_true_or_false_and_never_blank(small):
    values = {row["trial_id"]: row["on_front"] for row in rows_of(small.folder / "trials.csv")}
    assert [name for name, value in values.items() if value == "true"] == ["t0000", "t0001", "t0002"]
    assert set(values.values()) == {"true", "false"}


def test_numbers_in_csv_read_back_exactly(simulated):
    written = {row["trial_id"]: row for row in rows_of(simulated.folder / "trials.csv")}
    exact = {trial.trial_id: trial for trial in simulated.sweep.of_role("search")}
    assert all(int(written[name]["params"]) == trial.cost["params"] for name, trial in exact.items())
    assert all(float(written[name]["train.lr"]) == trial.config.train.lr for name, trial in exact.items())
    assert all(float(written[name]["distill.alpha"]) == trial.config.alpha for name, trial in exact.items())


def test_whole_numbers_stay_whole_in_columns_with_gaps(small):
    params = [row["params"] for row in rows_of(small.folder / "trials.csv")]
    assert params == ["10000", "10000", "10000", "40000", "20000", "20000", "20000"]


def test_what_does_not_apply_is_blank(small):
    rows = {row["trial_id"]: row for row in rows_of(small.folder / "trials.csv")}
    assert (rows["c0000"]["distill.temperature"], rows["c0000"]["distill.response"]) == ("", "")
    assert (rows["t0004"]["val_accuracy"], rows["t0004"]["retention"]) == ("", "")


def test_an_error_with_commas_and_quotes_stays_one_cell(small):
    rows = {row["trial_id"]: row for row in rows_of(small.folder / "trials.csv")}
    assert rows["t0004"]["error"] == 'bad <b>"loss"</b> | x, y'


def test_summary_json_says_what_scripts_ask_first(small):
    summary = json.loads((small.folder / "summary.json").read_text())
    assert summary == summary | {
        "name": "cifar100",
        "status": "unfinished",
        "seed": 0,
        "commit": "2e05aa3",
        "versions": journals.VERSIONS,
        "teacher_accuracy": 0.8,
        "front": ["t0000", "t0001", "t0002"],
        "beaten_by_control": {"t0000": "c0000", "t0001": "c0000"},
        "test_openings": 0,
    }
    assert summary["trials"]["search"] == {"completed": 3, "stopped": 1, "failed": 1, "running": 1}
    assert summary["hypervolume"]["reference"] == {"val_accuracy": 0.55, "params": 625_000.0}


def test_frames_hold_the_values_of_their_files(small):
    assert list(small.front["trial_id"]) == ["t0000", "t0001", "t0002"]
    assert len(small.trials) == 7
    assert small.curves["epoch"].sum() == 1 + 2 + 3 * (1 + 2) + 1 + 1


def test_figures_are_pictures(simulated):
    pictures = [path.read_bytes() for path in (simulated.folder / "figures").iterdir()]
    assert len(pictures) == len(PICTURES)
    assert all(picture.startswith(PNG) for picture in pictures)


# Rebuilding --------------------------------------------------------------------------------------------


def test_the_same_journal_gives_the_same_bytes(small, tmp_path):
    again = report.write(small_story().write(tmp_path / "elsewhere"))
    assert contents(again.folder) == contents(small.folder)


def test_a_missing_spec_is_rebuilt_from_the_journal(small):
    assert yaml.safe_load((small.folder / "spec.yaml").read_text()) == journals.SPEC


def test_an_existing_spec_is_left_alone(tmp_path):
    folder = journals.Story().write(tmp_path)
    (folder / "spec.yaml").write_text("name: mine")
    report.write(folder)
    assert (folder / "spec.yaml").read_text() == "name: mine"


def test_the_journal_is_not_touched(tmp_path):
    folder = journals.Story().write(tmp_path)
    before = (folder / "events.jsonl").read_bytes()
    report.write(folder)
    assert (folder / "events.jsonl").read_bytes() == before


def test_a_report_that_dies_while_writing_leaves_whole_files(tmp_path, monkeypatch):
    folder = journals.Story().write(tmp_path)
    report.write(folder)
    before = contents(folder)
    journals.Story(name="other").write(folder)

    def die(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        report.write(folder)
    del before["events.jsonl"]
    assert contents(folder) | before == contents(folder)
    assert contents(folder).keys() - before.keys() == {"events.jsonl"}


def test_a_figure_that_no_longer_applies_is_removed(tmp_path):
    folder = journals.Story().write(tmp_path)
    (folder / "figures").mkdir()
    (folder / "figures" / "front.png").write_bytes(PNG)
    report.write(folder)
    assert list((folder / "figures").iterdir()) == []


def test_a_torn_last_line_costs_that_line_only(tmp_path):
    folder = journals.Story().teacher().write(tmp_path)
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"v": 1, "seq": 2, "kind": "trial_st')
    assert report.write(folder).summary["teacher_accuracy"] == 0.8


@pytest.mark.slow
def test_a_report_needs_neither_ray_nor_torch_nor_mlflow(tmp_path):
    folder = journals.realistic(20).write(tmp_path)
    code = (
        f"import sys; from kdsearch import report; report.command([{str(folder)!r}]); "
        "print([name for name in ('ray', 'torch', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# What it says ------------------------------------------------------------------------------------------


def test_a_young_sweep_reports_fine(tmp_path):
    written = report.write(journals.Story().write(tmp_path))
    page = (written.folder / "report.md").read_text()
    assert "No search trial has completed yet, so there is no front." in page
    assert (written.folder / "pareto.csv").read_text().count("\n") == 1


def test_running_trials_are_shown_as_such(small):
    page = (small.folder / "report.md").read_text()
    assert "| trials | completed | stopped | failed | running | in all |" in page
    assert "| search | 3 | 1 | 1 | 1 | 6 of 60 |" in page
    assert "The sweep is unfinished (1 still running or cut off)" in page


def test_a_finished_sweep_is_not_called_unfinished():
    assert "unfinished" not in text_of(journals.Story().ended())


def test_it_says_where_distillation_did_not_help():
    assert "Distillation did not help at t0000" in text_of(small_story())


def test_it_does_not_say_so_where_it_helped():
    story = journals.Story().teacher()
    story.trial(0, [0.4], params=10_000, role="control")
    story.trial(0, [0.5], params=10_000)
    assert "did not help" not in text_of(story)


@pytest.mark.parametrize(
    "sentence",
    ["One seed:", "Optimistic:", "Unconfirmed:", "The test split was never opened.", "5,000 validation"],
)
def test_it_says_how_far_to_trust_the_numbers(sentence):
    assert sentence in text_of(small_story())


def test_a_confirmed_front_is_not_called_unconfirmed():
    story = small_story()
    for number in range(3):
        story.trial(number, [0.5], role="confirm", partner=f"t000{number}")
    text = text_of(story)
    assert not [word for word in ("Unconfirmed", "Optimistic:", "One seed:", "Partly") if word in text]


def test_a_front_that_was_repeated_in_part_is_called_so():
    story = journals.Story()
    story.trial(0, [0.5], 10_000)
    story.trial(1, [0.7], 40_000, trial_config=journals.config(temperature=2.0))
    story.trial(0, [0.5], 10_000, "confirm", partner="t0000")
    text = text_of(story)
    assert "Partly confirmed: 1 of 2 front students" in text
    assert "One seed:" in text


def test_openings_of_the_test_split_are_counted():
    story = small_story().add("test_opened", reason="confirmation").add("test_opened", reason="confirmation")
    assert "The test split was opened 2 times." in text_of(story)


def test_the_front_table_has_sizes_and_accuracies_by_params(small):
    page = (small.folder / "report.md").read_text()
    front = [line for line in page.splitlines() if line.startswith("| t000")][:3]
    assert front[0].startswith(
        "| t0000 | 0.5000 | 62.5% | 10,000 | 1.5M | 100.0× | resnet depth 20, width 0.5 |"
    )
    assert [line.split(" | ")[3] for line in front] == ["10,000", "10,000", "40,000"]


def test_controls_stand_beside_the_front_student_nearest_in_size():
    story = journals.Story().teacher()
    story.trial(0, [0.50], params=12_000, role="control")
    story.trial(0, [0.53], params=10_000)
    story.trial(1, [0.70], params=30_000)
    line = next(line for line in text_of(story).splitlines() if line.startswith("| c0000"))
    assert line.endswith("| 12,000 | 0.5000 | t0000 | 10,000 | 0.5300 | +3.00 |")


def test_failed_trials_are_listed_with_their_errors_as_text(small):
    assert 'bad \\<b>"loss"\\</b> \\| x, y' in (small.folder / "report.md").read_text()
    assert "bad &lt;b&gt;&quot;loss&quot;&lt;/b&gt; | x, y" in (small.folder / "report.html").read_text()


def test_methods_and_layer_maps_are_compared_within_bands(simulated):
    page = (simulated.folder / "report.md").read_text()
    assert re.search(r"^\| kd \+ \w+ \|.*\d\.\d{4} / \d\.\d{4} \(\d+\)", page, re.MULTILINE)
    assert re.search(r"^\| (at|fitnet) stage\d>stage\d.* \|", page, re.MULTILINE)
    assert re.search(r"^\| no-KD control \|", page, re.MULTILINE)


def test_the_no_kd_row_stays_below_however_many_methods(monkeypatch):
    monkeypatch.setattr(chapters_recipes, "MAX_GROUPS", 1)
    page = text_of(journals.realistic(40))
    assert re.search(r"^\| no-KD control \|.*\n\nand \d+ more", page, re.MULTILINE)


def test_importances_are_shown_for_the_size_bands_that_have_students():
    story = journals.Story().teacher()
    lr = {"name": "FloatDistribution", "attributes": {"low": 0.01, "high": 0.3, "step": None, "log": True}}
    for number in range(12):
        story.trial(number, [0.5 + 0.01 * number], optuna={"train.lr": (0.02 * (1 + number), lr)})
    (header,) = re.findall(r"^\| setting \|.*", text_of(story), re.MULTILINE)
    assert header.count("params") == 1


def test_a_student_above_the_teacher_is_one_whose_repeats_are():
    story = journals.Story(data={"num_validation": 5000}).teacher(accuracy=0.6)
    story.trial(0, [0.1, 0.61], trial_config=journals.config())
    assert "More accurate on validation than the teacher: t0000" in text_of(story)
    sweep = replay(story.events)
    for number in (1, 2):
        again = pairing.repeat(sweep, sweep.trials["t0000"], number)
        story.trial(number, [0.1, 0.58], role="confirm", trial_config=again, partner="t0000")
    assert "than the teacher" not in text_of(story)


def test_a_phase_is_said_to_have_the_drivers_processor_time():
    story = small_story().ended()
    assert "| phase | wall | CPU of the driver |" in text_of(story)


def test_every_markdown_table_has_as_many_cells_in_every_row(simulated):
    lines = (simulated.folder / "report.md").read_text().splitlines()
    tables = "\n".join(line if line.startswith("|") else "" for line in lines).split("\n\n")
    widths = [
        {len(re.findall(r"(?<!\\)\|", row)) for row in table.strip().split("\n")}
        for table in tables
        if table.strip()
    ]
    assert len(widths) >= 6
    assert all(len(width) == 1 for width in widths)


def test_the_page_embeds_its_figures_and_asks_for_nothing(simulated):
    page = (simulated.folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * len(PICTURES)
    assert not re.search(r"""(src|href|srcset)=["'](?!data:)""", page)
    assert "url(" not in page
    assert "<script" not in page


def test_the_name_of_a_sweep_cannot_become_markup():
    page = document.to_html("t", blocks_of(journals.Story(name="<img src=x onerror=1>")))
    assert "<img" not in page


def test_no_machine_path_gets_into_the_pages(small):
    assert str(small.folder) not in (small.folder / "report.md").read_text()
    assert str(small.folder) not in (small.folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (1030.4, "1030"), (1e-5, "1e-05"), (16.0, "16"), (20, "20"), ("last", "last")],
)
def test_settings_are_shown_short(value, text):
    assert words.number(value) == text


# Importances and figures -------------------------------------------------------------------------------


def story_of_lr(num_trials):
    """Accuracy depends on the learning rate and not at all on alpha."""
    story = journals.Story()
    rate, alpha = journals.float_dimension(0.0, 1.0), journals.float_dimension(0.0, 1.0)
    for number in range(num_trials):
        values = {
            "train.lr": (number / num_trials, rate),
            "distill.alpha": (number * 7 % num_trials / num_trials, alpha),
        }
        story.trial(number, [0.5 + 0.4 * number / num_trials], optuna=values)
    return story


def test_the_setting_that_decides_is_the_most_important():
    shares = importance.importances(replay(story_of_lr(40).events))
    assert list(shares) == ["train.lr", "distill.alpha"]
    assert shares["train.lr"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)


def test_too_few_completed_trials_have_no_importances():
    assert importance.importances(replay(story_of_lr(9).events)) == {}


def test_the_report_says_why_importances_are_missing(small):
    assert "Importances need 10 completed search trials" in (small.folder / "report.md").read_text()
    assert not (small.folder / "figures" / "importance.png").exists()


def test_a_setting_that_only_some_trials_have_is_rated_too(simulated):
    shares = importance.importances(simulated.sweep)
    assert {"distill.alpha", "distill.feature.fitnet.weight"} <= shares.keys()


def test_a_fixed_recipe_has_no_recipe_figure(small):
    assert "Neither temperature nor alpha differs" in (small.folder / "report.md").read_text()


def drawn(drawing, story, theme=LIGHT):
    sweep = replay(story.events)
    with themed(theme):
        return drawing.draw(figures.find(sweep), style(sweep, theme))


@pytest.mark.parametrize("drawing", figures.DRAWINGS, ids=lambda drawing: drawing.name)
def test_every_figure_has_a_title_and_named_axes(drawing):
    compared = {"gains": four_methods, "temperature": temperatures, "confirmed": after_confirmation}
    compared["transfer"] = lambda: journals.realistic(80)
    story = compared.get(drawing.name, lambda: journals.realistic(30))()
    first, *others = drawn(drawing, story).axes
    assert first.get_title(loc="left")
    assert any(axes.get_xlabel() for axes in (first, *others))  # panels one below the other share theirs
    assert first.get_ylabel() or [label.get_text() for label in first.get_yticklabels()]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_a_method_has_its_own_colour_and_a_family_its_own_marker(theme):
    looks = style(replay(journals.realistic(30).events), theme)
    methods = [colour for name, colour in looks.colours.items() if name != "other methods"]
    assert len(set(methods)) == len(methods) == len(theme.methods)
    assert len(set(looks.markers.values())) == len(looks.markers) == 3


def test_the_front_is_drawn_against_the_cost_of_the_spec():
    story = journals.Story(objectives=["val_accuracy", "macs"])
    story.trial(0, [0.5], params=10_000, macs=7_000_000)
    axes = drawn(figures.DRAWINGS[0], story).axes[0]
    assert "MACs" in axes.get_xlabel()
    assert axes.get_xlim()[0] < 7_000_000 < axes.get_xlim()[1]


def test_front_students_are_labelled_with_their_ids():
    axes = drawn(figures.DRAWINGS[0], small_story()).axes[0]
    assert {"t0000", "t0001", "t0002"} <= {text.get_text() for text in axes.texts}


def test_the_smallest_students_label_does_not_reach_over_the_axis():
    story = journals.Story().teacher()
    for number, params in enumerate([10_000, 20_000, 1_000_000]):
        story.trial(number, [0.5 + number / 10], params=params)
    axes = drawn(figures.DRAWINGS[0], story).axes[0]
    (label,) = (text for text in axes.texts if text.get_text() == "t0000")
    assert label.get_window_extent().x0 >= axes.bbox.x0


def one_trial():
    story = journals.Story()
    story.trial(0, [0.5], params=10_000)
    return story


def all_failed():
    story = journals.Story().teacher()
    story.trial(0, [], status="failed", error="no")
    return story


def only_a_control():
    story = journals.Story().teacher()
    story.trial(0, [0.5], role="control")
    return story


def teacher_of_unknown_size():
    story = journals.Story().teacher(params=None, ece=None)
    story.trial(0, [0.5], params=10_000)
    return story


@pytest.mark.parametrize("story", [one_trial, all_failed, only_a_control, teacher_of_unknown_size])
def test_odd_sweeps_report_fine(story, tmp_path):
    written = report.write(story().write(tmp_path))
    assert (written.folder / "report.html").read_text().endswith("</html>\n")


# Bad journals ------------------------------------------------------------------------------------------


def run(capsys, *arguments):
    code = report.cli.guarded(report.command, [str(argument) for argument in arguments])
    return code, capsys.readouterr()


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    code, output = run(capsys, journals.Story().write(tmp_path))
    assert code == 0
    assert "0 students on the front of 0 completed search trials" in output.out


def test_a_missing_folder_is_bad_usage(tmp_path, capsys):
    code, output = run(capsys, tmp_path / "nowhere")
    assert (code, output.err.count("\n")) == (2, 1)
    assert "nowhere: no such folder" in output.err


def test_a_folder_without_a_journal_is_bad_usage(tmp_path, capsys):
    code, output = run(capsys, tmp_path)
    assert (code, output.err.count("\n")) == (2, 1)
    assert "no events.jsonl in it" in output.err


def test_an_empty_journal_is_one_line(tmp_path, capsys):
    (tmp_path / "events.jsonl").write_text("")
    code, output = run(capsys, tmp_path)
    assert (code, output.err.count("\n")) == (3, 1)
    assert "events.jsonl: the journal is empty" in output.err


def test_damage_in_the_middle_is_one_line_with_its_number(tmp_path, capsys):
    folder = small_story().write(tmp_path)
    lines = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    (folder / "events.jsonl").write_text("".join([*lines[:4], "garbage\n", *lines[5:]]))
    code, output = run(capsys, folder)
    assert (code, output.err.count("\n")) == (3, 1)
    assert "events.jsonl:5:" in output.err


def test_an_event_of_an_unknown_trial_is_one_line(tmp_path, capsys):
    story = journals.Story()
    story.epoch("t0099", 1, 0.5, journals.config())
    code, output = run(capsys, story.write(tmp_path))
    assert (code, output.err.count("\n")) == (3, 1)
    assert "t0099" in output.err


def test_rows_and_report_agree_on_the_front(simulated):
    assert [trial.trial_id for trial in results.front(simulated.sweep)] == list(simulated.front["trial_id"])
