"""The shell completes commands and options, once ``okr --install-completion`` has told it how."""

import pytest

from okr import cli


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("okr ver", "verify"), ("okr in", "inspect-key\ninspect"), ("okr bake tiny --stre", "--strength")],
)
def test_what_is_typed_is_completed(
    typed: str, completed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_OKR_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    with pytest.raises(SystemExit):
        cli.main([])
    assert capsys.readouterr().out.strip() == completed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_asks_by_the_name_that_the_command_looks_for(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_OKR_COMPLETE", f"source_{shell}")
    with pytest.raises(SystemExit):
        cli.main([])
    assert f"_OKR_COMPLETE=complete_{shell}" in capsys.readouterr().out


def test_help_says_how_to_install_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["--help"]) == 0
    assert "--install-completion" in capsys.readouterr().out
