"""`python -m telephony` is the command `telephony`. What it never does: anything else."""

from __future__ import annotations

from telephony.cli import main

if __name__ == "__main__":
    main()
