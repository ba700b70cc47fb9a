"""The numbers of the demo are the same everywhere."""

import json

import pytest

from benchmarks import demo


@pytest.mark.parametrize("page", demo.PAGES, ids=lambda page: page.name)
def test_pages_have_the_numbers_on_record(page):
    text, metrics = page.read_text(), json.loads(demo.RESULTS.read_text())["metrics"]
    assert text.count("<!-- demo: ") == (1 if page.name == "README.md" else 3)
    assert demo.with_tables(text, metrics) == text
    other = {task: {"elsewhere": {"model": {"energy_mae": 1.0}}} for task in metrics}
    assert demo.with_tables(text, other) != text
