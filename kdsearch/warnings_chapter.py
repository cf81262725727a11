"""The report's chapter of warnings: what was noticed about the spec, the teacher and the data.

Goes in: a `SweepRecord`. Comes out: blocks, none where nothing was noticed.
"""

from __future__ import annotations

from kdsearch.document import Block, Bullets, Heading, literal
from kdsearch.records import SweepRecord


def warnings(sweep: SweepRecord) -> list[Block]:
    """Every warning of the sweep, in the order in which they were given."""
    texts = tuple(literal(f"{event['text']}.") for event in sweep.warnings)
    return [Heading("Warnings"), Bullets(texts, is_warning=True)] if texts else []
