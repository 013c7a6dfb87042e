import pytest


@pytest.fixture
def torchs_own_products(monkeypatch):
    """Linear layers as torch has them, for comparison bit by bit, on processors where oneDNN's are faster too."""
    monkeypatch.setattr("sward.teachers.precision.onednn_is_faster", lambda: False)
