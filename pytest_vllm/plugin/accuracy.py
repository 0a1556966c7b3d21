"""Let a model answer questions whose answers are known, many at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pytest_vllm.adapters.content import questions
from pytest_vllm.domain.interval import Score, final_number

if TYPE_CHECKING:
    from pytest_vllm.plugin.client import Client

CHAT_TOKENS = 512
BASE_TOKENS = 160
_STOP = "\n\nQuestion:"
_SHOTS = (
    "Question: A shelf holds 4 rows of 15 books. 8 books are lent out. How many books are on the "
    "shelf?\nAnswer: The shelf holds 4 * 15 = 60 books. 60 - 8 = 52. The answer is 52.\n\n"
    "Question: Peter buys 3 tickets for 7 dollars each and pays with 50 dollars. How many dollars "
    "does he get back?\nAnswer: The tickets cost 3 * 7 = 21 dollars. 50 - 21 = 29. The answer is "
    "29.\n\n"
)
_WISH = "\nThink step by step, briefly, and end with: The answer is N."


def answer_questions(vllm: Client, *, concurrency: int) -> Score:
    """Ask all questions, greedily, and count the right final numbers.

    Args:
        vllm: The client of the check.
        concurrency: Requests at the same time.
    """

    def is_right(asked: tuple[str, float]) -> bool:
        return final_number(_answer(vllm, asked[0])) == asked[1]

    with ThreadPoolExecutor(concurrency) as pool:
        results = list(pool.map(is_right, questions()))
    return Score(right=sum(results), total=len(results))


def _answer(vllm: Client, question: str) -> str:
    if "chat" in vllm.server.capabilities:
        reply = vllm.chat(question + _WISH, max_tokens=CHAT_TOKENS, temperature=0)
    else:
        prompt = f"{_SHOTS}Question: {question}\nAnswer:"
        reply = vllm.complete(prompt, max_tokens=BASE_TOKENS, temperature=0, stop=[_STOP])
    return vllm.read(reply).text
