"""Names of images as registries take them, by the rules of Docker's reference grammar.

Grammar: https://pkg.go.dev/github.com/distribution/reference and the OCI distribution spec.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.text import one_line

HUB = "docker.io"
_HUB_ALIASES = ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")
_HUB_API = "registry-1.docker.io"
_OFFICIAL = "library/"
_LONGEST_PATH = 255
_LAST_PORT = 65_535
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PART}(?:/{_PART})*")
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
    r"|\[[0-9A-Fa-f:]+\])(?::(?P<port>[0-9]{1,5}))?"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ADVICE = "write HOST[:PORT]/PATH:TAG in lower case, such as registry.example.com/rocm/vllm:0.32.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """Where a registry keeps an image.

    Attributes:
        host: Registry as people write it, with its port: `docker.io`, `localhost:5000`.
        path: Path on it; `library/...` for official images of Docker Hub.
    """

    host: str
    path: str

    @classmethod
    def parse(cls, text: str, *, what: str) -> Self:
        """Read `[HOST[:PORT]/]PATH`; a name without a host is Docker Hub's.

        Args:
            text: The name, without tag and digest.
            what: Option or key that it came from.

        Raises:
            TargetError: It is no name of a repository.
        """
        first, slash, rest = text.partition("/")
        named = bool(slash) and ("." in first or ":" in first or first == "localhost")
        host, path = (first, rest) if named else (HUB, text)
        host = HUB if host.lower() in (HUB, *_HUB_ALIASES) else host.lower()
        match = _HOST.fullmatch(host)
        if match is None or int(match["port"] or 1) not in range(1, _LAST_PORT + 1):
            raise TargetError(f"{what}: {one_line(first)} is no registry", advice=_ADVICE)
        if host == HUB and "/" not in path:
            path = _OFFICIAL + path
        if not _PATH.fullmatch(path) or len(path) > _LONGEST_PATH:
            raise TargetError(f"{what}: {one_line(text)} is no repository", advice=_ADVICE)
        return cls(host=host, path=path)

    def __str__(self) -> str:
        """Return the full name, as `docker pull` takes it."""
        return f"{self.host}/{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedName:
    """A tag of a repository.

    Attributes:
        repository: Where it is.
        tag: The tag.
    """

    repository: Repository
    tag: str

    @classmethod
    def parse(cls, text: str, *, what: str) -> Self:
        """Read `[HOST[:PORT]/]PATH:TAG`.

        Args:
            text: What a user wrote.
            what: Option that it came from.

        Raises:
            TargetError: It is none: no tag, a digest, or a wrong name.
        """
        shown = one_line(text)
        if "://" in text:
            raise TargetError(f"{what}: {shown} is a URL, no name of an image", advice=_ADVICE)
        if "@" in text:
            raise TargetError(
                f"{what}: {shown} names a digest, and a digest cannot be given to anything",
                advice="name the new tag alone; the digest is the one that the run accepted",
            )
        head, slash, last = text.rpartition("/")
        name, colon, tag = last.partition(":")
        if not colon or not tag:
            raise TargetError(f"{what}: {shown} names no tag", advice=_ADVICE)
        if not _TAG.fullmatch(tag):
            raise TargetError(
                f"{what}: {one_line(tag)} is no tag",
                advice="use letters, digits, _ . and -, 128 at most, no . or - in front",
            )
        return cls(repository=Repository.parse(f"{head}{slash}{name}", what=what), tag=tag)

    def __str__(self) -> str:
        """Return the full name."""
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedName:
    """An image of a repository by its content.

    Attributes:
        repository: Where it is.
        digest: `sha256:` and 64 hexadecimal digits.
    """

    repository: Repository
    digest: str

    @classmethod
    def parse(cls, text: str, *, what: str) -> Self:
        """Read `REPOSITORY@sha256:...`.

        Raises:
            TargetError: It is none.
        """
        name, _, digest = text.partition("@")
        if not _DIGEST.fullmatch(digest):
            raise _no_digest(text, what)
        return cls(repository=Repository.parse(name, what=what), digest=digest)

    def __str__(self) -> str:
        """Return the full name."""
        return f"{self.repository}@{self.digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageName:
    """An image as people ask for it, read as Docker does.

    Attributes:
        repository: Where it is, `None` for a bare digest.
        tag: The tag, empty where only a digest names it.
        digest: `sha256:...`, empty where only a tag names it.
    """

    repository: Repository | None = None
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str, *, what: str) -> Self:
        """Read `REPOSITORY[:TAG][@sha256:...]` or `sha256:...`; without both it is `latest`.

        Args:
            text: The name.
            what: Option or key that it came from.

        Raises:
            TargetError: It is none.
        """
        if is_digest(text):
            return cls(digest=text)
        if text.startswith("sha256:"):  # a part of one, and no tag of docker.io/library/sha256
            raise _no_digest(text, what)
        name, at, digest = text.partition("@")
        if not at:
            untagged = ":" not in name.rpartition("/")[2]
            found = TaggedName.parse(f"{name}:latest" if untagged and name else name, what=what)
            return cls(repository=found.repository, tag=found.tag)
        if ":" not in name.rpartition("/")[2]:
            pinned = PinnedName.parse(text, what=what)
            return cls(repository=pinned.repository, digest=pinned.digest)
        if not is_digest(digest):
            raise _no_digest(text, what)
        found = TaggedName.parse(name, what=what)
        return cls(repository=found.repository, tag=found.tag, digest=digest)

    @property
    def tagged(self) -> TaggedName | None:
        """The tag that it names, `None` where only a digest does."""
        if self.repository is None or not self.tag:
            return None
        return TaggedName(repository=self.repository, tag=self.tag)

    def __str__(self) -> str:
        """Return the full name."""
        name = f"{self.repository or ''}{f':{self.tag}' if self.tag else ''}"
        return f"{name}@{self.digest}" if name and self.digest else name or self.digest


def _no_digest(text: str, what: str) -> TargetError:
    return TargetError(
        f"{what}: {one_line(text) or 'nothing'} names no digest of a registry",
        advice="it is REPOSITORY@sha256: and 64 hexadecimal digits",
    )


def is_digest(text: str) -> bool:
    """Tell whether a text is a sha256 digest as registries write it."""
    return _DIGEST.fullmatch(text) is not None


def api_host(host: str) -> str:
    """Return the host that speaks the API of a registry."""
    return _HUB_API if host == HUB else host
