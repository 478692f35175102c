"""An order as the headers of an AMI `Originate`, its carrier's dialect among them.

Asterisk sets an Originate's variables on the channel that it has made and not yet dialled, dialplan
functions too: so they reach the INVITE. Seen on 22.10; `CALLERID(pres)` and a `From` by `PJSIP_HEADER`
do not, and the header `Codecs` alone only puts its codecs first. What it never does: send anything.
"""

from __future__ import annotations

from typing import Final

from telephony.pbx.port import DialOrder, IdentityForm
from telephony.wire.ami import Header, variable_header

GROUP_CATEGORY: Final = "telephony"
"""`GROUP_COUNT(ENDPOINT@telephony)` counts, in the dialplan of this PBX, what we have on an endpoint."""

_IDENTITY_HEADERS: Final = {
    IdentityForm.PAI: "P-Asserted-Identity",
    IdentityForm.RPID: "Remote-Party-ID",
}


def order_headers(order: DialOrder) -> list[Header]:
    """Return whom to call, as whom, and in which dialect."""
    headers: list[Header] = [
        ("Channel", f"PJSIP/{order.number}@{order.endpoint}"),
        ("ChannelId", order.attempt_id),
        ("Async", "true"),
        ("Timeout", str(round(order.ring_timeout * 1000))),
    ]
    if order.caller_number:
        name = order.caller_name.replace('"', "")
        headers.append(("CallerID", f'"{name}" <{order.caller_number}>'))
    variables = {f"GROUP({GROUP_CATEGORY})": order.endpoint}
    if order.codecs:
        headers.append(("Codecs", ",".join(order.codecs)))
        variables["PJSIP_MEDIA_OFFER(audio)"] = ",".join(order.codecs)
    dialect = order.dialect
    if dialect.dtmf_mode:
        variables["PJSIP_DTMF_MODE()"] = dialect.dtmf_mode
    if dialect.identity is not IdentityForm.FROM and dialect.identity_number:
        header = _IDENTITY_HEADERS[dialect.identity]
        variables[f"PJSIP_HEADER(add,{header})"] = _identity(order)
    return [*headers, *(variable_header(name, value) for name, value in variables.items())]


def _identity(order: DialOrder) -> str:
    dialect = order.dialect
    if not dialect.identity_domain:
        return f"<tel:{dialect.identity_number}>"
    address = f"<sip:{dialect.identity_number}@{dialect.identity_domain}>"
    return address if dialect.identity is IdentityForm.PAI else f"{address};party=calling;screen=yes"
