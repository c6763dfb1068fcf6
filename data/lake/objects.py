"""Asking an object store: its errors become StoreError, and a store that is away or busy is asked again.

fsspec and its drivers raise whatever their client library raises: botocore's errors are no OSErrors, and s3fs turns
some of them into FileNotFoundError, PermissionError or an OSError with a made-up errno. ``store_error`` sorts them by
what a person has to do. The client retries a request by itself for about ten seconds; ``ask`` goes on for as long as
``WAITS_S`` says, about a minute with both.
"""

from __future__ import annotations

import errno
import io
import logging
import time
from collections.abc import Callable, Sequence
from io import BufferedReader
from typing import TYPE_CHECKING, Any, TypeVar

from data.errors import FULL, StoreError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")

WAITS_S = (1.0, 2.0, 4.0, 8.0, 15.0)  # between two tries
BUFFER_BYTES = 1 << 20

_log = logging.getLogger(__name__)

# Names of classes and codes, because botocore is imported only where the lake is on S3. The codes are Amazon's:
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_CONFLICT = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
_NO_BUCKET = {"NoSuchBucket"}
_OTHER_REGION = {"PermanentRedirect", "IllegalLocationConstraintException", "AuthorizationHeaderMalformed", "301"}
_BUSY = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "OperationAborted", "Throttling"}
_BUSY |= {"ThrottlingException", "TooManyRequests", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}
_BUSY |= {"409", "429", "500", "502", "503", "504"}
_AWAY = {"HTTPClientError", "ConnectionError", "ClientError", "ResponseParserError", "ResponseStreamingError"}
_AWAY |= {"IncompleteReadError"}
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}
_NO_CREDENTIALS |= {"TokenRetrievalError", "SSOError", "UnauthorizedSSOTokenError", "NoAuthTokenError"}
_AWAY_ERRNOS = {None, errno.EIO, errno.EAGAIN, errno.EPIPE, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET}
_AWAY_ERRNOS |= {errno.ECONNABORTED, errno.EHOSTUNREACH, errno.ENETUNREACH}


def is_s3(fs: Any) -> bool:
    """Whether the store has conditional writes as s3fs offers them (If-None-Match, If-Match)."""
    return "s3" in fs.protocol


def ask(call: Callable[[], T], where: str, waits_s: Sequence[float] | None = None) -> T:
    """The result of ``call``, which is repeated after each of ``waits_s`` while the store is away or busy.

    Raises StoreError, with ``where``, for an error of the store. Every other error passes as it is, FileNotFoundError
    for a missing object among them.
    """
    waits = WAITS_S if waits_s is None else waits_s
    for wait_s in (*waits, None):
        try:
            return call()
        except Exception as error:
            found = store_error(error, where)
            if found is None:
                raise
            if not found.may_pass or wait_s is None:
                raise found from error
            _log.warning("%s: %s; trying again in %.0f s", where, _line(error), wait_s)
            time.sleep(wait_s)
    raise AssertionError


def store_error(error: Exception, where: str) -> StoreError | None:
    """What an exception of a store or its client library means; None if it is something else."""
    if isinstance(error, StoreError):
        return error
    code = _code(error)
    line = _line(error)
    if isinstance(error, ValueError) and "Invalid endpoint" in str(error):
        return StoreError(where, f"{line}: set AWS_ENDPOINT_URL to an address such as https://host:port, or unset it")
    is_local = isinstance(error, OSError) and (error.filename is not None or error.errno in FULL)
    if code is None and (is_local or not (isinstance(error, OSError) or _is_of_client(error))):
        return None
    names = {kind.__name__ for kind in type(error).__mro__}
    if code in _CONFLICT or isinstance(error, FileExistsError) or "FileExpired" in names:  # s3fs: replaced while read
        return StoreError(where, "another process changed it meanwhile; run the same command again", is_conflict=True)
    if code in _NO_BUCKET:
        return no_bucket(where)
    if isinstance(error, FileNotFoundError):
        return None
    if names & _NO_CREDENTIALS:
        advice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return StoreError(where, f"no credentials for the object store ({line}): {advice}")
    if code in _OTHER_REGION:
        return StoreError(where, f"the bucket is elsewhere ({line}): set AWS_DEFAULT_REGION to the bucket's region")
    if isinstance(error, PermissionError):
        advice = "check the credentials and their rights to read, write, list and delete in this bucket"
        return StoreError(where, f"the object store refuses access ({line}): {advice}")
    is_away = (isinstance(error, OSError) and error.errno in _AWAY_ERRNOS) or (_is_of_client(error) and names & _AWAY)
    if code in _BUSY or (code is None and is_away):
        what = "the object store does not answer" if code is None else "the object store is busy or out of order"
        advice = "check the network and AWS_ENDPOINT_URL; what is done is kept: run the same command again later"
        return StoreError(where, f"{what} ({line}): {advice}", may_pass=True)
    return StoreError(where, f"the object store refused the request ({line}): check --lake and AWS_ENDPOINT_URL")


def no_bucket(where: str) -> StoreError:
    return StoreError(where, "no such bucket: create it, or correct --lake or WEBTEXT_LAKE")


def open_object(fs: Any, path: str, where: str) -> BufferedReader:
    """The object at ``path``, to be read piece by piece. Raises FileNotFoundError or StoreError, also when read."""
    file = ask(lambda: fs.open(path, "rb"), where)
    return BufferedReader(_Object(file, where), BUFFER_BYTES)


class _Object(io.RawIOBase):
    """A file of fsspec whose errors are StoreErrors. A read that failed leaves it where it was."""

    def __init__(self, file: Any, where: str) -> None:
        self.file = file
        self.name = where

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        content: bytes = ask(lambda: self.file.read(len(view)), self.name)
        view[: len(content)] = content
        return len(content)

    def readall(self) -> bytes:
        content: bytes = ask(self.file.read, self.name)
        return content

    def close(self) -> None:
        if not self.closed:
            self.file.close()
        super().close()


def _code(error: BaseException) -> str | None:
    """The code in the store's answer, of a botocore ClientError or of what s3fs made of it."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code"))
    return None


def _is_of_client(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in ("botocore", "aiobotocore", "aiohttp")


def _line(error: BaseException) -> str:
    """The error's text, and the code that s3fs leaves out."""
    text = " ".join(str(error).split()) or type(error).__name__
    code = _code(error)
    return text if code is None or code in text else f"{code}: {text}"
