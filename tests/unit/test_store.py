"""What is left with the manager, and what the next famezd finds."""

from __future__ import annotations

import asyncio
import grp
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from famezd import kinds
from famezd.config import ConfigError, FaultSettings, load
from famezd.notify import Manager, Notification, NotifySocket
from famezd.statepage import StatePage
from famezd.supervisor.accepted import Accepted, at_start, keep, recall
from famezd.supervisor.faults import FaultTable
from famezd.supervisor.status import view
from famezd.supervisor.store import Store
from famezd.supervisor.worker import Worker
from tests.unit.conftest import closing
from tests.unit.test_worker_log import write_config


class Systemd:
    """Keeps what it is told to, by name, and hands it to whoever comes next."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._socket = NotifySocket(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", self._socket.path)
        self.kept: dict[str, list[int]] = {}
        self._managers: list[Manager] = []
        self._stores: list[Store] = []

    def hear(self) -> dict[str, list[int]]:
        """Does what it was told so far; returns what it keeps."""
        while True:
            try:
                told = self._socket.receive()
            except BlockingIOError:
                return self.kept
            if told.assignments.get("FDSTORE") == "1":
                assert told.assignments["FDPOLL"] == "0"
                self.kept.setdefault(told.assignments["FDNAME"], []).extend(told.descriptors)
            elif told.assignments.get("FDSTOREREMOVE") == "1":
                for descriptor in self.kept.pop(told.assignments["FDNAME"], ()):
                    os.close(descriptor)

    def start(self) -> Store:
        """The store of a famezd that is started now."""
        given = {name: [os.dup(fd) for fd in fds] for name, fds in self.hear().items()}
        self._managers.append(Manager())
        self._stores.append(Store(self._managers[-1], given))
        return self._stores[-1]

    def close(self) -> None:
        for store in self._stores:
            for name in store.fabrics:
                store.shelf(name).discard("/nonexistent")
            store.forget_config()
        self.hear()
        for fds in self.kept.values():
            for fd in fds:
                os.close(fd)
        self._socket.close()
        for manager in self._managers:
            assert manager._socket is not None
            manager._socket.close()


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path / "notify", monkeypatch)
    yield systemd
    systemd.close()


def a_file(text: bytes = b"") -> int:
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC)
    os.write(descriptor, text)
    return descriptor


@pytest.mark.parametrize("fabric", ["lab", "a.b", "config", "lab.socket", "ark.0.0"])
def test_what_a_fabric_left_is_found_under_its_name(systemd: Systemd, fabric: str) -> None:
    shelf = systemd.start().shelf(fabric)
    shelf.keep("stats", [a_file(b"counters")])
    shelf.keep("ark.12.0", [a_file(b"one end"), a_file(b"the other")])
    assert set(systemd.hear()) == {f"{fabric}.stats", f"{fabric}.ark.12.0"}
    found = systemd.start()
    assert found.fabrics == [fabric]
    kept = found.shelf(fabric).kept
    assert {name: [os.pread(fd, 99, 0) for fd in fds] for name, fds in kept.items()} == {
        "stats": [b"counters"],
        "ark.12.0": [b"one end", b"the other"],
    }


def test_what_takes_the_place_of_another_is_kept_alone(systemd: Systemd) -> None:
    shelf = systemd.start().shelf("lab")
    for text in (b"old", b"new"):
        shelf.keep("stats", [a_file(text)])
    assert [os.pread(fd, 99, 0) for fd in systemd.hear()["lab.stats"]] == [b"new"]
    shelf.forget("stats")
    shelf.forget("stats")
    assert systemd.hear() == {}


def make_busy(store: Store) -> None:
    """Nothing more can be told until it has heard what there is."""
    store.manager.hurry()
    for _ in range(1000):
        store.manager.tell("STATUS=much")


def test_a_worker_is_not_told_that_what_a_busy_manager_did_not_take_is_safe(systemd: Systemd, tmp_path: Path) -> None:
    store = systemd.start()
    shelf = store.shelf("lab")

    async def confirmed() -> bool:
        config = load(tmp_path / "famezd.yaml")
        worker = Worker(config.fabrics["lab"], shelf, str(tmp_path / "nobody"), lambda: None)
        reading, writing = os.pipe()
        with closing(reading):
            worker.hear(Notification(1, {"BARRIER": "1"}, [writing]))
            return bool(os.read(reading, 1))

    write_config(tmp_path, lab="")
    shelf.keep("ark.0.0", [a_file(), a_file()])
    assert asyncio.run(confirmed())
    make_busy(store)
    shelf.keep("ark.0.1", [a_file(), a_file()])
    assert not asyncio.run(confirmed())
    assert set(systemd.hear()) == {"lab.ark.0.0"}
    # What it asks for next may be taken.
    shelf.keep("ark.0.2", [a_file(), a_file()])
    assert asyncio.run(confirmed())


def test_a_configuration_that_is_not_taken_leaves_the_one_before(systemd: Systemd) -> None:
    store = systemd.start()
    store.keep_config("old")
    make_busy(store)
    store.keep_config("new")
    systemd.hear()
    # What it was not asked yet is asked with this.
    store.manager.forget("lab.ark.0.0")
    assert systemd.start().config == "old"
    store.keep_config("newest")
    assert systemd.start().config == "newest"


def test_an_end_removes_the_files_that_are_still_its_own(systemd: Systemd, tmp_path: Path) -> None:
    for foreign in (False, True):
        shelf = systemd.start().shelf("lab")
        path, memory = tmp_path / "lab.sock", tmp_path / "memory"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        shelf.keep("socket", [listener.detach()])
        shelf.keep("mailbox", [os.open(memory, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)])
        if foreign:
            # Kept beside it: else the new file could be given the number of the one before.
            path.rename(tmp_path / "was.sock")
            path.touch()
            memory.unlink()
            memory.touch()
        shelf.discard(str(memory))
        assert path.exists() == foreign
        assert memory.exists() == foreign
        assert systemd.hear() == {}


def test_a_socket_that_moved_leaves_nothing_where_it_was(systemd: Systemd, tmp_path: Path) -> None:
    shelf = systemd.start().shelf("lab")
    for name in ("before", "after"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / name))
        shelf.keep("socket", [listener.detach()])
    assert not (tmp_path / "before").exists()
    assert stat.S_ISSOCK((tmp_path / "after").stat().st_mode)


def test_ports_have_sockets_of_their_own_each_with_its_file(systemd: Systemd, tmp_path: Path) -> None:
    shelf = systemd.start().shelf("a.socket")
    for name in ("socket", "socket.3", "socket.14"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / name))
        shelf.keep(name, [listener.detach()])
    found = systemd.start()
    assert found.fabrics == ["a.socket"]
    shelf = found.shelf("a.socket")
    assert set(shelf.kept) == {"socket", "socket.3", "socket.14"}
    shelf.forget("socket.3")
    assert set(systemd.hear()) == {"a.socket.socket", "a.socket.socket.14"}
    assert sorted(path.name for path in tmp_path.glob("socket*")) == ["socket", "socket.14"]
    shelf.discard("/nonexistent")
    assert list(tmp_path.glob("socket*")) == []
    assert systemd.hear() == {}


def test_sockets_that_systemd_opened_are_no_fabrics(systemd: Systemd) -> None:
    manager = Manager()
    store = Store(manager, {"http": [a_file()], "lab.stats": [a_file()]})
    assert store.fabrics == ["lab"]
    assert list(store.others) == ["http"]
    store.shelf("lab").discard("/nonexistent")
    os.close(store.others["http"][0])
    assert manager._socket is not None
    manager._socket.close()


def test_the_newest_configuration_counts(systemd: Systemd) -> None:
    store = systemd.start()
    assert store.config is None
    for text in ("first", "second"):
        store.keep_config(text)
    assert list(systemd.hear()) == ["config.1"]
    successor = systemd.start()
    assert successor.config == "second"
    successor.keep_config("third")
    # A famezd that was killed between the two steps left both.
    assert systemd.start().config == "third"


def test_what_a_switch_knows_is_seen_by_the_next_famezd(systemd: Systemd, tmp_path: Path) -> None:
    page = StatePage.create("test")
    page.write({"port 3": {"link": "configured"}})
    systemd.start().shelf("lab").keep("state", [os.dup(page.descriptor)])
    page.close()
    systemd.hear()
    store = systemd.start()
    config = load(write_config(tmp_path, lab="personality: genz"))

    async def look() -> None:
        worker = Worker(config.fabrics["lab"], store.shelf("lab"), str(config.notify_socket), lambda: None)
        assert view.look(worker).switch_state == {"port 3": {"link": "configured"}}
        worker.remove()
        assert view.look(worker).switch_state == {}

    asyncio.run(look())


# What is served at a start


def test_an_accepted_configuration_comes_back_as_it_was(systemd: Systemd, tmp_path: Path) -> None:
    path = write_config(tmp_path, lab="peers: 3\nsocket: {mode: 0600}\nmailbox: {size: 64K}", other="")
    config = load(path)
    keep(Accepted(config=config), systemd.start())
    systemd.hear()
    assert recall(systemd.start()) == Accepted(config=config)


def test_mistakes_leave_the_configuration_that_was_accepted(systemd: Systemd, tmp_path: Path) -> None:
    path = write_config(tmp_path, lab="peers: 3")
    accepted, refused = at_start(path, systemd.start())
    assert refused is None
    keep(accepted, systemd.start())
    (tmp_path / "fabrics.d" / "lab.yaml").write_text("peers: none")
    systemd.hear()
    found, refused = at_start(path, systemd.start())
    assert found == accepted
    assert refused is not None
    assert [problem.key for problem in refused.problems] == ["peers"]


def test_a_group_that_has_gone_is_what_it_was(
    systemd: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "ACCOUNTS", {})
    group = grp.getgrgid(os.getegid())
    settings = f"socket: {{group: {group.gr_name}}}\naccess: {{groups: [{group.gr_name}]}}"
    path = write_config(tmp_path, lab=settings)
    keep(at_start(path, systemd.start())[0], systemd.start())
    systemd.hear()
    kept = systemd.start().config
    assert kept is not None
    # It was called something else then.
    for quoted in ('"{}"', '"group {}"'):
        kept = kept.replace(quoted.format(group.gr_name), quoted.format("vanished"))
    systemd.start().keep_config(kept)
    systemd.hear()
    (tmp_path / "fabrics.d" / "lab.yaml").write_text(settings.replace(group.gr_name, "vanished"))
    kinds.ACCOUNTS.clear()
    found, refused = at_start(path, systemd.start())
    assert refused is not None
    assert [problem.key for problem in refused.problems] == ["socket.group", "access.groups[0]"]
    assert all("this system has no group 'vanished'" in str(problem) for problem in refused.problems)
    assert found.config.fabrics["lab"].socket.gid == group.gr_gid
    assert found.config.fabrics["lab"].access.group_ids == [group.gr_gid]
    # That is so for what was accepted, and for nothing else.
    with pytest.raises(ConfigError):
        load(path)
    # Nor can it be known without having been written down.
    kinds.ACCOUNTS.clear()
    control = '{"group": "vanished"}'
    systemd.start().keep_config(f'{{"config": {{"runtime_directory": "/run", "fabrics": {{}}, "control": {control}}}}}')
    systemd.hear()
    assert recall(systemd.start()) is None


@pytest.mark.parametrize("text", ["", "{}", "no JSON", '{"config": {"fabrics": {}, "unheard_of": 1}}'])
def test_what_another_version_kept_may_be_of_no_use(systemd: Systemd, text: str) -> None:
    systemd.start().keep_config(text)
    systemd.hear()
    assert recall(systemd.start()) is None


def test_what_waited_for_a_restart_waits_after_a_crash_unless_it_was_changed_again(
    systemd: Systemd, tmp_path: Path
) -> None:
    path = write_config(tmp_path, lab="peers: 3", other="peers: 3")
    served = load(path).fabrics
    for name in served:
        (tmp_path / "fabrics.d" / f"{name}.yaml").write_text("peers: 7")
    keep(Accepted(config=load(path), served=served), systemd.start())
    systemd.hear()
    (tmp_path / "fabrics.d" / "other.yaml").write_text("peers: 8")
    found, _ = at_start(path, systemd.start())
    assert [found.fabric(name).peers for name in ("lab", "other")] == [3, 8]


def test_fault_rules_go_on_with_their_ids_after_a_restart(systemd: Systemd, tmp_path: Path) -> None:
    path = write_config(tmp_path, lab="faults: [{src: 1, drop: 0.1}, {block: true}]", other="")
    config = load(path)
    fabric = config.fabrics["lab"]
    table = FaultTable().fitting(fabric).added(FaultSettings(dst=2, delay="1ms..5ms"))
    keep(Accepted(config=config, faults={"lab": table, "gone": FaultTable(last=5)}), systemd.start())
    systemd.hear()
    found, _ = at_start(path, systemd.start())
    assert found.faults == {"lab": table}
    assert found.faults["lab"].text == table.text
    assert found.faults["lab"].fitting(fabric) == table
