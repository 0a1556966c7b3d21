"""What `pytest-vllm promote` is asked for on its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.runs import read_run
from pytest_vllm.adapters.signing import read_public_key
from pytest_vllm.domain.command_words import WordParser
from pytest_vllm.domain.promotion import read_age
from pytest_vllm.domain.repository import ImageName, TaggedName

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from pytest_vllm.adapters.runs import StoredRun
    from pytest_vllm.adapters.signing import PublicKey

_MAX_AGE = "7d"
_DESCRIPTION = """\
Gives the image that a run accepted a new tag, with the digest that was accepted. It refuses, with
all reasons together, whatever the evidence does not bear out.
"""
_EPILOG = """\
  pytest-vllm promote --run latest --to registry.example.com/rocm/vllm:stable
  pytest-vllm promote --run latest --image "$IMAGE" --to registry.example.com/rocm/vllm:stable
  pytest-vllm promote --run .vllm/20261122-181930-3fa9c1 --to rocm/vllm:0.32.0 --key release.pub
  pytest-vllm promote --run latest --to registry.example.com/rocm/vllm:stable --print

The login is Docker's: docker login, its config and its credential helpers.

exit code: 0 promoted, or already there; 1 refused by the evidence; 4 the command is wrong, or the
registry does not let you; 75 the registry cannot be reached, or does not do what it has to: the
evidence speaks for the image.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Which image is to get which tag, and who says so.

    Attributes:
        run: The run.
        to: The new tag.
        image: Which image is meant, `None` for the one that ran.
        max_age: How long ago the run may have begun.
        key: Who must have signed, `None` for nobody.
        only_print: Whether nothing is to be changed.
    """

    run: StoredRun
    to: TaggedName
    image: ImageName | None
    max_age: dt.timedelta
    key: PublicKey | None
    only_print: bool


def read_request(line: Sequence[str]) -> Request:
    """Read the command line of the verb.

    Raises:
        TargetError: It is wrong, or names what cannot be read.
    """
    words = _parser().parse_args(list(line))
    to = TaggedName.parse(words.to, what="--to")
    max_age = read_age(words.max_age, what="--max-age")
    image = None if words.image is None else ImageName.parse(words.image, what="--image")
    key = None if words.key is None else read_public_key(Path(words.key), option="--key")
    return Request(
        run=read_run(words.run),
        to=to,
        image=image,
        max_age=max_age,
        key=key,
        only_print=words.print,
    )


def _parser() -> WordParser:
    parser = WordParser("promote", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument(
        "--run", required=True, metavar="RUN", help="run.json, its folder, the ID of a run, latest"
    )
    parser.add_argument(
        "--to", required=True, metavar="REF", help="the new tag: HOST[:PORT]/PATH:TAG"
    )
    parser.add_argument(
        "--image",
        metavar="REF",
        help="the image that you mean: sha256:..., REPOSITORY@sha256:..., or the name with a tag "
        "that the run was asked for; refused when the run is about another one",
    )
    parser.add_argument(
        "--max-age",
        default=_MAX_AGE,
        metavar="TIME",
        help=f"how long ago the run may have begun, such as 12h or 7d (default: {_MAX_AGE})",
    )
    parser.add_argument(
        "--key",
        metavar="FILE",
        help="public key (PEM) that the statement must be signed with",
    )
    parser.add_argument(
        "--print",
        action="store_true",
        help="print commands of crane, skopeo and docker that do the same, and change nothing",
    )
    return parser
