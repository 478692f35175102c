"""AMI parsing against panoramisk: the same stream of events, in chunks as a socket brings them.

Both read what a controller reads of each event: its name and its channel's id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from telephony.wire.ami import AmiProtocol, Message
from tests.benchmarks.measure import ROUNDS, Report, installed, ratios, timed

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


async def ami_parsing(report: Report, say: Callable[[str], None]) -> None:
    """Parse in turns, and report events per second against panoramisk, where it is installed."""
    if not installed("panoramisk"):
        say("panoramisk is not installed: `make bench` installs the extra `peers`")
        return
    from panoramisk.ami_protocol import AMIProtocol

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

    figures: dict[str, list[float]] = {"ours": [], "panoramisk": []}
    for _ in range(ROUNDS):
        figures["ours"].append(timed(ours) / EVENTS)
        figures["panoramisk"].append(timed(theirs) / EVENTS)
    report.keep("processor seconds per AMI event", figures)
    each = ratios(figures["panoramisk"], figures["ours"])
    report.row("AMI events parsed per second of processor time / panoramisk", each, aim="≥ 2.5")
