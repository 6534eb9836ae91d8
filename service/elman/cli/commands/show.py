"""`elman show`."""

from elman.cli.commands.options import DEFAULT_URL, AsJSON, Key, Model, Timeout, Url


def show(
    model: Model, url: Url = DEFAULT_URL, api_key: Key = None, timeout: Timeout = 60.0, as_json: AsJSON = False
) -> None:
    """Show the card of a model: what it takes, what it answers, and what it can do.

    \b
    elman show names-gru
    elman show names-gru@1 --url http://localhost:8000 --json
    elman show ./my-model
    """
    from elman.cli.jobs.listing import show_model

    show_model(model, url, api_key, timeout, as_json)
