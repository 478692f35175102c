"""`telephony key`: draw keys of API clients. What it never does: print a key but once."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from telephony.cli.exits import Exit, fail, say
from telephony.cli.options import Json
from telephony.cli.output import print_json

key_app = typer.Typer(help="Keys of API clients.", no_args_is_help=True)


@key_app.command("new")
def key_new(
    name: Annotated[str, typer.Argument(help="The client's name.")],
    brand: Annotated[str | None, typer.Option(help="What a call says it comes from; else the name.")] = None,
    as_json: Json = False,
) -> None:
    """Draw a key: shown once; the configuration holds its hash."""
    from telephony.api.keys import hash_key, new_key

    for what, text in (("NAME", name), ("--brand", brand or name)):
        if not 1 <= len(text) <= 64 or not text.isprintable():
            fail(Exit.USAGE, f"{what}: is not usable. Write 1 to 64 printable characters")
    drawn = new_key()
    if as_json:
        print_json({"name": name, "brand": brand or name, "key": drawn, "key_hash": hash_key(drawn)})
        return
    say("The key, shown this once:")
    print(drawn)
    say("For telephony.toml:")
    print(client_toml(name, hash_key(drawn), brand or name), end="")


def client_toml(name: str, key_hash: str, brand: str) -> str:
    """The `[[clients]]` of a configuration."""
    quoted = [json.dumps(text, ensure_ascii=False) for text in (name, key_hash, brand)]
    return "[[clients]]\nname = {}\nkey_hash = {}\nbrand = {}\n".format(*quoted)
