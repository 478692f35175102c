"""A crowd of callers by SIPp, with RTP, from the carrier's address; where SIPp is installed."""

from __future__ import annotations

import asyncio
import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

from telephony.lab import Lab

HOLD_SECONDS = 60
RATE = 20
PORT = 15990

SCENARIO = """\
<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="caller">
  <send retrans="500"><![CDATA[
INVITE sip:[service]@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:+86138[call_number]@[local_ip]:[local_port]>;tag=[pid]t[call_number]
To: <sip:[service]@[remote_ip]:[remote_port]>
Call-ID: [call_id]
CSeq: 1 INVITE
Contact: <sip:caller@[local_ip]:[local_port]>
Max-Forwards: 70
Content-Type: application/sdp
Content-Length: [len]

v=0
o=caller 1 1 IN IP[local_ip_type] [local_ip]
s=-
c=IN IP[media_ip_type] [media_ip]
t=0 0
m=audio [rtpstream_audio_port] RTP/AVP 0 101
a=rtpmap:0 PCMU/8000
a=rtpmap:101 telephone-event/8000
a=sendrecv
]]></send>
  <recv response="100" optional="true"/>
  <recv response="180" optional="true"/>
  <recv response="183" optional="true"/>
  <recv response="486" optional="true" next="1"/>
  <recv response="200"/>
  <send><![CDATA[
ACK sip:[service]@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:+86138[call_number]@[local_ip]:[local_port]>;tag=[pid]t[call_number]
To: <sip:[service]@[remote_ip]:[remote_port]>[peer_tag_param]
Call-ID: [call_id]
CSeq: 1 ACK
Max-Forwards: 70
Content-Length: 0

]]></send>
  <nop><action><exec rtp_stream="VOICE,-1,0"/></action></nop>
  <pause/>
  <send retrans="500"><![CDATA[
BYE sip:[service]@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:+86138[call_number]@[local_ip]:[local_port]>;tag=[pid]t[call_number]
To: <sip:[service]@[remote_ip]:[remote_port]>[peer_tag_param]
Call-ID: [call_id]
CSeq: 2 BYE
Max-Forwards: 70
Content-Length: 0

]]></send>
  <recv response="200" next="2"/>
  <label id="1"/>
  <send><![CDATA[
ACK sip:[service]@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:+86138[call_number]@[local_ip]:[local_port]>;tag=[pid]t[call_number]
To: <sip:[service]@[remote_ip]:[remote_port]>[peer_tag_param]
Call-ID: [call_id]
CSeq: 1 ACK
Max-Forwards: 70
Content-Length: 0

]]></send>
  <label id="2"/>
</scenario>
"""


def installed() -> bool:
    return shutil.which("sipp") is not None


@dataclass
class Crowd:
    """A running SIPp."""

    process: asyncio.subprocess.Process
    folder: Path

    async def ended(self, timeout: float) -> tuple[int, int]:
        """Wait for its end; returns how many were answered, and how many were told 486."""
        async with asyncio.timeout(timeout):
            output, _ = await self.process.communicate()
        assert self.process.returncode == 0, output.decode(errors="replace")[-3000:]
        rows = list(csv.reader(next(self.folder.glob("*_counts.csv")).open(), delimiter=";"))
        last = dict(zip(rows[0], rows[-1], strict=False))
        answered = next(int(value) for name, value in last.items() if name.endswith("_200_Recv"))
        refused = next(int(value) for name, value in last.items() if name.endswith("_486_Recv"))
        return answered, refused

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


async def crowd(lab: Lab, folder: Path, called: str, people: int) -> Crowd:
    """Let people call, `RATE` a second; those who are answered send sound, and stay `HOLD_SECONDS`."""
    folder.mkdir()
    voice = folder / "voice.ulaw"
    # A hum; digital silence would do as well.
    voice.write_bytes(bytes(range(256)) * 100)
    scenario = folder / "caller.xml"
    scenario.write_text(SCENARIO.replace("VOICE", str(voice)))
    address = lab.state.carrier_address
    process = await asyncio.create_subprocess_exec(
        "sipp",
        f"{lab.pbx.address}:{lab.pbx.sip_port}",
        *("-sf", str(scenario), "-s", called, "-i", address, "-p", str(PORT), "-mi", address),
        *("-mp", "30000", "-nostdin"),
        *("-m", str(people), "-r", str(RATE), "-l", str(people), "-d", str(HOLD_SECONDS * 1000)),
        *("-trace_counts", "-fd", "1"),
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    return Crowd(process, folder)
