"""Specs: what loads, what is refused and in which words, and that nothing is lost on the way out."""

# ruff: noqa: E501, because a message is one line, and so is the test that shows it

import contextlib
import json
import math
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsearch import spec
from kdsearch.data import AUGMENTATIONS, DATASETS
from kdsearch.losses import METHODS, SLOTS
from kdsearch.models import FAMILIES
from kdsearch.spec import Categorical, Float, Int, SpecError
from kdsearch.spec_dimensions import option_sets, reachable
from kdsearch.spec_methods import unmet
from kdsearch.spec_yaml import read_text

SEARCH_SPACES = Path(__file__).parent.parent / "search_spaces"

EXAMPLE = """\
name: cifar100
data:    {dataset: cifar100, root: data, validation: 5000, augment: [crop, flip]}
teacher: {resnet: {depth: 56, train: {epochs: 200, lr: 0.1}}}            # or {checkpoint: ...}
student:
  resnet:      {depth: {type: categorical, choices: [8, 14, 20]}, width: {type: float, low: 0.25, high: 1.0, step: 0.125}}
  mobilenetv2: {width: {type: float, low: 0.25, high: 1.0, step: 0.25}}  # multiplier of the family's base channels
distill:
  alpha:       {type: float, low: 0.1, high: 1.0}                        # weight of the teacher's response term
  temperature: {type: float, low: 1, high: 20, log: true}
  response: kd
  feature:                                                               # at most one per slot, none among the choices
    none:
    fitnet: {weight: {type: float, low: 1, high: 1000, log: true}, layer_map: {type: categorical, choices: [last, uniform, searched]}}
    at:     {weight: {type: float, low: 10, high: 10000, log: true}, layer_map: all}
  relation: none
  contrastive: none
train:  {epochs: 60, batch_size: 128, optimizer: sgd, lr: {type: float, low: 0.01, high: 0.3, log: true}, weight_decay: 5e-4, schedule: cosine, warmup_epochs: 1}
search: {trials: 200, seed: 0, objectives: [val_accuracy, params], early_stopping: {scheduler: asha, grace_epochs: 3, reduction_factor: 3}}
confirm: {seeds: 3}
resources: {cpus_per_trial: 1, gpus_per_trial: 0.25}
"""

SECTIONS = {
    "name": "demo",
    "data": "digits",
    "teacher": "{resnet: {depth: 20, train: {epochs: 5}}}",
    "student": "{resnet: {depth: 8}}",
    "distill": "{response: kd}",
    "train": "{epochs: 10}",
    "search": "{trials: 4}",
}


WORDS = [
    "type",
    "low",
    "high",
    "step",
    "log",
    "choices",
    "float",
    "int",
    "categorical",
    "resnet",
    "mlp",
    "kd",
]
WORDS += [
    "fitnet",
    "at",
    "rkd",
    "none",
    "width",
    "depth",
    "weight",
    "layer_map",
    "checkpoint",
    "train",
    "epochs",
]


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads a text, or the smallest spec with some sections replaced, from the file spec.yaml."""
    monkeypatch.chdir(tmp_path)

    def load(text=None, overrides=(), **sections):
        lines = {**SECTIONS, **sections}
        small = "".join(f"{name}: {value}\n" for name, value in lines.items())
        Path("spec.yaml").write_text(small if text is None else text, encoding="utf-8")
        return spec.load("spec.yaml", overrides)

    return load


@pytest.fixture
def refusal(load):
    """The message of a spec that is refused."""

    def refusal(*args, **kwargs):
        with pytest.raises(SpecError) as caught:
            load(*args, **kwargs)
        print(f"\n{caught.value}")
        return str(caught.value)

    return refusal


def test_the_example_of_the_design_loads(load):
    example = load(EXAMPLE)
    assert example.name == "cifar100"
    assert example.data == spec.DataSpec(
        "cifar100", validation=5000, augment=(("crop", {"padding": None}), ("flip", {}))
    )
    assert example.teacher.family == "resnet"
    assert example.teacher.options["depth"] == 56
    assert example.student["resnet"]["depth"] == Categorical((8, 14, 20))
    assert example.student["mobilenetv2"]["width"] == Float(0.25, 1.0, step=0.25)
    assert example.distill.temperature == Float(1.0, 20.0, log=True)
    assert list(example.distill.slots) == list(SLOTS)
    assert set(example.distill.slots["feature"]) == {"none", "fitnet", "at"}
    assert example.distill.slots["relation"] == {"none": {}}
    assert example.train["weight_decay"] == 5e-4
    assert example.epochs == 60
    assert example.search.early_stopping == spec.EarlyStopping("asha", 3, 3)
    assert example.confirm.seeds == 3
    assert example.resources == spec.ResourcesSpec(1.0, 0.25, None, 10.0)


def test_what_is_not_given_has_a_default(load):
    small = load()
    assert small.search == spec.SearchSpec(
        4, 0, ("val_accuracy", "params"), spec.EarlyStopping("pareto", 1, 3), None
    )
    assert small.confirm == spec.ConfirmSpec(seeds=3, tuning=4)
    kd = {"kd": {"student_temperature": None, "alpha": None, "temperature": None}}
    assert small.distill.slots == {slot: {"none": {}} for slot in SLOTS} | {"response": kd}
    assert small.distill.label_weight is None
    assert small.train == {
        "epochs": 10,
        "batch_size": 128,
        "optimizer": "sgd",
        "lr": 0.05,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "warmup_epochs": 0,
        "milestones": (),
        "gamma": 0.1,
        "label_smoothing": 0.0,
    }


def test_the_teacher_takes_what_is_fixed_for_the_students(load):
    teacher = load(
        train="{epochs: 10, batch_size: 32, lr: 0.3, weight_decay: {type: float, low: 0, high: 1}, "
        "schedule: step, milestones: [6, 8]}",
        teacher="{wrn: {train: {momentum: 0.8}}, min_accuracy: 0.9, seed: 3}",
    ).teacher
    assert (teacher.family, teacher.min_accuracy, teacher.seed) == ("wrn", 0.9, 3)
    expected = {"epochs": 10, "batch_size": 32, "lr": 0.1, "weight_decay": 5e-4, "momentum": 0.8}
    expected |= {"schedule": "step", "milestones": (6, 8)}
    assert {name: teacher.train[name] for name in expected} == expected


@pytest.mark.parametrize(
    "teacher",
    [
        "{one_of: {a: resnet, b: {checkpoint: runs/t}}, min_accuracy: 0.5}",
        "{ensemble: {of: {a: resnet, b: {resnet: , seed: 1}}, combine: logits, weights: searched}}",
        "{born_again: {resnet: {depth: 8}, generations: 2, temperature: 4, use: best}, seed: 7}",
        "{assistants: {resnet: {depth: 8, checkpoint: a.pt}, steps: {type: int, low: 0, high: 2}}}",
        "{one_of: {a: {born_again: {resnet: , generations: 1}}, b: {assistants: {wrn: {train: {epochs: 9}}}}}}",
    ],
)
def test_teachers_of_every_kind_read_back_equal(load, teacher):
    loaded = load(teacher=teacher)
    assert spec.from_dict(json.loads(json.dumps(spec.to_dict(loaded)))) == loaded


def test_one_of_several_teachers_takes_what_the_section_says_of_all(load):
    several = load(teacher="{one_of: {a: {resnet: , min_accuracy: 0.9}, b: wrn}, min_accuracy: 0.5}").teacher
    assert [choice.min_accuracy for choice in several.choices.values()] == [0.9, 0.5]


def test_assistants_take_the_recipe_of_their_teacher(load):
    chain = load(teacher="{assistants: {resnet: {train: {epochs: 9, lr: 0.3}}, train: {lr: 0.2}}}").teacher
    assert (chain.network.train["lr"], chain.train["lr"], chain.train["epochs"]) == (0.3, 0.2, 9)


def test_a_flat_member_of_an_ensemble_is_no_problem_where_another_gives_the_features(load):
    members = "of: {flat: mlp, maps: resnet}"
    at = "{feature: at}"
    load(teacher=f"{{ensemble: {{{members}, features_from: maps}}}}", distill=at)
    with pytest.raises(SpecError, match="not to be had from teacher mlp"):
        load(teacher=f"{{ensemble: {{{members}}}}}", distill=at)


def test_a_teacher_that_learns_with_adam_has_its_usual_rate(load):
    assert load(teacher="{resnet: {train: {optimizer: adam}}}").teacher.train["lr"] == 1e-3


def test_a_teacher_can_be_a_checkpoint_of_ours_or_foreign_weights(load):
    ours = load(teacher="{checkpoint: runs/teacher}").teacher
    foreign = load(teacher="{resnet: {depth: 56, checkpoint: resnet56.pt}}").teacher
    assert (ours.family, ours.checkpoint, ours.train) == (None, "runs/teacher", {})
    assert (foreign.family, foreign.checkpoint, foreign.train) == ("resnet", "resnet56.pt", {})
    assert foreign.options["depth"] == 56


def test_data_options_stand_beside_the_common_ones(load):
    data = load(data="{dataset: image_folder, subset: 5000, resize: 14, image_size: 64}").data
    assert (data.subset, data.resize, data.options) == (5000, 14, {"image_size": 64, "grey": False})


def test_a_validation_part_below_one_is_a_fraction(load):
    assert load(data="{dataset: digits, validation: 0.25}").data.validation == 0.25
    assert type(load(data="{dataset: digits, validation: 400}").data.validation) is int


def test_whole_numbers_become_floats_where_floats_are_meant(load):
    student = load(student="{resnet: {width: {type: categorical, choices: [1, 2]}}}").student
    assert list(map(type, student["resnet"]["width"].choices)) == [float, float]
    assert type(load(student="{resnet: {width: 1}}").student["resnet"]["width"]) is float


def test_what_early_stopping_does_not_use_is_not_compared_with_the_budget(load):
    stopping = "{scheduler: none, grace_epochs: 10}"
    assert load(search=f"{{trials: 4, early_stopping: {stopping}}}").search.early_stopping.grace_epochs == 10


@pytest.mark.parametrize(
    ("search", "epochs", "scheduler"),
    [
        ("{trials: 4}", 10, "pareto"),
        ("{trials: 4, early_stopping: {grace_epochs: 3}}", 10, "pareto"),
        ("{trials: 4, early_stopping: asha}", 10, "asha"),
        ("{trials: 4}", 1, "none"),
        ("{sampler: grid}", 10, "none"),
        ("{sampler: one_at_a_time}", 10, "none"),
    ],
)
def test_trials_are_stopped_by_the_front_where_nothing_else_is_said_and_something_can_be(
    load, search, epochs, scheduler
):
    loaded = load(search=search, train=f"{{epochs: {epochs}}}")
    assert loaded.search.early_stopping.scheduler == scheduler
    assert spec.from_dict(spec.to_dict(loaded)) == loaded


def test_the_teacher_may_weigh_more_than_one_where_the_labels_weight_is_given(load):
    assert load(distill="{response: kd, alpha: 9, label_weight: 0.1}").distill.alpha == 9.0


def test_a_trial_may_live_on_a_gpu_alone(load):
    assert load(resources="{cpus_per_trial: 0, gpus_per_trial: 0.5}").resources.cpus_per_trial == 0


def test_the_order_of_keys_decides_nothing(load):
    forward = load(distill="{feature: {at: , none: }, response: kd}", student="{wrn: , resnet: }")
    backward = load(distill="{response: kd, feature: {none: , at: }}", student="{resnet: , wrn: }")
    assert json.dumps(spec.to_dict(forward)) == json.dumps(spec.to_dict(backward))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_can_be_student_and_teacher_by_its_name(load, name):
    loaded = load(student=name, teacher=name)
    assert set(loaded.student[name]) == set(FAMILIES[name].options) == set(loaded.teacher.options)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_chosen_by_its_name(load, name):
    kind = next(kind for kind in ("resnet", "vit") if not unmet(name, [("student", kind), ("teacher", kind)]))
    loaded = load(distill=f"{{{METHODS[name].slot}: {name}}}", student=kind, teacher=kind)
    own = {"alpha", "temperature"} if METHODS[name].slot == "response" else set()
    assert set(loaded.distill.slots[METHODS[name].slot][name]) == set(METHODS[name].options) | own


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_can_be_chosen_by_its_name(load, name):
    assert load(data=name).data.dataset == name


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_can_be_chosen_by_its_name(load, name):
    assert [chosen for chosen, _ in load(data=f"{{dataset: digits, augment: [{name}]}}").data.augment] == [
        name
    ]


def test_torchvision_models_are_families(load):
    student = load(student="{torchvision/resnet18: {pretrained: true}}").student
    assert student["torchvision/resnet18"]["pretrained"] is True


# The way out and back


SPEC_TEXTS = [EXAMPLE, *(file.read_text() for file in sorted(SEARCH_SPACES.glob("*.yaml")))]


def test_images_without_labels_read_back_equal(load):
    loaded = load(data="{dataset: digits, subset: 100, unlabelled: {dataset: rest, ratio: 2}}")
    assert loaded.data.unlabelled == spec.UnlabelledSpec("rest", ratio=2.0)
    assert spec.from_dict(json.loads(json.dumps(spec.to_dict(loaded)))) == loaded
    assert load(data="{dataset: digits, unlabelled: {folder: more}}").data.unlabelled.folder == "more"
    beside = "{dataset: image_folder, root: birds, unlabelled: {folder: birds/unlabelled}}"
    assert load(data=beside).data.unlabelled.folder == "birds/unlabelled"
    assert load(data="{dataset: digits, unlabelled: }").data.unlabelled is None


@pytest.mark.parametrize(
    ("distill", "message"),
    [
        ("{response: dkd}", "dkd cannot learn without labels"),
        ("{response: none}", "here there is none"),
    ],
)
def test_images_without_labels_need_a_method_that_can_do_without(refusal, distill, message):
    text = refusal(data="{dataset: digits, subset: 100, unlabelled: rest}", distill=distill)
    assert text.endswith(
        f"data.unlabelled: rest: needs a method in distill that learns from the teacher alone, as kd does: {message}"
    )


MOVING = (
    "{response: {none: , kd: }, relation: rkd, schedule: {constant: , "
    "linear: {alpha_to: 1.0, temperature_to: {type: float, low: 1, high: 4}}, "
    "progressive: {temperature_from: 8}, warmup: {share: {type: float, low: 0.1, high: 0.5}}}, "
    "curriculum: {none: , confidence: {start: {type: float, low: 0.2, high: 0.8}}}}"
)


def test_schedules_and_curricula_read_back_equal(load):
    loaded = load(distill=MOVING)
    assert loaded.distill.schedule["linear"]["temperature_to"] == Float(1.0, 4.0)
    assert loaded.distill.schedule["progressive"]["temperature_to"] == 1.0
    assert loaded.distill.curriculum["confidence"]["order"] == "easy_to_hard"
    assert spec.from_dict(json.loads(json.dumps(spec.to_dict(loaded)))) == loaded


@pytest.mark.parametrize("text", SPEC_TEXTS, ids=lambda text: re.search("name: (\\S+)", text)[1])
def test_a_resolved_spec_reads_back_equal(load, text):
    loaded = load(text)
    resolved = spec.to_dict(loaded)
    assert spec.from_dict(resolved) == loaded
    assert spec.from_dict(json.loads(json.dumps(resolved, sort_keys=True))) == loaded
    assert load(yaml.safe_dump(resolved)) == loaded


def test_words_that_look_like_numbers_survive_the_way_out_and_back(load):
    loaded = load(name="1e-3", data="{dataset: digits, root: '0o17'}", teacher="{checkpoint: 2024}")
    assert (loaded.name, loaded.data.root, loaded.teacher.checkpoint) == ("1e-3", "0o17", "2024")
    assert load(yaml.safe_dump(spec.to_dict(loaded))) == loaded


def test_a_foreign_teacher_reads_back_equal(load):
    loaded = load(teacher="{resnet: {checkpoint: resnet20.pt}}")
    assert spec.from_dict(spec.to_dict(loaded)) == loaded


def test_a_difference_is_named_with_both_values_and_budgets_stand_apart(load):
    old = load(EXAMPLE)
    new = load(
        EXAMPLE,
        [
            "search.trials=400",
            "confirm.seeds=5",
            "resources.max_concurrent=2",
            "train.lr.low=0.02",
            "student=wrn",
            "teacher.min_accuracy=0.1",
        ],
    )
    fixed, budgets = spec.diff(old, new)
    assert budgets == [
        "teacher.min_accuracy: null -> 0.1",
        "search.trials: 200 -> 400",
        "confirm.seeds: 3 -> 5",
        "resources.max_concurrent: null -> 2",
    ]
    assert "train.lr.low: 0.01 -> 0.02" in fixed
    assert 'student.resnet.depth.type: "categorical" -> nothing' in fixed
    assert "student.wrn.depth: nothing -> 16" in fixed
    assert spec.diff(old, old) == ([], [])


# YAML 1.2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("5E4", 5e4),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("+3", 3),
        (".inf", math.inf),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("12:30:45", "12:30:45"),
        ("2026-11-05", "2026-11-05"),
        ("1_000", "1_000"),
        ("'1'", "1"),
        ("True", True),
        ("~", None),
        ("", None),
        ("none", "none"),
        ("=", "="),
    ],
)
def test_scalars_are_read_by_yaml_1_2(text, value):
    root, problems = read_text(f"key: {text}", "spec.yaml")
    assert root.value["key"].value == value
    assert type(root.value["key"].value) is type(value)
    assert problems == []


def test_anchors_and_aliases_are_plain_repetition(load):
    loaded = load(student="{resnet: &same {width: 0.5}, wrn: *same}")
    assert (loaded.student["resnet"]["width"], loaded.student["wrn"]["width"]) == (0.5, 0.5)


# Refusals: one line each, with the line of the file, the key, the value, what is allowed and the nearest


BAD = [
    # a section of the smallest spec, what it says instead, the whole message with … for parts of tables
    ("name", "../up", "1: name: ../up: a folder's name: up to 100 letters, digits and . _ -, the first not a dot (nearest: up)"),
    ("train", "{epochs: 2, learning_rate: 0.1}", "6: train.learning_rate: 0.1: unknown; allowed: … (nearest: lr)"),
    ("train", "{epochs: 1e6}", "6: train.epochs: 1e6: a whole number of at least 1 (nearest: 1000000)"),
    ("train", "{epochs: 1e20}", "6: train.epochs: 1e20: a whole number of at least 1 (nearest: 100000000000000000000)"),
    ("train", "{epochs: 2, evaluate: epochs}", "6: train.evaluate: epochs: one of every_epoch, rungs (nearest: every_epoch)"),
    ("data", "cifar1O", "2: data: cifar1O: one of …, digits, … (nearest: cifar10)"),
    ("data", "{dataset: digits, validaton: 5}", "2: data.validaton: 5: unknown; allowed: dataset, root, validation, subset, resize, augment, unlabelled, seed (nearest: validation)"),
    ("data", "{dataset: digits, validation: 1.5}", "2: data.validation: 1.5: a count of at least 1, or a fraction between 0 and 1 (nearest: 2)"),
    ("data", "{dataset: digits, validation: -1}", "2: data.validation: -1: a number of at least 0 (nearest: 0)"),
    ("data", "{dataset: digits, augment: crop}", "2: data.augment: crop: a list of …, as in [a, b: {setting: value}]"),
    ("data", "{dataset: digits, augment: [crop, flap]}", "2: data.augment[1]: flap: unknown; allowed: crop, … (nearest: flip)"),
    ("data", "{dataset: digits, augment: [{crop: {padding: {type: int, low: 1, high: 2}}}]}", "2: data.augment[0].crop.padding: {...}: a whole number from 1 to 64 (nothing can be searched here)"),
    ("teacher", "{resnet: {depth: 21}}", "3: teacher.resnet.depth: 21: depth must be 6n+2 (8, 14, 20, ...): 21 is not; nearest: 20"),
    ("teacher", "{resnet: {depth: {type: int, low: 8, high: 20, step: 6}}}", "3: teacher.resnet.depth: {...}: a whole number from 8 to 1202 (nothing can be searched here)"),
    ("teacher", "{resnet: , wrn: }", "3: teacher: {...}: give one family or one checkpoint, here: resnet, wrn"),
    ("teacher", "{min_accuracy: 0.9}", "3: teacher: {...}: give one family or one checkpoint, here: neither"),
    ("teacher", "{resnet: {checkpoint: a.pt, train: {epochs: 3}}}", "3: teacher.resnet.train: {...}: give either train or checkpoint"),
    ("teacher", "{resnet: , train: {epochs: 3}}", "3: teacher.train: {...}: belongs below the family: teacher.<family>.train"),
    ("teacher", "{ensemble: {of: {a: {resnet: , train: {epochs: 3}}, b: wrn}}}", "3: teacher.ensemble.of.a.train: {...}: belongs below the family, as in resnet: {train: ...}"),
    ("teacher", "{resnet: {train: {schedule: step}}}", "3: teacher.resnet.train.milestones: schedule: step needs them, as in [150, 180, 210]"),
    ("teacher", "{resnet: {train: {epochs: 5, schedule: step, milestones: [3, 5]}}}", "3: teacher.resnet.train.milestones: [3, 5]: whole numbers from 1 to 4, increasing"),
    ("teacher", "{one_of: {big: resnet}}", "3: teacher.one_of: {...}: 2 or more, by names of your own, as in {a: ..., b: ...}"),
    ("teacher", "{one_of: {a/b: resnet, c: wrn}}", "3: teacher.one_of.a/b: resnet: a name: up to 40 letters, digits and . _ - (nearest: a-b)"),
    ("teacher", "{one_of: {a: resnet, b: {wrn: {depth: 15}}}}", "3: teacher.one_of.b.wrn.depth: 15: depth must be 6n+4 (…; nearest: 16"),
    ("teacher", "{one_of: {a: resnet, b: {one_of: {c: resnet, d: wrn}}}}", "3: teacher.one_of.b.one_of: {...}: unknown; allowed: checkpoint, min_accuracy, seed, …, torchvision/<name>"),
    ("teacher", "{ensembel: {of: {a: resnet, b: wrn}}}", "3: teacher.ensembel: {...}: unknown; allowed: checkpoint, min_accuracy, seed, …, torchvision/<name> (nearest: ensemble)"),
    ("teacher", "{ensemble: {of: {a: resnet}}}", "3: teacher.ensemble.of: {...}: 2 or more, by names of your own, as in {a: ..., b: ...}"),
    ("teacher", "{ensemble: {of: {a: resnet, b: resnet}}}", "3: teacher.ensemble.of.b: resnet: the same network as a: give it another seed"),
    ("teacher", "{ensemble: {of: {big: resnet, wide: wrn}, features_from: wid}}", "3: teacher.ensemble.features_from: wid: a member: big, wide (nearest: wide)"),
    ("teacher", "{ensemble: {of: {a: resnet, b: wrn}}, seed: 3}", "3: teacher.seed: 3: give each network of ensemble a seed of its own (nearest: 0)"),
    ("teacher", "{born_again: {resnet: , generations: 0}}", "3: teacher.born_again.generations: 0: a whole number of at least 1 (nearest: 1)"),
    ("teacher", "{born_again: {generations: 2, checkpoint: runs/t}}", "3: teacher.born_again.checkpoint: runs/t: born_again trains every generation: give a family and no checkpoint"),
    ("teacher", "{born_again: {generations: 2}}", "3: teacher.born_again: {...}: give one family, here: none"),
    ("teacher", "{born_again: {resnet: , generations: 3, temperature: [1, 2]}}", "3: teacher.born_again.temperature: [1.0, 2.0]: one number, or one for each of the 3 generations"),
    ("teacher", "{born_again: {resnet: , generations: 3, temperature: [1, hot]}}", "3: teacher.born_again.temperature: [1, hot]: a number, or a list of numbers, from 0.01 to 1000"),
    ("teacher", "{born_again: {resnet: , generations: 3, temperature: {type: float, low: 1, high: 4}}}", "3: teacher.born_again.temperature: {...}: a number, or a list of numbers, from 0.01 to 1000 (nothing can be searched here)"),
    ("teacher", "{born_again: {resnet: , generations: 3, use: first}}", "3: teacher.born_again.use: first: one of best, ensemble, last"),
    ("teacher", "{assistants: {torchvision/resnet18: }}", "3: teacher.assistants.torchvision/resnet18: assistants need a family that has a width"),
    ("teacher", "{assistants: {checkpoint: runs/t}}", "3: teacher.assistants.checkpoint: runs/t: assistants need the family: resnet: {checkpoint: ...}"),
    ("teacher", "{assistants: {resnet: , steps: {type: int, low: 0, high: 9}}}", "3: teacher.assistants.steps.high: 9: a whole number from 0 to 8 (nearest: 8)"),
    ("teacher", "{assistants: {resnet: , max_compression: 1}}", "3: teacher.assistants.max_compression: 1: a number from 1.5 to 1000000 (nearest: 1.5)"),
    ("teacher", "resnet56", "3: teacher: resnet56: unknown; allowed: checkpoint, min_accuracy, seed, …, torchvision/<name> (nearest: resnet)"),
    ("student", "resnt", "4: student: resnt: unknown; allowed: …, torchvision/<name> (nearest: resnet)"),
    ("student", "{torchvision/resnet19: }", "4: student.torchvision/resnet19: unknown; allowed: …, torchvision/<name> (nearest: torchvision/resnet18)"),
    ("student", "{}", "4: student: {...}: missing; allowed: …, torchvision/<name>"),
    ("student", "", "4: student: missing; allowed: …, torchvision/<name>"),
    ("student", "[resnet, wrn]", "4: student: [resnet, wrn]: a name, or a mapping with …, torchvision/<name>"),
    ("student", "{resnet: {depth: {type: categorical, choices: [8, 18]}}}", "4: student.resnet.depth: 18: depth must be 6n+2 (8, 14, 20, ...): 18 is not; nearest: 20"),
    ("student", "{resnet: {depth: {type: int, low: 8, high: 10}}}", "4: student.resnet.depth: 9: depth must be 6n+2 (8, 14, 20, ...): 9 is not; nearest: 8"),
    ("student", "{vgg: {depth: 12}}", "4: student.vgg.depth: 12: depth must be one of 8, 11, 13, 16, 19: 12 is not; nearest: 11"),
    ("student", "{vit: {dim: 64, heads: {type: categorical, choices: [4, 5]}}}", "4: student.vit.heads: 5: heads must divide dim: 5 does not divide 64; nearest: 4"),
    ("student", "{vit: {token: true}}", "4: student.vit.token: True: leave it out: the response method deit adds the token to its students"),
    ("teacher", "{vit: {token: true}}", "3: teacher.vit.token: True: leave it out: the response method deit adds the token to its students"),
    ("student", "{resnet: {width: {type: float, low: 0.25, high: 20}}}", "4: student.resnet.width.high: 20: a number from 0.01 to 16 (nearest: 16)"),
    ("student", "{resnet: {width: {type: float, low: 1, high: 0.5}}}", "4: student.resnet.width.high: 0.5: must not be below low, 1 (nearest: 1)"),
    ("student", "{resnet: {width: {type: float, low: 0.1, high: 1, step: 0.4}}}", "4: student.resnet.width.high: 1: must be low plus a multiple of step, 0.1 + n * 0.4 (nearest: 0.9)"),
    ("student", "{resnet: {width: {type: float, low: 0.1, high: 1, step: 0.1, log: true}}}", "4: student.resnet.width.step: 0.1: cannot stand beside log: leave one out"),
    ("student", "{resnet: {width: {type: float, low: 0.1, high: 1, step: 0}}}", "4: student.resnet.width.step: 0: must be above 0"),
    ("student", "{resnet: {width: {type: float, low: 0.1, hihg: 1}}}", "4: student.resnet.width.hihg: 1: unknown; allowed: type, low, high, step, log (nearest: high)\nspec.yaml:4: student.resnet.width.high: missing: a number from 0.01 to 16 (upper end, inclusive)"),
    ("student", "{resnet: {width: {type: int, low: 1, high: 2}}}", "4: student.resnet.width.type: int: a distribution here has type: float or categorical"),
    ("student", "{resnet: {width: {low: 1, high: 2}}}", "4: student.resnet.width.type: a distribution here has type: float or categorical"),
    ("student", "{resnet: {width: {type: categorical, choices: []}}}", "4: student.resnet.width.choices: []: a list of at least 1"),
    ("student", "{resnet: {width: {type: categorical, choices: [1, wide, 1.0]}}}", "4: student.resnet.width.choices[1]: wide: a number from 0.01 to 16\nspec.yaml:4: student.resnet.width.choices[2]: 1.0: a choice can stand once"),
    ("student", "{resnet: {width: [0.5, 1]}}", "4: student.resnet.width: [0.5, 1]: a number from 0.01 to 16; to search, {type: categorical, choices: [0.5, 1]}"),
    ("student", "{resnet: {width: '0.5'}}", "4: student.resnet.width: 0.5: a number from 0.01 to 16 (nearest: 0.5)"),
    ("student", "{torchvision/vgg11: {pretrained: no}}", "4: student.torchvision/vgg11.pretrained: no: true or false (nearest: false)"),
    ("distill", "{response: fitnet}", "5: distill.response: fitnet: fitnet belongs in distill.feature"),
    ("distill", "{response: dkk}", "5: distill.response: dkk: unknown; allowed: none, … (nearest: dkd)"),
    ("distill", "{response: }", "5: distill.response: missing; allowed: none, …"),
    ("distill", "{temperature: {type: float, low: 0, high: 9, log: true}}", "5: distill.temperature.low: 0: a number from 0.01 to 1000 (nearest: 0.01)"),
    ("distill", "{alpha: {type: float, low: 0, high: 1, log: true}}", "5: distill.alpha.low: 0: must be above 0 where log is true"),
    ("distill", "{response: kd, alpha: 2}", "5: distill.alpha: 2: at most 1, or give label_weight: kd weighs the labels by 1 - alpha"),
    ("data", "{dataset: digits, unlabelled: rest}", "2: data.unlabelled: rest: rest is what subset leaves out: give data.subset"),
    ("data", "{dataset: digits, subset: 100, unlabelled: digits}", "2: data.unlabelled: digits: these images have labels here; the ones that subset leaves out are rest (nearest: rest)"),
    ("data", "{dataset: digits, unlabelled: {dataset: digits, root: elsewhere}}", "2: data.unlabelled: {...}: these images have labels here; the ones that subset leaves out are rest (nearest: rest)"),
    ("data", "{dataset: image_folder, root: birds, unlabelled: {folder: ./birds}}", "2: data.unlabelled.folder: ./birds: a folder without data.root's own train, validation (val) and test in it"),
    ("data", "{dataset: image_folder, root: birds, unlabelled: {folder: birds/val/robin}}", "2: data.unlabelled.folder: birds/val/robin: a folder without data.root's own train, validation (val) and test in it"),
    ("data", "{dataset: digits, unlabelled: {ratio: 2}}", "2: data.unlabelled: {...}: give a dataset (rest: the images that subset leaves out) or a folder"),
    ("data", "{dataset: digits, unlabelled: {dataset: cifar10, folder: more}}", "2: data.unlabelled: {...}: give either a dataset or a folder"),
    ("data", "{dataset: digits, unlabelled: cifar}", "2: data.unlabelled: cifar: one of rest, cifar10, cifar100, digits, fashion_mnist (nearest: cifar10)"),
    ("data", "{dataset: digits, unlabelled: {dataset: cifar10, share: 2}}", "2: data.unlabelled.share: 2: a number from 0.0001 to 1 (nearest: 1)"),
    ("distill", "{response: kd, schedule: linaer}", "5: distill.schedule: linaer: unknown; allowed: constant, cosine, linear, progressive, warmup (nearest: linear)"),
    ("distill", "{response: kd, schedule: {linear: {temperature: 1}}}", "5: distill.schedule.linear.temperature: 1: unknown; allowed: alpha_to, temperature_to, weights_to (nearest: temperature_to)"),
    ("distill", "{response: kd, schedule: cosine}", "5: distill.schedule.cosine: moves nothing: give one or more of alpha_to, temperature_to, weights_to"),
    ("distill", "{response: kd, schedule: {linear: {alpha_to: 1.5}}}", "5: distill.schedule.linear.alpha_to: 1.5: at most 1, or give label_weight: kd weighs the labels by 1 - alpha"),
    ("distill", "{response: kd, schedule: {progressive: {alpha_from: {type: float, low: 0.1, high: 2}}}}", "5: distill.schedule.progressive.alpha_from: {...}: at most 1, or give label_weight: kd weighs the labels by 1 - alpha"),
    ("distill", "{response: kd, schedule: {linear: {weights_to: 0}}}", "5: distill.schedule.linear: {...}: needs a term beside the response in distill, here there is none"),
    ("distill", "{relation: rkd, schedule: {linear: {temperature_to: 1, weights_to: 0}}}", "5: distill.schedule.linear.temperature_to: 1: needs a response in distill, here there is none"),
    ("distill", "{relation: rkd, schedule: progressive}", "5: distill.schedule.progressive: needs a response in distill, here there is none"),
    ("distill", "{schedule: warmup}", "5: distill.schedule.warmup: needs a method in distill, here there is none"),
    ("distill", "{curriculum: confidence}", "5: distill.curriculum: confidence: goes by the teacher's confidence and needs a method in distill, here there is none (nearest: none)"),
    ("distill", "{response: kd, curriculum: confident}", "5: distill.curriculum: confident: unknown; allowed: confidence, none (nearest: confidence)"),
    ("distill", "{response: kd, curriculum: {confidence: {start: 0}}}", "5: distill.curriculum.confidence.start: 0: a number from 0.01 to 1 (nearest: 0.01)"),
    ("distill", "{feature: {fitnet: {layer_map: stage4>stage3}}}", "5: distill.feature.fitnet.layer_map: stage4>stage3: the student has no stage4, it has stage1 to stage3; nearest: stage3 (student resnet)"),
    ("distill", "{feature: {fitnet: {layer_map: 'stage1>stage3,stage2>stage1'}}}", "5: distill.feature.fitnet.layer_map: stage1>stage3,stage2>stage1: stage1>stage3 and stage2>stage1 cross: a later stage of the student cannot meet an earlier one of the teacher (student resnet)"),
    ("distill", "{feature: {fitnet: {layer_map: {type: categorical, choices: [last, lsat]}}}}", "5: distill.feature.fitnet.layer_map: lsat: 'lsat' is not a pair of stages: write student>teacher, as in stage1>stage2,stage3>stage3, or one of all, last, one_to_one, searched, skip, uniform; nearest: last (student resnet)"),
    ("distill", "{feature: {fitnet: {layer_map: serached}}}", "5: distill.feature.fitnet.layer_map: serached: … one_to_one, searched, skip, uniform; nearest: searched (student resnet)"),
    ("distill", "{relation: {rkd: {layer_map: embeding}}}", "5: distill.relation.rkd.layer_map: embeding: … or one of all, embedding, last, …, uniform; nearest: embedding (student resnet)"),
    ("train", "{epochs: 10, optimiser: sgd}", "6: train.optimiser: sgd: unknown; allowed: epochs, … (nearest: optimizer)"),
    ("train", "{lr: 0.1}", "6: train.epochs: missing: a whole number of at least 1 (passes over the training split; the full budget of a trial)"),
    ("train", "{epochs: {type: int, low: 1, high: 9}}", "6: train.epochs: {...}: a whole number of at least 1 (nothing can be searched here)"),
    ("train", "{epochs: 10, warmup_epochs: {type: int, low: 0, high: 10}}", "6: train.warmup_epochs: {...}: must be below epochs, 10 (nearest: 9)"),
    ("train", "{epochs: 10, milestones: [3]}", "6: train.milestones: [3]: only schedule: step has milestones"),
    ("train", "{epochs: 10, schedule: step, milestones: [4, 3]}", "3: teacher.resnet.train.milestones: [4, 3]: whole numbers from 1 to 4, increasing\nspec.yaml:6: train.milestones: [4, 3]: whole numbers from 1 to 9, increasing"),
    ("train", "{epochs: 10, lr: 1_000}", "6: train.lr: 1_000: a number from 1e-08 to 100 (nearest: 100)"),
    ("train", "{epochs: 10, lr: .nan}", "6: train.lr: .nan: a number from 1e-08 to 100"),
    ("train", "{epochs: 1e1}", "6: train.epochs: 1e1: a whole number of at least 1 (nearest: 10)"),
    ("search", "{trials: 0}", "7: search.trials: 0: a whole number of at least 1 (nearest: 1)"),
    ("search", "{trials: 4, objectives: [val_accuracy]}", "7: search.objectives: [val_accuracy]: val_accuracy first, then one or more of macs, params, size_mb, each once (nearest: [val_accuracy, params])"),
    ("search", "{trials: 4, objectives: [parms, val_accuracy]}", "7: search.objectives: [parms, val_accuracy]: val_accuracy first, then one or more of macs, params, size_mb, each once"),
    ("search", "{trials: 4, device_s: 0}", "7: search.device_s: 0: a number of at least 1 (nearest: 1)"),
    ("search", "{trials: 4, hypervolume: 1.5}", "7: search.hypervolume: 1.5: a number from 0.001 to 1 (nearest: 1)"),
    ("search", "{trials: 4, patience: 0.5}", "7: search.patience: 0.5: a whole number of at least 1 (nearest: 1)"),
    ("search", "{trials: 4, early_stopping: {scheduler: paretto}}", "7: search.early_stopping.scheduler: paretto: one of asha, none, pareto (nearest: pareto)"),
    ("search", "{trials: 4, early_stopping: {scheduler: pareto, grace_epochs: 10}}", "7: search.early_stopping.grace_epochs: 10: must be below train.epochs, 10 (nearest: 9)"),
    ("search", "{trials: 4, early_stopping: {grace_epochs: 10}}", "7: search.early_stopping.grace_epochs: 10: must be below train.epochs, 10 (nearest: 9)"),
    ("search", "{trials: 4, warm_start: reports/a}", "7: search.warm_start: reports/a: a list"),
    ("search", "{trials: 4, warm_start: [7]}", "7: search.warm_start[0]: 7: the folder of a sweep, as in reports/cifar100"),
    ("search", "{sampler: grid, warm_start: [a]}", "7: search.warm_start: ['a']: goes with sampler ehvi or tpe; grid lists what it runs"),
    ("search", "{}", "7: search.trials: missing: how many trials ehvi proposes, a whole number; …"),
    ("search", "{trials: 4, seeds: 3}", "7: search.seeds: 3: 1 with sampler ehvi, whose trials all differ: give sampler: grid or one_at_a_time (nearest: 1)"),
    ("search", "{sampler: gird}", "7: search.sampler: gird: one of ehvi, grid, one_at_a_time, tpe (nearest: grid)"),
    ("search", "{sampler: grid, early_stopping: asha}", "7: search.early_stopping: asha: none with sampler grid: it compares trials of equal budget (nearest: none)"),
    ("search", "{trials: 4, early_stopping: {scheduler: asha, grace_epochs: 10}}", "7: search.early_stopping.grace_epochs: 10: must be below train.epochs, 10 (nearest: 9)"),
    ("search", "{trials: 4, early_stopping: {scheduler: asha, reduction_factor: 1}}", "7: search.early_stopping.reduction_factor: 1: a whole number of at least 2 (nearest: 2)"),
    ("resources", "{gpus_per_trial: 2}", "8: resources.gpus_per_trial: 2: a number from 0 to 1 (nearest: 1)"),
    ("resources", "{cpus_per_trial: 0}", "8: resources.cpus_per_trial: 0: above 0, or give gpus_per_trial (nearest: 1)"),
    ("resources", "{gpus: 1}", "8: resources.gpus: 1: unknown; allowed: cpus_per_trial, gpus_per_trial, max_concurrent, cache_gb (nearest: gpus_per_trial)"),
    ("confirm", "{seeds: -1}", "8: confirm.seeds: -1: a whole number of at least 0 (nearest: 0)"),
    ("report", "{}", "8: report: {...}: unknown; allowed: name, data, teacher, student, distill, train, search, confirm, resources"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "value", "message"), BAD, ids=lambda text: text[:60])
def test_a_bad_spec_is_refused_in_words(refusal, section, value, message):
    pattern = ".*".join(map(re.escape, message.split("…")))
    assert re.fullmatch(f"spec.yaml:{pattern}", refusal(**{section: value}))


def test_a_method_of_maps_is_refused_where_a_network_has_none(refusal):
    message = refusal(
        student="{mlp: , resnet: }",
        teacher="mlp",
        distill="{feature: {at: {layer_map: last}}, relation: rkd}",
    )
    at = "distill.feature.at: {...}: at compares maps of more than one pixel"
    families = "mobilenetv2, resnet, shufflenetv2, vgg, vit, wrn, torchvision/<name>"
    without = "not to be had from student mlp and teacher mlp"
    assert message == f"spec.yaml:5: {at}, {without}; families with them: {families}"


def test_every_problem_is_found_at_once_in_the_order_of_the_file(refusal):
    text = """\
name: demo
data: {dataset: digits, rot: data, validation: 1.5}
teacher: {resnet: {depth: 57, width: wide}}
student:
  resnt: {depth: 8}
  resnet: {depth: {type: categorical, choices: [8, 18]}}
  resnet: {depth: 8}
distill:
  response: at
  alpha: [0.1, 0.5]
  feature: {fitnet: {weight: 1e9, layer_map: lats}}
  relation: !!python/object:os.system x
train: {epochs: 3, optimizer: sdg, nesterov: yes, warmup_epochs: 3}
search: {trials: 0, objectives: [val_accuracy, parms]}
"""
    expected = [
        "2: data.rot:",
        "2: data.validation:",
        "3: teacher.resnet.width:",
        "3: teacher.resnet.depth:",
        "5: student.resnt:",
        "6: student.resnet.depth:",
        "7: student.resnet: a key can stand once: see also line 6",
        "9: distill.response:",
        "10: distill.alpha:",
        "11: distill.feature.fitnet.weight:",
        "11: distill.feature.fitnet.layer_map:",
        "12: distill.relation: tag:yaml.org,2002:python/object:os.system: tags are not allowed",
        "12: distill.relation: x: unknown",
        "13: train.optimizer:",
        "13: train.nesterov:",
        "13: train.warmup_epochs:",
        "14: search.trials:",
        "14: search.objectives:",
    ]
    pattern = "\\n".join(f"spec.yaml:{re.escape(start)}.*" for start in expected)
    assert re.fullmatch(pattern, refusal(text))


def test_a_listing_sampler_refuses_every_continuous_dimension_where_it_stands(refusal):
    text = """\
name: demo
data: digits
teacher: resnet
student: {resnet: {width: {type: float, low: 0.25, high: 1.0, step: 0.25}}}
distill:
  temperature: {type: float, low: 1, high: 16, log: true}
  response: kd
  feature: {none: , fitnet: {weight: {type: float, low: 1, high: 100}}}
train: {epochs: 3, lr: {type: float, low: 0.1, high: 0.1}}
search: {sampler: grid, seeds: 3}
"""
    allowed = "continuous, and sampler grid lists every value: give it a step, or {type: categorical, choices: [...]}"
    assert refusal(text).splitlines() == [
        f"spec.yaml:6: distill.temperature: {{...}}: {allowed}",
        f"spec.yaml:8: distill.feature.fitnet.weight: {{...}}: {allowed}",
    ]


@pytest.mark.parametrize("sampler", ["grid", "one_at_a_time"])
def test_a_listing_sampler_refuses_searched_weights_of_an_ensemble_where_they_stand(refusal, sampler):
    text = f"""\
name: demo
data: digits
teacher:
  one_of:
    pair:
      ensemble:
        of: {{a: resnet, b: wrn}}
        weights: searched
    single: resnet
student: resnet
distill: {{response: kd}}
train: {{epochs: 3}}
search: {{sampler: {sampler}}}
"""
    allowed = f"equal with sampler {sampler}, which lists every value: these are continuous (nearest: equal)"
    assert refusal(text) == f"spec.yaml:8: teacher.one_of.pair.ensemble.weights: searched: {allowed}"


def test_an_alpha_above_1_is_refused_where_it_stands(refusal):
    distill = "{response: {kd: {alpha: 2}, dkd: {alpha: 2}}, alpha: 3}"
    allowed = "at most 1, or give label_weight: kd weighs the labels by 1 - alpha"
    assert refusal(distill=distill) == f"spec.yaml:5: distill.response.kd.alpha: 2: {allowed}"


def test_a_listing_sampler_needs_no_number_of_trials(load):
    search = load(search="{sampler: one_at_a_time, seeds: 3}").search
    assert (search.sampler, search.seeds, search.trials) == ("one_at_a_time", 3, None)


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_an_empty_file_lacks_every_required_key(refusal, text):
    keys = {"name", "data.dataset", "teacher", "student", "train.epochs", "search.trials"}
    assert {line.split(": ")[1] for line in refusal(text).splitlines()} == keys


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\ntrain: {epochs: 1\n", "spec.yaml:3: broken YAML: while parsing a flow mapping, expected"),
        (
            "name: x\n\ttrain: 3\n",
            "spec.yaml:2: broken YAML: while scanning for the next token, found character",
        ),
        (
            "name: 'x\n",
            "spec.yaml:2: broken YAML: while scanning a quoted scalar, found unexpected end of stream",
        ),
        ("name: x\nname: y\n---\nname: z\n", "spec.yaml:3: broken YAML: expected a single document"),
        ("a: *b\n", "spec.yaml:1: broken YAML: found undefined alias 'b'"),
        ("name: \0\n", "spec.yaml:1: broken YAML: character #x0000 is not allowed"),
        ("a: &b [*b]\n", "spec.yaml:1: nested deeper than 32 levels (an alias inside its own anchor?)"),
        ("[" * 5000, "spec.yaml:1: broken YAML: nested deeper than 32 levels"),
        ("? [a]\n: b\n", "spec.yaml:1: a key must be a word"),
        ("- name\n", "spec.yaml:1: a mapping with name, data, teacher, student"),
        ("resnet\n", "spec.yaml:1: a mapping with name, data, teacher, student"),
    ],
)
def test_bad_yaml_is_refused_with_its_line(refusal, text, message):
    assert refusal(text).startswith(message)


def test_tabs_are_named_as_the_reason(refusal):
    assert refusal("name: x\n\ttrain: 3\n").endswith("indent with spaces, not tabs")


def test_aliases_of_aliases_are_stopped(refusal):
    doubling = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    assert "more than 10000 values (aliases of aliases?)" in refusal(f"a0: &a0 [x]\n{doubling}")


def test_a_missing_file_is_refused_with_the_nearest(tmp_path):
    (tmp_path / "cifar100.yaml").touch()
    with pytest.raises(SpecError, match=r"cifar1000.yaml: there is no such file \(nearest: cifar100.yaml\)"):
        spec.load(tmp_path / "cifar1000.yaml")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(SpecError, match="this is a folder: name a YAML file"):
        spec.load(tmp_path)


def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: x\n# Zürich\n".encode("latin-1"))
    with pytest.raises(SpecError, match=r"latin.yaml:2: byte 0xfc is not UTF-8"):
        spec.load(tmp_path / "latin.yaml")


def test_a_huge_file_is_refused(tmp_path):
    (tmp_path / "huge.yaml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(SpecError, match="this is not a spec"):
        spec.load(tmp_path / "huge.yaml")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([*WORDS, "stage1>stage1", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_a_key_is_set_to_the_answer_is_a_spec_or_a_spec_error(data):
    changed = _values(read_text(EXAMPLE, "")[0])
    holder, key = changed, data.draw(st.sampled_from(sorted(changed)))
    while isinstance(holder[key], dict) and holder[key] and data.draw(st.booleans()):
        holder = holder[key]
        key = data.draw(st.sampled_from(sorted(holder)))
    holder[key] = data.draw(ANYTHING)
    with contextlib.suppress(SpecError):
        loaded = spec.from_dict(changed)
        assert spec.from_dict(spec.to_dict(loaded)) == loaded


# Overrides


def test_an_override_is_a_yaml_value_at_a_dotted_key(load):
    loaded = load(
        EXAMPLE,
        [
            "student.resnet.width=0.5",
            "train.lr={type: float, low: 1e-3, high: 1e-1, log: true}",
            "search.objectives=[val_accuracy, macs]",
            "distill.feature.fitnet.weight.high=500",
            "search.time_s=60",
            "distill.relation.rkd.weight=2",
            "teacher={checkpoint: runs/teacher}",
        ],
    )
    assert loaded.student["resnet"]["width"] == 0.5
    assert loaded.train["lr"] == Float(1e-3, 1e-1, log=True)
    assert loaded.search.objectives == ("val_accuracy", "macs")
    assert loaded.distill.slots["feature"]["fitnet"]["weight"] == Float(1.0, 500.0, log=True)
    assert loaded.search.time_s == 60.0
    assert loaded.distill.slots["relation"]["rkd"]["weight"] == 2.0
    assert loaded.teacher.checkpoint == "runs/teacher"


def test_the_last_of_equal_overrides_counts(load):
    assert load(overrides=["search.trials=5", "search.trials=6"]).search.trials == 6


def test_an_override_may_say_what_the_file_lacks(load):
    assert load(overrides=["confirm.seeds=2"]).confirm.seeds == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("search.trials=0", "search.trials: 0: a whole number of at least 1 (nearest: 1)"),
        ("serach.trials=5", "serach: {...}: unknown; allowed: … (nearest: search)"),
        ("student.resnet.depth=18", "student.resnet.depth: 18: depth must be 6n+2 (8, 14, 20, ...): 18 is not; nearest: 20"),
        ("train.lr.low=0.1", "train.lr.type: a distribution here has type: float or categorical"),
        ("train.epochs=", "train.epochs: null: a whole number of at least 1"),
        ("train.epochs", "write key=value, as in --set search.trials=50"),
        ("train..epochs=3", "write key=value, as in --set search.trials=50"),
        ("train.lr=[1", "broken YAML: …"),
        ("train.lr=!!int 3", "train.lr: tag:yaml.org,2002:int: tags are not allowed: …"),
    ],
)  # fmt: skip
def test_a_bad_override_is_named_in_place_of_a_line(refusal, setting, message):
    pattern = ".*".join(map(re.escape, message.split("…")))
    assert re.fullmatch(f"--set {re.escape(setting)}: {pattern}", refusal(overrides=[setting]))


def test_an_override_inside_a_list_is_refused(refusal):
    message = refusal(data="{dataset: digits, augment: [crop]}", overrides=["data.augment.crop.padding=2"])
    where = "--set data.augment.crop.padding=2: data.augment"
    assert message == f"{where}: this is a list: set it as a whole, as [a, b]"


def test_problems_of_the_file_come_before_those_of_overrides(refusal):
    lines = refusal(overrides=["name=.."], train="{}").splitlines()
    assert [line.split(": ")[0] for line in lines] == ["spec.yaml:6", "--set name=.."]


# Teachers from checkpoints, whose stages are known only once they are loaded


def test_maps_wait_for_the_teacher_that_a_checkpoint_brings(load):
    loaded = load(teacher="{checkpoint: runs/t}", distill="{feature: {fitnet: {layer_map: stage3>stage4}}}")
    assert spec.num_teacher_stages(loaded) is None
    spec.check_layer_maps(loaded, 4)
    with pytest.raises(
        SpecError, match=r"distill.feature.fitnet.layer_map: stage3>stage4: the teacher has no stage4"
    ):
        spec.check_layer_maps(loaded, 3)


def test_maps_must_fit_every_student_that_can_be_reached(refusal):
    students = "{resnet: , mlp: {depth: {type: int, low: 1, high: 4}}}"
    message = refusal(student=students, distill="{feature: {fitnet: {layer_map: stage2>stage2}}}")
    assert "the student has no stage2, it has stage1; nearest: stage1 (student mlp)" in message


# What can be reached


@pytest.mark.parametrize(
    ("dimension", "values"),
    [
        (3, [3]),
        (None, [None]),
        (Categorical(("a", "b")), ["a", "b"]),
        (Int(1, 7, step=3), [1, 4, 7]),
        (Int(1, 1000), [1, 1000]),
        (Float(0.1, 0.3, step=0.1), [0.1, 0.2, 0.3]),
        (Float(0.5, 2.0), [0.5, 2.0]),
    ],
)
def test_reachable_values(dimension, values):
    assert reachable(dimension) == values


def test_option_sets_are_all_combinations_where_there_are_few():
    sets = list(option_sets({"a": Int(1, 2), "b": Categorical(("x", "y"))}))
    assert sets == [{"a": a, "b": b} for a in (1, 2) for b in ("x", "y")]


def test_option_sets_reach_every_value_where_there_are_many():
    sets = list(option_sets({name: Int(1, 20) for name in "abcd"}))
    assert len(sets) == 80
    assert all({options[name] for options in sets} == set(range(1, 21)) for name in "abcd")


# The JSON Schema


@pytest.fixture(scope="module")
def validator():
    schema = spec.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("text", SPEC_TEXTS, ids=lambda text: re.search("name: (\\S+)", text)[1])
def test_a_good_spec_and_its_resolved_form_fit_the_schema(load, validator, text):
    root, _ = read_text(text, "spec.yaml")
    validator.validate(_values(root))
    validator.validate(spec.to_dict(load(text)))


@pytest.mark.parametrize(
    "change",
    [
        {"name": None},
        {"data": {"dataset": "cifar1000"}},
        {"data": {"dataset": "digits", "image_size": 3}},
        {"data": {"dataset": "digits", "augment": ["flap"]}},
        {"teacher": {"resnet": {"depth": {"type": "int", "low": 8, "high": 20}}}},
        {"student": {}},
        {"student": {"resnt": None}},
        {"student": {"resnet": {"width": 20}}},
        {"student": {"resnet": {"width": {"type": "float", "low": 1}}}},
        {"student": {"resnet": {"width": {"type": "float", "low": 1, "high": 2, "base": 2}}}},
        {"student": {"resnet": {"width": {"type": "categorical", "choices": []}}}},
        {"distill": {"response": "fitnet"}},
        {"train": {}},
        {"train": {"epochs": 1, "optimizer": "sdg"}},
        {"search": {"trials": 0}},
        {"search": {"trials": 3, "early_stopping": "paretto"}},
        {"report": {}},
    ],
    ids=str,
)
def test_typical_errors_do_not_fit_the_schema(validator, change):
    good = {"name": "x", "data": "digits", "teacher": "resnet", "student": "resnet", "train": {"epochs": 1}}
    good |= {"search": {"trials": 1}}
    assert validator.is_valid(good)
    assert not validator.is_valid(good | change)


def test_the_schema_for_editors_is_up_to_date(capsys):
    spec.main(["--schema"])
    written = (SEARCH_SPACES / "schema.json").read_text(encoding="utf-8")
    assert written == capsys.readouterr().out, "python -m kdsearch.spec --schema > search_spaces/schema.json"


def _values(node):
    if isinstance(node.value, dict):
        return {name: _values(item) for name, item in node.value.items()}
    return [_values(item) for item in node.value] if isinstance(node.value, list) else node.value
