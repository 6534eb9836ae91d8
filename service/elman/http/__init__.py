"""The HTTP protocol, the contract of an endpoint, API keys, and limits on bodies and connections."""
