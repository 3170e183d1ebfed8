"""What `from lucid_events import …` promises."""

import doctest
import subprocess
import sys

import lucid_events


def test_every_public_name_is_there() -> None:
    """`__all__` is sorted, and each name in it can be had."""
    assert lucid_events.__all__ == sorted(lucid_events.__all__)
    for name in lucid_events.__all__:
        assert getattr(lucid_events, name) is not None


def test_importing_the_package_loads_nothing_else() -> None:
    """A program that only wants the version does not pay for NATS."""
    code = "import sys, lucid_events; sys.exit(any(m in sys.modules for m in ('nats', 'msgspec', 'typer')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_docstrings_example_runs() -> None:
    """What the package's docstring shows is true."""
    assert doctest.testmod(lucid_events).failed == 0
