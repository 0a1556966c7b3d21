"""The simulator's tokenizer and what it tells of texts that come token by token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.simulator.cache import PrefixCache
from pytest_vllm.simulator.detokenize import Detokenizer, TokenText
from pytest_vllm.simulator.knowledge import knowledge
from pytest_vllm.simulator.template import render
from pytest_vllm.simulator.tokens import TURN_END, TURN_START, VOCABULARY_SIZE

TOKENIZER = knowledge().tokenizer


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_round_trip(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        TOKENIZER.encode("\ud800")


def test_vocabulary_is_full_and_has_no_twins() -> None:
    assert TOKENIZER.size == VOCABULARY_SIZE == len(set(TOKENIZER.pieces))


@pytest.mark.parametrize("character", ["é", "日", "🎉"])
def test_a_character_beyond_ascii_spans_its_bytes(character: str) -> None:
    assert len(TOKENIZER.encode(character)) == len(character.encode())


def test_words_of_the_text_are_one_token() -> None:
    assert [len(TOKENIZER.encode(word)) for word in (" capital", " the", " Paris")] == [1, 1, 1]


def test_turns_are_framed_by_special_tokens() -> None:
    ids = TOKENIZER.encode(render([{"role": "user", "content": "Hi"}], generation_prompt=True))
    assert ids.count(TURN_START) == 2
    assert ids.count(TURN_END) == 1
    assert TOKENIZER.decode(ids, specials=False) == "user\nHi\nassistant\n"


def test_token_strings_show_blanks_as_byte_level_vocabularies_do() -> None:
    strings = [TOKENIZER.token_string(token) for token in TOKENIZER.encode("Hello world\n")]
    assert "".join(strings) == "HelloĠworldĊ"


def test_text_is_told_in_whole_characters() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    told = []
    for token in TOKENIZER.encode("a🎉é"):
        assert detokenizer.add(token) is None
        told.append(detokenizer.tell(finished=False))
    assert told == ["a", "", "", "", "🎉", "", "é"]


def test_a_stop_text_is_held_back_until_it_is_none() -> None:
    detokenizer = Detokenizer(TOKENIZER, stop=["stop!"])
    told = []
    for token in TOKENIZER.encode("we stop"):
        assert detokenizer.add(token) is None
        told.append(detokenizer.tell(finished=False))
    assert "stop" not in "".join(told)
    assert "".join(told) + detokenizer.tell(finished=True) == "we stop"


@pytest.mark.parametrize(("include", "text"), [(False, "The cap"), (True, "The capital")])
def test_a_stop_text_cuts_inside_a_token(include: bool, text: str) -> None:  # noqa: FBT001
    detokenizer = Detokenizer(TOKENIZER, stop=["ital"], include_stop=include)
    stops = [detokenizer.add(token) for token in TOKENIZER.encode("The capital of")]
    assert stops[:2] == [None, "ital"]
    detokenizer = Detokenizer(TOKENIZER, stop=["ital"], include_stop=include)
    for token in TOKENIZER.encode("The capital"):
        detokenizer.add(token)
    assert detokenizer.tell(finished=True) == text


def test_special_tokens_are_left_out_unless_wanted() -> None:
    for skip, text in ((True, "Hi"), (False, "Hi<|im_end|>")):
        detokenizer = Detokenizer(TOKENIZER, skip_specials=skip)
        for token in [*TOKENIZER.encode("Hi"), TURN_END]:
            detokenizer.add(token)
        assert detokenizer.tell(finished=True) == text


def test_the_last_byte_of_a_character_shows_all_of_it() -> None:
    shown = TokenText(TOKENIZER)
    assert [shown.take(token) for token in TOKENIZER.encode("a日b")] == ["a", "", "", "日", "b"]


def test_the_prefix_cache_finds_full_blocks_but_the_last_token() -> None:
    cache = PrefixCache(4, 100)
    prompt = list(range(12))
    assert [cache.admit(prompt, None) for _ in range(2)] == [0, 8]
    assert cache.admit([*prompt, 99], None) == 12
    assert cache.admit([99, *prompt[1:]], None) == 0
    assert cache.admit([*prompt[:4], 99, 98, 97, 96, 95], None) == 4


def test_the_prefix_cache_keeps_salts_apart() -> None:
    cache = PrefixCache(4, 100)
    prompt = list(range(9))
    assert cache.admit(prompt, "one") == 0
    assert cache.admit(prompt, "other") == 0
    assert cache.admit(prompt, "one") == 8


def test_the_prefix_cache_forgets_the_oldest_blocks() -> None:
    cache = PrefixCache(4, 2)
    cache.admit([1, 2, 3, 4, 5], None)
    cache.admit(list(range(10, 19)), None)
    assert cache.admit([1, 2, 3, 4, 5], None) == 0
