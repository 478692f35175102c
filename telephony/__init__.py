"""telephony: verification calls, confirmations, IVR trees and overflow for Asterisk and FreeSWITCH.

The package is a house of rooms that import only downward; `docs/architecture.md` draws it and
`tests/unit/test_imports_point_downward.py` enforces it.
"""

__version__ = "0.1.0"
