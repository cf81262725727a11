"""Methods compared: rows, pairs, costs and words, from made-up journals."""

from __future__ import annotations

import csv
import dataclasses
import re

import journals
import pytest

from kdsearch import chapters, comparison, comparison_figures, document, figures, report, results
from kdsearch.figure_style import DARK, LIGHT
from kdsearch.records import Choice, replay

FITNET = {"feature": Choice("fitnet", {"weight": 100.0, "layer_map": "stage2>stage2"})}
RKD = {"relation": Choice("rkd", {"weight": 1.0, "distance_weight": 25.0, "angle_weight": 50.0})}


def spec(seeds):
    return {**journals.SPEC, "search": {"sampler": "grid", "seeds": seeds, "trials": None, "seed": 0}}


class Listed(journals.Story):
    """A story whose trials are told by their accuracies: one for each seed, None for a failed one."""

    def __init__(self, seeds=3):
        super().__init__(spec=spec(seeds))
        self.teacher()
        self.numbers = {"control": 0, "search": 0}

    def row(self, accuracies, distill=None, epoch_s=1.0, role="search", **settings):
        params = settings.pop("params", 20_000)
        for seed, accuracy in enumerate(accuracies):
            config = journals.config(distill=distill, seed=seed, **settings)
            number = self.numbers[role]
            self.numbers[role] += 1
            failed = {"status": "failed", "error": "not finite in epoch 1"} if accuracy is None else {}
            curve = [] if accuracy is None else [0.1, accuracy]
            start = len(self.events)
            self.trial(number, curve, params, role, trial_config=config, **failed)
            for event in self.events[start:]:
                event.update({"cpu_s": epoch_s} if event["kind"] == "epoch" else {})
        return self

    def control(self, accuracies, epoch_s=0.5, **settings):
        return self.row(accuracies, {}, epoch_s, "control", **settings)

    def compare(self):
        return comparison.compare(replay(self.events))


def four_methods(seeds=3):
    """kd helps, fitnet hurts and is dear, rkd is not separated and failed once; the seeds differ a lot."""
    story = Listed(seeds).control([0.50, 0.60, 0.55][:seeds])
    story.row([0.52, 0.621, 0.569][:seeds], epoch_s=1.0)
    story.row([0.47, 0.571, 0.519][:seeds], FITNET, epoch_s=1.5)
    story.row([0.53, 0.57, None][:seeds], RKD, epoch_s=1.1)
    return story


def temperatures(seeds=3):
    """kd at four temperatures, the highest the worst."""
    story = Listed(seeds).control([0.50, 0.60, 0.55][:seeds])
    for temperature in (1.0, 2.0, 4.0, 16.0):
        story.row([0.55 - 0.01 * temperature / 4, 0.62, 0.5][:seeds], temperature=temperature)
    return story


def words_of(story, figure="no figure here"):
    names = [drawing.name for drawing in figures.DRAWINGS]
    blocks = chapters.chapters(replay(story.events), story.events, dict.fromkeys(names, figure))
    return document.to_markdown(blocks)


def by_label(found):
    return {row.label: row for row in found.rows}


def test_a_gain_is_the_mean_difference_to_the_control_of_the_same_seed():
    kd = by_label(four_methods().compare())["kd"]
    assert kd.differences == pytest.approx((0.02, 0.021, 0.019))
    assert kd.gain.mean == pytest.approx(0.02)
    assert kd.gain.high - kd.gain.low == pytest.approx(2 * 4.302653 * 0.001 / 3**0.5, rel=1e-5)
    assert kd.accuracy.mean == pytest.approx(0.57)


def test_rows_are_sorted_by_gain_and_negative_ones_are_there():
    rows = four_methods().compare().rows
    assert [(row.label, row.verdict) for row in rows] == [
        ("kd", "helped"),
        ("rkd", "not separated"),
        ("fitnet", "hurt"),
    ]


def test_a_pair_with_a_failed_side_is_left_out():
    story = Listed().control([0.5, None, 0.5]).row([None, 0.6, 0.51])
    (kd,) = story.compare().rows
    assert (len(kd.completed), len(kd.failed)) == (2, 1)
    assert kd.differences == pytest.approx((0.01,))


def test_a_control_of_another_student_recipe_or_seed_is_no_partner():
    story = Listed(1).row([0.6])
    story.control([0.5], options={"depth": 8, "width": 0.5}).control([0.5], lr=0.1).control([None, 0.5])
    (kd,) = story.compare().rows
    assert (kd.differences, kd.gain, kd.verdict) == ((), None, "")


def test_costs_are_relative_to_kd_of_the_same_student():
    wide = {"options": {"depth": 20, "width": 1.0}}
    story = four_methods().row([0.6, 0.6, 0.6], epoch_s=4.0, **wide).row([0.6, 0.6, 0.6], FITNET, 6.0, **wide)
    rows = by_label(story.compare())
    assert {label: round(row.cost, 6) for label, row in rows.items()} == {
        "kd student width 0.5": 1.0,
        "kd student width 1": 1.0,
        "fitnet student width 0.5": 1.5,
        "fitnet student width 1": 1.5,
        "rkd": 1.1,
    }
    assert {row.cost_base for row in rows.values()} == {"kd"}


def test_without_kd_costs_are_relative_to_the_control_and_the_report_says_so():
    story = Listed().control([0.5, 0.6, 0.55], epoch_s=0.5).row([0.5, 0.6, 0.57], FITNET, epoch_s=1.5)
    (row,) = story.compare().rows
    assert (row.cost, row.cost_base) == (3.0, "control")
    assert "cost is relative to the control's, because kd was not run" in words_of(story)


def test_a_stage_that_only_some_epochs_have_is_part_of_the_cost():
    story = four_methods()
    for event in story.events:
        slow = event["kind"] == "epoch" and event["trial_id"] in ("t0003", "t0004") and event["epoch"] == 1
        event.update({"cpu_s": 5.5} if slow else {})
    assert by_label(story.compare())["fitnet"].epoch_s == pytest.approx((5.5 + 1.5) / 2)


def test_the_cost_of_trials_on_a_gpu_is_taken_from_the_wall_clock():
    story = four_methods()
    story.events[0]["spec"] = {**story.events[0]["spec"], "resources": {"gpus_per_trial": 0.5}}
    for event in story.events:
        event.update({"time_s": 7.0} if event["kind"] == "epoch" else {})
    assert by_label(story.compare())["fitnet"].epoch_s == 7.0
    assert "time on the wall clock" in words_of(story)


def test_the_cost_of_trials_that_found_no_gpu_is_taken_from_the_processors_clock():
    story = four_methods()
    story.events[0]["spec"] = {**story.events[0]["spec"], "resources": {"gpus_per_trial": 0.5}}
    for event in story.events:
        event.update({"gpus": 0.0, "time_s": 7.0} if event["kind"] == "epoch" else {})
    assert by_label(story.compare())["fitnet"].epoch_s != 7.0
    assert "processor time" in words_of(story)


def test_equal_methods_are_told_apart_by_the_settings_that_differ():
    story = Listed(1).control([0.5]).row([0.6], temperature=2.0).row([0.61], temperature=8.0).row([0.5], RKD)
    assert [row.label for row in story.compare().rows] == ["kd temperature 8", "kd temperature 2", "rkd"]


def test_temperatures_make_a_line_where_nothing_else_differs():
    both = {"response": Choice("kd"), **RKD}
    story = Listed(2).control([0.5, 0.5])
    for temperature in (8.0, 2.0, 4.0):
        story.row([0.6, 0.61], temperature=temperature)
    story.row([0.6, 0.6], both, temperature=2.0).row([0.6, 0.6], both, temperature=4.0)
    story.row([0.6, 0.6], FITNET)

    lines = comparison.by_temperature(story.compare())

    assert [(label, [row.config.temperature for row in rows]) for label, rows in lines] == [
        ("kd", [2.0, 4.0, 8.0]),
        ("kd + rkd", [2.0, 4.0]),
    ]


def test_proposed_trials_are_not_compared():
    story = journals.realistic(12)
    assert comparison.compare(replay(story.events)) is None
    assert "Methods compared" not in words_of(story)


def test_the_chapter_names_what_helped_what_hurt_and_what_costs_more_than_it_returns():
    text = words_of(four_methods())
    assert "| kd | 3 | 0.5700 ± 0.0505 | +2.00 | +1.75 to +2.25 | helped | 1 s | 1.00× |" in text
    assert "- Helped: kd." in text
    assert "- Hurt: fitnet." in text
    assert "Dearer than kd, by 10% or more, without a larger gain: rkd and fitnet." in text
    assert "if none of these 3 configurations changed anything, about 0.2 would still be called" in text


def test_sizes_are_shown_where_a_method_leaves_a_part_of_its_own_in_the_student():
    simkd = {"feature": Choice("simkd", {"weight": 1.0})}
    larger = words_of(four_methods().row([0.6, 0.7, 0.65], simkd, params=31_000))
    assert "| helped | 1 s | 1.00× | 20,000 |" in larger
    assert "| simkd | 3 | 0.6500 ± 0.0500 | +10.00 |" in larger
    assert "| params |" not in words_of(four_methods()).split("## The front")[0]


def test_failed_trials_are_named_and_in_no_mean():
    text = words_of(four_methods())
    assert "t0008 (rkd, seed 2) failed and is in no mean: not finite in epoch 1" in text
    assert "| rkd | 2 of 3 |" in text


def test_a_method_of_which_every_trial_failed_is_a_row():
    story = four_methods().row([None, None, None], {"relation": Choice("pkt", {"weight": 30000.0})})
    assert [row.label for row in story.compare().rows][-1] == "pkt"
    assert re.search(r"\| pkt \| 0 of 3 \|  \|  \|  \| failed \|", words_of(story))


def test_one_seed_has_gains_but_no_intervals_and_the_report_says_so():
    text = words_of(four_methods(seeds=1))
    assert "One seed has no interval: nothing here can be told from chance. Raise `search.seeds`." in text
    assert "| kd | 1 | 0.5200 | +2.00 |  | not separated |" in text
    assert "Helped:" not in text


def test_an_unfinished_comparison_has_a_report():
    story = Listed()
    story.trial(0, [0.2], role="control", status="running")
    (blank, *_) = (story.compare().rows, words_of(story))
    assert blank == ()


def test_methods_csv_has_a_line_for_every_configuration_and_the_controls(tmp_path):
    report.write(four_methods().write(tmp_path))
    with (tmp_path / "methods.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0])[: len(comparison.METHOD_COLUMNS)] == comparison.METHOD_COLUMNS
    assert [row["methods"] for row in rows] == ["kd", "rkd", "fitnet", "no distillation"]
    kd, rkd, _, control = rows
    assert float(kd["gain"]) == pytest.approx(0.02)
    assert float(kd["gain_low"]) < 0.02 < float(kd["gain_high"])
    assert (kd["verdict"], kd["num_completed"], kd["cost_base"]) == ("helped", "3", "kd")
    assert (rkd["num_failed"], rkd["num_pairs"], rkd["trial_ids"]) == ("1", "2", "t0006 t0007 t0008")
    assert (kd["distill.response"], kd["distill.temperature"], control["distill.response"]) == (
        "kd",
        "4.0",
        "",
    )
    assert (control["gain"], float(control["val_accuracy_mean"])) == ("", pytest.approx(0.55))


def test_the_gains_are_drawn_and_importances_are_not(tmp_path):
    written = report.write(four_methods().write(tmp_path))
    assert tmp_path / "figures/gains.png" in written.files
    assert {"importance.png", "recipe.png", "temperature.png"} & {
        file.name for file in written.files
    } == set()


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_figures_of_a_temperature_sweep_are_drawn_in_both_themes(seeds):
    drawn = figures.draw(replay(temperatures(seeds).events), LIGHT, DARK)

    assert all(
        len(drawn[name]) == 2 and not isinstance(drawn[name], str) for name in ("gains", "temperature")
    )


def test_a_comparison_keeps_configurations_apart_by_everything_but_the_seed():
    story = four_methods()
    configs = [row.config for row in story.compare().rows]
    assert len({repr(dataclasses.replace(config, seed=0)) for config in configs}) == len(configs) == 3
    assert {results.method_label(config) for config in configs} == {"kd", "rkd", "fitnet"}


def test_a_figure_of_fewer_rows_than_there_are_says_so(monkeypatch):
    found = four_methods().compare()
    whole = comparison_figures.draw_gains(found, LIGHT)
    monkeypatch.setattr(comparison_figures, "MAX_ROWS", 2)
    cut = comparison_figures.draw_gains(found, LIGHT)
    titles = [drawn.axes[0].get_title() for drawn in (whole, cut)]
    assert titles == [
        "What each method gained",
        "What each method gained: the best 2 of 3, all in methods.csv",
    ]
