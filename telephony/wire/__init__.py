"""Wire protocols as pure state machines: bytes in, messages out. They know no socket and no event loop."""
