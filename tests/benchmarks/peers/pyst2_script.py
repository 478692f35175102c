"""An AGI script as pyst2's documentation has it: Asterisk starts one process for each call."""

import sys

from asterisk.agi import AGI

agi = AGI()
agi.stream_file(sys.argv[1], escape_digits="*")
agi.wait_for_digit(int(sys.argv[2]))
