"""HTTP itself: the protocol, the contract of an endpoint, callers and limits."""
