import pytest

from tests.needs import MissingProgramError, need


def test_a_program_that_is_there_is_found() -> None:
    assert need("sh", "dash").samefile("/bin/sh")


def test_a_daemon_outside_of_path_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert need("ldconfig", "libc-bin").name == "ldconfig"


def test_a_package_without_the_program_is_an_error_that_names_both() -> None:
    with pytest.raises(MissingProgramError, match=r"no-such-program .* apt-get install coreutils"):
        need("no-such-program", "coreutils")
