"""Guard rails: each warning on its case, silence on a sound spec, and every warning once."""

import dataclasses

import pytest
import torch
from journals import Story
from test_space import small as spec_with

from kdsearch import chapters, document, figures, guards, teacher_store
from kdsearch import data as datasets
from kdsearch import teacher as teachers
from kdsearch.confidence import MAX_IMAGES, mean_confidences
from kdsearch.journal import Journal
from kdsearch.mlflow_runs import sweep_run
from kdsearch.models.build import build, save_student
from kdsearch.records import replay
from kdsearch.spec import DataSpec, UnlabelledSpec

REPORT = {"accuracy": 0.91, "epochs": 30, "still_improving": False, "mean": [0.5], "std": [0.25]}


def kinds(found):
    return [caution.kind for caution in found]


def of_distill(num_classes=10, **distill):
    return guards.of_spec(spec_with(distill=distill), num_classes)


# The spec


@pytest.mark.parametrize(
    "distill",
    [
        {"response": "kd"},
        {"response": "kd", "alpha": {"type": "float", "low": 0.1, "high": 1.0}},
        {"response": "kd", "temperature": {"type": "float", "low": 1, "high": 20, "log": True}},
        {"response": "dkd", "alpha": 1.0},
        {"response": "dist", "temperature": 1},
        {"response": "kd", "alpha": 1.0, "label_weight": 0.5},
        {"response": "kd", "schedule": {"linear": {"temperature_to": 1.0, "alpha_to": 0.5}}},
        {"response": "kd", "temperature": 1, "schedule": {"linear": {"temperature_to": 8.0}}},
        {"relation": "rkd", "temperature": 1, "alpha": 1.0},
        {"response": "pseudo_label", "temperature": 99, "alpha": 0.5},
    ],
    ids=str,
)
def test_a_sound_spec_is_no_occasion_for_warnings(distill):
    assert of_distill(**distill) == []


@pytest.mark.parametrize(
    ("distill", "number"),
    [
        ({"temperature": 40}, "40"),
        ({"temperature": {"type": "float", "low": 1, "high": 25}}, "25"),
        ({"schedule": {"progressive": {"temperature_from": 30.0, "alpha_from": 0.1}}}, "30"),
    ],
    ids=str,
)
def test_a_temperature_above_20(distill, number):
    (found,) = of_distill(response="kd", **distill)
    assert found.kind == "high_temperature"
    assert f"reaches {number}: above 20" in found.text


@pytest.mark.parametrize("schedule", ["constant", "warmup"])
def test_a_temperature_of_only_1(schedule):
    (found,) = of_distill(response="kd", temperature=1, schedule=schedule)
    assert found.kind == "temperature_1"
    assert "only 1" in found.text


@pytest.mark.parametrize(
    "distill",
    [
        {"alpha": 1.0},
        {"alpha": {"type": "categorical", "choices": [0.5, 1.0]}},
        {"alpha": {"type": "float", "low": 0.5, "high": 1.0, "step": 0.25}},
        {"schedule": {"linear": {"alpha_to": 1.0}}},
    ],
    ids=str,
)
def test_alpha_1_leaves_the_labels_out(distill):
    (found,) = of_distill(response="kd", **distill)
    assert found.kind == "labels_unused"
    assert "alpha = 1" in found.text


@pytest.mark.parametrize("distill", [{"response": "kd"}, {"relation": "rkd"}], ids=str)
def test_a_label_weight_of_0_leaves_the_labels_out(distill):
    (found,) = of_distill(label_weight=0, **distill)
    assert found.kind == "labels_unused"
    assert "label_weight = 0" in found.text


@pytest.mark.parametrize(
    ("response", "num_classes", "expected"),
    [
        ("logit_std", 2, ["two_classes"]),
        ({"kd": {}, "logit_std_dkd": {}}, 2, ["two_classes"]),
        ("logit_std", 3, []),
        ("kd", 2, []),
    ],
)
def test_two_standardised_logits_are_an_occasion_for_a_warning(response, num_classes, expected):
    assert kinds(of_distill(num_classes, response=response)) == expected


# The sizes and the teacher


def test_a_student_under_a_tenth_of_the_teacher():
    (found,) = guards.of_sizes("resnet", 9_999, 100_000)
    assert found.kind == "large_gap"
    assert "resnet, 9,999 params" in found.text
    assert "10 times smaller than the teacher (100,000)" in found.text
    assert guards.of_sizes("resnet", 10_000, 100_000) == []


def test_a_sound_teacher_is_no_occasion_for_warnings():
    assert guards.of_teacher(REPORT, (0.51,), (0.245,)) == []
    assert guards.of_teacher({**REPORT, "mean": None, "std": None}, (0.1,), (0.1,)) == []


def test_a_teacher_that_was_still_improving():
    improving = {**REPORT, "still_improving": True}
    (found,) = guards.of_teacher(improving, (0.5,), (0.25,), epochs_key="teacher.resnet.train.epochs")
    assert found.kind == "still_improving"
    assert "30 epochs ended (accuracy 0.9100)" in found.text
    assert "with more of them (teacher.resnet.train.epochs) every student" in found.text


@pytest.mark.parametrize(("mean", "std"), [((0.52,), (0.25,)), ((0.5,), (0.27,))], ids=["mean", "std"])
def test_a_teacher_with_another_normalisation(mean, std):
    (found,) = guards.of_teacher(REPORT, mean, std)
    assert found.kind == "other_normalisation"
    assert "mean 0.500 and standard deviation 0.250" in found.text


def test_images_on_which_the_teacher_is_far_less_sure():
    found = guards.of_confidence({"validation": 0.9, "training": 0.71, "unlabelled": 0.3})
    assert kinds(found) == ["unsure_training", "unsure_unlabelled"]
    assert "(0.30) than of validation images (0.90" in found[1].text


def test_a_little_less_sure_is_no_occasion_for_warnings():
    assert guards.of_confidence({"validation": 0.9, "training": 0.73, "unlabelled": 0.95}) == []


def student_folder(path, **description):
    """A student as kdsearch saves it, to teach from."""
    torch.manual_seed(0)
    save_student(path, build("resnet", {"depth": 8, "width": 0.25}, 10, 1, 8), description)
    return path


def normalisation_of(path, data):
    teacher = teachers.load_checkpoint_teacher(spec_with(teacher={"checkpoint": str(path)}), data)
    return teacher, (teacher.report["mean"], teacher.report["std"])


def test_a_checkpoint_says_which_normalisation_it_knows_and_so_does_a_teacher_made_of_it(tmp_path):
    data = datasets.load(DataSpec("digits", subset=100))
    told, known = normalisation_of(student_folder(tmp_path / "t0001", mean=[0.4], std=[0.2]), data)
    assert known == ([0.4], [0.2])
    assert kinds(guards.of_teacher(told.report, data.mean, data.std)) == ["other_normalisation"]
    kept = teacher_store.save(told, tmp_path / "store")
    assert normalisation_of(kept, data)[1] == ([0.4], [0.2])


def test_of_a_checkpoint_that_does_not_say_nothing_is_known(tmp_path):
    data = datasets.load(DataSpec("digits", subset=100))
    assert normalisation_of(student_folder(tmp_path / "t0001"), data)[1] == (None, None)


# Measuring


class Judge(torch.nn.Module):
    """Two classes: sure of bright images, unsure of dark ones; counts what it is shown."""

    shown = 0

    def forward(self, images):
        self.shown += len(images)
        brightness = images.mean(dim=(1, 2, 3))
        return torch.stack([10 * brightness.clamp(min=0), torch.zeros(len(images))], dim=1)


def test_confidence_is_measured_on_validation_training_and_unlabelled_images():
    data = datasets.load(DataSpec("digits", subset=160, unlabelled=UnlabelledSpec("rest")))
    dark = dataclasses.replace(data.unlabelled, images=0 * data.unlabelled.images)
    judge = Judge()
    measured = mean_confidences(judge, dataclasses.replace(data, unlabelled=dark), ())
    assert list(measured) == ["validation", "training", "unlabelled"]
    assert measured["unlabelled"] == pytest.approx(0.5)
    assert measured["training"] == pytest.approx(measured["validation"], abs=0.05)
    assert judge.shown == 360 + 160 + 666


def test_measuring_looks_at_no_more_than_its_limit():
    data = datasets.load(DataSpec("digits"))
    many = dataclasses.replace(
        data.train, images=data.train.images.repeat(3, axis=0), labels=data.train.labels.repeat(3)
    )
    judge = Judge()
    mean_confidences(judge, dataclasses.replace(data, train=many, validation=many), (("crop", {}),))
    assert judge.shown == MAX_IMAGES


# Saying


FOUND = [guards.Caution("large_gap", "the smallest student is small"), guards.Caution("labels_unused", "why")]


def test_a_warning_is_said_and_journalled_once_and_not_repeated_on_resume(tmp_path):
    said = []
    with Journal(tmp_path) as journal:
        guards.announce(FOUND, journal, said.append)
    with Journal(tmp_path) as journal:
        guards.announce([*FOUND, guards.Caution("temperature_1", "new")], journal, said.append)
        events = journal.events
    assert said == ["warning: the smallest student is small", "warning: why", "warning: new"]
    assert [event["about"] for event in events] == ["large_gap", "labels_unused", "temperature_1"]


def test_the_report_lists_warnings_and_mlflow_has_them():
    story = Story().teacher()
    for caution in FOUND:
        story.add("warning", about=caution.kind, text=caution.text)
    sweep = replay(story.events)
    pictures = dict.fromkeys((drawing.name for drawing in figures.DRAWINGS), "no figure here")
    report = document.to_markdown(chapters.chapters(sweep, story.events, pictures))
    assert "## Warnings\n\n> - the smallest student is small.\n> - why.\n" in report
    tags = sweep_run(sweep, sweep.teacher).tags
    assert tags["kdsearch.warnings"] == "the smallest student is small\nwhy"


def test_without_warnings_there_is_no_chapter_and_no_tag():
    story = Story().teacher()
    sweep = replay(story.events)
    pictures = dict.fromkeys((drawing.name for drawing in figures.DRAWINGS), "no figure here")
    assert "Warnings" not in document.to_markdown(chapters.chapters(sweep, story.events, pictures))
    assert "kdsearch.warnings" not in sweep_run(sweep, sweep.teacher).tags
