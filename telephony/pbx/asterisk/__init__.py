"""The Asterisk backend: AMI to order and watch legs, FastAGI to talk on them."""

from telephony.pbx.asterisk.backend import AsteriskConfig, AsteriskPbx
from telephony.pbx.asterisk.session import AgiSession

__all__ = ["AgiSession", "AsteriskConfig", "AsteriskPbx"]
