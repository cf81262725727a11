"""Blocks to Markdown and HTML: layout that text from outside cannot change."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from kdsearch.document import (
    Bullets,
    Code,
    Facts,
    Heading,
    Paragraph,
    Picture,
    Table,
    literal,
    to_html,
    to_markdown,
)

NASTY = 'a | b <script>alert("x")</script> [link](http://evil) *star* & co'


class Collector(HTMLParser):
    """The tags, attributes and text of a page; fails on a tag that is closed in the wrong order."""

    VOID = ("meta", "img", "source", "link", "br")

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(page):
    collector = Collector()
    collector.feed(page)
    collector.close()
    assert collector.open == []
    return collector


BLOCKS = [
    Heading(NASTY, 1),
    Paragraph(NASTY),
    Bullets((NASTY,)),
    Bullets((NASTY,), is_warning=True),
    Facts(((NASTY, NASTY, NASTY),)),
    Table((NASTY, "n"), "wr", ((NASTY, "1"),)),
    Picture("p.png", NASTY, NASTY, b"light", b"dark"),
    Code(NASTY),
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: type(block).__name__)
def test_html_shows_markup_from_outside_as_text(block):
    page = parse(to_html("t", [block]))
    assert "script" not in page.tags
    assert '<script>alert("x")</script>' in "".join(page.text)


def test_html_is_whole_and_asks_for_nothing():
    page = parse(to_html(NASTY, BLOCKS))
    fetched = [value for name, value in page.attributes if name in ("src", "srcset", "href")]
    assert fetched
    assert all(value.startswith("data:image/png;base64,") for value in fetched)
    assert "default-src 'none'" in str(page.attributes)


def test_html_has_a_dark_picture_for_dark_readers():
    page = to_html("t", [Picture("p.png", "t", "c", b"light", b"dark")])
    assert '<source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,ZGFyaw==">' in page


def test_html_marks_code_between_backticks():
    assert "<p>see <code>a&lt;b</code> there</p>" in to_html("t", [Paragraph("see `a<b` there")])


def test_markdown_tables_keep_their_columns_whatever_a_cell_says():
    lines = to_markdown([Table(("x", "y"), "lr", (("a | b", "`c|d`"),))]).splitlines()
    assert lines == ["| x | y |", "| :-- | --: |", "| a \\| b | `c\\|d` |"]


def test_markdown_escapes_html_and_links():
    assert to_markdown([Paragraph(NASTY)]).startswith('a \\| b \\<script>alert("x")\\</script> \\[link]')


def test_markdown_points_to_the_figure_file():
    text = to_markdown([Picture("front.png", "The front", "Read it so.", b"", b"")])
    assert text == "![The front](figures/front.png)\n\nRead it so.\n"


def test_literal_text_is_one_line_without_backticks():
    assert literal("a\n  `b`\tc ") == "a 'b' c"
