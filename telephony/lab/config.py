"""The configuration of the lab's two Asterisks, written as files.

What it never does: read or change /etc/asterisk, or bind to an address that is not loopback.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from telephony.lab.instance import AsteriskInstance
from telephony.resources import data_dir

CONTROLLER_READ = "call,dialplan"
CONTROLLER_WRITE = "originate,call,reporting"
"""The rights of the controller's AMI user: these and no more are what the project asks of a PBX."""

UNREAD_EVENTS = (
    "Newexten,AGIExecStart,AGIExecEnd,DTMFBegin,DTMFEnd,RTCPSent,RTCPReceived,NewConnectedLine,NewCallerid"
)
"""What no controller reads and every call makes plenty of."""

CONTROLLER_EVENTS = ("Hangup", "Newstate", "OriginateResponse")
"""The events that the controller reads, beside a 183's `DialState` and the `VarSet` of a global."""

STRICT = "carrier-strict"
"""The PBX's endpoint to a carrier that takes alaw only, and keys by SIP INFO."""

QUALIFY_SECONDS = 2
"""How often the PBX asks each trunk whether it lives (SIP OPTIONS)."""

OWN_DIALPLAN = "own.conf"
"""A file of the PBX's `etc` that is part of its dialplan where it is there."""

RTP_PORTS = (20000, 25999)
"""The lab has addresses of its own, so both Asterisks can use the same range; it takes 2 ports a call."""

_CARRIER_QUIET_CLASS = "quiet"

# Modules that the lab never uses and that cost start-up time, ask for configuration, or talk to others.
_LEFT_OUT = """
app_adsiprog app_agent_pool app_alarmreceiver app_audiosocket app_confbridge app_dictate
app_directory app_externalivr app_festival app_followme app_getcpeid app_jack app_minivm app_mp3
app_page app_sla app_sms app_speech_utils app_stasis* app_test app_voicemail* app_zapateller
bridge_softmix cdr_[!c]* cdr_custom cel_* chan_[!bp]* codec_amr codec_codec2 codec_lpc10 codec_opus*
codec_speex format_ogg* func_callcompletion func_curl func_enum func_odbc func_realtime func_speex
func_srv pbx_[!cs]* res_adsi res_aeap res_ael_share res_ari* res_audiosocket res_calendar*
res_cdrel* res_config* res_curl res_fax* res_geolocation res_hep* res_http* res_odbc* res_parking
res_phoneprov res_pjsip_aoc res_pjsip_config_wizard res_pjsip_exten_state res_pjsip_geolocation
res_pjsip_messaging res_pjsip_notify res_pjsip_outbound_publish res_pjsip_phoneprov*
res_pjsip_publish_asterisk res_pjsip_stir_shaken res_pjsip_t38 res_pjsip_transport_websocket
res_pjsip_xpidf* res_prometheus res_realtime res_resolver_unbound res_rtp_multicast res_smdi
res_snmp res_sorcery_realtime res_speech_aeap res_stasis* res_statsd res_stir_shaken
res_stun_monitor res_tonedetect res_websocket_client res_xmpp
"""


@dataclass(frozen=True, slots=True)
class PbxOptions:
    """What the PBX's configuration depends on.

    `agi` is `host:port` of the controller's FastAGI server, as the dialplan global `TELEPHONY_AGI`;
    `globals` are further dialplan globals; `debug` fills the full log and tells
    managers every event; `test_user` and `test_secret` are an AMI user with every right, for tests.
    """

    agi: str
    address_b: str
    carrier_address: str
    carrier_address_b: str
    carrier_port: int
    test_user: str
    test_secret: str
    globals: Mapping[str, str] = field(default_factory=dict)
    debug: bool = False


@dataclass(frozen=True, slots=True)
class CarrierOptions:
    """What the carrier's configuration depends on; `agi` is `host:port` of the lab's own FastAGI server."""

    agi: str
    address_b: str
    pbx_address: str
    pbx_address_b: str
    pbx_port: int
    debug: bool = False


def write_pbx(instance: AsteriskInstance, options: PbxOptions) -> None:
    """Write the PBX's configuration into its folder."""
    _write_common(instance, debug=options.debug)
    etc = instance.run_dir / "etc"
    _write_manager(
        etc,
        instance,
        {
            instance.ami_user: (instance.ami_secret, CONTROLLER_READ, CONTROLLER_WRITE),
            options.test_user: (options.test_secret, "all", "all"),
        },
        unread="" if options.debug else UNREAD_EVENTS,
    )
    trunk = _endpoint(
        instance.address, transport="transport-a", context="lab-inbound", allow="ulaw,alaw", aors="{name}"
    )
    trunks = {
        "carrier": (options.carrier_address, "ulaw,alaw", True),
        "carrier-alaw": (options.carrier_address, "alaw", False),
        "carrier-b": (options.carrier_address_b, "ulaw,alaw", True),
    }
    sections = [
        _transport("transport-a", instance.address, instance.sip_port),
        _transport("transport-b", options.address_b, instance.sip_port),
    ]
    for name, (address, allow, identified) in trunks.items():
        sections.append(
            _section(name, {**trunk, "allow": allow, "aors": name})
            + _aor(name, f"sip:{address}:{options.carrier_port}")
        )
        if identified:
            sections.append(_section(f"{name}-is", {"type": "identify", "endpoint": name, "match": address}))
    # An endpoint as plain as can be, to a carrier that wants everything otherwise: what a call needs there
    # comes with the call.
    plain = {**trunk, "transport": "transport-b", "allow": "ulaw", "aors": STRICT, "send_pai": "no"}
    sections.append(
        _section(STRICT, {**plain, "media_address": options.address_b})
        + _aor(STRICT, f"sip:{options.carrier_address}:{options.carrier_port}")
    )
    (etc / "pjsip.conf").write_text(_pjsip_head() + "".join(sections))

    aliases = data_dir("dialplans") / "asterisk" / "telephony-cli.conf"
    (etc / "cli_aliases.conf").write_text(f"[general]\ntemplate = telephony\n\n#include {aliases}\n")
    values = {"TELEPHONY_AGI": options.agi, **options.globals}
    dialplan = data_dir("dialplans") / "asterisk" / "telephony.conf"
    (etc / "extensions.conf").write_text(
        "[general]\nstatic=yes\nwriteprotect=yes\n\n[globals]\n"
        + "".join(f"{name}={value}\n" for name, value in values.items())
        # What a call from the carrier meets: the dialplan's own way in where it has one, else the controller.
        + "\n[lab-inbound]\n"
        "exten => _[+0-9a-z].,1,GotoIf(${DIALPLAN_EXISTS(telephony-inbound,${EXTEN},1)}"
        "?telephony-inbound,${EXTEN},1)\n"
        " same => n,AGI(agi://${TELEPHONY_AGI}/inbound)\n"
        " same => n,Hangup()\n"
        f"\n#tryinclude {dialplan}\n"
        # A user's (or a test's) own contexts: write the file, then `dialplan reload`.
        f"#tryinclude {etc / OWN_DIALPLAN}\n"
    )


def write_carrier(instance: AsteriskInstance, options: CarrierOptions) -> None:
    """Write the carrier's configuration into its folder."""
    _write_common(instance, debug=options.debug)
    etc = instance.run_dir / "etc"
    _write_manager(etc, instance, {instance.ami_user: (instance.ami_secret, "all", "all")}, unread="")
    common = _endpoint(instance.address, transport="", context="carrier-in", allow="ulaw,alaw", aors="")
    contact = f"sip:{options.pbx_address}:{options.pbx_port}"
    (etc / "pjsip.conf").write_text(
        _pjsip_head()
        + _transport("transport-a", instance.address, instance.sip_port)
        + _transport("transport-b", options.address_b, instance.sip_port)
        # Calls come in on one endpoint, whose answers leave by the way the call came; calls go out on two.
        + _section("pbx", common)
        + _section("pbx-is", {"type": "identify", "endpoint": "pbx", "match": options.pbx_address})
        # What comes from the PBX's second address is held to alaw, and to keys by SIP INFO.
        + _section("pbx-strict", {**common, "allow": "alaw", "dtmf_mode": "info"})
        + _section(
            "pbx-strict-is", {"type": "identify", "endpoint": "pbx-strict", "match": options.pbx_address_b}
        )
        + _section("pbx-a", {**common, "transport": "transport-a", "aors": "pbx-a"})
        + _aor("pbx-a", contact, qualify=0)
        + _section("pbx-b", {**common, "transport": "transport-b", "aors": "pbx-b"})
        + _aor("pbx-b", contact, qualify=0)
        # A phone that sends its keys by SIP INFO.
        + _section("pbx-info", {**common, "transport": "transport-a", "aors": "pbx-a", "dtmf_mode": "info"})
    )
    # The `S` of older releases is what newer ones do without being asked.
    record = "S" if int(instance.program.version.partition(".")[0]) < 21 else ""
    (etc / "extensions.conf").write_text(
        f"[general]\nstatic=yes\nwriteprotect=yes\n\n[globals]\nLAB_AGI={options.agi}\n"
        "\n[carrier-in]\n"
        # `_.` would take `h` as well, so the two ways a number can begin are written out.
        + "".join(
            f"exten => {pattern},1,Set(LAB_ID=${{UNIQUEID}})\n"
            " same => n,AGI(agi://${LAB_AGI}/call?id=${LAB_ID})\n"
            " same => n,Hangup(16)\n"
            for pattern in ("_[+0-9*#].", "_[0-9*#]")
        )
        + "exten => h,1,Goto(carrier-end,s,1)\n"
        # A call that the carrier placed to the PBX enters here when the PBX answers.
        "\n[carrier-out]\n"
        "exten => answered,1,AGI(agi://${LAB_AGI}/placed?id=${LAB_ID})\n"
        " same => n,Hangup()\n"
        "exten => h,1,Goto(carrier-end,s,1)\n"
        # The recording is complete on disk when this returns; then the lab is told.
        "\n[carrier-end]\n"
        "exten => s,1,StopMixMonitor()\n"
        " same => n,AGI(agi://${LAB_AGI}/end?id=${LAB_ID})\n"
        # Recording starts with the answer and the subscriber sends audio from then on, as a phone does:
        # the two together make second 0 of the recording the answer, and its gaps true.
        "\n[carrier-answer]\n"
        f"exten => s,1,MixMonitor(,r(${{ARG1}}){record})\n"
        " same => n,Answer(,i)\n"
        " same => n,Set(LAB_ANSWERED=${STRFTIME(,,%s.%3q)})\n"
        f" same => n,StartMusicOnHold({_CARRIER_QUIET_CLASS})\n"
        " same => n,Return()\n"
    )


def _write_common(instance: AsteriskInstance, *, debug: bool) -> None:
    """Write what both have: folders, modules, logs, media."""
    run = instance.run_dir
    for folder in (
        "etc",
        "log/cdr-csv",
        "run",
        "db",
        "spool/monitor",
        "keys",
        "agi",
        "quiet",
        "varlib",
    ):
        (run / folder).mkdir(parents=True, exist_ok=True)
    program = instance.program
    directories = {
        "astetcdir": run / "etc",
        "astmoddir": program.module_dir,
        "astvarlibdir": run / "varlib",
        "astdbdir": run / "db",
        "astkeydir": run,
        "astdatadir": program.data_dir,
        "astagidir": run / "agi",
        "astspooldir": run / "spool",
        "astrundir": run / "run",
        "astlogdir": run / "log",
        "astsbindir": run,
    }
    level = "verbose = 5\ndebug = 3\n" if debug else "verbose = 0\n"
    files = {
        "asterisk.conf": "[directories]\n"
        + "".join(f"{name} => {path}\n" for name, path in directories.items())
        + f"\n[options]\n{level}nocolor = yes\nhideconnect = yes\nlanguageprefix = yes\n",
        "modules.conf": "[modules]\nautoload=yes\n"
        + "".join(f"noload => {name}\n" for name in _left_out(program.module_dir)),
        "logger.conf": "[general]\ndateformat=%F %T.%3q\n[logfiles]\nfull => notice,warning,error"
        + (",verbose(5),debug(3),dtmf" if debug else "")
        + "\n",
        "cli.conf": "[startup_commands]\n" + ("agi set debug on = yes\n" if debug else ""),
        "rtp.conf": f"[general]\nrtpstart={RTP_PORTS[0]}\nrtpend={RTP_PORTS[1]}\nicesupport=no\n",
        "cdr.conf": "[general]\nenable=yes\nunanswered=yes\ncongestion=yes\n"
        "[csv]\nusegmtime=yes\nloguniqueid=yes\nloguserfield=yes\n",
        "musiconhold.conf": "".join(
            f"[{name}]\nmode=files\ndirectory={run / 'quiet'}\n" for name in (_CARRIER_QUIET_CLASS, "default")
        ),
        "indications.conf": "[general]\ncountry=cn\n[cn]\ndescription=China\n"
        "ringcadence=1000,4000\ndial=450\n"
        "busy=450/350,0/350\nring=450/1000,0/4000\ncongestion=450/700,0/700\ncallwaiting=450/400,0/4000\n"
        "dialrecall=450\nrecord=950/400,0/10000\n"
        "info=450/100,0/100,450/100,0/100,450/100,0/100,450/400,0/400\n",
        # Modules that insist on a file of their own get an empty one.
        **{
            f"{name}.conf": "[general]\n"
            for name in ("ccss", "cel", "cli_permissions", "codecs", "dsp", "features", "http")
        },
        **{
            f"{name}.conf": "[general]\n"
            for name in ("pjproject", "queues", "sorcery", "stasis", "udptl", "dnsmgr", "queuerules")
        },
        "amd.conf": "[general]\n",
        "acl.conf": "",
        "cli_aliases.conf": "[general]\n",
    }
    for name, text in files.items():
        (run / "etc" / name).write_text(text)
    # Ten seconds of digital silence in each codec, so that nothing is transcoded while a call stands.
    (run / "quiet" / "quiet.ulaw").write_bytes(b"\xff" * 80000)
    (run / "quiet" / "quiet.alaw").write_bytes(b"\xd5" * 80000)


def _left_out(module_dir: Path) -> list[str]:
    names = sorted(path.name for path in module_dir.glob("*.so"))
    left_out = _LEFT_OUT.split()
    return [name for name in names if any(fnmatch(name.removesuffix(".so"), left) for left in left_out)]


def _write_manager(
    etc: Path, instance: AsteriskInstance, users: Mapping[str, tuple[str, str, str]], *, unread: str
) -> None:
    head = {
        "enabled": "yes",
        "webenabled": "no",
        "bindaddr": instance.address,
        "port": str(instance.ami_port),
    }
    sections = [
        _section(
            "general",
            {**head, "displayconnects": "no", "allowmultiplelogin": "yes", "disabledevents": unread},
        )
    ]
    for user, (secret, read, write) in users.items():
        values = {
            "secret": secret,
            "deny": "0.0.0.0/0.0.0.0",
            "permit": "127.0.0.0/255.0.0.0",
            "read": read,
            "write": write,
            "writetimeout": "5000",
        }
        filters = "" if read == "all" else "".join(f"{line}\n" for line in _event_filters(instance))
        sections.append(_section(user, values).rstrip("\n") + "\n" + filters + "\n")
    path = etc / "manager.conf"
    path.touch(mode=0o600)
    path.write_text("".join(sections))


def _event_filters(instance: AsteriskInstance) -> list[str]:
    """Return the lines that let only the controller's events through, filtered by the PBX itself.

    Releases before 22.1 know only filters that search the whole text of an event.
    """
    release = tuple(int(part) for part in instance.program.version.split("+")[0].split(".")[:2])
    if release >= (22, 1):
        return [
            "eventfilter(action(include),name(Hangup)) =",
            "eventfilter(action(include),name(OriginateResponse)) =",
            "eventfilter(action(include),name(Newstate),header(Uniqueid),method(starts_with)) = att_",
            "eventfilter(action(include),name(DialState),header(DialStatus),method(exact)) = PROGRESS",
            "eventfilter(action(include),name(VarSet),header(Channel),method(exact)) = none",
        ]
    return [
        *(f"eventfilter=Event: {name}\\r" for name in CONTROLLER_EVENTS),
        "eventfilter=DialStatus: PROGRESS\\r",
        "eventfilter=Channel: none\\r",
    ]


def _pjsip_head() -> str:
    return _section("global", {"type": "global", "endpoint_identifier_order": "ip"})


def _transport(name: str, address: str, port: int) -> str:
    return _section(name, {"type": "transport", "protocol": "udp", "bind": f"{address}:{port}"})


def _endpoint(address: str, *, transport: str, context: str, allow: str, aors: str) -> dict[str, str]:
    values = {
        "type": "endpoint",
        "transport": transport,
        "context": context,
        "disallow": "all",
        "allow": allow,
        "aors": aors,
        "identify_by": "ip",
        "dtmf_mode": "rfc4733",
        "direct_media": "no",
        "bind_rtp_to_media_address": "yes",
        "media_address": address,
        "send_pai": "yes",
        "trust_id_inbound": "yes",
        "trust_id_outbound": "yes",
    }
    return {name: value for name, value in values.items() if value}


def _aor(name: str, contact: str, *, qualify: int = QUALIFY_SECONDS) -> str:
    values = {"type": "aor", "contact": contact, "qualify_frequency": str(qualify), "qualify_timeout": "1.0"}
    return _section(name, values)


def _section(name: str, values: Mapping[str, str]) -> str:
    return "\n".join((f"[{name}]", *_lines(values.items()), "", ""))


def _lines(pairs: Iterable[tuple[str, str]]) -> Iterable[str]:
    return (f"{name}={value}" for name, value in pairs)
