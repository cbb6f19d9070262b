import pytest

from tests.ahead import programs
from tests.needs import MissingPackagesError, MissingProgramError, need, need_packages


def test_a_program_that_is_there_is_found() -> None:
    assert need("sh", "dash").samefile("/bin/sh")


def test_a_daemon_outside_of_path_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert need("ldconfig", "libc-bin").name == "ldconfig"


def test_a_package_without_the_program_is_an_error_that_names_both() -> None:
    with pytest.raises(MissingProgramError, match=r"no-such-program .* apt-get install coreutils"):
        need("no-such-program", "coreutils")


def test_packages_that_cannot_be_installed_are_an_error_that_names_them() -> None:
    with pytest.raises(MissingPackagesError, match=r"run: apt-get install no-such-package\n"):
        need_packages(["dash", "no-such-package"])


def test_all_programs_that_tests_need_are_got_ahead() -> None:
    assert {("chromium", "chromium"), ("qemu-system-x86_64", "qemu-system-x86")} < set(programs())
