"""A controller as a process: what `telephony serve` does, with its configuration as JSON.

It ends with the tests that started it, however they end: else it would keep ports and folders from the next.
"""

from __future__ import annotations

import ctypes
import gc
import json
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    gc.disable()
    from telephony.app import run
    from telephony.logs import set_up_logs
    from telephony.settings import check_settings

    settings = check_settings(json.loads(Path(sys.argv[1]).read_text()))
    set_up_logs(settings.log.level, settings.log.format)
    run(settings)
