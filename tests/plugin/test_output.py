"""What `--output` writes: whole, with the right mode, and over no file that it was not told to."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.evidence import output
from pytest_vllm.evidence.output import put_out

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def umask() -> Iterator[None]:
    """Have new files closed to others."""
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.fixture(params=[True, False], ids=["links", "no links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system have hard links, or not, as FAT has none."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not request.param:
        monkeypatch.setattr(Path, "hardlink_to", refuse)


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


@pytest.mark.usefixtures("links", "umask")
def test_a_new_file_is_as_open_as_the_umask_has_it(tmp_path: Path) -> None:
    put_out("new", path=str(tmp_path / "new"))
    put_out("over", path=str(tmp_path / "over"), overwrite=True)
    for name in ("new", "over"):
        assert (tmp_path / name).read_text() == name
        assert mode(tmp_path / name) == 0o640
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("kept", [0o600, 0o664])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    file.chmod(kept)
    put_out("new", path=str(file), overwrite=True)
    assert (file.read_text(), mode(file)) == ("new", kept)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.usefixtures("links")
def test_a_file_that_somebody_made_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"

    def make(text: str) -> bytes:
        file.write_text("theirs")
        return text.encode()

    monkeypatch.setattr(output, "_data", make)
    with pytest.raises(TargetError, match="there is a file .* already"):
        put_out("ours", path=str(file))
    assert file.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [file]
