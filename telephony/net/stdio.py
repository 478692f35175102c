"""AGI over standard input and output: `AGI(telephony-agi,ivr/NAME)`, carried to a controller that runs.

Asterisk starts one such process for each call, so it carries lines and does nothing else: the trees, their
sounds and whom they may ask are known to the controller, and there is one interpreter for every way in. The
environment is sent on as that of a network script, and SIGHUP, which tells of a hangup here, as `HANGUP`.
Where the controller is away, `TELEPHONY_RESULT` is `away` and the dialplan goes on at once. What it never
does: import what takes long, log, or wait for a controller that does not answer the connect.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from typing import Final

CONTROLLER_VARIABLE: Final = "TELEPHONY_AGI"
DEFAULT_CONTROLLER: Final = "127.0.0.1:4573"
CONNECT_SECONDS: Final = 2.0
MOST_OF_ENVIRONMENT: Final = 65536
USAGE: Final = "usage: telephony-agi ivr/NAME[?VARIABLE=VALUE&…] [HOST:PORT]"
_CHUNK: Final = 65536
_INPUT, _OUTPUT = 0, 1


def main() -> None:
    """Relay by the arguments that Asterisk hands over."""
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(USAGE)
    sys.exit(relay(*sys.argv[1:]))


def relay(script: str, controller: str = "") -> int:
    """Carry one session; returns 0, or 1 where no controller was reached.

    `script` is what stands behind the host in `agi://HOST/ivr/NAME?…`; `controller` is `host:port`, by
    default what the environment's TELEPHONY_AGI says.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    environment = _read_environment()
    address = controller or os.environ.get(CONTROLLER_VARIABLE) or DEFAULT_CONTROLLER
    host, _, port = address.rpartition(":")
    try:
        link = socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS)
    except (OSError, ValueError):
        _away()
        return 1
    with link:
        link.settimeout(None)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        network = f"agi_network: yes\nagi_network_script: {_one_line(script)}\n".encode()
        link.sendall(network + environment)
        signal.signal(signal.SIGHUP, lambda *_: link.sendall(b"HANGUP\n"))
        _carry(link)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return 0


def _read_environment() -> bytes:
    """What Asterisk says first, to the empty line; without what tells of a network."""
    data = b""
    while b"\n\n" not in data and len(data) < MOST_OF_ENVIRONMENT:
        chunk = os.read(_INPUT, _CHUNK)
        if not chunk:
            break
        data += chunk
    lines = data.partition(b"\n\n")[0].split(b"\n")
    kept = [line for line in lines if not line.startswith(b"agi_network")]
    return b"\n".join(kept) + b"\n\n"


def _one_line(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())


def _carry(link: socket.socket) -> None:
    """Pass on what either side says, until one of them is gone."""
    controller = link.fileno()
    while True:
        readable, _, _ = select.select((controller, _INPUT), (), ())
        for one in readable:
            data = os.read(one, _CHUNK)
            if not data:
                return
            if one == controller:
                _say(data)
            else:
                link.sendall(data)


def _away() -> None:
    """Leave word for the dialplan; the reply is waited for, lest Asterisk is gone before it heard."""
    _say(b"SET VARIABLE TELEPHONY_RESULT away\n")
    os.read(_INPUT, _CHUNK)


def _say(data: bytes) -> None:
    while data:
        data = data[os.write(_OUTPUT, data) :]


if __name__ == "__main__":
    main()
