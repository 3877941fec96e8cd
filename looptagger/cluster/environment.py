"""What of the driver's environment its workers take over."""

import os
import sys
from collections.abc import Mapping

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_PROFILE")


class Environment:
    """AWS variables that travel with tasks. Whatever prints or exports a task's arguments shows none of them."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = dict(variables)

    def __repr__(self) -> str:
        return f"<{len(self.variables)} AWS variables>"


def storage_environment() -> Environment:
    """This process's AWS variables: a worker of a cluster that was started without them takes them over."""
    return Environment({key: value for key, value in os.environ.items() if key.startswith("AWS_")})


def adopt(environment: Environment) -> None:
    """Take over variables in a worker.

    Credentials come all together: a node's own key beside the driver's token would be nobody's. What lies in the
    folder that a local session was started in goes behind the packages: Ray puts it before them, and an av.py there
    is not ours.
    """
    if (here := os.getcwd()) in sys.path:
        sys.path.remove(here)
        sys.path.append(here)
    if CREDENTIALS[0] in environment.variables:
        for key in CREDENTIALS:
            os.environ.pop(key, None)
    for key, value in environment.variables.items():
        os.environ.setdefault(key, value)
