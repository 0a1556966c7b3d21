"""Names of images are read as Docker reads them, and refused in words."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.repository import (
    ImageName,
    PinnedName,
    Repository,
    TaggedName,
    api_host,
)

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "host", "path", "tag"),
    [
        ("busybox:1", "docker.io", "library/busybox", "1"),
        ("rocm/vllm:0.32.0", "docker.io", "rocm/vllm", "0.32.0"),
        ("docker.io/rocm/vllm:x", "docker.io", "rocm/vllm", "x"),
        ("index.docker.io/busybox:x", "docker.io", "library/busybox", "x"),
        ("registry-1.docker.io/a/b:x", "docker.io", "a/b", "x"),
        ("localhost/vllm:x", "localhost", "vllm", "x"),
        ("localhost:5000/vllm:x", "localhost:5000", "vllm", "x"),
        ("127.0.0.1:5000/a/b/c:x_1.2-3", "127.0.0.1:5000", "a/b/c", "x_1.2-3"),
        ("[::1]:5000/a:x", "[::1]:5000", "a", "x"),
        ("Registry.Example.COM/a__b/c--d:X", "registry.example.com", "a__b/c--d", "X"),
        ("host:5000/a:" + "t" * 128, "host:5000", "a", "t" * 128),
    ],
)
def test_a_name_is_read_as_docker_does(text: str, host: str, path: str, tag: str) -> None:
    name = TaggedName.parse(text, what="--to")
    assert (name.repository.host, name.repository.path, name.tag) == (host, path, tag)
    assert TaggedName.parse(str(name), what="--to") == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "--to:  names no tag"),
        ("vllm", "vllm names no tag"),
        ("localhost:5000/vllm", "localhost:5000/vllm names no tag"),
        ("vllm:", "vllm: names no tag"),
        ("vllm:.x", ".x is no tag"),
        ("vllm:" + "t" * 129, "is no tag"),
        ("vllm:ä", "ä is no tag"),
        ("Rocm/vllm:x", "Rocm/vllm is no repository"),
        ("h:1/a//b:x", "is no repository"),
        ("h:1/-a:x", "is no repository"),
        ("h:1/../a:x", "is no repository"),
        ("h:1/a?b=c:x", "is no repository"),
        ("h:99999/a:x", "h:99999 is no registry"),
        ("u:p@h/a:x", "names a digest"),
        (f"vllm@{DIGEST}", "names a digest, and a digest cannot be given"),
        (f"vllm:x@{DIGEST}", "names a digest"),
        ("https://h/a:x", "is a URL"),
        (":5000/a:x", "is no registry"),
        ("h:1/" + "a" * 256 + ":x", "is no repository"),
    ],
)
def test_what_is_no_name_of_a_tag_is_refused(text: str, said: str) -> None:
    with pytest.raises(TargetError) as caught:
        TaggedName.parse(text, what="--to")
    assert said in caught.value.message
    assert caught.value.message.startswith("--to: ")
    assert caught.value.advice


@given(st.text() | st.from_regex(r"[a-z0-9./:@_-]{1,30}", fullmatch=True))
def test_any_text_is_a_name_or_an_error(text: str) -> None:
    for read in (TaggedName.parse, PinnedName.parse, Repository.parse, ImageName.parse):
        with suppress(TargetError):
            name = read(text, what="--to")
            assert read(str(name), what="--to") == name


@pytest.mark.parametrize(
    ("text", "shown", "tagged"),
    [
        (DIGEST, DIGEST, None),
        ("vllm", "docker.io/library/vllm:latest", "docker.io/library/vllm:latest"),
        ("[::1]:5000/a:x", "[::1]:5000/a:x", "[::1]:5000/a:x"),
        (f"h:1/a@{DIGEST}", f"h:1/a@{DIGEST}", None),
        (f"h:1/a:x@{DIGEST}", f"h:1/a:x@{DIGEST}", "h:1/a:x"),
    ],
)
def test_an_image_is_asked_for_by_tag_or_digest_or_both(
    text: str, shown: str, tagged: str | None
) -> None:
    name = ImageName.parse(text, what="--image")
    assert str(name) == shown
    assert (None if name.tagged is None else str(name.tagged)) == tagged


@pytest.mark.parametrize(
    "text",
    ["", ":x", "a b", "A:x", "a:", "https://h/a:x", "sha256:ab", f"@{DIGEST}", "a:x@sha256:1"],
)
def test_what_is_no_image_is_refused(text: str) -> None:
    with pytest.raises(TargetError, match="^--image: ") as caught:
        ImageName.parse(text, what="--image")
    assert caught.value.advice


def test_docker_hub_speaks_its_api_under_another_name() -> None:
    hub = Repository.parse("vllm", what="--to")
    assert str(hub) == "docker.io/library/vllm"
    assert api_host(hub.host) == "registry-1.docker.io"
    assert api_host("ghcr.io") == "ghcr.io"


def test_a_pinned_name_has_a_whole_digest() -> None:
    name = PinnedName.parse(f"127.0.0.1:5000/vllm@{DIGEST}", what="run")
    assert (str(name.repository), name.digest) == ("127.0.0.1:5000/vllm", DIGEST)
    for wrong in ("vllm", "vllm@sha256:ab", f"vllm@{DIGEST[:-1]}G", f"@{DIGEST}", DIGEST):
        with pytest.raises(TargetError, match="names no digest|is no repository"):
            PinnedName.parse(wrong, what="run")
