"""Tries the way to a model hub; runs inside the image, so it needs nothing but Python 3.6.

Reads its question from the environment and prints one line of JSON.
"""

import errno
import http.client
import json
import os
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.request
from urllib.parse import urlsplit

QUESTION = json.loads(os.environ["PYTEST_VLLM_QUESTION"])
END = time.monotonic() + QUESTION["limit_s"]
LONGEST_DNS_S = 4.2
ANSWER = {
    "stage": "dns",
    "resolved": False,
    "problem": "",
    "status": None,
    "error_code": "",
    "error_message": "",
    "working_dns": "",
    "proxy": False,
}


def say():
    """Print the answer and end, whatever other threads wait for."""
    sys.stdout.write("\n" + QUESTION["mark"] + json.dumps(ANSWER) + "\n")
    sys.stdout.flush()
    os._exit(0)


def ask_dns(server, name):
    """Send one question; return `found`, `refused` (nobody listens), `failed` or `silent`."""
    labels = [part.encode("idna") for part in name.rstrip(".").split(".")]
    packed = b"".join(bytes([len(label)]) + label for label in labels)
    packet = (
        struct.pack(">6H", 0x5056, 0x0100, 1, 0, 0, 0) + packed + b"\0" + struct.pack(">2H", 1, 1)
    )
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as door:
        door.settimeout(1.5)
        try:
            door.connect((server, 53))
            door.send(packet)
            reply = door.recv(4096)
        except TimeoutError:
            return "silent"
        except OSError:
            return "refused"
    if len(reply) < 12:
        return "failed"
    flags, _, answers = struct.unpack(">3H", reply[2:8])
    return "found" if flags & 15 == 0 and answers else "failed"


def in_threads(work, items):
    """Do the work for every item at the same time; return the results by item."""
    found = {}
    threads = []
    for item in items:
        thread = threading.Thread(target=lambda i=item: found.update({i: work(i)}), daemon=True)
        thread.start()
        threads.append(thread)
    return found, threads


def resolve(host, port):
    """Resolve a name as vLLM will; give up early when every server that was given is dead."""
    outcome = []

    def look():
        try:
            outcome.append(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    given, given_threads = in_threads(lambda server: ask_dns(server, host), QUESTION["dns"])
    others, other_threads = in_threads(lambda server: ask_dns(server, host), QUESTION["others"])
    end = time.monotonic() + LONGEST_DNS_S
    while thread.is_alive() and time.monotonic() < end:
        thread.join(0.05)
        dead = len(given) == len(QUESTION["dns"]) and set(given.values()) == {"refused"}
        if dead and thread.is_alive():
            outcome.append(OSError("nobody listens at " + ", ".join(sorted(given))))
            break
    if not outcome:
        outcome.append(OSError("no DNS server answered within %g s" % LONGEST_DNS_S))
    if isinstance(outcome[0], OSError):
        for each in given_threads + other_threads:
            each.join(max(0.0, min(1.5, END - time.monotonic())))
        works = [server for server in QUESTION["others"] if others.get(server) == "found"]
        ANSWER["working_dns"] = works[0] if works else ""
        ANSWER["problem"] = "%s cannot be resolved: %s" % (host, outcome[0])
        say()
    return outcome[0]


def trust():
    """Trust whom vLLM's own client trusts: named certificates, else certifi's, else the system's."""
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
    if not named:
        try:
            import certifi

            named = certifi.where()
        except ImportError:
            named = None
    return ssl.create_default_context(cafile=named)


def main():
    """Go through all stages."""
    hub = urlsplit(QUESTION["hub"])
    proxy = urllib.request.getproxies().get(hub.scheme)
    if proxy and urllib.request.proxy_bypass(hub.hostname):
        proxy = None
    secure = hub.scheme == "https"
    first = urlsplit(proxy if "://" in proxy else "http://" + proxy) if proxy else hub
    ANSWER["proxy"] = bool(proxy)
    port = first.port or (443 if first.scheme == "https" else 80)
    addresses = resolve(first.hostname, port)
    ANSWER.update(stage="connect", resolved=True)
    connect(first.hostname, port, addresses)
    limit = max(0.5, END - time.monotonic())
    try:
        if secure:
            ANSWER["stage"] = "tls"
            connection = http.client.HTTPSConnection(
                first.hostname, port, timeout=limit, context=trust()
            )
        else:
            connection = http.client.HTTPConnection(first.hostname, port, timeout=limit)
        if proxy and secure:
            connection.set_tunnel(hub.hostname, hub.port or 443)
        connection.connect()
        ANSWER["stage"] = "http"
        path = hub.path.rstrip("/") + QUESTION["path"]
        if proxy and not secure:
            path = hub.scheme + "://" + hub.netloc + path
        headers = {"Host": hub.netloc, "User-Agent": "pytest-vllm", "Accept-Encoding": "identity"}
        token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
        if token:
            headers["Authorization"] = "Bearer " + token
        connection.request("HEAD", path, headers=headers)
        reply = connection.getresponse()
        ANSWER.update(
            stage="answered",
            status=reply.status,
            error_code=reply.headers.get("X-Error-Code", ""),
            error_message=reply.headers.get("X-Error-Message", ""),
        )
    except (OSError, ValueError, http.client.HTTPException) as error:
        ANSWER["problem"] = "%s: %s" % (type(error).__name__, error)
    say()


def connect(host, port, addresses):
    """Open a connection to one of the addresses and close it again."""
    problem = None
    for family, kind, number, _, address in addresses[:4]:
        with socket.socket(family, kind, number) as door:
            door.settimeout(max(0.3, min(3.0, (END - time.monotonic()) / 2)))
            try:
                door.connect(address)
            except OSError as error:
                known = errno.errorcode.get(error.errno, "") if error.errno else "timed out"
                problem = "%s port %s: %s (%s)" % (address[0], port, error.strerror or error, known)
            else:
                return
    ANSWER["problem"] = "%s cannot be reached: %s" % (host, problem)
    say()


main()
