"""A manifest as a registry keeps it: bytes, their kind, and what they refer to.

Media types: https://github.com/opencontainers/image-spec/blob/main/media-types.md and
https://distribution.github.io/distribution/spec/manifest-v2-2/.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pytest_vllm.domain.errors import HostError
from pytest_vllm.domain.repository import is_digest

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
IMAGES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
ACCEPT = ", ".join((*INDEXES, *IMAGES))
_ELSEWHERE = ("nondistributable", "foreign")
"""In the media type of a layer that no registry holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a digest is the digest of.

    Attributes:
        data: The bytes.
        media_type: What they are.
    """

    data: bytes
    media_type: str

    @property
    def digest(self) -> str:
        """`sha256:...` of the bytes."""
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    @property
    def is_index(self) -> bool:
        """Whether it lists images for several platforms."""
        return self.media_type in INDEXES

    def children(self) -> tuple[str, ...]:
        """Return the digests of the manifests that an index lists, each once."""
        return self._digests(self._list("manifests")) if self.is_index else ()

    def blobs(self) -> tuple[str, ...]:
        """Return the digests of configuration and layers, each once; an index has none."""
        if self.is_index:
            return ()
        config = self._document().get("config")
        layers = [
            layer
            for layer in self._list("layers")
            if not any(word in str(layer.get("mediaType")) for word in _ELSEWHERE)
        ]
        return self._digests([config if isinstance(config, dict) else {}, *layers])

    def _document(self) -> dict[str, Any]:
        try:
            document = json.loads(self.data)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise self._broken("is no JSON object")
        return document

    def _list(self, key: str) -> list[dict[str, Any]]:
        items = self._document().get(key)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise self._broken(f"has no list of {key}")
        return items

    def _digests(self, items: list[dict[str, Any]]) -> tuple[str, ...]:
        digests = [str(item.get("digest")) for item in items]
        if not all(is_digest(digest) for digest in digests):
            raise self._broken("refers to something without a sha256 digest")
        return tuple(dict.fromkeys(digests))

    def _broken(self, what: str) -> HostError:
        return HostError(
            f"the manifest {self.digest} ({self.media_type}) {what}",
            advice="push the image again with docker push, and run the acceptance on it",
        )
