"""The published comparisons: complete, and what their comments promise."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

from kdsearch import listing, results, spec
from kdsearch.losses import METHODS, SLOTS
from kdsearch.online import ONLINE
from kdsearch.spec_methods import unmet

SEARCH_SPACES = Path(__file__).parent.parent / "search_spaces"
METHODS_FILE = SEARCH_SPACES / "methods.yaml"

# A token of a vit; with any other student it is pseudo_label by another name.
VIT_ONLY = {"deit"}


def listed(loaded, role="search"):
    stages = spec.num_teacher_stages(loaded)
    return [trial.config for trial in listing.listed(loaded, stages) if trial.role == role]


def test_every_method_that_suits_its_student_is_in_methods_yaml():
    loaded = spec.load(METHODS_FILE)
    given = {name for slot in SLOTS for name in loaded.distill.slots[slot]} - {"none"}
    networks = [*(("student", name) for name in loaded.student), ("teacher", loaded.teacher.family)]
    suiting = {name for name in METHODS if not unmet(name, networks)} - VIT_ONLY
    assert loaded.distill.online.keys() - {"none"} == set(ONLINE)
    assert suiting - given == set(), "add these to search_spaces/methods.yaml, with the weight of their paper"


def test_methods_yaml_runs_every_method_alone_with_every_seed():
    loaded = spec.load(METHODS_FILE)
    alone = [results.method_label(config) for config in listed(loaded)]
    given = {name for slot in SLOTS for name in loaded.distill.slots[slot]} - {"none"}
    given |= loaded.distill.online.keys() - {"none"}
    assert sorted(alone) == sorted([*given] * 3)
    assert len(listed(loaded, "control")) == 3


def test_methods_yaml_has_every_response_methods_own_alpha_and_temperature():
    configs = {
        c.distill["response"].name: c for c in listed(spec.load(METHODS_FILE)) if "response" in c.distill
    }
    numbers = {name: (config.alpha, config.temperature) for name, config in configs.items()}
    assert numbers["kd"] == (0.9, 4.0)
    assert numbers["dkd"] == (1.0, 4.0)
    assert numbers["logit_std"] == (1.0, 2.0)


def test_the_command_in_the_comment_of_methods_yaml_turns_it_into_fashion_mnist():
    comment = re.search(r"#   python -m kdsearch\.sweep (.*?)\n#\n", METHODS_FILE.read_text(), re.DOTALL)[1]
    words = shlex.split(re.sub(r"\\\n#", " ", comment))
    settings = [setting for flag, setting in itertools.pairwise(words) if flag == "--set"]
    data = spec.load(METHODS_FILE, settings).data
    assert words[0] == "search_spaces/methods.yaml"
    assert (data.dataset, data.subset, data.resize) == ("fashion_mnist", 3000, 14)


def test_the_temperature_sweep_is_every_temperature_with_every_seed():
    configs = listed(spec.load(SEARCH_SPACES / "temperature_sweep.yaml"))
    assert sorted(config.temperature for config in configs) == sorted([1, 2, 4, 8, 16] * 5)


def test_feature_and_logit_is_each_alone_and_both_together():
    configs = listed(spec.load(SEARCH_SPACES / "feature_and_logit.yaml"))
    combinations = {tuple(choice.name for choice in config.distill.values()) for config in configs}
    assert combinations == {("kd",), ("at",), ("fitnet",), ("kd", "at"), ("kd", "fitnet")}
    assert len(configs) == 5 * len(combinations)
