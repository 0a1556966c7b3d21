"""What is to be accepted: image or URL, model, arguments, and how to run it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.limits import read_limits
from pytest_vllm.domain.text import closest, secrets_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.settings import Setting

KNOWN_ARGS = (
    "--quantization",
    "--dtype",
    "--gpu-memory-utilization",
    "--max-model-len",
    "--tensor-parallel-size",
    "--trust-remote-code",
    "--served-model-name",
)
"""vLLM arguments that this project reads by name; every other one is passed on unread."""

_SECRET_ARGS = ("--api-key", "--hf-token")
_SHORT_ARGS = {"-tp": "--tensor-parallel-size", "-q": "--quantization"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMAGE = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*(:\d+(?=/))?(/[A-Za-z0-9][\w.-]*)*)"
    r"(:(?P<tag>\w[\w.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_LAST_PORT = 65_535
_FACTORS = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """Name of an image.

    Attributes:
        text: As the user wrote it.
        repository: Registry host and path, empty for a bare image ID.
        tag: Tag, empty for none.
        digest: `sha256:...` of the manifest or the image ID, empty for none.
    """

    text: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `[host[:port]/]path[:tag][@sha256:...]` or a bare `sha256:...`.

        Raises:
            TargetError: It is neither.
        """
        if _DIGEST.fullmatch(text):
            return cls(text=text, repository="", digest=text)
        match = _IMAGE.fullmatch(text)
        if match is None:
            raise TargetError(
                f"--vllm-image: {text!r} is not the name of an image",
                advice="write REPOSITORY:TAG or REPOSITORY@sha256:DIGEST",
            )
        return cls(
            text=text,
            repository=match["repository"],
            tag=match["tag"] or "",
            digest=match["digest"] or "",
        )

    @property
    def mutable(self) -> bool:
        """Whether the name says nothing about the content: no tag, or `latest`."""
        return not self.digest and self.tag in ("", "latest")


@dataclass(frozen=True, slots=True)
class ServeArgs:
    """Arguments of vLLM's server, in order.

    Attributes:
        argv: Words as the server gets them, without model, host and port.
    """

    argv: tuple[str, ...] = ()

    def values(self, name: str) -> tuple[str, ...]:
        """Return the values given to an argument: all words up to the next option, last one wins.

        Args:
            name: Long name such as `--max-model-len`; `_` and `-` are the same, as in vLLM.
        """
        found: tuple[str, ...] = ()
        for index, word in enumerate(self.argv):
            key, equals, value = word.partition("=")
            if _canonical(key) != name:
                continue
            rest = [value] if equals else []
            for follower in () if equals else self.argv[index + 1 :]:
                if follower.startswith("-") and not follower[1:2].isdigit():
                    break
                rest.append(follower)
            found = tuple(rest)
        return found

    def has(self, name: str) -> bool:
        """Tell whether an argument was given at all."""
        return any(_canonical(word.partition("=")[0]) == name for word in self.argv)

    def value(self, name: str) -> str | None:
        """Return the first value of an argument, `None` when it is absent or has none."""
        values = self.values(name)
        return values[0] if values else None

    @property
    def max_model_len(self) -> int | None:
        """`--max-model-len` in tokens; `None` when it is absent or `auto`."""
        return _human_int(self.value("--max-model-len"))

    @property
    def port(self) -> int | None:
        """`--port`, `None` when absent."""
        return _human_int(self.value("--port"))

    @property
    def served_names(self) -> tuple[str, ...]:
        """`--served-model-name`, empty when absent."""
        return self.values("--served-model-name")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvVar:
    """A variable for the server; without a value it is passed on by name only."""

    name: str
    value: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What to accept and how to run it. Times are seconds.

    Attributes:
        backend: `docker`, `process` or `attach`.
        image: Image of backend `docker`, else `None`.
        url: Base URL of backend `attach`, without a trailing slash or `/v1`, else `None`.
        model: Model folder or Hub ID; `None` only for `attach`.
        revision: Hub revision.
        serve_args: Arguments for vLLM's server.
        env: Variables for the server.
        gpus: `all`, `none` or indexes separated by commas.
        suites: Bundled suites to run, empty for all.
        settings: Every setting with its source, by name.
        phase_limits: Seconds that start-up phases may pass without a sign of life, by name.
    """

    backend: str
    image: ImageRef | None
    url: str | None
    model: str | None
    revision: str | None
    serve_args: ServeArgs
    env: tuple[EnvVar, ...]
    gpus: str
    suites: tuple[str, ...]
    settings: Mapping[str, Setting]
    phase_limits: Mapping[str, float] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """Return a setting that always has a text value."""
        return str(self.settings[name].value)

    def seconds(self, name: str) -> float:
        """Return a setting in seconds."""
        return float(str(self.settings[name].value))

    def number(self, name: str) -> int:
        """Return a setting that is a whole number."""
        return int(str(self.settings[name].value))

    def secrets(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Return every value that must not be shown, out of the options and the environment."""
        given = {variable.name: variable.value for variable in self.env if variable.value}
        foreign = {k: v for k, v in environ.items() if not k.startswith("PYTEST_VLLM_")}
        keys = [self.serve_args.values(name) for name in _SECRET_ARGS]
        named = environ.get(self.text("api-key-env"), "")
        values = [*secrets_in({**foreign, **given}), named, *(key for word in keys for key in word)]
        return tuple(dict.fromkeys(value for value in values if value))

    @property
    def model_is_path(self) -> bool:
        """Whether the model is named by a path instead of a Hub ID."""
        return self.model is not None and looks_like_path(self.model)


def looks_like_path(model: str) -> bool:
    """Tell a path from a Hub ID: it starts with `/`, `.` or `~`, or cannot be a Hub ID."""
    return model.startswith(("/", ".", "~")) or _HUB_ID.fullmatch(model) is None


def build_target(settings: Mapping[str, Setting], *, known_suites: Sequence[str]) -> Target:
    """Make a target out of settings, or say what contradicts what.

    Args:
        settings: Every option, resolved.
        known_suites: Names of the bundled suites.

    Raises:
        TargetError: Options contradict each other, are missing or have the wrong form.
    """
    image, url, model = (_text(settings, name) for name in ("image", "url", "model"))
    _refuse_two_servers(settings, image, url)
    backend = _choose_backend(settings, image=image, url=url)
    if model is None and backend != "attach":
        raise TargetError(f"backend {backend} has no model", advice="add --vllm-model=MODEL")
    serve_args = ServeArgs(_words(settings, "serve-arg"))
    _check_port(serve_args)
    return Target(
        backend=backend,
        image=ImageRef.parse(image) if image else None,
        url=_parse_url(url, settings["url"].source) if url else None,
        model=model,
        revision=_text(settings, "revision"),
        serve_args=serve_args,
        env=tuple(_parse_env(word) for word in _words(settings, "env")),
        gpus=_parse_gpus(_text(settings, "gpus") or "all"),
        suites=_parse_suites(_words(settings, "suite"), known_suites),
        settings=settings,
        phase_limits=read_limits(_words(settings, "phase-timeout")),
    )


def _refuse_two_servers(
    settings: Mapping[str, Setting], image: str | None, url: str | None
) -> None:
    if image and url:
        raise TargetError(
            f"--vllm-url ({settings['url'].source}) and --vllm-image "
            f"({settings['image'].source}) name two servers",
            advice="give the image to have it launched, or the URL to attach to what runs",
        )


def _choose_backend(settings: Mapping[str, Setting], *, image: str | None, url: str | None) -> str:
    asked = _text(settings, "backend")
    natural = "docker" if image else "attach" if url else None
    if asked is None:
        if natural is None:
            raise TargetError(
                "no server is named",
                advice="add --vllm-image=IMAGE, --vllm-url=URL or --vllm-backend=process",
            )
        return natural
    wanted = {"docker": "--vllm-image=IMAGE", "attach": "--vllm-url=URL"}
    if asked in wanted and natural != asked:
        raise TargetError(f"backend {asked} needs {wanted[asked]}", advice=f"add {wanted[asked]}")
    if asked == "process" and natural is not None:
        other = "--vllm-image" if image else "--vllm-url"
        raise TargetError(
            f"--vllm-backend=process contradicts {other}", advice=f"drop one; {other} is enough"
        )
    return asked


def _parse_url(url: str, source: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise TargetError(
            f"--vllm-url ({source}): {url!r} is not a URL", advice="write http://HOST:PORT"
        )
    if parts.username or parts.password:
        raise TargetError(
            "--vllm-url holds a user name or a password",
            advice="put the key into a variable and name it with --vllm-api-key-env",
        )
    return url.rstrip("/").removesuffix("/v1")


def _check_port(serve_args: ServeArgs) -> None:
    text = serve_args.value("--port")
    if serve_args.has("--port") and not (text and text.isdecimal() and 0 < int(text) <= _LAST_PORT):
        raise TargetError(
            f"--vllm-serve-arg: --port {text or 'without a number'} is no port",
            advice=f"use a number from 1 to {_LAST_PORT}, or drop --port to have one chosen",
        )


def _parse_env(word: str) -> EnvVar:
    name, equals, value = word.partition("=")
    if not _NAME.fullmatch(name):
        raise TargetError(f"--vllm-env: {word!r} has no valid name", advice="write NAME=VALUE")
    return EnvVar(name=name, value=value if equals else None)


def _parse_gpus(text: str) -> str:
    if text not in ("all", "none") and not re.fullmatch(r"\d+(,\d+)*", text):
        raise TargetError(f"--vllm-gpus: cannot read {text!r}", advice="use all, none or 0,1")
    return text


def _parse_suites(words: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    names = [name.strip() for word in words for name in word.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise TargetError(
                f"--vllm-suite: there is no suite {name!r}{closest(name, known)}",
                advice=f"use one of {', '.join(known)}",
            )
    return tuple(dict.fromkeys(names))


def _canonical(key: str) -> str:
    return _SHORT_ARGS.get(key, key.replace("_", "-"))


def _human_int(text: str | None) -> int | None:
    """Read vLLM's whole numbers: `4096`, `4k` (thousands), `4K` (1024s), `1.5k`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgG]?)", text or "")
    if match is None:
        return None
    return round(float(match[1]) * _FACTORS.get(match[2], 1))


def _text(settings: Mapping[str, Setting], name: str) -> str | None:
    value = settings[name].value
    return value if isinstance(value, str) and value else None


def _words(settings: Mapping[str, Setting], name: str) -> tuple[str, ...]:
    value = settings[name].value
    return value if isinstance(value, tuple) else ()
