"""Windows over a long text: each token scored once, with context."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpt2fast.inference.windows import windows


@given(
    st.integers(0, 200),
    st.integers(2, 40).flatmap(lambda window: st.tuples(st.just(window), st.integers(1, window))),
    st.booleans(),
)
def test_windows_score_each_token_once(tokens: int, sizes: tuple[int, int], drop_last: bool) -> None:
    window, stride = sizes
    found = windows(tokens, window, stride, drop_last=drop_last)
    scored = [token for one in found for token in range(one.first, one.stop)]
    assert scored == sorted(set(scored))
    assert all(one.start < one.first < one.stop <= one.start + window for one in found)
    if drop_last:
        assert all(one.stop - one.start == window for one in found)
    elif stride < window:
        assert scored == list(range(1, tokens))
    else:
        assert scored == [token for token in range(tokens) if token % window]


def test_later_windows_score_tokens_with_context() -> None:
    found = windows(1000, 100, 30)
    assert all(one.first - one.start == 70 for one in found[1:])
