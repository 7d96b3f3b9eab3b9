"""The package as a whole: light to import, whole in what it names, at home where users install it."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import okr

ROOT = Path(__file__).resolve().parents[2]


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


def test_the_version_is_said_without_anything_heavy():
    code = (
        "import sys\n"
        "from okr.cli import execute\n"
        "print(execute(['--version']), sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"okr {okr.__version__}", "0 []"]


def test_a_users_own_spec_stands_in_nobodys_way(tmp_path):
    (tmp_path / "spec.py").write_text("raise SystemExit('a file of the user')\n")
    command = [sys.executable, "-m", "okr.cli", "conform", "numpy", "OKR-KEY-001", "--profile", "smoke"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "conforms" in done.stdout


def test_pytest_spec_judges_what_is_imported_as_okr_spec():
    """The folder has one name in a process: only the two files that pytest takes by their path have another."""
    code = (
        "import sys, pytest\n"
        "status = pytest.main(['spec', '--collect-only', '-q', '-p', 'no:cacheprovider'])\n"
        "print(int(status), sorted(name for name in sys.modules if name.split('.')[0] == 'spec'))\n"
        "print('okr.spec.registry' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["0 ['spec', 'spec.conftest', 'spec.test_conformance']", "True"]


def test_type_checkers_find_the_installed_package(tmp_path):
    """mypy looks into folders, those that .pth files name among them, and follows no import hook."""
    pytest.importorskip("mypy")
    code = (
        "import sys\n"
        "from mypy.modulefinder import FindModuleCache, SearchPaths, get_search_dirs\n"
        "folders = sum(map(list, get_search_dirs(sys.executable)), [])\n"
        "finder = FindModuleCache(SearchPaths((), (), tuple(folders), ()), None, None)\n"
        "print(*(finder.find_module(name) for name in ('okr', 'okr.spec.registry')), sep='\\n')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    found = [Path(line).parts[-2:] for line in done.stdout.splitlines()]
    assert found == [("okr", "__init__.py"), ("spec", "registry.py")], done.stdout


@pytest.fixture
def setup_of_okr():
    """The module setup.py."""
    pytest.importorskip("setuptools")
    place = importlib.util.spec_from_file_location("setup_of_okr", ROOT / "setup.py")
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def test_an_index_page_shows_no_link_to_a_file_beside_it(setup_of_okr):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for files in ("", "https://host.example/okr/{kind}/v1"):
        page = setup_of_okr.index_page(readme, files)
        assert [target for target in re.findall(r"\]\(([^)]*)\)", page) if not target.startswith("https:")] == []
    assert "](https://host.example/okr/raw/v1/docs/figures/result.svg)" in page
    assert "](https://host.example/okr/blob/v1/docs/beside-synthid.md)" in page


def test_without_an_address_the_index_page_names_files(setup_of_okr):
    shown = setup_of_okr.index_page("[a](docs/a.md), [docs/b.md](docs/b.md), ![c](c.svg), [d](https://d.org)")
    assert shown.startswith("a (`docs/a.md`), `docs/b.md`, (Picture, `c.svg`: c.), [d](https://d.org)")
    assert "badge" not in setup_of_okr.index_page((ROOT / "README.md").read_text(encoding="utf-8"))


def test_the_project_has_an_address_for_everything_where_it_is_published(setup_of_okr):
    urls = setup_of_okr.project_urls("https://host.example/okr", "https://host.example/okr/{kind}/v1")
    assert {"Source", "Documentation", "Changelog", "Issues"} <= urls.keys()
    assert all(url.startswith("https://host.example/okr") for url in urls.values())
    named = [url.partition("/blob/v1/")[2] for url in urls.values()]
    assert all((ROOT / name).exists() for name in named)


def test_every_file_names_the_version_of_the_package():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {okr.__version__}\n" in citation
    assert re.search(r"^## \[([^]]+)\]", changes, re.MULTILINE)[1] == okr.__version__


def test_the_source_distribution_holds_documentation_and_tests(monkeypatch):
    pytest.importorskip("setuptools")
    from setuptools.command.egg_info import FileList

    monkeypatch.chdir(ROOT)
    files = FileList()
    for line in Path("MANIFEST.in").read_text(encoding="utf-8").splitlines():
        files.process_template_line(line)
    held = {Path(name).as_posix() for name in files.files}
    wanted = [
        path.relative_to(ROOT).as_posix()
        for folder in ("docs", "examples", "tests", "spec", "bench", "studies", "tools", ".ci", ".github")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    single = {"conftest.py", "constraints.txt", "mkdocs.yml", "CHANGELOG.md", "CITATION.cff", ".pre-commit-config.yaml"}
    assert set(wanted) | single <= held
    assert not any(name.endswith(".pyc") for name in held)
