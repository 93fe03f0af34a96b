import pytest

from tracegrad.errors import ConfigError
from tracegrad.physics.bands.forecast import (
    fitting_processes,
    forecast_lines,
    seconds_of_a_cube,
    work_of_bands,
    work_of_polynomials,
)

GIB = 2**30


def test_works():
    """Some bands are less work than all, and moments need less memory than states."""
    every = work_of_bands("bands", 1000, 10, None, 1)
    some = work_of_bands("bands", 5000, 10, None, 2)
    assert (every.what, every.cubes) == ("bands", 1e9)
    assert some.what == "60 bands"
    assert some.cubes < 2 * 5000**3
    assert work_of_bands("bands", 100, 10, 60, 1).what == "bands"
    sparse, full = (work_of_polynomials("p", 10_000, 1, filled, 0.1, 8) for filled in (0.01, 1.0))
    assert sparse.bytes < full.bytes < work_of_bands("bands", 10_000, 1, 9000, 1).bytes
    assert sparse.cubes < full.cubes


def test_processes():
    work = [work_of_bands("bands", 1000, 10, None, 1)]  # 144 MB
    assert fitting_processes(work, None, 4, GIB) is None
    assert fitting_processes(work, None, 16, GIB) == 6
    assert fitting_processes(work, 6, 16, GIB) == 6
    with pytest.raises(
        ConfigError, match=r"bands: 7 processes need about 1.0 GB of memory, but .* set processes=6"
    ):
        fitting_processes(work, 7, 16, GIB)
    with pytest.raises(
        ConfigError, match=r"bands: 1 process needs about 144.0 MB .*; set dos_method=polynomial and"
    ):
        fitting_processes(work, None, 16, 10**8)
    polynomials = [work_of_polynomials("density", 100_000, 1, 0.5, 0.1, 8)]
    with pytest.raises(ConfigError, match=r"density: 1 process needs about .* GB of memory.* set dos=false"):
        fitting_processes(polynomials, None, 16, GIB)


def test_lines():
    works = [work_of_bands("bands", 1000, 10, None, 1), work_of_bands("states", 100, 3, None, 1)]
    lines = forecast_lines(works, 1000, 2, 1e-8)
    assert lines[0] == "forecast, bands: 10 k points of 1000 orbitals, about 50 s in 2 processes, 288.0 MB"
    assert lines[1].endswith("less than 1 s in 2 processes, 2.9 MB")
    assert "about 50 min" in forecast_lines(works, 1000, 2, 6e-7)[0]
    assert "about 5.0 h" in forecast_lines(works, 1000, 1, 1.8e-6)[0]
    assert 0 < seconds_of_a_cube(20) < 1e-4
