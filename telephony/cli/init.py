"""`telephony init`: writes a first configuration, and tells what Asterisk needs to go with it.

What it never does: write over a file, or reach Asterisk.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Annotated, Final

import typer

from telephony.cli.exits import Exit, fail, say
from telephony.cli.options import Json
from telephony.cli.output import print_json

SECRET_OCTETS: Final = 24

_TOML: Final = """\
# A first configuration of telephony. Every other key, with its default: docs/configuration.md.
# `telephony doctor` holds it against your Asterisk.

[pbx.ami]                          # the user of manager.conf that `telephony init` printed
host = "127.0.0.1"
port = 5038
username = "telephony"
secret = {secret}

[fastagi]                          # where Asterisk's dialplan reaches the controller: TELEPHONY_AGI
host = "127.0.0.1"
port = 4573

[numbers]
default_region = {region}              # how numbers without a plus are read
allowed_regions = [{region}]           # nothing else is ever dialled

[[trunks]]
name = "main"
endpoint = {endpoint}
# channels = 30                    # calls at once; without it as many as [calls] max_calls
# number_format = "00"             # how the carrier wants numbers: e164, digits, 00, national

[[clients]]
name = {name}
key_hash = {key_hash}
brand = {brand}                    # what a call says it comes from
{caller}
# operator = true                  # it may drain, resume and limit trunks
# webhook_url = "https://shop.example.com/telephony"
# webhook_secret = "whsec_..."     # docs/webhooks.md

# [calls]
# max_calls = 500                  # calls at once, of which a fifth is kept free for codes

# [calling_hours]
# survey = ["10:00-12:00", "14:00-19:00"]
"""

_MANAGER: Final = """\
[telephony]
secret = {secret}
deny = 0.0.0.0/0.0.0.0
permit = 127.0.0.1/255.255.255.255
read = call,dialplan
write = originate,call,reporting
; From Asterisk 22.1 on; before that the filters of docs/dialplan.md, and no "dialplan" above without them.
eventfilter(action(include),name(Hangup)) =
eventfilter(action(include),name(Newstate),header(Uniqueid),method(starts_with)) = att_
eventfilter(action(include),name(OriginateResponse)) =
eventfilter(action(include),name(DialState),header(DialStatus),method(exact)) = PROGRESS
eventfilter(action(include),name(VarSet),header(Channel),method(exact)) = none
"""

_EXTENSIONS: Final = """\
[globals]
TELEPHONY_AGI=127.0.0.1:4573

#include telephony.conf
"""


def init(
    path: Annotated[Path, typer.Argument(help="Where it is written; it must be new.")] = Path(
        "telephony.toml"
    ),
    endpoint: Annotated[
        str, typer.Option(metavar="NAME", help="The PJSIP endpoint of your trunk.")
    ] = "my-trunk",
    region: Annotated[str, typer.Option(metavar="CC", help="The country that is rung.")] = "CN",
    name: Annotated[str, typer.Option(help="The first client, an app of yours.")] = "shop",
    brand: Annotated[str | None, typer.Option(help="What its calls come from; else the name.")] = None,
    caller: Annotated[str | None, typer.Option(help="The caller number that is shown.")] = None,
    as_json: Json = False,
) -> None:
    """Write a first configuration, draw its keys, and print what Asterisk needs."""
    from telephony.api.keys import hash_key, new_key
    from telephony.resources import data_dir
    from telephony.settings import ConfigErrors, load_settings

    key, secret = new_key(), secrets.token_urlsafe(SECRET_OCTETS)
    words = {
        "secret": secret,
        "region": region.upper(),
        "endpoint": endpoint,
        "name": name,
        "key_hash": hash_key(key),
        "brand": brand or name,
    }
    written = {what: json.dumps(text, ensure_ascii=False) for what, text in words.items()}
    shown = f"caller_number = {json.dumps(caller)}" if caller else '# caller_number = "+861088880000"'
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(_TOML.format(**written, caller=shown))
    except FileExistsError:
        fail(Exit.USAGE, f"{path} is there already; name a new file")
    except OSError as error:
        fail(Exit.USAGE, f"{path}: {error.strerror}")
    try:
        load_settings(path, {})
    except ConfigErrors as errors:
        path.unlink()
        fail(Exit.USAGE, "; ".join(str(error) for error in errors.errors))
    manager = _MANAGER.format(secret=secret)
    dialplan = data_dir("dialplans") / "asterisk" / "telephony.conf"
    if as_json:
        print_json(
            {
                "config": str(path),
                "key": key,
                "manager.conf": manager,
                "extensions.conf": _EXTENSIONS,
                "dialplan": str(dialplan),
            }
        )
        return
    say(f"{path} is written. The client's key, shown this once:")
    print(key)
    say(f"\nAppend to /etc/asterisk/manager.conf (docs/dialplan.md says why):\n\n{manager}")
    say(f"Copy {dialplan} to /etc/asterisk/, and write into extensions.conf:\n\n{_EXTENSIONS}")
    say(f"Then: asterisk -rx 'core reload'\n      telephony doctor --config {path}")
