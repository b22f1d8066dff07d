"""Named arrays in `.npz` archives, without pickles; a file is checked before memory is taken for what it claims."""

import io
import math
import struct
import tokenize
import zipfile
import zlib

import numpy as np

from formats.errors import InputError, first_line
from formats.images import read_bytes

LARGEST_ARCHIVE = 1 << 30  # bytes when unpacked; the maps of an image have some tens of millions
ZIP_DAMAGE = (  # how reading a damaged archive ends
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(ValueError, OverflowError),  # places before the file and beyond all files
    *(RuntimeError, NotImplementedError),  # a password, an unknown compression
)
DAMAGE = (
    *ZIP_DAMAGE,
    *(KeyError, TypeError, SyntaxError, tokenize.TokenError, MemoryError),  # numpy parses the header as Python
)


def load_named_arrays(path) -> dict[str, np.ndarray]:
    """Name → array, read-only, of a `.npz` of plain numbers or texts. Anything else is an `InputError`."""
    content = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            unpacked = sum(member.file_size for member in members)
            if unpacked > LARGEST_ARCHIVE:
                raise InputError(f"it unpacks to {unpacked} bytes, more than {LARGEST_ARCHIVE >> 20} MiB")
            return {member.filename.removesuffix(".npy"): _read_array(archive, member) for member in members}
    except DAMAGE as error:
        raise InputError(f"{path} cannot be read as named arrays ({first_line(error)}): make it again") from None


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """At most as many bytes as the archive's directory says: without the number, all that there is would be unpacked
    before that is compared. Of other compressions than Deflate zipfile unpacks all there is even so."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError(f"{member.filename} is neither stored nor deflated")  # as zipfile of unknown ones
    with archive.open(member) as file:
        return file.read(member.file_size)


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    content = read_member(archive, member)
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(stream)
    if dtype.hasobject:
        raise InputError(f"{member.filename} is pickled")
    count, held = math.prod(shape), len(content) - stream.tell()
    if count * dtype.itemsize != held:
        raise InputError(f"{member.filename} claims {dtype} {list(shape)}, but holds {held} bytes")
    flat = np.frombuffer(content, dtype, count, stream.tell()) if count else np.zeros(0, dtype)
    return flat.reshape(shape, order="F" if is_fortran else "C")
