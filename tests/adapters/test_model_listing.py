"""The digest of a model on the disk: what changes it, what does not, and what is never read."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.model_listing import list_model

if TYPE_CHECKING:
    from pathlib import Path

LARGE = 80 * 2**20
COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
BLOB = "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c"


def sparse(path: Path, **bytes_at: int) -> Path:
    """Write a file of 80 MiB that takes no room, with a byte set at `at_NUMBER`."""
    with path.open("wb") as file:
        file.truncate(LARGE)
        for place, value in bytes_at.items():
            file.seek(int(place.removeprefix("at_")))
            file.write(bytes([value]))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "original").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "original" / "params.json").write_text("[]")
    sparse(folder / "model.safetensors")
    return folder


def test_each_file_is_a_line_of_the_listing(model: Path) -> None:
    """So that anybody can make the digest again."""
    zeros = hashlib.sha256(bytes(3 * 65_536)).hexdigest()
    lines = (
        f"read whole\t{hashlib.sha256(b'{}').hexdigest()}\t2\tconfig.json\n"
        f"by size and samples\t{zeros}\t{LARGE}\tmodel.safetensors\n"
        f"read whole\t{hashlib.sha256(b'[]').hexdigest()}\t2\toriginal/params.json\n"
    )
    listing = list_model(model)
    assert listing.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert listing.of == "listing of 3 files: 2 read whole, 1 by size and samples"
    assert (listing.repository, listing.commit) == ("", "")


@pytest.mark.parametrize(
    "place", ["config.json", "new.json", "original/params.json"], ids=["file", "new", "below"]
)
def test_another_small_file_is_another_model(model: Path, place: str) -> None:
    before = list_model(model)
    (model / place).write_text("{ }")
    assert list_model(model).sha256 != before.sha256


@pytest.mark.parametrize("place", [0, 65_535, LARGE // 2, LARGE - 1])
def test_weights_are_told_apart_where_they_are_sampled(model: Path, place: int) -> None:
    before = list_model(model)
    sparse(model / "model.safetensors", **{f"at_{place}": 1})
    assert list_model(model).sha256 != before.sha256


def test_weights_of_another_size_are_another_model(model: Path) -> None:
    before = list_model(model)
    os.truncate(model / "model.safetensors", LARGE + 1)
    assert list_model(model).sha256 != before.sha256


def test_what_tools_leave_is_not_the_model(model: Path) -> None:
    before = list_model(model)
    (model / ".cache").mkdir()
    (model / ".cache" / "download.lock").write_text("x")
    (model / ".gitattributes").write_text("x")
    (model / "dangling.bin").symlink_to("nowhere")
    os.utime(model / "config.json", (0, 0))
    assert list_model(model) == before


def test_a_folder_that_cannot_be_read_is_not_passed_over(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read all, so the system's answer to others is put in its place."""
    real = os.scandir

    def refuse(path: str | Path) -> object:
        if str(path).endswith("original"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        list_model(model)


def test_a_linked_folder_is_named_and_not_followed(model: Path) -> None:
    """It may be anything, a circle too."""
    before = list_model(model)
    (model / "linked").symlink_to(model)
    listing = list_model(model)
    assert listing.sha256 != before.sha256
    assert listing.of == (
        "listing of 4 files: 2 read whole, 1 by size and samples, 1 by name alone (linked folder)"
    )
    (model / ".hidden").symlink_to(model)
    assert list_model(model) == listing


def test_a_snapshot_of_the_hub_is_known_by_its_blobs(tmp_path: Path) -> None:
    """The Hub names what it stores by SHA-256, so 80 MiB need not be read to be known."""
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (snapshot, repository / "blobs"):
        folder.mkdir(parents=True)
    sparse(repository / "blobs" / BLOB)
    (repository / "blobs" / "aa").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/aa")
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{BLOB}")
    listing = list_model(snapshot)
    lines = (
        f"read whole\t{hashlib.sha256(b'{}').hexdigest()}\t2\tconfig.json\n"
        f"by the Hub's SHA-256\t{BLOB}\t{LARGE}\tmodel.safetensors\n"
    )
    assert listing.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert listing.of == "listing of 2 files: 1 read whole, 1 by the Hub's SHA-256"
    assert (listing.repository, listing.commit) == ("org/name", COMMIT)


def test_one_file_is_a_model_too(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert list_model(file).of == "listing of 1 file: 1 read whole"


def test_a_folder_without_a_file_is_no_model(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError):
            list_model(path)


def test_no_more_than_so_much_is_read(tmp_path: Path) -> None:
    """Five files of 60 MiB: the budget of 256 MiB is enough for four of them."""
    for number in range(5):
        os.truncate(sparse(tmp_path / f"{number}.bin"), 60 * 2**20)
    assert list_model(tmp_path).of == ("listing of 5 files: 4 read whole, 1 by size and samples")
