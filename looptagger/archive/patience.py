"""An object store that is away for a while: waited for, with growing pauses. No clip is to blame for it."""

import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from looptagger.config import Storage
from looptagger.errors import UserError, one_line

AWAY = frozenset({"SlowDown", "ServiceUnavailable", "InternalError", "500", "503"})
"""What a store says that has too much to do; the client libraries have tried again a few times by then."""
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidAccessKeyId"})
LONGEST_S = 20.0

T = TypeVar("T")


class StoreAway(UserError):
    """The store, not a clip, is at fault, and patience is at its end."""


def is_stores_fault(error: BaseException) -> bool:
    """Whether the store does not answer or is overloaded, or the credentials ran out: the next clip would fail too."""
    return _is_away(error) or _is_expired(error)


def _is_away(error: BaseException) -> bool:
    from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError

    chain = list(_chain(error))
    return any(isinstance(each, ConnectTimeoutError | EndpointConnectionError) for each in chain) or bool(
        AWAY & {_code(each) for each in chain}
    )


def _is_expired(error: BaseException) -> bool:
    return bool(EXPIRED & {_code(each) for each in _chain(error)})


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _code(error: BaseException) -> str:
    """The code of a store's answer, or nothing."""
    response: Any = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


class Patience:
    """How long a store that is away is waited for: `storage.patience_s` from the first time that it fails."""

    def __init__(self, storage: Storage) -> None:
        self.storage, self.pause, self.deadline = storage, 0.5, 0.0

    def wait(self, error: object) -> None:
        """Sleep a little longer each time, with jitter. Raises StoreAway when patience is at its end."""
        if isinstance(error, BaseException) and _is_expired(error):
            raise StoreAway(
                f"the object store refuses the credentials ({one_line(error)}); renew them and run the same command."
            )
        now = time.monotonic()
        self.deadline = self.deadline or now + self.storage.patience_s
        if now >= self.deadline:
            raise StoreAway(
                f"the object store has not answered for {self.storage.patience_s:g} s ({one_line(error)}); "
                "run the same command when it does."
            )
        time.sleep(min(self.pause * random.uniform(0.5, 1.5), self.deadline - now))
        self.pause = min(2 * self.pause, LONGEST_S)


def patiently(call: Callable[[], T], storage: Storage) -> T:
    """What a call gives, made again while the store is away. Raises StoreAway when it does not come back."""
    patience = Patience(storage)
    while True:
        try:
            return call()
        except Exception as error:
            if not is_stores_fault(error):
                raise
            patience.wait(error)
