"""Texts from elsewhere: secrets taken out, control characters made visible."""

from __future__ import annotations

import html
import json
import shlex
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.text import closest, one_line, printable, redact, secrets_in

GONE = "[redacted]"
SPELLED = """pä"ss&w<o'rd\\/1\n2"""
ANY_TEXT = st.text(st.characters())  # with lone surrogates and control characters


def test_given_secrets_hub_tokens_and_bearer_tokens_go() -> None:
    text = "key=s3cret-value hf_abcdefghijklmnopqrst Authorization: Bearer abc.def-123"
    assert redact(text, ["s3cret-value"]) == (
        "key=[redacted] [redacted] Authorization: Bearer [redacted]"
    )


@pytest.mark.parametrize(
    "spell",
    [str, json.dumps, html.escape, shlex.quote, quote],
    ids=["plain", "json", "xml", "shell", "url"],
)
def test_a_secret_is_found_in_every_spelling(spell: object) -> None:
    assert callable(spell)
    text = redact(f"before {spell(SPELLED)} after", [SPELLED])
    assert "[redacted]" in text
    assert "rd" not in text


def test_the_longer_of_two_secrets_goes_first() -> None:
    assert redact("abcdef-and-more", ["abcdef", "abcdef-and-more"]) == "[redacted]"


def test_an_empty_secret_changes_nothing() -> None:
    assert redact("text", [""]) == "text"


def test_the_name_of_a_variable_is_no_secret() -> None:
    """A replay script says which variable holds the key, and must go on doing so."""
    text = '-H "Authorization: Bearer ${VLLM_API_KEY:?set it}"'
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "The ring-bearer said: bearer of bad news, standard-bearer understands.",
        "Bearer [redacted]",
        'www-authenticate: Bearer realm="https://h/token",service="h"',
        '{"authorization": "Bearer abc"}',
    ],
)
def test_what_is_no_token_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("word", ["Bearer", "bearer"])
@pytest.mark.parametrize("end", ["", "\n", '"', "\\n", "'", "</x>", "&quot;", ", "])
def test_a_bearer_token_ends_where_its_letters_end(word: str, end: str) -> None:
    """So that neither JSON nor XML around it is broken."""
    text = redact(f"{word} c2VjcmV0.s3cr-3t_~+/=={end} more")
    assert text == f"{word} [redacted]{end} more"


@given(ANY_TEXT, st.sampled_from(["Bearer ", "bearer ", "hf_"]), ANY_TEXT)
def test_what_is_redacted_by_its_shape_is_json_still(before: str, word: str, after: str) -> None:
    json.loads(redact(json.dumps([f"{before}{word}{after}", after])))


@given(ANY_TEXT, st.text(min_size=6))
def test_no_secret_survives(text: str, secret: str) -> None:
    seen = redact(f"{text}{secret}{text}", [secret])
    assert secret not in seen or secret in GONE


def test_secrets_are_known_by_the_names_of_variables() -> None:
    env = {
        "HF_TOKEN": "hf_value1",
        "vllm_api_key": "value-2",
        "DB_PASSWORD": "value-3",
        "SHORT_KEY": "ab",
        "TOKENIZERS_PARALLELISM": "disabled",
        "PATH": "/usr/bin",
    }
    assert secrets_in(env) == ("hf_value1", "value-2", "value-3")


def test_colours_go_and_control_characters_are_shown() -> None:
    text = (
        "\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x1b\\ \x00\x07\x9b\u202e\ud800\x1b"
    )
    assert printable(text) == r"red link \x00\x07\x9b\u202e\ud800\x1b"


def test_lines_and_tabs_stay() -> None:
    assert printable("a\r\nb\tc\n") == "a\nb\tc\n"


@given(ANY_TEXT)
def test_printable_text_can_be_written_and_is_stable(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert "\x1b" not in shown
    assert printable(shown) == shown


@given(ANY_TEXT, st.integers(min_value=3, max_value=80))
def test_one_line_is_one_line_of_limited_length(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert line.splitlines() in ([], [line])


def test_a_cut_is_visible() -> None:
    assert one_line("a" * 100, 10) == "aaaaaaa..."


def test_closest_names_the_closest_or_nothing() -> None:
    assert closest("chats", ["chat", "server"]) == "; did you mean chat?"
    assert not closest("xyz", ["chat", "server"])
