"""A name server for one name, whose addresses come and go as replicas do behind compose's or Kubernetes' DNS.

A records only, over UDP, at most as many as fit into 512 bytes (RFC 1035): a balancer's other questions (AAAA) are
answered with nothing, which is the truth.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
from typing import Self

from tests.scale.hosts import Host

A, IN = 1, 1
TTL_SECONDS = 600  # as Docker's: who goes by it finds no new replica
ANSWER, NAME_ERROR = 0x8580, 0x8583  # authoritative, recursion available


class NameServer:
    """Answers on a host's loopback, from a thread, until it is closed."""

    def __init__(self, host: Host, name: str) -> None:
        self._name, self.addresses = name, list[str]()
        with host.inside():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.bind(("127.0.0.1", 53))
        self._socket.settimeout(0.2)
        self._over = threading.Event()
        self.questions = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                question, asker = self._socket.recvfrom(512)
                self.questions += 1
                self._socket.sendto(self._answer(question), asker)

    def _answer(self, message: bytes) -> bytes:
        labels, end = [], 12
        while length := message[end]:
            labels.append(message[end + 1 : end + 1 + length].decode("ascii").lower())
            end += 1 + length
        kind, _ = struct.unpack_from("!HH", message, end + 1)
        known = ".".join(labels) == self._name
        found = list(self.addresses) if known and kind == A else []
        head = message[:2] + struct.pack("!5H", ANSWER if known else NAME_ERROR, 1, len(found), 0, 0)
        # 0xC00C: the name in the question.
        records = [
            struct.pack("!3HIH", 0xC00C, A, IN, TTL_SECONDS, 4) + ipaddress.IPv4Address(address).packed
            for address in found
        ]
        return head + message[12 : end + 5] + b"".join(records)
