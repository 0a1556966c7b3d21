"""A locust user on FastHttp: streams with its own `iter_lines`, each event parsed."""

from __future__ import annotations

import json
import os
import time

import gevent
from locust import FastHttpUser, events, task
from raw import body, save

WORK = json.loads(os.environ["BENCHMARK_WORK"])
NUMBERS = iter(range(WORK["requests"]))
TIMES: list[tuple[int, int, list[int]]] = []


class Streamer(FastHttpUser):
    """One place of the closed loop."""

    host = WORK["url"]
    network_timeout = connection_timeout = 600

    @task
    def stream(self) -> None:
        number = next(NUMBERS, None)
        if number is None:
            gevent.sleep(3600)  # the run is ended from outside
            return
        now = time.perf_counter_ns
        came: list[int] = []
        sent = now()
        asked = body(number, WORK["tokens"])
        lines = self.client.iter_lines("/v1/completions", method="POST", json=asked)
        for line in lines:
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            choices = json.loads(line[6:])["choices"]
            if choices and choices[0]["text"]:
                came.append(now())
        TIMES.append((number, sent, came))
        if len(TIMES) == WORK["requests"]:
            gevent.spawn(self.environment.runner.quit)  # a user that ends itself waits for itself


@events.quitting.add_listener
def _save(environment: object, **_: object) -> None:  # noqa: ARG001 - locust's signature
    save(WORK["out"], TIMES)
