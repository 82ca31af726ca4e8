"""Fixtures that several test files share."""

from __future__ import annotations

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
def embedded_dir() -> Path:
    """The checkpoint of the embedded model."""
    from gpt2fast.loading.sources import embedded_model

    return embedded_model()


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The tests' conversions go to their own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2FAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
