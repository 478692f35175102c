"""A controller as a process: what `telephony serve` does, with its configuration as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from telephony.app import run
from telephony.logs import set_up_logs
from telephony.settings import check_settings

if __name__ == "__main__":
    settings = check_settings(json.loads(Path(sys.argv[1]).read_text()))
    set_up_logs(settings.log.level, settings.log.format)
    run(settings)
