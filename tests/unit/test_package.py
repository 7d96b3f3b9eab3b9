"""The package as a whole: light to import, whole in what it names, silent about the workplace it was built in."""

import subprocess
import sys

import pytest

import okr


def test_every_public_name_resolves():
    for name in okr.__all__:
        assert getattr(okr, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = okr.missing


@pytest.mark.parametrize("module", ["okr", "okr.cli", "okr.run", "okr.errors"])
def test_importing_is_light(module):
    """Nothing heavy is imported before it is needed: this is what keeps --help instant."""
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'scipy', 'matplotlib'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
