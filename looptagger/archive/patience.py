"""An object store that is away for a while: waited for, with growing pauses. No clip is to blame for it."""

import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from looptagger.config import Storage
from looptagger.errors import Unreachable, one_line

EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidAccessKeyId", "InvalidToken",
     "RequestTimeTooSkewed", "RequestExpired", "InvalidSecurity", "AccountProblem", "NotSignedUp"}
)  # fmt: skip
"""What stores answer to the credentials, account or clock of who asks: they take them for no object."""
DOUBTED = "SignatureDoesNotMatch"
"""Of all objects where the secret key is wrong, of one where its name is odd: then others are answered."""
THROTTLED = frozenset({"503", "RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequests"})
"""Too much was asked, of a prefix mostly: that others are answered says nothing against the object."""
LONGEST_S = 20.0
OWN_FAULT = 3
"""An object that fails so often again while the store answers other requests is itself at fault."""

T = TypeVar("T")


def is_stores_fault(error: BaseException) -> bool:
    """Whether the store does not answer whole or is overloaded, or there are no credentials: the next may fail too."""
    return _is_away(error) or _is_expired(error)


def _is_away(error: BaseException) -> bool:
    from aiohttp import ClientConnectionError
    from s3fs.core import S3_RETRYABLE_ERRORS  # no connection, no answer in time, an answer that breaks off

    lost = (*S3_RETRYABLE_ERRORS, ClientConnectionError)
    answers = [_answer(each) for each in _chain(error)]
    is_lost = any(isinstance(each, lost) for each in _chain(error))
    return is_lost or any(code == DOUBTED or status in (429, 500, 502, 503, 504) for code, status in answers)


def is_throttled(error: BaseException) -> bool:
    """Whether the store says that too much is asked. A HEAD's answer has no words, only the number: 503 or 429."""
    answers = map(_answer, _chain(error))
    return any(code.startswith("SlowDown") or code in THROTTLED or status == 429 for code, status in answers)


def _is_expired(error: BaseException) -> bool:
    from botocore import exceptions as kinds

    lost = (
        kinds.NoCredentialsError, kinds.PartialCredentialsError, kinds.CredentialRetrievalError, kinds.SSOError,
        kinds.TokenRetrievalError, kinds.ProfileNotFound, kinds.ConfigNotFound, kinds.ConfigParseError,
    )  # fmt: skip
    return any(isinstance(each, lost) or _answer(each)[0] in EXPIRED for each in _chain(error))


def refuse_expired(error: BaseException) -> None:
    """Raise Unreachable for credentials that are not there, or that the store takes for nothing."""
    if _is_expired(error):
        raise Unreachable(
            f"the object store refuses the credentials ({one_line(error)}); renew them and run the same command."
        )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _answer(error: BaseException) -> tuple[str, int]:
    """The code and the HTTP status of a store's answer; nothing and 0 for any other error."""
    response: Any = getattr(error, "response", None)
    if not isinstance(response, dict):
        status = getattr(error, "status", 0)  # a web server's
        return "", status if isinstance(status, int) else 0
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(response.get("Error", {}).get("Code", "")), int(status)


def answers(fs: Any, path: str) -> bool:
    """Whether a store answers a request for anything else in the bucket of an object."""
    if not hasattr(fs, "call_s3"):
        return True
    try:
        fs.call_s3("list_objects_v2", Bucket=path.split("/")[0], MaxKeys=1)
        return True
    except Exception as error:
        return not is_stores_fault(error)


class Patience:
    """How long a store that is away is waited for: `storage.patience_s` from the first time that it fails."""

    def __init__(self, storage: Storage, answers: Callable[[], bool] = lambda: False) -> None:
        self.storage, self.answers = storage, answers
        self.pause, self.deadline, self.answered = 0.5, 0.0, 0

    def wait(self, error: BaseException) -> bool:
        """Sleep, longer each time, with jitter; False, without, where the store answers and the object is at fault.

        Raises Unreachable when patience is at its end, and at once for credentials that the store refuses.
        """
        refuse_expired(error)
        self.answered += not is_throttled(error) and self.answers()
        if self.answered > OWN_FAULT:
            return False
        now = time.monotonic()
        self.deadline = self.deadline or now + self.storage.patience_s
        if now >= self.deadline:
            raise Unreachable(
                f"the object store has not answered for {self.storage.patience_s:g} s ({one_line(error)}); "
                "run the same command when it does."
            )
        time.sleep(min(self.pause * random.uniform(0.5, 1.5), self.deadline - now))
        self.pause = min(2 * self.pause, LONGEST_S)
        return True


def patiently(call: Callable[[], T], storage: Storage, answers: Callable[[], bool] = lambda: False) -> T:
    """What a call gives, made again while the store is away. Raises Unreachable when it does not come back."""
    patience = Patience(storage, answers)
    while True:
        try:
            return call()
        except Exception as error:
            if not is_stores_fault(error) or not patience.wait(error):
                raise
