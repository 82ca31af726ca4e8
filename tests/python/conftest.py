"""Fixtures that several test files share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Other load on the machine must not fail a property test.
settings.register_profile("gpt2fast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gpt2fast")

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Reference data beside the checkout; tests that need it are skipped if it is absent."""
    path = _ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("no reference data beside the checkout")
    return path


@pytest.fixture(scope="session")
def embedded_dir(_undrawn_texts: Path) -> Path:
    """The checkpoint of the embedded model, without its own defaults of options."""
    return _undrawn_texts


@pytest.fixture(scope="session", autouse=True)
def _undrawn_texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Leave out the embedded model's generation_config.json, by which its texts are drawn.

    Most tests compare texts of the likeliest tokens. ``own_defaults`` undoes it; programs that tests start
    have the model as it is, unless they load it with ``generation_config=None``.
    """
    from gpt2fast.loading import sources

    copied = tmp_path_factory.mktemp("embedded") / "tiny"
    shutil.copytree(sources.embedded_model(), copied, ignore=shutil.ignore_patterns("generation_config.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "embedded_model", lambda: copied)
        yield copied


@pytest.fixture
def own_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model as users have it: its texts are drawn."""
    from gpt2fast.loading import sources

    monkeypatch.setattr(
        sources, "embedded_model", lambda: Path(sources.__file__).parents[1] / "data" / "tiny"
    )


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The tests' conversions go to their own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2FAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
