"""A small image of the stand-in: what a push and a pull in seconds need."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

from tests.real.cleanup.server import add_stand_in

if TYPE_CHECKING:
    from docker import DockerClient

_LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin"}
_INSIDE = "/opt/stand_in"
_BUILD = f"""
FROM @base@ AS whole
FROM scratch
ADD links.tar /
COPY --from=whole /usr/bin/python3 /usr/bin/python3.11 /usr/bin/env /usr/bin/dash /usr/bin/sh \
  /usr/bin/
COPY --from=whole /usr/lib64 /usr/lib64
COPY --from=whole /usr/lib/python3.11 /usr/lib/python3.11
COPY --from=whole /usr/lib/x86_64-linux-gnu /usr/lib/x86_64-linux-gnu
COPY stand_in {_INSIDE}
ENV PYTHONPATH={_INSIDE} PYTHONDONTWRITEBYTECODE=1 PATH={_INSIDE}/bin:/usr/bin
ENV STAND_IN=cpu STAND_IN_TOKEN_MS=3 STAND_IN_BLOCKS=@blocks@
"""


def build_small(client: DockerClient, base: str, name: str, *, blocks: int) -> None:
    """Build it out of an image that has Python.

    Args:
        client: The engine.
        base: That image.
        name: Name of the new one.
        blocks: KV cache blocks that its server has: those that a forecast for it expects.
    """
    text = _BUILD.replace("@base@", base).replace("@blocks@", str(blocks))
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for file, data in (("Dockerfile", text.encode()), ("links.tar", _links())):
            entry = tarfile.TarInfo(file)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        add_stand_in(archive)
    context.seek(0)
    client.images.build(fileobj=context, custom_context=True, tag=name, rm=True)


def _links() -> bytes:
    """Pack what is a link or a folder of its own in a root file system."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, target in _LINKS.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(folder)
    return packed.getvalue()
