"""The distillation methods a spec can name, without importing torch.

Goes in: nothing. Comes out: `METHODS`, from a method's key to what the spec and the search need to
know about it. The mathematics is in one file per method (`kdsearch.losses.kd:kd` takes plain tensors);
`kdsearch.losses.terms` turns a trial's choices into one weighted sum.

A new method is one file with a function of tensors and a `build`, one entry in the table of its slot
(`kdsearch.losses.tables`), and its check values in tests/test_losses.py; tests/test_methods_contract.py runs
over all of them.
"""

from __future__ import annotations

from kdsearch.losses.method import SLOTS, Method, SlotName
from kdsearch.losses.tables.contrastive import CONTRASTIVE
from kdsearch.losses.tables.feature import FEATURE
from kdsearch.losses.tables.relation import RELATION
from kdsearch.losses.tables.response import RESPONSE
from kdsearch.losses.tables.self_ import SELF

__all__ = ["METHODS", "SLOTS", "Method", "SlotName"]

METHODS: dict[str, Method] = dict(sorted({**CONTRASTIVE, **FEATURE, **RELATION, **RESPONSE, **SELF}.items()))
