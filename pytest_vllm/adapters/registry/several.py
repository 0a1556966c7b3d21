"""The registries of one promotion: each is asked by one session, with its own login."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from pytest_vllm.adapters.registry.client import Registry

if TYPE_CHECKING:
    from pytest_vllm.adapters.registry.manifest import Manifest
    from pytest_vllm.domain.repository import PinnedName, Repository, TaggedName


class Registries:
    """The registries that were asked so far; leaving the block ends their sessions.

    Args:
        writes: What is going to be written, `None` for nothing.
    """

    def __init__(self, *, writes: Repository | None) -> None:
        self._open_ones = ExitStack()
        self._writes = writes
        self._known: dict[str, Registry] = {}

    def of(self, repository: Repository) -> Registry:
        """Return the registry of a repository."""
        host = repository.host
        if host not in self._known:
            mine = self._writes is not None and self._writes.host == host
            writes = self._writes.path if self._writes is not None and mine else ""
            self._known[host] = self._open_ones.enter_context(Registry.connect(host, writes=writes))
        return self._known[host]

    def find(self, name: PinnedName) -> Manifest | None:
        """Return what a registry has under a digest."""
        return self.of(name.repository).manifest(name.repository.path, name.digest)

    def digest(self, name: TaggedName) -> str:
        """Return what a tag names now, empty for nothing."""
        found = self.of(name.repository).manifest(name.repository.path, name.tag)
        return found.digest if found is not None else ""

    def __enter__(self) -> Self:
        """Give itself; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all sessions."""
        self._open_ones.close()
