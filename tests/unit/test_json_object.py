"""JSON objects that somebody else wrote: read, or refused in words."""

from __future__ import annotations

import pytest

from pytest_vllm.domain.json_object import read_object


def test_an_object_is_read_as_it_is() -> None:
    assert read_object('{"a": [1, {"b": null}], "c": "nan"}', "it") == {
        "a": [1, {"b": None}],
        "c": "nan",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "the text is not JSON"),
        ("[" * 100_000, "the text is not JSON"),
        ("7", "the text is no JSON object"),
        ('{"a": ' + "[" * 101 + "]" * 101 + "}", "the text.a is nested too deeply"),
        ('{"a": {"b": NaN}}', "the text.a holds nan, which JSON has no number for"),
        ('{"a": 1' + "0" * 400 + "}", "the text.a holds a number of 1329 bits"),
        ('{"a\\u001b[2J\\n": Infinity}', "the text.a holds inf, which JSON has no number for"),
    ],
)
def test_what_nobody_could_work_with_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match="^the text") as caught:
        read_object(text, "the text")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
