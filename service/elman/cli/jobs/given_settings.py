"""Settings from options and the environment, for every command."""

import os
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from elman.cli.exits import refuse
from elman.errors import message_of
from elman.settings import Settings, check_names


def settings_from(given: Mapping[str, Any]) -> Settings:
    """Settings from the options that were given and the environment. Exits, naming the setting, if one is wrong."""
    try:
        check_names(os.environ)
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        # A key, a password, or a URL that may hold one.
        secret = name.endswith(("_keys", "_password")) or "://" in str(first["input"])
        got = "" if secret else f", got {first['input']!r}"
        raise refuse(f"{name}: {message_of(first)}{got}") from None
    except ValueError as error:
        raise refuse(str(error)) from None
