"""famez-server's options: what they make of a worker, and what is refused."""

import os

import pytest

from famezd.cli.famez_server import main, make_parser, worker_settings
from famezd.fabric.settings import Settings


def settings(*options: str) -> Settings:
    return worker_settings(make_parser().parse_args(options))


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    with pytest.raises(SystemExit) as end:
        make_parser().parse_args(options)
    assert end.value.code == 1
    message, hint = capsys.readouterr().err.splitlines()
    assert hint == "Try 'famez-server -h' for more information."
    return message.removeprefix("famez-server: ")


def test_the_defaults_are_the_stock_servers() -> None:
    options = make_parser().parse_args([])
    assert (options.verbose, options.foreground, str(options.pid_file)) == (False, False, "/var/run/ivshmem-server.pid")
    found = settings()
    assert (found.socket, found.memory, found.size) == ("/tmp/ivshmem_socket", "/dev/shm/ivshmem", 4 << 20)
    assert (found.vectors, found.doorbells, found.ports, found.backing) == (1, "direct", "fresh", "shm")
    assert (found.personality, found.peers) == ("famezd.switch.plain:Plain", 256)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("1", 4096),
        ("4096", 4096),
        ("4097", 8192),
        ("8K", 8192),
        ("8k", 8192),
        ("3M", 4 << 20),
        ("1025M", 2 << 30),
        ("1G", 1 << 30),
        ("1T", 1 << 40),
    ],
)
def test_a_size_is_rounded_up_to_a_power_of_two_of_whole_pages(size: str, expected: int) -> None:
    assert settings("-l", size).size == expected


@pytest.mark.parametrize(
    "size", ["", "0", "K", "4X", "1.5M", "4 M", "0x1000", "2T", "9" * 30, "\N{ARABIC-INDIC DIGIT FOUR}"]
)
def test_what_is_no_size_is_refused(capsys: pytest.CaptureFixture[str], size: str) -> None:
    told = f"argument -l: must be a number of bytes up to 1T, such as 65536, 64K, 4M or 1G, not {size!r}"
    assert refused(capsys, "-l", size) == told


@pytest.mark.parametrize("name", ["/ivshmem", "ivshmem"])
def test_the_memorys_name_may_have_a_slash_in_front(name: str) -> None:
    assert settings("-M", name).memory == "/dev/shm/ivshmem"


@pytest.mark.parametrize("name", ["/", "..", "a/b", "//a", "x" * 256])
def test_what_is_no_name_in_dev_shm_is_refused(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert refused(capsys, "-M", name).startswith(
        "argument -M: must be a name in /dev/shm, perhaps with one / in front"
    )


def test_memory_without_a_name_is_made_in_a_directory() -> None:
    found = settings("-m", "/dev/shm", "-l", "64K")
    assert (found.backing, found.memory, found.size) == ("unlinked", "/dev/shm", 65536)
    # At least a block of what is mounted there: on hugetlbfs a huge page.
    assert settings("-m", "/dev/shm", "-l", "1").size == os.statvfs("/dev/shm").f_bsize


def test_of_two_places_for_the_memory_the_last_counts() -> None:
    assert settings("-m", "/dev/shm", "-M", "name").memory == "/dev/shm/name"
    assert settings("-M", "name", "-m", "/dev/shm").backing == "unlinked"


@pytest.mark.parametrize("vectors", ["0", "-1", "2049", "many", "1e1"])
def test_vectors_are_bounded(capsys: pytest.CaptureFixture[str], vectors: str) -> None:
    assert refused(capsys, f"-n{vectors}") == f"argument -n: must be a number from 1 to 2048, not {vectors!r}"


@pytest.mark.parametrize("options", [["-x"], ["--nClient", "3"], ["more"], ["--personality", "none"], ["-l"]])
def test_other_mistakes_end_in_the_same_way(capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    assert refused(capsys, *options)


def test_options_may_be_written_together() -> None:
    options = make_parser().parse_args(["-Fvn4", "-l64K", "-S/run/s"])
    assert (options.foreground, options.verbose, options.vectors) == (True, True, 4)
    assert (options.size, options.socket) == (65536, "/run/s")


def test_paths_are_those_of_the_caller() -> None:
    options = make_parser().parse_args(["-S", "s", "-p", "p", "-m", "m", "-L", "l"])
    found = [options.socket, str(options.pid_file), options.memory[1], options.logfile]
    assert found == [os.path.join(os.getcwd(), name) for name in "spml"]


def test_genz_has_the_defaults_of_fame_z() -> None:
    found = settings("--personality", "genz")
    assert (found.peers, found.vectors, found.size) == (14, 16, 8192)
    assert (found.personality, found.ports) == ("famezd.switch.genz:Genz", "sticky")
    assert settings("--personality", "genz", "--norecycle").ports == "fresh"
    assert settings("--personality", "genz", "--nClients", "3").vectors == 16
    large = settings("--personality", "genz", "--nClients", "62")
    assert (large.vectors, large.size) == (64, 32768)
    assert settings("--personality", "genz", "-l", "4M").size == 4 << 20


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--nClients", "63"], "--nClients: personality genz takes at most 62, not 63"),
        (["-n", "15"], "-n: personality genz with 14 peers needs at least 16 (peers + 2), not 15"),
        (["-l", "4K"], "-l: 14 peers need at least 8192 bytes, not 4096"),
    ],
)
def test_what_genz_cannot_do_is_named_by_its_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str], told: str
) -> None:
    assert mistakes(capsys, monkeypatch, "--personality", "genz", *options) == told


@pytest.mark.parametrize("option", ["--norecycle", "--noPFM", "-s"])
def test_what_is_the_genz_personalitys(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    assert mistakes(capsys, monkeypatch, option) == f"{option} is for --personality genz: leave it out"


def mistakes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    """What the program says of options that do not go together."""
    monkeypatch.setattr("sys.argv", ["famez-server", *options])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    return capsys.readouterr().err.splitlines()[0].removeprefix("famez-server: ")
