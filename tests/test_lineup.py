"""Which networks a sweep's teacher is made of, and which of them teaches a trial."""

import itertools

import pytest

from kdsearch import assistants, lineup, space
from kdsearch import spec as specs
from kdsearch.records import Choice, TrainConfig, TrialConfig, teacher_name

TRAIN = {"epochs": 3}
SMALL = {"resnet": {"depth": 8, "width": 0.5, "train": TRAIN}}
LARGE = {"resnet": {"depth": 8, "width": 2.0, "train": TRAIN}}


def spec_of(teacher, **changes):
    student = {"resnet": {"depth": 8, "width": {"type": "float", "low": 0.125, "high": 2.0}}}
    plain = {"name": "x", "data": "digits", "teacher": teacher, "student": student, "train": {"epochs": 2}}
    return specs.from_dict({**plain, "distill": {"response": "kd"}, "search": {"trials": 1}, **changes})


def cost_of(student):
    return {"params": 80_000 * student.options["width"] ** 2}


def laid_out(teacher):
    return lineup.lay_out(spec_of(teacher), cost_of)


class Answers:
    """An Optuna trial that gives these answers, and the lowest or first where it has none."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def suggest_float(self, name, low, high, *, step=None, log=False):
        self.asked.append(name)
        return self.answers.get(name, low)

    suggest_int = suggest_float

    def suggest_categorical(self, name, choices):
        self.asked.append(name)
        return self.answers.get(name, choices[0])


def suggested(teacher, answers, stages=3):
    trial = Answers(answers)
    return space.suggest(trial, spec_of(teacher), stages, seed=0), trial.asked


def test_the_only_teacher_has_no_name_and_no_dimension():
    (part,) = laid_out(SMALL).parts
    config, asked = suggested(SMALL, {})
    assert (part.name, part.role, part.learns_from) == ("", "teacher", None)
    assert config.teacher == Choice("")
    assert asked == ["student.resnet.width"]
    assert not [name for name in config.flat() if name.startswith("teacher")]


def test_one_of_several_teachers_is_a_dimension_and_a_column():
    teacher = {"one_of": {"small": SMALL, "large": LARGE}}
    config, asked = suggested(teacher, {"teacher": "small"}, {"small": 3, "large": 3})
    assert [part.name for part in laid_out(teacher).parts] == ["large", "small"]
    assert asked == ["student.resnet.width", "teacher"]
    assert config.flat()["teacher"] == "small"
    assert TrialConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("within", [[], ["one_of", "big"]], ids=["alone", "one of two"])
@pytest.mark.parametrize(
    ("teacher", "recipes"),
    [
        (SMALL, {"resnet.train"}),
        (
            {"ensemble": {"of": {"a": SMALL, "b": LARGE}}},
            {"ensemble.of.a.resnet.train", "ensemble.of.b.resnet.train"},
        ),
        ({"born_again": {**SMALL, "generations": 2}}, {"born_again.resnet.train"}),
        (
            {"assistants": {**LARGE, "steps": 1, "train": TRAIN}},
            {"assistants.resnet.train", "assistants.train"},
        ),
    ],
    ids=["network", "ensemble", "generations", "chain"],
)
def test_a_networks_recipe_is_where_the_spec_has_it(teacher, recipes, within):
    whole = {"one_of": {"big": teacher, "other": SMALL}} if within else teacher
    found = {part.recipe for part in laid_out(whole).parts}
    assert found - {"teacher.one_of.other.resnet.train"} == {
        ".".join(["teacher", *within, r]) for r in recipes
    }
    for path in found:
        place = {"teacher": whole}
        for key in path.split("."):
            place = place[key]
        assert place == TRAIN


def test_no_teacher_is_chosen_where_no_method_reads_one():
    spec = spec_of({"one_of": {"small": SMALL, "large": LARGE}}, distill={"self": "tfkd"})
    trial = Answers({})
    assert space.suggest(trial, spec, {"small": 3, "large": 3}, seed=0).teacher == Choice("")
    assert "teacher" not in trial.asked


def test_a_layer_map_meets_the_stages_of_the_teacher_that_was_chosen():
    teacher = {"one_of": {"flat": {"mlp": {"depth": 1}}, "deep": {"mlp": {"depth": 4}}}}
    feature = {"feature": {"fitnet": {"layer_map": "last"}}}
    student = {"mlp": {"depth": 2}}
    spec = spec_of(teacher, student=student, distill=feature)
    stages = lineup.lay_out(spec, cost_of).stages({})

    def pairs(name):
        config = space.suggest(Answers({"teacher": name}), spec, stages, seed=0)
        return config.distill["feature"].options["layer_map"]

    assert (pairs("flat"), pairs("deep")) == ("stage2>stage1", "stage2>stage4")


def test_searched_weights_are_one_dimension_a_member_and_sum_to_one():
    teacher = {"ensemble": {"of": {"a": SMALL, "b": LARGE}, "weights": "searched"}}
    config, asked = suggested(teacher, {"teacher.weights.a": 0.2, "teacher.weights.b": 0.6})
    assert asked == ["student.resnet.width", "teacher.weights.a", "teacher.weights.b"]
    assert config.teacher.options == pytest.approx({"weights.a": 0.25, "weights.b": 0.75})
    assert {"teacher.weights.a", "teacher.weights.b"} <= config.flat().keys()


def test_generations_learn_from_one_another_with_fresh_weights():
    parts = laid_out({"born_again": {**SMALL, "generations": 2, "temperature": [1, 4]}, "seed": 5}).parts
    assert [part.name for part in parts] == ["generation 0", "generation 1", "generation 2"]
    assert [part.learns_from for part in parts] == [None, "generation 0", "generation 1"]
    assert [part.network.seed for part in parts] == [5, 6, 7]
    lessons = [part.network.learns_from for part in parts]
    assert [lesson and (lesson.temperature, lesson.alpha, lesson.label_weight) for lesson in lessons] == [
        None,
        (1.0, 1.0, 0.0),
        (4.0, 1.0, 0.0),
    ]
    assert lessons[2].teacher == parts[1].network


CHAIN = {"assistants": {**LARGE, "steps": {"type": "int", "low": 0, "high": 2}}}


def test_every_chain_that_a_student_can_get_is_trained_before():
    found = laid_out(CHAIN)
    names = {part.name for part in found.parts}
    for steps in (0, 1, 2):
        for width in (0.125, 0.14, 0.2, 0.31, 0.5, 0.77, 1.0, 1.9, 2.0):
            student = Choice("resnet", {"width": width})
            config = TrialConfig(student, TrainConfig(1), teacher=Choice("", {"steps": steps}))
            assert teacher_name(found.settled(config).teacher) in names


def test_every_assistant_is_larger_than_the_student_that_it_teaches():
    found = laid_out(CHAIN)
    for steps, width in itertools.product((0, 1, 2), (n / 100 for n in range(13, 200))):
        student = Choice("resnet", {"width": width})
        config = TrialConfig(student, TrainConfig(1), teacher=Choice("", {"steps": steps}))
        chain = found.settled(config).teacher.options.get("assistants")
        assert all(float(wide) > width for wide in (chain.split(">") if chain else []))


def test_an_assistant_comes_after_the_one_that_teaches_it():
    seen = set()
    for part in laid_out(CHAIN).parts:
        assert part.learns_from is None or part.learns_from in seen
        seen.add(part.name)
    assert len(seen) == len(laid_out(CHAIN).parts) > 3


def test_no_step_of_a_settled_chain_compresses_more_than_it_may():
    found = laid_out({"assistants": LARGE})
    student = Choice("resnet", {"width": 0.125})
    config = found.settled(TrialConfig(student, TrainConfig(1), teacher=Choice("", {"steps": None})))
    widths = [2.0, *map(float, config.teacher.options["assistants"].split(">")), 0.125]
    steps = [(wide / narrow) ** 2 for wide, narrow in itertools.pairwise(widths)]
    assert max(steps) <= 4.5
    assert len(widths) == 5  # 256 times smaller: 4.5 ** 3 would not do


def test_a_large_student_learns_from_the_teacher_itself():
    config = TrialConfig(Choice("resnet", {"width": 2.0}), TrainConfig(1), teacher=Choice("", {"steps": 2}))
    assert laid_out(CHAIN).settled(config).teacher == Choice("")


def test_assistants_are_the_teachers_family_at_a_smaller_width():
    found = [part.network for part in laid_out(CHAIN).parts if part.role == "assistant"]
    assert {(network.family, network.options["depth"]) for network in found} == {("resnet", 8)}
    assert all(network.options["width"] * assistants.WIDTHS_PER_UNIT % 1 == 0 for network in found)
    assert all(network.train["epochs"] == 3 for network in found)
