"""The same with pyst2: its manager for the Originate. The call itself is `pyst2_script.py`, one process each.

Arguments and input as in `bare_asyncio.py`; it listens on no port and prints 0.
"""

from __future__ import annotations

import sys

from asterisk.manager import Manager


def main(host: str, port: str, user: str, secret: str, context: str, *_call: str) -> None:
    manager = Manager()
    manager.connect(host, int(port))
    manager.login(user, secret)
    print(0, flush=True)
    for line in sys.stdin:
        manager.originate(f"PJSIP/{line.strip()}@carrier", "s", context=context, priority="1", run_async=True)
    manager.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
