"""The search space: what is asked of Optuna under which name, and what becomes of the answers."""

from pathlib import Path

import optuna
import pytest
from test_spec import EXAMPLE

from kdsearch import layer_map, listing, space, spec
from kdsearch.models import family
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.spec import TRAIN_OPTIONS, Categorical, Float, Int

optuna.logging.set_verbosity(optuna.logging.WARNING)
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SMALL = {
    "name": "small",
    "data": "digits",
    "teacher": "resnet",
    "student": "resnet",
    "train": {"epochs": 10, "lr": 0.1},
    "search": {"trials": 10},
}


def small(**sections):
    return spec.from_dict({**SMALL, **sections})


def suggest(loaded, seed=0, **params):
    """The configuration of fixed answers, which must be exactly those asked for."""
    trial = optuna.trial.FixedTrial({name.replace("__", "."): value for name, value in params.items()})
    config = space.suggest(trial, loaded, 3, seed)
    assert set(trial.params) == {name.replace("__", ".") for name in params}
    return config


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "example.yaml"
    path.write_text(EXAMPLE)
    return spec.load(path)


def study(loaded, seed, num_trials=50):
    """Trials of a real study: (what was asked, what became of it)."""
    sampler = optuna.samplers.TPESampler(multivariate=True, group=True, seed=seed)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    asked = []
    for number in range(num_trials):
        trial = study.ask()
        config = space.suggest(trial, loaded, 3, seed=number)
        study.tell(trial, [config.train.lr, config.student.options["width"]])
        asked.append((dict(trial.params), config))
    return asked


@pytest.fixture(scope="module")
def fifty(example):
    return study(example, seed=0)


@pytest.mark.parametrize(
    ("method", "alpha", "temperature"),
    [
        ("ctkd", 1.0, 4.0),
        ("deit", 0.5, 4.0),
        ("dist", 1.0, 4.0),
        ("dkd", 1.0, 4.0),
        ("kd", 0.9, 4.0),
        ("logit_std", 1.0, 2.0),
        ("logit_std_dkd", 1.0, 2.0),
        ("mlkd", 1.0, 4.0),
        ("pseudo_label", 0.5, 4.0),
        ("wsl", 1.0, 4.0),
    ],
)
def test_where_the_spec_says_nothing_a_response_method_has_its_papers_numbers(method, alpha, temperature):
    config = suggest(small(distill={"response": method}))
    assert (config.alpha, config.temperature) == (alpha, temperature)
    given = suggest(small(distill={"response": method, "alpha": 0.3, "temperature": 7}))
    assert (given.alpha, given.temperature) == (0.3, 7)
    own = suggest(small(distill={"response": {method: {"alpha": 0.3, "temperature": 7}}}))
    assert (own.alpha, own.temperature) == (0.3, 7)


def test_a_spec_without_dimensions_asks_nothing():
    config = suggest(small(distill={"response": "kd", "alpha": 0.5}), seed=7)
    assert config == TrialConfig(
        student=Choice("resnet", {"depth": 20, "stem_ratio": 1.0, "width": 1.0}),
        train=TrainConfig(epochs=10, lr=0.1),
        distill={"response": Choice("kd")},
        alpha=0.5,
        temperature=4.0,
        seed=7,
    )


def test_names_hold_the_choices_above_them(example):
    config = suggest(
        example,
        student="resnet",
        student__resnet__depth=14,
        student__resnet__width=0.5,
        distill__feature="fitnet",
        distill__feature__fitnet__weight=10.0,
        distill__feature__fitnet__layer_map="last",
        distill__alpha=0.9,
        distill__temperature=4.0,
        train__lr=0.1,
    )
    assert config.student == Choice("resnet", {"depth": 14, "stem_ratio": 1.0, "width": 0.5})
    assert config.distill == {
        "response": Choice("kd"),
        "feature": Choice("fitnet", {"weight": 10.0, "layer_map": "stage3>stage3"}),
    }
    assert (config.alpha, config.temperature, config.label_weight) == (0.9, 4.0, None)


def test_a_searched_map_asks_for_one_partner_of_each_stage_of_the_student():
    loaded = small(student="mobilenetv2", distill={"feature": {"fitnet": {"layer_map": "searched"}}})
    prefix = "distill__feature__fitnet__layer_map__4x3__stage"
    config = suggest(loaded, **{f"{prefix}1": 2, f"{prefix}2": 1, f"{prefix}3": 0, f"{prefix}4": 3})
    assert config.distill["feature"].options["layer_map"] == "stage1>stage2,stage2>stage2,stage4>stage3"


@pytest.mark.parametrize("text", ["stage3>stage3, stage1>stage1", "skip", "stage1>stage1,stage3>stage3"])
def test_equal_sets_of_pairs_are_one_map(text):
    config = suggest(small(distill={"relation": {"sp": {"layer_map": text}}}))
    assert config.distill["relation"].options["layer_map"] == "stage1>stage1,stage3>stage3"


def test_without_a_response_there_is_neither_alpha_nor_temperature():
    alpha = {"type": "float", "low": 0.1, "high": 0.9}
    config = suggest(small(distill={"alpha": alpha, "relation": "rkd", "label_weight": 0.5}))
    assert (config.alpha, config.temperature, config.label_weight) == (None, None, 0.5)


SCHEDULES = {
    "constant": {},
    "linear": {
        "alpha_to": 1.0,
        "temperature_to": {"type": "float", "low": 1, "high": 4},
        "weights_to": {"type": "float", "low": 0, "high": 2},
    },
    "progressive": {},
}


def test_a_schedule_is_a_choice_with_its_own_options():
    loaded = small(distill={"response": "kd", "relation": "rkd", "schedule": SCHEDULES})
    config = suggest(
        loaded,
        distill__schedule="linear",
        distill__schedule__linear__temperature_to=2.0,
        distill__schedule__linear__weights_to=0.5,
    )
    assert config.schedule == Choice("linear", {"alpha_to": 1.0, "temperature_to": 2.0, "weights_to": 0.5})
    assert suggest(loaded, distill__schedule="constant").schedule == Choice("constant")


def test_a_schedule_asks_only_for_what_the_trial_has():
    loaded = small(
        distill={
            "response": {"none": {}, "kd": {}},
            "relation": {"none": {}, "rkd": {}},
            "schedule": SCHEDULES,
        }
    )
    relation = suggest(
        loaded,
        distill__response="none",
        distill__relation="rkd",
        distill__schedule="linear",
        distill__schedule__linear__weights_to=0.5,
    )
    response = suggest(
        loaded,
        distill__response="kd",
        distill__relation="none",
        distill__schedule="linear",
        distill__schedule__linear__temperature_to=2.0,
    )
    assert relation.schedule == Choice("linear", {"weights_to": 0.5})
    assert response.schedule == Choice("linear", {"alpha_to": 1.0, "temperature_to": 2.0})
    assert suggest(loaded, distill__response="none", distill__relation="none").schedule == Choice("constant")


def test_a_schedule_that_moves_nothing_of_the_trial_is_constant():
    loaded = small(distill={"response": {"none": {}, "kd": {}}, "relation": "rkd", "schedule": "progressive"})
    assert suggest(loaded, distill__response="none").schedule == Choice("constant")


def test_a_progressive_temperature_takes_the_place_of_the_trials():
    temperature = {"type": "float", "low": 1, "high": 4}
    config = suggest(small(distill={"response": "kd", "temperature": temperature, "schedule": "progressive"}))
    assert config.temperature == config.schedule.options["temperature_from"] == 10.0


def test_a_curriculum_is_a_choice_of_trials_that_distil():
    start = {"type": "float", "low": 0.2, "high": 0.8}
    loaded = small(
        distill={
            "response": {"none": {}, "kd": {}},
            "curriculum": {"none": {}, "confidence": {"start": start}},
        }
    )
    config = suggest(
        loaded,
        distill__response="kd",
        distill__curriculum="confidence",
        distill__curriculum__confidence__start=0.3,
    )
    options = {"start": 0.3, "share": 0.5, "order": "easy_to_hard"}
    assert config.curriculum == Choice("confidence", options)
    assert config.flat()["distill.curriculum.start"] == 0.3
    assert TrialConfig.from_json(config.to_json()) == config
    assert suggest(loaded, distill__response="none").curriculum == Choice("none")


def test_a_control_has_neither_schedule_nor_curriculum():
    loaded = small(distill={"response": "kd", "schedule": "progressive", "curriculum": "confidence"})
    config = space.control(loaded, Choice("resnet"), seed=0)
    assert (config.schedule, config.curriculum) == (Choice("constant"), Choice("none"))


def test_a_response_method_may_have_its_own_alpha_and_temperature():
    lows = {"type": "float", "low": 0.1, "high": 0.5}
    responses = {"kd": {"alpha": lows, "temperature": 2}, "dkd": {"alpha": 1.0}}
    loaded = small(distill={"response": responses, "alpha": 0.9, "temperature": {**lows, "low": 0.2}})
    kd = suggest(loaded, distill__response="kd", distill__response__kd__alpha=0.3)
    dkd = suggest(loaded, distill__response="dkd", distill__temperature=0.4)
    assert (kd.alpha, kd.temperature) == (0.3, 2.0)
    assert (dkd.alpha, dkd.temperature) == (1.0, 0.4)
    assert not {"alpha", "temperature"} & (
        kd.distill["response"].options.keys() | dkd.distill["response"].options
    )


def test_without_distillation_there_is_no_label_weight():
    assert suggest(small(distill={"label_weight": 0.5})).label_weight is None


def test_what_the_optimizer_or_schedule_does_not_use_is_not_asked_for():
    train = {
        "epochs": 10,
        "optimizer": {"type": "categorical", "choices": ["sgd", "adamw"]},
        "momentum": {"type": "float", "low": 0.5, "high": 0.95},
        "schedule": {"type": "categorical", "choices": ["cosine", "step"]},
        "milestones": [5],
        "gamma": {"type": "float", "low": 0.1, "high": 0.5},
    }
    loaded = small(train=train)
    sgd = suggest(loaded, train__optimizer="sgd", train__momentum=0.8, train__schedule="cosine").train
    step = suggest(loaded, train__optimizer="adamw", train__schedule="step", train__gamma=0.3).train
    assert (sgd.momentum, sgd.milestones, sgd.gamma) == (0.8, (), 0.1)
    assert (step.momentum, step.milestones, step.gamma) == (0.9, (5,), 0.3)


def test_random_trials_are_valid_configurations(fifty):
    for _, config in fifty:
        kind = family(config.student.name)
        num_stages = len(kind.stages(config.student.options))
        assert kind.check(config.student.options) is None
        assert TrialConfig.from_json(config.to_json()) == config
        for choice in config.distill.values():
            text = choice.options.get("layer_map", "last")
            pairs = layer_map.parse(text, num_stages, 3)
            assert text in ("last", layer_map.to_text(pairs))


def test_random_trials_reach_every_choice(fifty):
    assert {config.student.name for _, config in fifty} == {"resnet", "mobilenetv2"}
    assert {params["distill.feature"] for params, _ in fifty} == {"none", "at", "fitnet"}


def test_conditional_dimensions_are_asked_only_where_they_apply(fifty):
    for params, config in fifty:
        chosen = {f"student.{config.student.name}", f"distill.feature.{params['distill.feature']}"}
        everywhere = {"student", "distill.feature", "distill.alpha", "distill.temperature", "train.lr"}
        assert all(name in everywhere or name.startswith(tuple(f"{c}." for c in chosen)) for name in params)
        stages = [name for name in params if ".layer_map." in name]
        searched = params.get("distill.feature.fitnet.layer_map") == "searched"
        size = f"{len(family(config.student.name).stages(config.student.options))}x3"
        assert len(stages) == searched * int(size[0])
        assert all(f".layer_map.{size}.stage" in name for name in stages)


def test_equal_seeds_propose_equal_trials_and_others_do_not(example, fifty):
    assert study(example, seed=0, num_trials=20) == fifty[:20]
    assert study(example, seed=1, num_trials=20) != fifty[:20]


def test_the_order_of_the_file_does_not_change_the_proposals(example):
    resolved = spec.to_dict(example)
    backward = {name: resolved[name] for name in reversed(resolved)}
    backward["student"] = dict(reversed(resolved["student"].items()))
    assert study(spec.from_dict(backward), seed=0, num_trials=5) == study(example, seed=0, num_trials=5)


def test_a_control_is_its_student_without_distillation_at_the_middle_of_the_recipe(example):
    student = Choice("resnet", {"depth": 8, "stem_ratio": 1.0, "width": 0.5})
    control = space.control(example, student, seed=3)
    assert control == TrialConfig(
        student=student,
        train=TrainConfig(epochs=60, lr=pytest.approx((0.01 * 0.3) ** 0.5), warmup_epochs=1),
        seed=3,
    )


def test_the_corners_are_both_ends_of_ranges_and_every_choice(example):
    corners = [(c.name, c.options.get("depth"), c.options["width"]) for c in space.corner_students(example)]
    resnets = [("resnet", depth, width) for depth in (8, 14, 20) for width in (0.25, 1.0)]
    assert sorted(corners, key=str) == sorted(
        [*resnets, ("mobilenetv2", None, 0.25), ("mobilenetv2", None, 1.0)], key=str
    )


@pytest.mark.parametrize(
    ("dimension", "value"),
    [
        (0.3, 0.3),
        (None, None),
        (Categorical(("b", "a")), "b"),
        (Float(1.0, 3.0), 2.0),
        (Float(0.01, 1.0, log=True), pytest.approx(0.1)),
        (Float(0.1, 0.6, step=0.1), 0.3),
        (Int(1, 9), 5),
        (Int(8, 26, step=6), 20),
        (Int(1, 100, log=True), 10),
    ],
)
def test_middle(dimension, value):
    assert space.middle(dimension) == value


def grid(**sections):
    return listing.grid_size(small(**sections))


def test_the_grid_of_a_fixed_spec_is_one_configuration():
    assert grid() == 1


def test_the_grid_counts_conditional_dimensions_where_they_apply():
    students = {
        "resnet": {"depth": {"type": "categorical", "choices": [8, 14]}},
        "mlp": {"depth": {"type": "int", "low": 1, "high": 3}},
    }
    temperature = {"type": "float", "low": 1, "high": 4, "step": 1}
    responses = {"none": None, "kd": None}
    assert grid(student=students, distill={"response": responses, "temperature": temperature}) == (2 + 3) * (
        1 + 4
    )


def test_the_grid_counts_equal_maps_once():
    # stage1 meets 0, 1 or 2, stage2 meets 0, 1 or 2: (1, 0), (2, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2);
    # (2, 1) is raised to (2, 2), and (0, 0) is `last`, (0, 2).
    students = {"mlp": {"depth": 2}}
    maps = {"type": "categorical", "choices": ["last", "stage2>stage2", "searched"]}
    distill = {"feature": {"fitnet": {"layer_map": maps}}}
    assert grid(student=students, teacher={"mlp": {"depth": 2}}, distill=distill) == 7


def test_there_is_no_grid_where_a_dimension_is_continuous():
    assert grid(train={"epochs": 10, "lr": {"type": "float", "low": 0.1, "high": 0.2}}) is None


def test_a_grid_beyond_the_limit_is_not_counted():
    trial = {"epochs": 10, "batch_size": {"type": "int", "low": 1, "high": 20_000}}
    assert grid(train=trial) is None


def test_the_grid_needs_the_stages_of_a_teacher_from_a_checkpoint():
    loaded = small(teacher={"checkpoint": "runs/teacher"}, distill={"feature": "fitnet"})
    assert listing.grid_size(loaded) is None
    assert listing.grid_size(loaded, teacher_stages=3) == 1


def test_every_training_option_is_one_of_the_configuration():
    defaults = {name: option.default for name, option in TRAIN_OPTIONS.items()}
    assert vars(TrainConfig(**{**defaults, "epochs": 1})) == vars(TrainConfig(epochs=1))


def test_published_search_spaces_are_searchable():
    for file in Path(__file__).parent.parent.joinpath("search_spaces").glob("*.yaml"):
        assert study(spec.load(file), seed=0, num_trials=3)
