"""Requests to arrays, outputs to answers, and the `where` of every error."""
