"""The page of all keys: current, and nothing left out."""

from pathlib import Path

import pytest

from kdsearch import reference
from kdsearch.losses import METHODS
from kdsearch.models import FAMILIES
from kdsearch.schema_items import Section
from kdsearch.spec_schema import SPEC

PAGE = reference.page()


def test_the_page_is_current():
    written = (Path(__file__).parent.parent / "docs" / "spec.md").read_text(encoding="utf-8")
    assert written == PAGE, "python -m kdsearch.reference > docs/spec.md"


def keys(item, path):
    """The dotted keys of a section's own settings, and of those of the sections in it."""
    for name, field in item.fields.items():
        yield f"{path}.{name}"
        if isinstance(field, Section):
            yield from keys(field, f"{path}.{name}")


@pytest.mark.parametrize("name", [name for name, item in SPEC.fields.items() if isinstance(item, Section)])
def test_every_key_has_a_row(name):
    missing = [key for key in keys(SPEC.fields[name], name) if f"| `{key}`" not in PAGE]
    assert missing == []


def test_every_setting_of_families_and_methods_has_a_row():
    of_families = [f"{name}.{key}" for name, kind in FAMILIES.items() for key in kind.options]
    of_methods = [f"{m.slot}.{name}.{key}" for name, m in METHODS.items() for key in m.options]
    assert [key for key in of_families + of_methods if f"| `{key}`" not in PAGE] == []
    assert "| `teacher.<family>.train.epochs` |" in PAGE
