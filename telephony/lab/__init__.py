"""The lab: a real PBX and a real carrier on loopback, whose subscribers are scripted in Python.

`Lab` brings both up; `ear` tells from a recording what a subscriber heard. What it never does: touch
a PBX that is already running on this machine, or listen anywhere but on loopback.
"""

from __future__ import annotations

from telephony.lab.carrier import Carrier, CarrierCall, Subscriber
from telephony.lab.dialplan import own_dialplan
from telephony.lab.instance import AsteriskInstance
from telephony.lab.lab import Lab, LabState, down, running_labs, up
from telephony.lab.phone import Phone
from telephony.lab.providers import AsteriskProgram, find_asterisk
from telephony.lab.subscribers import (
    answer_and_listen,
    busy,
    decline,
    hang_up_early,
    no_answer,
    press_keys,
    reject,
    unallocated,
    voicemail,
)

__all__ = [
    "AsteriskInstance",
    "AsteriskProgram",
    "Carrier",
    "CarrierCall",
    "Lab",
    "LabState",
    "Phone",
    "Subscriber",
    "answer_and_listen",
    "busy",
    "decline",
    "down",
    "find_asterisk",
    "hang_up_early",
    "no_answer",
    "own_dialplan",
    "press_keys",
    "reject",
    "running_labs",
    "unallocated",
    "up",
    "voicemail",
]
