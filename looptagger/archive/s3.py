"""The keys of an S3 bucket a page at a time: s3fs gathers folders whole, and of an empty one lists that above it."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from looptagger.archive.patience import patiently
from looptagger.config import Storage

SCHEMES = ("s3", "s3a")
TRIES = 2
"""Times that s3fs asks for a body that breaks off, and again for what botocore gave up: each has its own loop."""


def keys(
    fs: Any, storage: Storage, folder: str, deep: bool, head: str = "", patient: bool = False
) -> Iterator[tuple[str, bool]]:
    """The keys in a prefix, or all below it, whose names begin with `head`; and whether each is a folder.

    They come 1,000 at a time, so that millions cost no memory. A store that goes away is waited for, as what is listed
    already may have taken half an hour; for the first answer only where one is `patient`.
    """
    bucket, _, prefix = folder.partition("/")
    prefix += "/" * (prefix != "" and prefix[-1] != "/")
    more = {"Prefix": prefix + head, **({} if deep else {"Delimiter": "/"})}
    while True:
        ask = partial(fs.call_s3, "list_objects_v2", Bucket=bucket, **more)
        page = patiently(ask, storage) if patient or "ContinuationToken" in more else ask()
        yield from ((f"{bucket}/{each['Prefix']}", True) for each in page.get("CommonPrefixes", ()))
        yield from ((f"{bucket}/{each['Key']}", False) for each in page.get("Contents", ()) if each["Key"][-1] != "/")
        if not page.get("IsTruncated"):
            return
        more["ContinuationToken"] = page["NextContinuationToken"]
