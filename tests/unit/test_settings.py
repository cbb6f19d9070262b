"""A worker's arguments: what is written is read back, and what is wrong is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famezd.fabric.access import AccessError, Rules
from famezd.fabric.settings import SPARE_DESCRIPTORS, Settings, SettingsError, parse
from famezd.mailbox import Backing

SOME = Settings("lab", "/run/famez/lab.sock", "/dev/shm/famez-lab", 8192)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = {key: st.integers(-1, 2**40) if kind is int else TEXT for key, kind in Settings.__annotations__.items()}


@given(st.builds(Settings, **VALUES))
def test_arguments_are_read_back_as_they_were(settings: Settings) -> None:
    assert parse(settings.arguments()) == settings


def test_arguments_leave_defaults_out() -> None:
    assert SOME.arguments() == ["lab", "socket=/run/famez/lab.sock", "memory=/dev/shm/famez-lab", "size=8192"]
    assert SOME._replace(vectors=8, ports="fresh").arguments()[4:] == ["vectors=8", "ports=fresh"]


GIVEN = SOME.arguments()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "no fabric named; usage: famezd.fabric NAME socket=PATH memory=PATH size=BYTES ..."),
        (["lab"], "missing: socket, memory, size"),
        (["lab", "socket=/s", "size=1"], "missing: memory"),
        ([*GIVEN, "vector=8"], "vector=8: not of the form key=value with one of socket, memory, size, "),
        ([*GIVEN, "vectors"], "vectors: not of the form key=value"),
        ([*GIVEN, "name=x"], "name=x: not of the form"),
        ([*GIVEN, "vectors=many"], "vectors=many: vectors is a whole number"),
        ([*GIVEN, "size="], "size=: size is a whole number"),
        ([*GIVEN, "size=4K"], "size=4K: size is a whole number"),
        ([*GIVEN, "size=4.5"], "size=4.5: size is a whole number"),
        ([*GIVEN, ""], ": not of the form"),
    ],
)
def test_what_is_no_setting_is_named(arguments: list[str], told: str) -> None:
    with pytest.raises(SettingsError) as e:
        parse(arguments)
    assert str(e.value).startswith(told)


def test_of_a_key_that_comes_twice_the_last_counts() -> None:
    assert parse([*GIVEN, "vectors=8", "vectors=4"]).vectors == 4


def test_the_mailbox_has_its_own_owner_group_and_mode() -> None:
    settings = SOME._replace(memory_uid=1, memory_gid=2, memory_mode=0o600, socket_uid=3, socket_gid=4, socket_mode=5)
    assert settings.mailbox == Backing("shm", "/dev/shm/famez-lab", 8192, 0o600, 1, 2)
    assert SOME._replace(backing="memfd").mailbox.kind == "memfd"


def test_who_may_join_is_told_by_numbers() -> None:
    settings = parse([*GIVEN, "users=0,1000", "groups=36", "peers_per_user=4"])
    assert settings.access == Rules(frozenset({0, 1000}), frozenset({36}), 4)
    assert SOME.access == Rules()


@pytest.mark.parametrize("users", ["root", "0,", ",", "1 2", "0x1"])
def test_users_that_are_no_numbers_are_named(users: str) -> None:
    with pytest.raises(AccessError, match=f"users={users}: users are whole numbers with commas between"):
        _ = SOME._replace(users=users).access


@pytest.mark.parametrize(("ports", "doorbells"), [("sticky", "relayed"), ("fresh", "direct")])
def test_ports_and_doorbells_are_told_apart(ports: str, doorbells: str) -> None:
    settings = SOME._replace(ports=ports, doorbells=doorbells)
    assert (settings.sticky, settings.relayed) == (ports == "sticky", doorbells == "relayed")


@pytest.mark.parametrize(
    ("doorbells", "switch", "needed"),
    [
        # A socket each, a set of vectors each, and one for each of the others and the switch.
        ("relayed", False, 14 * (1 + 16 * 14)),
        ("relayed", True, 14 * (1 + 16 * 15)),
        # A socket and a set of vectors each, and one for the switch.
        ("direct", False, 14 * 17),
        ("direct", True, 14 * 17 + 16),
    ],
)
def test_a_full_fabric_needs_so_many_descriptors(doorbells: str, switch: bool, needed: int) -> None:
    settings = SOME._replace(doorbells=doorbells, peers=14, vectors=16)
    assert settings.descriptors(switch=switch) == needed + SPARE_DESCRIPTORS


def test_what_an_older_fabric_does_not_know_has_its_default() -> None:
    settings = SOME._replace(options="manager=false")
    older = {key: value for key, value in settings.fixed.items() if key != "silent"}
    assert settings.misfits(older) == []
    assert settings._replace(silent=1).misfits(older) == ["genz.silent is true, was false"]
    assert settings.misfits(settings._replace(silent=1).fixed) == ["genz.silent is false, was true"]
    assert settings.misfits(SOME.fixed) == [], "options change in place"


def test_options_are_read_back_and_one_without_a_value_is_named() -> None:
    assert SOME.personality_options == {}
    assert parse([*GIVEN, "options=manager=false,sid=5"]).personality_options == {"manager": "false", "sid": "5"}
    with pytest.raises(SettingsError, match="options=manager: 'manager' is no KEY=VALUE"):
        _ = parse([*GIVEN, "options=manager"]).personality_options
