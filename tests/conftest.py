"""What every test needs: quiet caches, one thread, a seed, and the mark for real data."""

import os
from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that read public data where there is none."""
    if os.environ.get("ENSUE_DATA"):
        return
    skip = pytest.mark.skip(reason="ENSUE_DATA is not set")
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the caches of tests away from the user's own."""
    monkeypatch.setenv("ENSUE_CACHE", str(tmp_path_factory.getbasetemp() / "ensue-cache"))


torch.set_num_threads(1)  # tiny tensors: a second thread only waits


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Begin each test from the same random state."""
    torch.manual_seed(0)


@pytest.fixture
def public_data() -> Path:
    """The folder of public data sets."""
    return Path(os.environ["ENSUE_DATA"])
