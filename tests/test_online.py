"""`distill.online`: what a spec may say, what Optuna is asked, what the conductor journals of peers."""

from __future__ import annotations

import optuna
import pytest
from test_conductor import Sweep, cost_of, outcome

from kdsearch import listing, space, spec
from kdsearch.plan import most_peers, searched
from kdsearch.records import Choice
from kdsearch.search.bands import extreme_students
from kdsearch.spec import SpecError

optuna.logging.set_verbosity(optuna.logging.WARNING)

SMALL = {
    "name": "small",
    "data": "digits",
    "teacher": "resnet",
    "student": {"resnet": {"depth": 8, "width": 0.5}},
    "train": {"epochs": 10, "lr": 0.1},
    "search": {"trials": 10},
}
SEARCHED = {
    "none": {},
    "dml": {
        "peers": {"type": "int", "low": 2, "high": 3},
        "peer_width": {"type": "float", "low": 0.5, "high": 1.0},
    },
}
DML = "distill.online={none: , dml: {peers: {type: int, low: 2, high: 3}, peer_width: 0.5}}"


def loaded(online, **sections):
    return spec.from_dict({**SMALL, **sections, "distill": {"online": online}})


def problems(online, **sections):
    with pytest.raises(SpecError) as raised:
        loaded(online, **sections)
    return str(raised.value)


def test_by_default_students_are_trained_alone():
    assert loaded("none").distill.online == {"none": {}}
    assert space.suggest(optuna.trial.FixedTrial({}), loaded("none"), 3, 0).online == Choice("none")


def test_a_word_is_the_papers_mutual_learning():
    online = space.suggest(optuna.trial.FixedTrial({}), loaded("dml"), 3, 0).online

    assert online == Choice("dml", {"peer_width": 1.0, "peers": 2, "temperature": 1.0, "weight": 1.0})


def test_the_spec_reads_back_equal():
    written = loaded(SEARCHED)

    assert spec.from_dict(spec.to_dict(written)) == written


def test_the_method_and_its_settings_are_searched_where_they_apply():
    answers = {"distill.online": "dml", "distill.online.dml.peers": 3, "distill.online.dml.peer_width": 0.5}
    mutual, alone = optuna.trial.FixedTrial(answers), optuna.trial.FixedTrial({"distill.online": "none"})

    config = space.suggest(mutual, loaded(SEARCHED), 3, 0)

    assert config.flat() == config.flat() | {
        "distill.online": "dml",
        "distill.online.peers": 3,
        "distill.online.peer_width": 0.5,
    }
    assert space.suggest(alone, loaded(SEARCHED), 3, 0).online == Choice("none")
    assert set(alone.params) == {"distill.online"}


def test_a_listed_search_compares_peers_with_the_first_ones_control():
    search = {"trials": 10, "sampler": "grid"}

    control, mutual = listing.listed(loaded({"none": {}, "dml": {}}, search=search), 3)

    assert (control.role, control.config.online) == ("control", Choice("none"))
    assert (mutual.role, mutual.config.online.name) == ("search", "dml")
    assert mutual.config.control == control.config


def test_a_control_has_no_peers():
    assert space.control(loaded("dml"), Choice("resnet"), seed=0).online == Choice("none")


def test_the_smallest_peer_is_the_smallest_student():
    smallest, largest = extreme_students(
        loaded(SEARCHED), lambda student: {"params": student.options["width"]}
    )

    assert (smallest.options["width"], largest.options["width"]) == (0.125, 0.5)


def test_the_plan_knows_of_peers():
    assert most_peers(loaded("none")) == 1
    assert most_peers(loaded(SEARCHED)) == 3
    assert searched(loaded(SEARCHED)) == [
        "distill.online",
        "distill.online.dml.peer_width",
        "distill.online.dml.peers",
    ]


@pytest.mark.parametrize(
    ("online", "said"),
    [
        ({"dml": {"peers": 1}}, "distill.online.dml.peers: 1: a whole number from 2 to 8 (nearest: 2)"),
        ({"dml": {"weight": -1}}, "distill.online.dml.weight: -1: a number from 0 to 1000 (nearest: 0)"),
        ({"dml": {"peer": 2}}, "distill.online.dml.peer: 2: unknown; allowed: peer_width, peers"),
        ("dlm", "distill.online: dlm: unknown; allowed: none, dml (nearest: dml)"),
    ],
)
def test_a_bad_setting_is_refused_in_words(online, said):
    assert said in problems(online)


def test_a_peer_below_the_familys_smallest_width_is_refused():
    said = problems({"dml": {"peers": 3, "peer_width": 0.1}})

    assert "distill.online.dml.peer_width: 0.1: student resnet has widths from 0.01 to 16" in said
    assert "a peer would have 0.005" in said


def test_other_widths_are_refused_for_a_family_without_a_width():
    student = {"torchvision/resnet18": {}}

    assert "student torchvision/resnet18 has no width" in problems(
        {"dml": {"peer_width": 0.5}}, student=student
    )
    assert loaded("dml", student=student).distill.online


def mutual_trials(record):
    return [trial for trial in record.of_role("search") if trial.config.online.name == "dml"]


def test_the_journal_says_what_every_peer_costs(tmp_path):
    record = Sweep(tmp_path, DML, "search.trials=12", "search.early_stopping=none").run()

    found = mutual_trials(record)
    assert {len(trial.students()) for trial in found} == {2, 3}
    for trial in found:
        first, second = trial.students()[:2]
        assert second.config.student.options["width"] == first.config.student.options["width"] / 2
        assert second.cost == cost_of(second.config.student)
        assert first.cost == trial.cost == cost_of(trial.config.student)
        assert first.student == f"students/{trial.trial_id}.s1"
        assert second.student == f"students/{trial.trial_id}.s2"


@pytest.mark.parametrize("cut", [5, 13, 30])
def test_a_sweep_of_peers_cut_and_resumed_equals_an_uninterrupted_one(tmp_path, cut):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = Sweep(tmp_path / "whole", DML).run()
    Sweep(tmp_path / "cut", DML).run()
    journal = tmp_path / "cut" / "events.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:cut]))

    resumed = Sweep(tmp_path / "cut", DML).run()

    assert mutual_trials(whole)
    assert outcome(resumed) == outcome(whole)
    assert [trial.peers for trial in resumed.trials.values()] == [t.peers for t in whole.trials.values()]
