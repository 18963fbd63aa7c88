"""A plugin of pytest: the first case of every test comes before the second case of any, whatever file they are in.

So a run that has no time for all of them has tried everything.
"""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen: Counter[str] = Counter()
    turns = {}
    for item in items:
        test = item.nodeid.partition("[")[0]
        turns[item.nodeid] = seen[test]
        seen[test] += 1
    items.sort(key=lambda item: turns[item.nodeid])
