"""The page at `/`, in a real browser, against the API's own answers."""
