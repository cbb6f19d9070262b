"""A driver of QEMU's ivshmem device, as a guest would have one, but working through qtest.

Each MSI-X vector is aimed at a word of its own in the guest's RAM: an interrupt is then a memory write
that stays there to be seen, whether a CPU runs or not.
"""

import struct

from tests.qemu.control import Qtest

# Where the machine keeps what. RAM is 4 MiB and nothing else uses it, as no CPU runs; the BARs lie above it,
# each where its largest size is aligned. BAR2 is 64-bit, and may be larger than what is free below 4 GiB.
_MESSAGES = 0x0010_0000
_REGISTERS = 0xE000_0000
_MSIX_TABLE = 0xE100_0000
_MEMORY = 0x10_0000_0000

_CONFIG_ADDRESS = 0xCF8
_CONFIG_DATA = 0xCFC
_CONFIG_ENABLE = 1 << 31
_DEVICES = 32
_IVSHMEM = 0x1110_1AF4  # device and vendor, as one register holds them

_COMMAND = 0x04
_COMMAND_MEMORY = 0x2
_COMMAND_BUS_MASTER = 0x4  # without it the device's messages go nowhere
_BARS = 0x10
_CAPABILITIES = 0x34
_CAPABILITY_MSIX = 0x11
_MSIX_ENABLE = 1 << 31
_MSIX_ENTRY = 16

# QEMU's main loop polls all it waits for, then handles what was ready. Of a doorbell and a command that
# were both waiting, it may handle the command first, but never two commands sent one after the other's
# answer; and its poll may have been over when the doorbell came. So two commands let it catch up. QEMU 7.2
# happens to handle doorbells first, and missed none of 40,000 without.
_TRIPS = 2

_POSITION = 8
_DOORBELL = 12
_MESSAGE = 0x600D_0000  # plus the vector: a word that nothing else would write
_WORD = 4


class NoDeviceError(Exception):
    """The machine has no ivshmem device, or one that differs from what the specification says."""


class WrongMessageError(Exception):
    """A vector's word holds what no interrupt of that vector can have written."""

    def __init__(self, vector: int, word: int) -> None:
        """Tell what `vector`'s word was found to be."""
        super().__init__(f"vector {vector}'s word is {word:#x}, not {_MESSAGE + vector:#x}")


class IvshmemDevice:
    """The first ivshmem device on bus 0, set up to receive interrupts on all of its vectors.

    An interrupt that came before it was set up is lost: QEMU empties an eventfd whether MSI-X is
    enabled or not.
    """

    def __init__(self, qtest: Qtest) -> None:
        """Find the device and set it up. Raises NoDeviceError when there is none."""
        self._qtest = qtest
        self._slot = self._find()
        self.memory_size = self._assign_bars()
        self.vectors = self._arm()

    @property
    def peer_id(self) -> int:
        """The machine's own peer id."""
        return self._qtest.readl(_REGISTERS + _POSITION)

    def ring(self, peer: int, vector: int) -> None:
        """Ring `peer` on `vector`. QEMU drops it in silence when it knows no such bell."""
        self._qtest.writel(_REGISTERS + _DOORBELL, peer << 16 | vector)

    def memory_read(self, offset: int, length: int) -> bytes:
        """Read `length` bytes of the shared memory at `offset`; raises ValueError beyond its end."""
        self._check_range(offset, length)
        return self._qtest.read(_MEMORY + offset, length)

    def memory_write(self, offset: int, data: bytes) -> None:
        """Write `data` to the shared memory at `offset`; raises ValueError beyond its end."""
        self._check_range(offset, len(data))
        self._qtest.write(_MEMORY + offset, data)

    def hears_itself(self) -> bool:
        """Ring the machine itself on vector 0, and return whether that arrived; the interrupt is forgotten.

        It does not as long as QEMU has not received its own bells, which end a set-up.
        """
        self.ring(self.peer_id, 0)
        heard = 0 in self.interrupts()
        if heard:
            self._qtest.writel(_MESSAGES, 0)
        return heard

    def interrupts(self) -> set[int]:
        """Return the vectors that fired since they were last taken.

        Every doorbell is seen that was in QEMU's eventfd when this was called.
        """
        self._catch_up()
        return _fired(self._qtest.read(_MESSAGES, self.vectors * _WORD))

    def take_interrupts(self) -> set[int]:
        """Return the vectors that fired since they were last taken, and forget them.

        None is missed: one that fires later is there the next time.
        """
        self._catch_up()
        return _fired(self._qtest.exchange(_MESSAGES, self.vectors * _WORD))

    def _catch_up(self) -> None:
        """Let QEMU handle every doorbell that waits for it."""
        for _ in range(_TRIPS):
            self._qtest.readl(_REGISTERS + _POSITION)

    def _check_range(self, offset: int, length: int) -> None:
        if not 0 <= offset <= offset + length <= self.memory_size:
            problem = f"{length} bytes at {offset} are not within a shared memory of {self.memory_size}"
            raise ValueError(problem)

    def _find(self) -> int:
        for slot in range(_DEVICES):
            if self._config_read(0, slot) == _IVSHMEM:
                return slot
        problem = "there is no ivshmem device (1af4:1110) on bus 0"
        raise NoDeviceError(problem)

    def _config_read(self, register: int, slot: int | None = None) -> int:
        self._config_select(register, slot)
        return self._qtest.inl(_CONFIG_DATA)

    def _config_write(self, register: int, value: int) -> None:
        self._config_select(register, None)
        self._qtest.outl(_CONFIG_DATA, value)

    def _config_select(self, register: int, slot: int | None) -> None:
        number = self._slot if slot is None else slot
        self._qtest.outl(_CONFIG_ADDRESS, _CONFIG_ENABLE | number << 11 | register)

    def _assign_bars(self) -> int:
        """Place the three BARs, let the device decode them, and return the length of the third."""
        bars = [_REGISTERS, _MSIX_TABLE, _MEMORY & 0xFFFF_FFFF, _MEMORY >> 32]
        masks = []
        for index, address in enumerate(bars):
            # Of all ones a BAR keeps the bits above its size.
            self._config_write(_BARS + 4 * index, 0xFFFF_FFFF)
            masks.append(self._config_read(_BARS + 4 * index))
            self._config_write(_BARS + 4 * index, address)
        self._config_write(_COMMAND, _COMMAND_MEMORY | _COMMAND_BUS_MASTER)
        mask = masks[3] << 32 | masks[2] & ~0xF
        return (1 << 64) - mask

    def _arm(self) -> int:
        """Aim every vector at its word, unmask it, enable MSI-X, and return how many vectors there are."""
        capability = self._find_capability(_CAPABILITY_MSIX)
        control = self._config_read(capability)
        vectors = (control >> 16 & 0x7FF) + 1
        table = self._config_read(capability + 4)
        if table & 7 != 1:
            problem = f"the MSI-X table is in BAR{table & 7}, not in BAR1"
            raise NoDeviceError(problem)
        for vector in range(vectors):
            entry = struct.pack("<QLL", _MESSAGES + vector * _WORD, _MESSAGE + vector, 0)
            self._write_registers(_MSIX_TABLE + (table & ~7) + vector * _MSIX_ENTRY, entry)
        self._config_write(capability, control | _MSIX_ENABLE)
        return vectors

    def _find_capability(self, wanted: int) -> int:
        at = self._config_read(_CAPABILITIES) & 0xFC
        while at:
            header = self._config_read(at)
            if header & 0xFF == wanted:
                return at
            at = header >> 8 & 0xFC
        problem = f"the ivshmem device has no capability {wanted:#x}: does it have ioeventfd and MSI?"
        raise NoDeviceError(problem)

    def _write_registers(self, address: int, data: bytes) -> None:
        """Write `data` as a driver does, 32 bits at a time."""
        for index, word in enumerate(struct.unpack(f"<{len(data) // _WORD}L", data)):
            self._qtest.writel(address + index * _WORD, word)


def _fired(words: bytes) -> set[int]:
    """Return the vectors whose message is in `words`. Raises WrongMessageError for any other word but 0."""
    fired = set()
    for vector, (word,) in enumerate(struct.iter_unpack("<L", words)):
        if word not in (0, _MESSAGE + vector):
            raise WrongMessageError(vector, word)
        if word:
            fired.add(vector)
    return fired
