"""Methods that do not fit their networks, data or weights are refused in words, with the valid choices."""

# ruff: noqa: E501, because a message is one line, and so is the test that shows it

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from kdsearch import space, spec
from kdsearch.losses import METHODS
from kdsearch.spec import SpecError, SweepSpec

SECTIONS = {
    "name": "demo",
    "data": "{dataset: digits, augment: [crop]}",
    "teacher": "resnet",
    "student": "resnet",
    "distill": "{response: kd}",
    "train": "{epochs: 10}",
    "search": "{trials: 4}",
}
CNNS = "mobilenetv2, resnet, shufflenetv2, vgg, vit, wrn, torchvision/<name>"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SweepSpec]:
    """Loads the smallest spec with some sections replaced; `distill` is line 5."""
    monkeypatch.chdir(tmp_path)

    def load(**sections: str) -> SweepSpec:
        lines = {**SECTIONS, **sections}
        Path("spec.yaml").write_text("".join(f"{name}: {value}\n" for name, value in lines.items()))
        return spec.load("spec.yaml")

    return load


REFUSALS = {
    "a key that the method does not have": (
        {"distill": "{feature: {fitnet: {wieght: 3}}}"},
        "distill.feature.fitnet.wieght: 3: unknown; allowed: weight, layer_map (nearest: weight)",
    ),
    "a key of a method with no settings of its own": (
        {"distill": "{response: {pseudo_label: {threshold: 0.9}}}"},
        "distill.response.pseudo_label.threshold: 0.9: unknown; allowed: alpha, temperature",
    ),
    "a value beyond the method's bounds": (
        {"distill": "{self: {tfkd: {weight: 2}}}"},
        "distill.self.tfkd.weight: 2: a number from 0 to 1 (nearest: 1)",
    ),
    "a teacher's method in the slot without one": (
        {"distill": "{self: fitnet}"},
        "distill.self: fitnet: fitnet belongs in distill.feature",
    ),
    "a map of a stage that the student lacks": (
        {"distill": "{feature: {fitnet: {layer_map: stage4>stage3}}}"},
        "distill.feature.fitnet.layer_map: stage4>stage3: the student has no stage4, it has stage1 to stage3; nearest: stage3 (student resnet)",
    ),
    "a map of a stage that the teacher lacks": (
        {"teacher": "vgg", "distill": "{feature: {fitnet: {layer_map: stage3>stage5}}}"},
        "distill.feature.fitnet.layer_map: stage3>stage5: the teacher has no stage5, it has stage1 to stage4; nearest: stage4 (student resnet)",
    ),
    "maps where the teacher has none": (
        {"teacher": "mlp", "distill": "{feature: at}"},
        f"distill.feature.at: at compares maps of more than one pixel, not to be had from teacher mlp; families with them: {CNNS}",
    ),
    "maps where one of the students has none": (
        {"student": "{mlp: , wrn: }", "distill": "{feature: {none: , nst: }}"},
        f"distill.feature.nst: nst compares maps of more than one pixel, not to be had from student mlp; families with them: {CNNS}",
    ),
    "branches of a student with a single stage": (
        {"student": "{mlp: {depth: {type: int, low: 1, high: 3}}}", "distill": "{self: byot}"},
        "distill.self.byot: byot needs 2 stages or more, student mlp can have 1",
    ),
    "one pair for a method that goes from pair to pair": (
        {"distill": "{feature: {svd: {layer_map: last}}}"},
        "distill.feature.svd.layer_map: last: svd needs a map of 2 pairs or more, for example all (student resnet)",
    ),
    "a search that may find one pair for it": (
        {"distill": "{feature: {svd: {layer_map: {type: categorical, choices: [all, searched]}}}}"},
        "distill.feature.svd.layer_map: searched: svd needs a map of 2 pairs or more, for example all (student resnet)",
    ),
    "partners among mixed images": (
        {"data": "{dataset: digits, augment: [mixup]}", "distill": "{self: cs_kd}"},
        "distill.self.cs_kd: cs_kd compares two images of one class, and mixup leaves none: take it out of data.augment",
    ),
    "more of the label's place than there is": (
        {"distill": "{self: {ps_kd: {weight: 2, alpha: 0.6}}}"},
        "distill.self.ps_kd: {...}: ps_kd puts weight * alpha of its own in the label's place, up to 1.2: at most 1, the weight of the labels",
    ),
    "more of the label's place than its weight leaves": (
        {"distill": "{label_weight: {type: float, low: 0.2, high: 1}, self: {tfkd: {weight: 0.5}}}"},
        "distill.self.tfkd: {...}: tfkd puts weight of its own in the label's place, up to 0.5: at most 0.2, the weight of the labels",
    ),
    "labels replaced beside a method that takes none": (
        {"distill": "{feature: simkd, self: {none: , tfkd: }}"},
        "distill.self.tfkd: tfkd puts weight of its own in the label's place, up to 0.1: at most 0, the weight of the labels beside simkd: leave one of them out, or give distill.label_weight",
    ),
    "labels replaced twice as one at a time": (
        {"distill": "{feature: simkd, self: {none: , ps_kd: }}", "search": "{sampler: one_at_a_time}"},
        "distill.self.ps_kd: ps_kd puts weight * alpha of its own in the label's place, up to 0.8: at most 0, the weight of the labels beside simkd: leave one of them out, or give distill.label_weight",
    ),
    "a schedule that grows beyond the label's place": (
        {"distill": "{self: {ps_kd: {alpha: 0.5}}, schedule: {linear: {weights_to: 3}}}"},
        "distill.schedule.linear.weights_to: 3: times this ps_kd puts 1.5 of its own in the label's place: in all at most 1, the weight of the labels (nearest: 2)",
    ),
    "a searched schedule that does": (
        {"distill": "{label_weight: 0.5, self: tfkd, schedule: {constant: , cosine: {weights_to: {type: float, low: 0, high: 8}}}}"},
        "distill.schedule.cosine.weights_to: {...}: times this tfkd puts 0.8 of its own in the label's place: in all at most 0.5, the weight of the labels (nearest: 5)",
    ),
    "a classifier that sees tokens, in a member whose maps are met": (
        {"teacher": "{ensemble: {of: {a: vit, b: resnet}}}", "distill": "{feature: simkd}"},
        "distill.feature.simkd: the teacher vit has no map whose average feeds its classifier; take a family of convolutions or torchvision/regnet_*, resnet*, resnext*, wide_resnet*",
    ),
    "views that are all the same": (
        {"data": "digits", "distill": "{response: kd, teacher_views: 4}"},
        "distill.teacher_views: 4: every view is the same without data.augment (nearest: 1)",
    ),
    "views of different mixtures": (
        {"data": "{dataset: digits, augment: [crop, mixup]}", "distill": "{response: kd, teacher_views: 4}"},
        "distill.teacher_views: 4: mixup shows another image in every view: take it out of data.augment (nearest: 1)",
    ),
    "views for a teacher that no method reads": (
        {"distill": "{self: tfkd, response: none, teacher_views: {type: int, low: 1, high: 4}}"},
        "distill.teacher_views: {...}: needs a method in distill that has a teacher, here there is none (nearest: 1)",
    ),
    "no view at all": (
        {"distill": "{response: kd, teacher_views: 0}"},
        "distill.teacher_views: 0: a whole number from 1 to 64 (nearest: 1)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_before_anything_starts(load: Callable[..., SweepSpec], case: str) -> None:
    sections, message = REFUSALS[case]
    with pytest.raises(SpecError) as caught:
        load(**sections)
    assert str(caught.value) == f"spec.yaml:5: {message}"


NO_COLLISION = {
    "the labels' own weight is enough": {"distill": "{feature: simkd, self: tfkd, label_weight: 1}"},
    "one at a time never has both": {
        "distill": "{feature: {none: , simkd: }, self: {none: , tfkd: }}",
        "search": "{sampler: one_at_a_time}",
    },
    "a schedule that stays within": {
        "distill": "{self: {ps_kd: {alpha: 0.5}}, schedule: {linear: {weights_to: 2}}}"
    },
    "another member's maps are met": {
        "teacher": "{ensemble: {of: {a: vit, b: resnet}, features_from: b}}",
        "distill": "{feature: simkd}",
    },
}


@pytest.mark.parametrize("case", NO_COLLISION)
def test_what_fits_together_is_taken(load: Callable[..., SweepSpec], case: str) -> None:
    assert load(**NO_COLLISION[case]).name == "demo"


@pytest.fixture
def attention_transfer(monkeypatch: pytest.MonkeyPatch) -> str:
    """A method that reads what only transformers publish."""
    reading = dataclasses.replace(METHODS["fitnet"], needs=METHODS["fitnet"].needs | {"attention", "tokens"})
    monkeypatch.setitem(METHODS, "fitnet", reading)
    return "{feature: {fitnet: {layer_map: last}}}"


@pytest.mark.parametrize(
    ("student", "teacher", "without"),
    [
        ("resnet", "vit", "student resnet"),
        ("vit", "wrn", "teacher wrn"),
        ("{mlp: , vit: }", "torchvision/vit_b_16", "student mlp and teacher torchvision/vit_b_16"),
    ],
)
def test_attention_is_refused_where_a_network_has_none(
    load: Callable[..., SweepSpec], attention_transfer: str, student: str, teacher: str, without: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load(student=student, teacher=teacher, distill=attention_transfer)
    wrong = f"fitnet reads attention and tokens, not to be had from {without}; families with them: vit"
    assert str(caught.value) == f"spec.yaml:5: distill.feature.fitnet: {{...}}: {wrong}"


def test_attention_between_transformers_is_fine(
    load: Callable[..., SweepSpec], attention_transfer: str
) -> None:
    assert "fitnet" in load(student="vit", teacher="vit", distill=attention_transfer).distill.slots["feature"]


def test_what_a_checkpoints_family_lacks_is_found_once_it_is_known(load: Callable[..., SweepSpec]) -> None:
    loaded = load(teacher="{checkpoint: runs/t}", distill="{feature: at}")
    spec.check_teacher_family(loaded, "resnet")
    with pytest.raises(SpecError) as caught:
        spec.check_teacher_family(loaded, "mlp")
    wrong = "at compares maps of more than one pixel, not to be had from teacher mlp"
    assert str(caught.value) == f"spec: distill.feature.at: {{...}}: {wrong}; families with them: {CNNS}"


def test_a_checkpoint_whose_classifier_cannot_be_taken_over_is_refused_once_it_is_known(
    load: Callable[..., SweepSpec],
) -> None:
    loaded = load(teacher="{checkpoint: runs/t}", distill="{feature: simkd}")
    spec.check_teacher_family(loaded, "torchvision/resnet18")
    for name in ("vit", "torchvision/vgg11"):
        wrong = f"distill.feature.simkd: .*: the teacher {name} has no map whose average feeds its classifier"
        with pytest.raises(SpecError, match=wrong):
            spec.check_teacher_family(loaded, name)


def test_a_method_without_a_teacher_does_not_mind_the_teachers_family(
    load: Callable[..., SweepSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "byot", dataclasses.replace(METHODS["byot"], spatial=True))
    assert load(teacher="mlp", distill="{self: byot}").distill.slots["self"].keys() == {"byot"}


def test_a_spec_of_methods_without_a_teacher_still_names_one(load: Callable[..., SweepSpec]) -> None:
    with pytest.raises(SpecError, match="teacher: give one family or one checkpoint, here: neither"):
        load(teacher="", distill="{self: byot}")


# Views of the teacher, as a dimension of the search.


class Highest:
    """A trial that takes the upper end of every range, the first choice, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def suggest_float(self, name: str, low: float, high: float, **_: object) -> float:
        self.asked.append(name)
        return high

    def suggest_int(self, name: str, low: int, high: int, **_: object) -> int:
        self.asked.append(name)
        return high

    def suggest_categorical(self, name: str, choices: list[object]) -> object:
        self.asked.append(name)
        return choices[0]


VIEWS = "teacher_views: {type: int, low: 1, high: 4}"


def test_the_number_of_views_can_be_searched(load: Callable[..., SweepSpec]) -> None:
    trial = Highest()
    config = space.suggest(trial, load(distill=f"{{response: kd, {VIEWS}}}"), 3, seed=0)
    assert config.teacher_views == 4
    assert trial.asked == ["distill.teacher_views"]
    assert config.flat()["distill.teacher_views"] == 4


def test_a_trial_without_a_teacher_has_no_views_of_it(load: Callable[..., SweepSpec]) -> None:
    trial = Highest()
    loaded = load(distill=f"{{response: {{kd: , none: }}, self: tfkd, {VIEWS}}}")
    config = space.suggest(trial, loaded, 3, seed=0)
    assert set(config.distill) == {"self"}
    assert trial.asked == ["distill.response"]
    assert "distill.teacher_views" not in config.flat()


def test_the_number_of_views_reads_back(load: Callable[..., SweepSpec]) -> None:
    loaded = load(distill=f"{{response: kd, {VIEWS}}}")
    assert spec.from_dict(spec.to_dict(loaded)) == loaded
