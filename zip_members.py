"""Members of .zip archives, read so that none takes more memory than the archive's directory says."""

import struct
import zipfile
import zlib

ZIP_DAMAGE = (  # how reading a damaged archive ends
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(ValueError, OverflowError),  # places before the file and beyond all files
    *(RuntimeError, NotImplementedError),  # a password, an unknown compression
)


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """At most as many bytes as the archive's directory says: without the number, all that there is would be unpacked
    before that is compared. Of other compressions than Deflate zipfile unpacks all there is even so."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError(f"{member.filename} is neither stored nor deflated")  # as zipfile of unknown ones
    with archive.open(member) as file:
        return file.read(member.file_size)
