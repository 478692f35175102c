"""AMI parsing against panoramisk: the same stream of events, in chunks as a socket brings them.

Both read what a controller reads of each event: its name and its channel's id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from telephony.wire.ami import AmiProtocol, Message

EVENT = (
    "Event: Newstate\r\nPrivilege: call,all\r\nChannel: PJSIP/carrier-{n:08x}\r\nChannelState: 5\r\n"
    "ChannelStateDesc: Ringing\r\nCallerIDNum: +8613800000001\r\nCallerIDName: <unknown>\r\n"
    "ConnectedLineNum: <unknown>\r\nConnectedLineName: <unknown>\r\nLanguage: en\r\nAccountCode: \r\n"
    "Context: telephony-session\r\nExten: answered\r\nPriority: 1\r\nUniqueid: att_{n:026d}\r\n"
    "Linkedid: att_{n:026d}\r\n\r\n"
)
EVENTS = 20_000
CHUNK = 4096


class _Counter:
    """Takes events in the place of panoramisk's manager."""

    def __init__(self) -> None:
        self.seen = 0

    def dispatch(self, event: Any) -> None:
        if event.event == "Newstate" and event.uniqueid:
            self.seen += 1


def ami_parsing(
    rounds: int, timed: Callable[[Callable[[], None]], float]
) -> tuple[list[float], list[float]] | None:
    """Processor seconds of each round, ours and panoramisk's; None where it is not installed."""
    try:
        from panoramisk.ami_protocol import AMIProtocol
    except ImportError:
        return None
    stream = "".join(EVENT.format(n=n) for n in range(EVENTS)).encode()
    chunks = [stream[start : start + CHUNK] for start in range(0, len(stream), CHUNK)]

    def ours() -> None:
        protocol = AmiProtocol()
        protocol.receive(b"Asterisk Call Manager/11.0.0\r\n")
        seen = 0
        for chunk in chunks:
            for item in protocol.receive(chunk):
                if isinstance(item, Message) and item.name == "Newstate" and item.get("Uniqueid"):
                    seen += 1
        assert seen == EVENTS

    def theirs() -> None:
        counter = _Counter()
        protocol = AMIProtocol()
        protocol.connection_made(None)
        protocol.factory = counter
        protocol.data_received(b"Asterisk Call Manager/11.0.0\r\n\r\n")
        for chunk in chunks:
            protocol.data_received(chunk)
        assert counter.seen == EVENTS, counter.seen

    pairs = [(timed(ours), timed(theirs)) for _ in range(rounds)]
    return [mine for mine, _ in pairs], [other for _, other in pairs]
