"""The first difference between the settings of two runs."""

from __future__ import annotations

from typing import Any

import pytest

from gpt2fast.storage.run_settings import first_difference


@pytest.mark.parametrize(
    ("found", "wanted", "difference"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, "b is 2, not 3"),
        ({}, {"a": "x"}, "a is unset, not 'x'"),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, "a.c is 2, not 3"),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, "a.b.c is 1, not 2"),
        ({"a": {"b": None}, "c": 1}, {"a": {}, "c": 2}, "a is {'b': None}, not {}"),
    ],
)
def test_the_first_difference_is_named(
    found: dict[str, Any], wanted: dict[str, Any], difference: str | None
) -> None:
    assert first_difference(found, wanted) == difference
