"""Copies and pickles of what goes into a call."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from gpt2fast import GPT2, CancelToken, GenerationOptions

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_prefix_is_as_good(how: str) -> None:
    model = GPT2.from_pretrained()
    prefix = model.prefill("Once upon a time")
    options = GenerationOptions(prefix=prefix, max_new_tokens=9, use_prefix_cache=False)
    expected = model.generate(" there was", options)
    copied = COPIES[how](prefix)
    assert copied is not prefix
    assert copied.to_bytes() == prefix.to_bytes()
    assert model.generate(" there was", options, prefix=copied) == expected
    assert model.generate(" there was", COPIES[how](options)) == expected


@pytest.mark.parametrize("how", COPIES)
def test_a_cancel_token_says_that_it_has_no_copies(how: str) -> None:
    with pytest.raises(TypeError, match=r"a CancelToken can't be pickled or copied: .* make a new one"):
        COPIES[how](CancelToken())
