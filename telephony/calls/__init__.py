"""The life of an outbound call, from the request to its final state."""
