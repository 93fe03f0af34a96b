import pytest

from tracegrad.numerics import native


@pytest.fixture(params=["0", "1"], ids=["plain", "kernel"])
def form(request, monkeypatch):
    monkeypatch.setenv(native.SWITCH, request.param)
