"""The kinds of session store."""
