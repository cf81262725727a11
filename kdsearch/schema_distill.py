"""What a spec may say of distillation, as data.

Goes in: the tables of methods, schedules and curricula. Comes out: the section `DISTILL`.
"""

from __future__ import annotations

from kdsearch.curriculum import CURRICULA
from kdsearch.losses import METHODS, SLOTS
from kdsearch.online import ONLINE
from kdsearch.options import Option
from kdsearch.schedules import SCHEDULES
from kdsearch.schema_items import Section

# What a response method may have of its own, because each paper has its own.
RESPONSE_NUMBERS = {
    "alpha": Option(
        "float", None, "weight of this method's term, in place of distill.alpha", low=0, high=1000
    ),
    "temperature": Option(
        "float", None, "of this method, in place of distill.temperature", low=0.01, high=1000
    ),
}

_NONE = Section("nothing in this slot")


def _methods(slot: str) -> Section:
    own = RESPONSE_NUMBERS if slot == "response" else {}
    methods = {name: Section(m.doc, {**m.options, **own}) for name, m in METHODS.items() if m.slot == slot}
    others = {name: f"{name} belongs in distill.{m.slot}" for name, m in METHODS.items() if m.slot != slot}
    doc = f"{slot} distillation: a method, or several to choose from"
    return Section(doc, entries={"none": _NONE, **methods}, absent="none", elsewhere=others)


DISTILL = Section(
    "loss = label_weight * cross-entropy + alpha * response + sum of weight * term",
    {
        "alpha": Option(
            "float",
            None,
            "weight of the response term; default the method's own, 0.9 for kd",
            low=0,
            high=1000,
        ),
        "temperature": Option(
            "float",
            None,
            "softens both sides of the response term; default the method's own, 4 for kd",
            low=0.01,
            high=1000,
        ),
        "label_weight": Option(
            "float",
            None,
            "weight of the labels; default the method's own, 1 - alpha for kd",
            low=0,
            high=1000,
        ),
        "teacher_views": Option(
            "int",
            1,
            "views of an image, augmented each in its own way, over which the teacher's probabilities are "
            "averaged; a pass of the teacher for each",
            low=1,
            high=64,
        ),
        **{slot: _methods(slot) for slot in SLOTS},
        "schedule": Section(
            "how temperature, alpha and weights move over the epochs",
            entries={name: Section(s.doc, s.options) for name, s in SCHEDULES.items()},
            absent="constant",
        ),
        "curriculum": Section(
            "which samples an epoch trains on",
            entries={name: Section(c.doc, c.options) for name, c in CURRICULA.items()},
            absent="none",
        ),
        "online": Section(
            "students that learn from one another in one trial, each one a student of its own in the "
            "results; the other slots apply to every one of them",
            entries={"none": _NONE, **{name: Section(o.doc, o.options) for name, o in ONLINE.items()}},
            absent="none",
        ),
    },
)
