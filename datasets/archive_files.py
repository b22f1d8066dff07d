"""Archives that users download (.zip, .tar, .tar.gz) and folders that were unpacked before, read the same way.

Nothing is unpacked here: names and sizes are listed, and members are read into memory one by one, so that no archive
can say where its files go. A member that would lie outside, or is a link or a device, is an `InputError`.
"""

import errno
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from formats.errors import InputError, MissingInputError, first_line
from formats.images import read_bytes

LARGEST_MEMBER = 1 << 26  # bytes; no photograph, mask or annotation comes near
LARGEST_TOTAL = 1 << 34  # bytes; VOC's largest archive has an eighth of it
MOST_MEMBERS = 200_000  # VOC's largest archive has some 40 000
ATTRIBUTES = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
LARGEST_ATTRIBUTES = 1 << 20  # bytes
DAMAGE = (  # and some errors of reading: see where they are caught
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError),
    *(RuntimeError, NotImplementedError),  # a password, an unknown compression
    *(tarfile.TarError, lzma.LZMAError),
)


class Member(NamedTuple):
    """`name`: of folders with a slash behind. `described`: by what zipfile or tarfile know it."""

    name: str
    size: int
    is_plain: bool  # a file or a folder
    described: zipfile.ZipInfo | tarfile.TarInfo


@dataclass(frozen=True)
class Archive:
    """`sizes`: name of each file in the archive, with slashes → bytes, in the archive's order. `repeated`: names that
    several files have; the last of them counts."""

    path: Path
    sizes: dict[str, int]
    open_member: Callable[[str], bytes]
    repeated: tuple[str, ...] = ()

    def read(self, name: str) -> bytes:
        with _damage_as_input_error(self.path):
            content = self.open_member(name)
        if len(content) != self.sizes[name]:
            raise InputError(f"{self.path}: {name} is cut short: fetch the archive again")
        return content


@contextmanager
def open_archive(path) -> Iterator[Archive]:
    """The files of a .zip, a .tar (also compressed) or a folder, known by what it is and not by its name."""
    path = Path(path)
    if path.is_dir():
        yield _folder(path)
        return
    if not path.is_file():
        raise MissingInputError(f"{path} does not exist")
    with _damage_as_input_error(path):
        is_zip = zipfile.is_zipfile(path)
        file = zipfile.ZipFile(path) if is_zip else tarfile.open(path, tarinfo=_Header)
    with file:
        with _damage_as_input_error(path):
            archive = _zip(path, file) if is_zip else _tar(path, file)
        yield archive


def _folder(path: Path) -> Archive:
    """Links in a folder of the user's own are followed, each folder once."""
    sizes, seen = {}, set()
    for folder, below, names in os.walk(path, followlinks=True):
        if os.path.realpath(folder) in seen:
            below.clear()
            continue
        seen.add(os.path.realpath(folder))
        below.sort()
        for file in (Path(folder) / name for name in sorted(names)):
            if file.is_file():
                sizes[file.relative_to(path).as_posix()] = file.stat().st_size
    return Archive(path, sizes, lambda name: read_bytes(path / name))


def _zip(path: Path, file: zipfile.ZipFile) -> Archive:
    kinds = (0, stat.S_IFREG, stat.S_IFDIR)
    described = (
        Member(each.filename, each.file_size, stat.S_IFMT(each.external_attr >> 16) in kinds, each)
        for each in file.infolist()
    )
    return _archive(path, described, lambda member: read_member(file, member))


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Read no more bytes than the archive's directory says; zipfile cannot limit other compressions than Deflate."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError(f"{member.filename} is neither stored nor deflated")
    with archive.open(member) as file:
        return file.read(member.file_size)


class _Header(tarfile.TarInfo):
    """Tarfile reads the long names and attributes that precede a file into memory, whatever size they claim."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        header = super().frombuf(buf, encoding, errors)
        if header.type in ATTRIBUTES and not 0 <= header.size <= LARGEST_ATTRIBUTES:
            raise InputError(f"the attributes of {header.name} have {header.size} bytes")
        return header


def _tar(path: Path, file: tarfile.TarFile) -> Archive:
    described = (
        Member(each.name.removeprefix("./") + "/" * each.isdir(), each.size, each.isreg() or each.isdir(), each)
        for each in file
    )
    archive = _archive(path, described, lambda member: file.extractfile(member).read())
    file.fileobj.seek(file.offset)
    if file.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:  # how every whole one ends
        raise InputError(f"{path} is cut short: fetch it again")
    return archive


def _archive(path: Path, members: Iterable[Member], read: Callable[..., bytes]) -> Archive:
    """Of members that are looked at one by one: in a compressed .tar, each is unpacked to find the next."""
    files, names, total = {}, Counter(), 0
    for count, member in enumerate(members, start=1):
        _check(path, member)
        total += member.size
        if count > MOST_MEMBERS:
            raise InputError(f"{path} holds more than {MOST_MEMBERS} files, several times as many as VOC")
        if total > LARGEST_TOTAL:
            raise InputError(f"{path} would unpack to {total} bytes or more, several times the size of VOC")
        if not member.name.endswith("/"):
            files[member.name] = member
            names[member.name] += 1
    sizes = {name: member.size for name, member in files.items()}
    repeated = tuple(name for name, count in names.items() if count > 1)
    return Archive(path, sizes, lambda name: read(files[name].described), repeated)


def _check(path: Path, member: Member) -> None:
    name = member.name
    if not member.is_plain:
        raise InputError(f"{path}: {name} is a link or a device: this is not the archive that VOC's site offers")
    anchored = PurePosixPath(name).anchor or PureWindowsPath(name).anchor
    if anchored or ".." in PureWindowsPath(name).parts:
        raise InputError(f"{path}: {name} would lie outside of the folder: this is not the archive that it should be")
    if not 0 <= member.size <= LARGEST_MEMBER:  # tarfile would go backwards, without end
        raise InputError(f"{path}: {name} has {member.size} bytes, as no file of VOC")


@contextmanager
def _damage_as_input_error(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the disk's; without a number it is bz2's or gzip's, EINVAL is of a place before the file
        raise InputError(
            f"{path} is damaged, cut short, or neither .zip nor .tar: fetch it again ({first_line(error)})"
        ) from None
