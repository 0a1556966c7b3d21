"""What a registry may answer, and what is made of it: words, exit codes, and no secret anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.registry.client import Registry
from pytest_vllm.adapters.registry.credentials import Credential
from pytest_vllm.adapters.registry.manifest import IMAGES, INDEXES, Manifest
from pytest_vllm.adapters.registry.placing import place
from pytest_vllm.adapters.registry.session import MAX_BYTES, RegistrySession
from pytest_vllm.domain.errors import HostError, TargetError, VllmError
from pytest_vllm.domain.repository import PinnedName, Repository, TaggedName
from tests.adapters.scripted_server import Asked, Reply, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.adapters.scripted_server import Script

SECRET = "pa55word-of-ci"  # noqa: S105 - made up
CI = Credential(username="ci", password=SECRET)
BASIC = f"Basic {base64.b64encode(f'ci:{SECRET}'.encode()).decode()}"
BLOB = "sha256:" + "ab" * 32
IMAGE = Manifest(
    data=json.dumps(
        {
            "schemaVersion": 2,
            "config": {"digest": BLOB},
            "layers": [
                {"digest": "sha256:" + "cd" * 32},
                {"digest": "sha256:" + "ef" * 32, "mediaType": "application/x.foreign.tar"},
            ],
        }
    ).encode(),
    media_type=IMAGES[0],
)


@contextmanager
def registry(
    script: Script, *, credential: Credential | None = None, timeout_s: float = 10.0
) -> Iterator[Registry]:
    session = RegistrySession(script.address, credential=credential, timeout_s=timeout_s)
    with Registry(session, host=script.address) as found:
        yield found


def error_of(reply: Reply, *, credential: Credential | None = None) -> VllmError:
    """Return what becomes of a reply to a look at a tag."""
    with serving(lambda _: reply) as script, registry(script, credential=credential) as found:
        with pytest.raises(VllmError) as caught:
            found.manifest("a/b", "1")
        assert script.address in caught.value.message
    assert caught.value.advice
    assert SECRET not in str(caught.value)
    return caught.value


def said(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


def manifest_reply(manifest: Manifest, **headers: str) -> Reply:
    return Reply(body=manifest.data, headers={"content-type": manifest.media_type, **headers})


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (403, TargetError, "it is not allowed to ci (403): DENIED: not for ci"),
        (400, TargetError, "it takes it for wrong (400)"),
        (412, TargetError, "it takes it for wrong (412)"),
        (429, HostError, "there were too many requests (429)"),
        (500, HostError, "it is not well (500)"),
        (503, HostError, "it is not well (503)"),
    ],
)
def test_a_refusal_is_said_in_words_with_whose_fault_it_is(
    status: int, kind: type[VllmError], words: str
) -> None:
    error = error_of(Reply(status=status, body=said("DENIED", "not for ci")), credential=CI)
    assert type(error) is kind
    assert words in error.message


def test_when_to_come_back_is_told() -> None:
    error = error_of(Reply(status=429, headers={"retry-after": "30"}))
    assert error.advice == "promote again after 30 s"
    assert error_of(Reply(status=429)).advice == "promote again later"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"errors": 7}', b'{"errors": [7]}'])
def test_a_refusal_without_words_is_one_too(body: bytes) -> None:
    assert error_of(Reply(status=403, body=body)).message.endswith("it is not allowed (403)")


def test_a_secret_that_a_registry_repeats_is_not_shown() -> None:
    body = said("X", f"ci:{SECRET} or {BASIC} is wrong\x1b[31m")
    headers = {"www-authenticate": 'Basic realm="x"'}
    for status in (401, 403, 500):
        error = error_of(Reply(status=status, body=body, headers=headers), credential=CI)
        assert BASIC.removeprefix("Basic ") not in str(error)
        assert "\x1b" not in str(error)


TOKEN = "t0ken-issued.by-it.c2ln"  # noqa: S105 - made up; small, as a media type is read
STRANGE = "token-with-an-end "  # no header may end so
OTHER_KIND = Reply(body=b"{}", headers={"content-type": f"x/{TOKEN}"})


@pytest.mark.parametrize(
    ("token", "reply", "words"),
    [
        (TOKEN, Reply(status=403, body=said("DENIED", f"not by token={TOKEN}")), "DENIED: not by"),
        (TOKEN, Reply(status=302, headers={"location": f"http://x.y/{TOKEN}"}), "redirects to"),
        (
            TOKEN,
            Reply(status=302, headers={"location": f"http://{TOKEN}@127.0.0.1:1"}),
            "cannot reach",
        ),
        (TOKEN, OTHER_KIND, "a manifest of the kind x/"),
        (STRANGE, Reply(), "does not answer as a registry does"),
    ],
)
def test_a_token_that_a_registry_issued_is_not_shown(token: str, reply: Reply, words: str) -> None:
    """In whatever the registry makes of it, and in what HTTP's own errors repeat."""
    wanted = f"sha256:{hashlib.sha256(reply.body).hexdigest()}"
    given = json.dumps({"token": token}).encode()

    def answer(asked: Asked) -> Reply:
        if asked.path.startswith("/t?"):
            return Reply(body=given)
        header = f'Bearer realm="http://{script.address}/t"'
        known = asked.authorization == f"Bearer {token}"
        return reply if known else Reply(status=401, headers={"www-authenticate": header})

    with serving(answer) as script, registry(script) as found:
        with pytest.raises(VllmError, match=words) as caught:
            found.manifest("a/b", wanted)
        assert token.strip() not in str(caught.value)
        assert "[redacted]" in str(caught.value)


def test_nothing_is_found_where_nothing_is() -> None:
    with serving(lambda _: Reply(status=404)) as script, registry(script) as found:
        assert found.manifest("a/b", "1") is None


def test_other_bytes_than_those_of_the_digest_are_refused() -> None:
    wanted = f"sha256:{hashlib.sha256(b'{}').hexdigest()}"
    with serving(lambda _: manifest_reply(IMAGE)) as script, registry(script) as found:
        with pytest.raises(HostError, match=f"sent {IMAGE.digest} for .*@{wanted}"):
            found.manifest("a/b", wanted)
        assert found.manifest("a/b", IMAGE.digest) == IMAGE


@pytest.mark.parametrize("kind", ["application/vnd.docker.distribution.manifest.v1+json", "", "x"])
def test_a_manifest_of_another_kind_is_no_image(kind: str) -> None:
    found = Manifest(data=b"{}", media_type=kind)
    with serving(lambda _: manifest_reply(found)) as script, registry(script) as asked:
        assert asked.manifest("a/b", "1") == found  # a tag may name anything
        words = f"of the kind {kind or 'nothing'}, which cannot be promoted"
        with pytest.raises(HostError, match=re.escape(words)):
            asked.manifest("a/b", found.digest)


def test_more_than_a_manifest_may_have_is_not_read() -> None:
    error = error_of(Reply(body=b" " * (MAX_BYTES + 1)))
    assert isinstance(error, HostError)
    assert "does not answer as a registry does" in error.message


def test_a_registry_that_hangs_is_given_up() -> None:
    def hang(_: Asked) -> Reply:
        script.hang.wait()
        return Reply()

    with (
        serving(hang) as script,
        registry(script, timeout_s=0.3) as found,
        pytest.raises(HostError, match=f"cannot reach {script.address}"),
    ):
        found.manifest("a/b", "1")


def test_a_registry_that_is_slow_to_say_anything_is_not_taken_for_one_with_tls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        session = RegistrySession(address, credential=None, timeout_s=0.3)
        with (
            Registry(session, host=address) as found,
            pytest.raises(HostError, match=f"cannot reach {address}"),
        ):
            found.manifest("a/b", "1")
        silent.setblocking(False)  # noqa: FBT003 - the name of a method
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # nobody came a second time, to speak TLS
            silent.accept()


def test_a_redirect_is_followed_without_the_login() -> None:
    with serving(lambda _: manifest_reply(IMAGE)) as other:
        target = f"http://{other.address}/else?x=1"
        challenge = {"www-authenticate": 'Basic realm="x"'}

        def answer(asked: Asked) -> Reply:
            if asked.authorization != BASIC:
                return Reply(status=401, headers=challenge)
            return Reply(status=307, headers={"location": target})

        with serving(answer) as script, registry(script, credential=CI) as found:
            assert found.manifest("a/b", "1") == IMAGE
        assert [asked.path for asked in other.asked] == ["/else?x=1"]
        assert [asked.authorization for asked in other.asked] == [""]


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
@pytest.mark.parametrize("known", [BASIC, ""], ids=["after a login", "at once"])
def test_nobody_logs_in_where_a_redirect_leads(known: str, scheme: str) -> None:
    """Whoever can have a registry redirect would be told the password."""

    def ask_who(_: Asked) -> Reply:
        header = f'{scheme} realm="http://{other.address}/t"'
        return Reply(status=401, headers={"www-authenticate": header})

    def redirect(asked: Asked) -> Reply:
        if asked.authorization != known:
            return Reply(status=401, headers={"www-authenticate": 'Basic realm="x"'})
        return Reply(status=307, headers={"location": f"http://{other.address}/else"})

    with serving(ask_who) as other, serving(redirect) as script:
        with (
            registry(script, credential=CI) as found,
            pytest.raises(TargetError) as caught,
        ):
            found.manifest("a/b", "1")
        assert f"{script.address} redirects to {other.address}, which wants" in caught.value.message
        assert [(asked.path, asked.authorization) for asked in other.asked] == [("/else", "")]


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("/v2/a/b/manifests/1", "redirects more than 5 times"),
        ("http://registry.example.com/x", "redirects to http://registry.example.com/x, which is"),
        ("file:///etc/passwd", "redirects to file:///etc/passwd, which is no https URL"),
        ("http://[/", "which is no https URL"),
    ],
)
def test_a_redirect_to_nowhere_is_refused(location: str, words: str) -> None:
    assert words in error_of(Reply(status=302, headers={"location": location})).message


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("", "it wants a login, and Docker's config has none"),
        ('Basic realm="x"', "it wants a login, and Docker's config has none"),
        ("Negotiate", "wants a login by negotiate, which is not known here"),
        ("Bearer", "names the token server , which is no https URL"),
        ('Bearer realm="http://auth.example.com/t"', "names the token server http://auth.example"),
        ('Bearer realm="token"', "names the token server token, which is no https URL"),
    ],
)
def test_a_login_that_cannot_be_given_is_said(header: str, words: str) -> None:
    error = error_of(Reply(status=401, headers={"www-authenticate": header}))
    assert isinstance(error, TargetError)
    assert words in error.message


@contextmanager
def with_tokens(*replies: Reply) -> Iterator[tuple[Script, Script]]:
    """Serve a registry that wants a token, and a token server with these replies in turn."""
    waiting = list(replies)
    with serving(lambda _: waiting.pop(0)) as tokens:
        header = f'Bearer realm="http://{tokens.address}/t?a=b",service="s",scope="x:y:z"'

        def answer(asked: Asked) -> Reply:
            if asked.authorization != "Bearer good":
                return Reply(status=401, headers={"www-authenticate": header})
            return manifest_reply(IMAGE)

        with serving(answer) as script:
            yield script, tokens


def test_a_token_is_asked_for_once_and_again_when_it_is_stale() -> None:
    good = Reply(body=b'{"access_token": "good"}')
    with (
        with_tokens(good, good) as (script, tokens),
        registry(script, credential=CI) as found,
    ):
        assert found.manifest("a/b", "1") == found.manifest("a/b", "2") == IMAGE
        (asked,) = tokens.asked
        assert asked.path == "/t?a=b&service=s&scope=x%3Ay%3Az&scope=repository%3Aa%2Fb%3Apull"
        assert asked.authorization == BASIC
        key = ("repository:a/b:pull",)
        found._session._authorizations[key] = "Bearer stale"
        assert found.manifest("a/b", "3") == IMAGE
    assert all(asked.authorization in ("", "Bearer good", "Bearer stale") for asked in script.asked)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(body=b""), "gives no token"),
        (Reply(body=b"[]"), "gives no token"),
        (Reply(body=b'{"token": 7}'), "gives no token"),
        (Reply(body=b'{"token": "a\\r\\nx: y"}'), "gives no token"),
        (Reply(body=b'{"token": "bad"}'), "it refuses the login of ci"),
        (Reply(status=401), "it refuses the login of ci"),
        (Reply(status=503), "it is not well (503)"),
    ],
)
def test_a_token_server_that_gives_no_good_token_is_an_error(reply: Reply, words: str) -> None:
    with with_tokens(reply) as (script, _), registry(script, credential=CI) as found:
        with pytest.raises(VllmError) as caught:
            found.manifest("a/b", "1")
        assert words in caught.value.message
        assert SECRET not in str(caught.value)


def placed(
    answer: Callable[[Asked], Reply], *, to: str = "a/b", manifest: Manifest = IMAGE
) -> Script:
    """Give an image the tag `new` on a server."""
    with serving(answer) as script, registry(script) as found:
        source = Repository(host=script.address, path="a/b")
        place(
            found,
            manifest,
            source=PinnedName(repository=source, digest=manifest.digest),
            to=TaggedName(repository=Repository(host=script.address, path=to), tag="new"),
        )
    return script


def test_the_bytes_are_put_as_they_are() -> None:
    script = placed(lambda asked: manifest_reply(IMAGE) if asked.method == "GET" else Reply())
    put = next(asked for asked in script.asked if asked.method == "PUT")
    assert (put.path, put.body) == ("/v2/a/b/manifests/new", IMAGE.data)


def test_a_tag_that_somebody_else_wrote_meanwhile_is_noticed() -> None:
    other = Manifest(data=IMAGE.data + b"\n", media_type=IMAGE.media_type)
    with pytest.raises(HostError, match=f"names {other.digest} after {IMAGE.digest} was written"):
        placed(lambda asked: manifest_reply(other) if asked.method == "GET" else Reply(status=201))


@pytest.mark.parametrize(
    ("method", "status", "words"),
    [
        ("PUT", 503, "whether .*/a/b:new was written is not known: .* it is not well"),
        ("GET", 503, "/a/b:new was written and cannot be read back: .* it is not well"),
        ("GET", 403, "/a/b:new was written and cannot be read back: .* it is not allowed"),
    ],
)
def test_an_error_after_the_write_says_what_is_known_of_the_tag(
    method: str, status: int, words: str
) -> None:
    with pytest.raises(HostError, match=words) as caught:
        placed(lambda asked: Reply(status=status if asked.method == method else 201))
    assert "promoting again writes nothing where the tag is that image" in caught.value.advice


def test_a_tag_that_may_not_be_moved_is_said() -> None:
    def answer(asked: Asked) -> Reply:
        return (
            Reply(status=412, body=said("PRECONDITION", "tag is immutable"))
            if (asked.method == "PUT")
            else manifest_reply(IMAGE)
        )

    with pytest.raises(TargetError, match="PRECONDITION: tag is immutable") as caught:
        placed(answer)
    assert "a tag may be immutable" in caught.value.advice


def test_an_upload_that_was_begun_instead_of_a_mount_is_ended() -> None:
    asked_for: list[Asked] = []

    def answer(asked: Asked) -> Reply:
        asked_for.append(asked)
        if asked.method == "POST":
            return Reply(status=202, headers={"location": "http://h/v2/c/blobs/uploads/1?s=2"})
        return Reply(status=404 if asked.method == "GET" else 204)

    with pytest.raises(TargetError, match=f"does not share {BLOB} of a/b with c"):
        placed(answer, to="c")
    paths = [(asked.method, asked.path) for asked in asked_for]
    assert ("POST", f"/v2/c/blobs/uploads/?mount={BLOB}&from=a%2Fb") in paths
    assert paths[-1] == ("DELETE", "/v2/c/blobs/uploads/1?s=2")
    assert not any(method == "PUT" for method, _ in paths)


def index_of(*digests: Any) -> Manifest:
    document = {"manifests": [{"digest": digest} for digest in digests]}
    return Manifest(data=json.dumps(document).encode(), media_type=INDEXES[0])


def test_layers_that_no_registry_holds_are_not_mounted() -> None:
    assert IMAGE.blobs() == (BLOB, "sha256:" + "cd" * 32)
    assert IMAGE.children() == ()
    assert index_of(BLOB, BLOB).children() == (BLOB,)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is no JSON object"),
        (b"[" * 9999, "is no JSON object"),
        (b"{}", "has no list of layers"),
        (b'{"layers": [7]}', "has no list of layers"),
        (b'{"layers": [], "config": {"digest": "../x"}}', "without a sha256 digest"),
        (b'{"layers": [], "config": 7}', "without a sha256 digest"),
    ],
)
def test_a_broken_manifest_is_no_traceback(data: bytes, words: str) -> None:
    with pytest.raises(HostError, match=words):
        Manifest(data=data, media_type=IMAGES[0]).blobs()


def test_an_index_without_one_of_its_images_is_not_carried() -> None:
    index = index_of(BLOB)
    with pytest.raises(HostError, match=f"does not have {BLOB}, which the index"):
        placed(lambda _: Reply(status=404), to="c", manifest=index)


def test_an_index_that_holds_itself_ends() -> None:
    deep = [index_of("sha256:" + "ab" * 32)]
    for _ in range(9):
        deep.append(index_of(deep[-1].digest))
    known = {manifest.digest: manifest for manifest in deep}

    def answer(asked: Asked) -> Reply:
        found = known.get(asked.path.rpartition("/")[2])
        inside = asked.path.startswith("/v2/a/b/")
        return manifest_reply(found) if found and inside else Reply(status=404)

    with pytest.raises(HostError, match="holds indexes more than 4 deep"):
        placed(answer, to="c", manifest=deep[-1])
