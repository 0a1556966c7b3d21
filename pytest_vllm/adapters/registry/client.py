"""What promotion needs of a registry: manifests read and written, blobs mounted.

Endpoints: https://github.com/opencontainers/distribution-spec/blob/main/spec.md.
"""

from __future__ import annotations

from typing import Self
from urllib.parse import quote

from pytest_vllm.adapters.registry.credentials import read_credential
from pytest_vllm.adapters.registry.manifest import ACCEPT, IMAGES, INDEXES, Manifest
from pytest_vllm.adapters.registry.session import TIMEOUT_S, RegistrySession
from pytest_vllm.domain.errors import HostError
from pytest_vllm.domain.repository import HUB, api_host, is_digest

_OK, _CREATED, _ACCEPTED, _NOT_FOUND = 200, 201, 202, 404


class Registry:
    """A registry, as whoever runs this.

    Args:
        session: How it is spoken with.
        host: Its name as people write it.
        writes: Repository that is going to be written: some registries tell only who may write it
            that it is not there yet.
    """

    def __init__(self, session: RegistrySession, *, host: str, writes: str = "") -> None:
        self._session = session
        self._writes = writes
        self.host = host

    @classmethod
    def connect(cls, host: str, *, writes: str = "", timeout_s: float = TIMEOUT_S) -> Self:
        """Make ready to speak with a registry; asks it nothing yet.

        Args:
            host: The registry as people write it.
            writes: Path of the repository that is going to be written, empty for none.
            timeout_s: Seconds that one request may take.

        Raises:
            TargetError: Docker's config or its credential helper cannot be read.
        """
        session = RegistrySession(
            api_host(host), credential=read_credential(host), timeout_s=timeout_s
        )
        return cls(session, host=host, writes=writes)

    def manifest(self, path: str, reference: str) -> Manifest | None:
        """Read a manifest, `None` when there is none.

        Args:
            path: Repository on this registry.
            reference: Tag or digest.

        Raises:
            HostError: The registry cannot be reached, has no time, or sent something else than was
                asked for.
            TargetError: It does not let us.
        """
        joint = "@" if is_digest(reference) else ":"
        name = f"{self.host}/{path}{joint}{reference}"
        doing = f"read {name}"
        reply = self._session.send(
            "GET",
            f"/v2/{path}/manifests/{reference}",
            scopes=(f"repository:{path}:{'pull,push' if path == self._writes else 'pull'}",),
            doing=doing,
            headers={"accept": ACCEPT},
        )
        if reply.status == _NOT_FOUND:
            return None
        if reply.status != _OK:
            raise self._session.refusal(reply, doing)
        found = Manifest(data=reply.body, media_type=reply.content_type)
        if not is_digest(reference):
            return found  # whatever a tag names, it may be given another image
        if found.digest != reference:
            raise HostError(
                f"{self.host} sent {found.digest} for {name}",
                advice="something between here and the registry changes what it sends; promote "
                "nothing from here",
            )
        if found.media_type not in (*INDEXES, *IMAGES):
            kind = self._session.shown(found.media_type)
            raise HostError(
                f"{name} is a manifest of the kind {kind or 'nothing'}, which cannot be promoted",
                advice="push it again with a current Docker, and run the acceptance on it",
            )
        return found

    def put(self, path: str, reference: str, manifest: Manifest) -> None:
        """Write a manifest under a tag or its digest, byte by byte as it is.

        Raises:
            HostError: The registry cannot be reached, or has no time.
            TargetError: It does not let us.
        """
        doing = f"write {self.host}/{path}:{reference}"
        reply = self._session.send(
            "PUT",
            f"/v2/{path}/manifests/{reference}",
            scopes=(f"repository:{path}:pull,push",),
            doing=doing,
            content=manifest.data,
            headers={"content-type": manifest.media_type},
        )
        if reply.status not in (_OK, _CREATED, _ACCEPTED):
            raise self._session.refusal(reply, doing)

    def mount(self, path: str, blob: str, *, source: str) -> bool:
        """Have a repository share a blob with another one of the same registry.

        Returns:
            Whether the registry did; else nothing is left behind there.
        """
        doing = f"write {self.host}/{path}"
        scopes = (f"repository:{path}:pull,push", f"repository:{source}:pull")
        reply = self._session.send(
            "POST",
            f"/v2/{path}/blobs/uploads/?mount={blob}&from={quote(source, safe='')}",
            scopes=scopes,
            doing=doing,
        )
        if reply.status == _CREATED:
            return True
        if reply.status == _ACCEPTED:
            self._cancel(reply.headers.get("location", ""), scopes, doing)
            return False
        raise self._session.refusal(reply, doing)

    def close(self) -> None:
        """Release all connections."""
        self._session.close()

    def __enter__(self) -> Self:
        """Give itself; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _cancel(self, location: str, scopes: tuple[str, ...], doing: str) -> None:
        """End the upload that a registry began because it could not share."""
        path = location[location.find("/v2/") :] if "/v2/" in location else ""
        if path:
            self._session.send("DELETE", path, scopes=scopes, doing=doing)


def registry_name(host: str) -> str:
    """Return a registry as people say it."""
    return "Docker Hub" if host == HUB else host
