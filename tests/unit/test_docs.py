"""The generated documents are fresh."""

from __future__ import annotations

from tools.docs import documents


def test_generated_documents_are_fresh() -> None:
    """`./dev docs` would change nothing."""
    stale = [
        path.name
        for path, text in documents().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert stale == []
