"""The key that signs what a run states, read before anything is started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.signing import PASSPHRASE, read_private_key
from pytest_vllm.domain.statement import absence, statement_json

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from pytest_vllm.adapters.signing import PrivateKey
    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.domain.target import Target

OPTION = "--vllm-sign-key"


def read_sign_key(
    target: Target, *, base: Path, environ: MutableMapping[str, str] = os.environ
) -> PrivateKey | None:
    """Read the key that the target names.

    The passphrase is taken out of the environment, so that no server inherits it and no log of one
    can show it.

    Args:
        target: May name a key.
        base: Folder that a relative path starts from.
        environ: Our environment.

    Returns:
        The key, `None` when none is named.

    Raises:
        TargetError: It cannot be read or used.
    """
    passphrase = environ.pop(PASSPHRASE, "")
    setting = target.settings["sign-key"]
    if not isinstance(setting.value, str) or not setting.value:
        return None
    option = OPTION if setting.source == "option" else f"{OPTION} ({setting.source})"
    path = base / Path(setting.value).expanduser()
    return read_private_key(path, option=option, passphrase=passphrase)


def signed(record: RunRecord, key: PrivateKey) -> str:
    """Return the signed statement of a run; empty where it has none."""
    text = statement_json(record)
    return key.sign(text) if text else ""


def unsigned_warning(record: RunRecord, key: PrivateKey | None) -> tuple[str, ...]:
    """Say that a run for which there is a key is not signed."""
    missing = absence(record) if key is not None else ""
    return (f"{OPTION}: nothing was signed: {missing}",) if missing else ()
