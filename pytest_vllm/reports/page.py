"""HTML pages out of templates: one file each, nothing remote, all foreign text escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache, lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from pytest_vllm.domain.text import printable

if TYPE_CHECKING:
    from pytest_vllm.reports.plots import Plot

_SPAN = re.compile(r"`([^`]+)`")
_STYLES = ("page.css", "plots.css")
_TONES = {"PROMOTE": "good", "REJECT": "bad", "INCONCLUSIVE": "warn"}


def render(template: str, **values: object) -> str:
    """Render a template of `reports/templates`; most extend `base.html`.

    Every text that is no `Markup` is escaped, and what cannot be seen in it is shown as its code.
    The page has a Content-Security-Policy that lets nothing in but our own style and script, both
    by their digest: https://www.w3.org/TR/CSP3/#directive-script-src.

    Args:
        template: Name of the template, such as `report.html`.
        values: What it shows; a name that it lacks is an error.
    """
    return _environment().get_template(template).render(**values)


def policy() -> str:
    """Return the Content-Security-Policy of every page."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_source(_style())}",
            f"script-src {_source(_script())}",
            "img-src data:",  # the icon of the tab
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def visible(value: Any) -> Any:
    """Return what a template shows: text as it can be seen, `Markup` and numbers as they are."""
    return value if not isinstance(value, str) or isinstance(value, Markup) else printable(value)


def link(text: str) -> Markup:
    """Return a link for an address of the web; anything else, such as `javascript:`, stays text."""
    shown = escape(visible(text))
    try:
        parts = urlsplit(text)
    except ValueError:
        return shown
    if parts.scheme not in ("http", "https") or not parts.netloc or not text.isprintable():
        return shown
    return Markup('<a href="{}" rel="noopener noreferrer">{}</a>').format(text, shown)


@lru_cache(maxsize=2_000)  # the cases of a check have one requirement
def spans(text: str) -> Markup:
    """Return a sentence whose parts between backquotes are code, as authors of checks write it."""
    shown = str(escape(visible(text)))
    return Markup(_SPAN.sub(r"<code>\1</code>", shown))  # noqa: S704 - escaped before


def drawing(plot: Plot) -> Markup:
    """Return the drawing of a plot, the one piece of markup that comes from elsewhere: from us."""
    return Markup(plot.svg)  # noqa: S704 - `reports/plots.py` escapes the words in it


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pytest_vllm.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"link": link, "spans": spans, "drawing": drawing}
    environment.globals |= {
        "css": Markup(_css()),  # noqa: S704 - our own files
        "script": Markup(_asset("page.js")),  # noqa: S704 - our own file
        "policy": policy(),
        "tones": _TONES,
    }
    return environment


def _css() -> str:
    return _asset("page.css") + _asset("plots.css")


@cache
def _style() -> str:
    return "".join(map(_asset, _STYLES))


@cache
def _script() -> str:
    return _asset("page.js")


def _asset(name: str) -> str:
    return resources.files("pytest_vllm.reports").joinpath("assets", name).read_text("utf-8")


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
