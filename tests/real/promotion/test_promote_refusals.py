"""What the evidence or the registry does not bear out is not promoted."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.cli import main
from pytest_vllm.domain.statement import ENVELOPE_FILE
from tests.real.promotion.accepted import (
    Accepted,
    head,
    refused,
)
from tests.real.promotion.spoil import (
    SPOILERS,
    other_result,
    spoil_compose,
    spoil_image,
    spoil_rules,
    spoil_statement,
    spoil_tag,
    spoil_verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_what_the_evidence_does_not_bear_out_is_refused(
    accepted: Accepted,
    promote: Callable[..., tuple[int, str, str]],
    spoil: Callable[[Accepted], str],
) -> None:
    """Each alone; but a deleted image leaves no tag, and an edited statement fits no version."""
    expected = spoil(accepted)
    reasons = refused(promote(accepted, f"{accepted.repository}:stable"))
    assert reasons[0].startswith(expected)
    assert len(reasons) == (2 if spoil in (spoil_image, spoil_statement) else 1)
    assert head(accepted.address, accepted.path, "stable") == ""


def test_all_reasons_are_given_together(
    accepted: Accepted, promote: Callable[..., tuple[int, str, str]]
) -> None:
    expected = [spoil_verdict(accepted), spoil_rules(accepted), spoil_compose(accepted)]
    expected += [
        f"--image: {accepted.repository}@{accepted.digest} ran, and sha256:000",
        spoil_tag(accepted),
    ]
    words = ("--image", f"sha256:{'0' * 64}")
    reasons = refused(promote(accepted, f"{accepted.repository}:stable", *words))
    assert len(reasons) == len(expected)
    assert all(reason.startswith(start) for reason, start in zip(reasons, expected, strict=True))


def test_the_digest_that_is_meant_may_be_named(
    accepted: Accepted, promote: Callable[..., tuple[int, str, str]]
) -> None:
    to = f"{accepted.repository}:stable"
    code, _, err = promote(accepted, to, "--image", "vllm:")
    assert code == 4
    assert "--image: vllm: names no tag" in err
    (other,) = refused(promote(accepted, to, "--image", f"x@{accepted.digest}"))
    assert other.startswith("--image: ")
    assert promote(accepted, to, "--image", f"{accepted.repository}@{accepted.digest}")[0] == 0
    assert promote(accepted, to, "--image", f"{accepted.repository}:rc")[0] == 0


def test_with_a_key_only_what_it_signed_is_promoted(
    once: Accepted,
    accepted: Accepted,
    promote: Callable[..., tuple[int, str, str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run was signed when it ended, and verify says the same as promote."""
    to = f"{accepted.repository}:stable"
    keys = once.folder.parent.parent
    mine, theirs = (("--key", str(keys / f"{name}.pub")) for name in ("mine", "theirs"))
    (unsigned,) = refused(promote(accepted, to, *mine))
    assert unsigned.startswith("signature: nobody signed this run")
    good = (once.folder / ENVELOPE_FILE).read_text()
    envelope = accepted.folder / ENVELOPE_FILE
    envelope.write_text(good)
    (other,) = refused(promote(accepted, to, *theirs))
    assert other.startswith("signature: it is not signed by ")
    forged = json.loads(good)
    payload = other_result(base64.b64decode(forged["payload"]).decode()).encode()
    envelope.write_text(json.dumps({**forged, "payload": base64.b64encode(payload).decode()}))
    assert refused(promote(accepted, to, *mine))[0].startswith("signature: ")
    envelope.write_text(good)
    image = f"{accepted.repository}@{accepted.digest}"
    assert main(["verify", str(accepted.folder), *mine, "--image", image]) == 0
    code, out, _ = promote(accepted, to, *mine)
    assert code == 0
    assert "; signed by key " in out
    code, _, err = promote(accepted, to, "--key", str(keys / "mine.pem"))
    assert code == 4
    assert "is a private key" in err
    accepted.write(replace(accepted.record, checks_s=1.0))  # with a statement that nobody signed
    reasons = refused(promote(accepted, to, *mine))
    assert reasons[0].startswith(f"{ENVELOPE_FILE}: run.json was edited or replaced")
    capsys.readouterr()
