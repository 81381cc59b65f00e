"""Send requests to MLflow: classify their errors, and retry while the store is unavailable.

Errors are handled in three ways: a record counts as missing only if MLflow reports that it does not exist; a temporary
error is retried; any other error ends the command with the message of the server.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from mlflow.exceptions import InvalidUrlException, MlflowException, RestException
from requests import exceptions as http
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from bhsearch.errors import BhsearchError, MissingError, RunError, SettingsError, StudyError
from bhsearch.tracking.store_uri import hidden

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = "BHSEARCH_PATIENCE"  # environment variable: longest wait, in seconds
AGAIN_SECONDS = (0.5, 1, 2, 5)  # pauses between attempts; the last pause is repeated
_PATIENCE_SECONDS = 60.0
_MISSING = "RESOURCE_DOES_NOT_EXIST"
_WRONG_REQUESTS = (http.InvalidURL, http.InvalidSchema, http.MissingSchema, http.TooManyRedirects, InvalidUrlException)
# HTTP status in messages of MLflow and requests, for errors that do not keep the response.
_STATUS = re.compile(r"failed with error code (\d{3})\b|\b(\d{3}) (?:Client|Server) Error")
_TOO_MANY = re.compile(r"too many (?:429|503|413) error responses")
_LOG = logging.getLogger(__name__)


def patience_seconds() -> float:
    """Return how many seconds to wait for an unavailable store, from `BHSEARCH_PATIENCE`.

    Raises:
        SettingsError: If the variable is not a finite number of seconds, 0 or more.
    """
    text = os.environ.get(PATIENCE, "")
    try:
        seconds = float(text) if text else _PATIENCE_SECONDS
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise SettingsError(f"{PATIENCE} must be a non-negative number of seconds, but got {text!r}.")
    return seconds


def call_with_retry(step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Send a request to the store, retry while the store is unavailable, and return the result.

    The store may carry out a request whose response is lost, so `step` must be safe to repeat.

    Args:
        step: Function that sends the request.
        *args: Positional arguments of `step`.
        **kwargs: Keyword arguments of `step`.

    Raises:
        MissingError: If the store reports that a record does not exist.
        StudyError: If the store refuses the request, or if its certificate is not trusted.
        RunError: If the store stays unavailable.
    """
    started, attempt = time.monotonic(), 0
    while True:
        began = time.monotonic()
        try:
            return step(*args, **kwargs)
        except BhsearchError:
            raise
        except (MlflowException, SQLAlchemyError, OSError) as error:
            failure: Exception = error
        if is_missing(failure):
            raise MissingError(reason_of(failure)) from failure
        if not is_away(failure):
            raise refusal(failure) from failure
        patience = patience_seconds()
        pause = pause_after(failure, attempt, time.monotonic() - began)
        if time.monotonic() + pause > started + patience:
            raise RunError(
                f"MLflow has been unavailable for {time.monotonic() - started:.0f} s ({reason_of(failure)}). Repeat "
                "the command when it is available again."
            ) from failure
        if attempt == 0:
            _LOG.warning("MLflow is unavailable (%s). Retrying for at most %g s.", reason_of(failure), patience)
        time.sleep(pause)
        attempt += 1


def pause_after(error: BaseException, attempt: int, took: float) -> float:
    """Return the number of seconds to wait before the next attempt.

    MLflow itself sends a request twice, and waits between the two for the time in the `Retry-After` header, which it
    does not report. After an overload error, the pause is therefore at least the duration of the last attempt.

    Args:
        error: Error of the last attempt.
        attempt: Number of earlier pauses; 0 after the first attempt.
        took: Duration of the last attempt, in seconds.
    """
    pause = AGAIN_SECONDS[min(attempt, len(AGAIN_SECONDS) - 1)]
    return max(pause, took) if _TOO_MANY.search(str(error)) else pause


def is_missing(error: BaseException) -> bool:
    """Return whether an error means that a record or a file does not exist, in MLflow or on a local disk."""
    if isinstance(error, MlflowException):
        return bool(error.error_code == _MISSING)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return True
    return type(error) is OSError and error.errno is None and "No such file or directory" in str(error)


def is_away(error: BaseException) -> bool:
    """Return whether an error means that the store is temporarily unavailable, so that a retry may succeed."""
    if isinstance(error, StudyError) and error.__cause__ is not None:
        return is_away(error.__cause__)
    chain = list(_chain(error))
    if any(isinstance(each, _WRONG_REQUESTS) for each in chain) or _is_untrusted(chain):
        return False
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    for each in chain:
        if isinstance(each, OperationalError):
            return not any(word in str(each) for word in ("disk is full", "readonly", "no such table"))
        if isinstance(each, MlflowException | http.RequestException | ConnectionError | TimeoutError):
            return True
    return False


def is_unreachable(error: BaseException) -> bool:
    """Return whether an error means that no connection to the server could be made."""
    chain = list(_chain(error))
    refused = any(isinstance(each, http.ConnectionError | http.ConnectTimeout) for each in chain)
    return refused and not any(isinstance(each, http.SSLError) for each in chain)


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an error, or the status that MLflow assigns to its error code; None if unknown."""
    for each in _chain(error):
        if isinstance(each, http.RequestException) and each.response is not None:
            return int(each.response.status_code)
        if not isinstance(each, MlflowException):
            continue
        found = _STATUS.search(str(each))
        if found:
            return int(found[1] or found[2])
        if each.error_code != "INTERNAL_ERROR":  # MLflow also uses INTERNAL_ERROR for a lost connection
            return int(each.get_http_status_code())  # type: ignore[no-untyped-call]
        if isinstance(each, RestException) and not each.json.get("error_code"):
            return 400  # a response of a proxy, not of MLflow, which retries 408, 429 and most 5xx
    return None


def refusal(error: BaseException) -> StudyError:
    """Return the `StudyError` for a refused request, with the message of the server."""
    reason, status = reason_of(error), status_of(error)
    if _is_untrusted(list(_chain(error))):
        return StudyError(
            f"The certificate of the MLflow server is not trusted: {reason}. If the server uses your own certificate "
            "authority, set MLFLOW_TRACKING_SERVER_CERT_PATH to its certificate."
        )
    if status in (401, 403):
        return StudyError(
            f"The MLflow server denied access (status {status}): {reason}. Set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    return StudyError(f"MLflow refused a request: {reason}")


def reason_of(error: BaseException) -> str:
    """Return the message of an error as one line of at most 400 characters, without passwords."""
    text = " ".join(str(error).split()) or repr(error)
    return hidden(text if len(text) <= 400 else text[:397] + "...")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, then its chain of causes."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _is_untrusted(chain: list[BaseException]) -> bool:
    """Return whether TLS failed because of the certificate rather than a lost connection."""
    found = [each for each in chain if isinstance(each, http.SSLError | ssl.SSLError)]
    return bool(found) and not any(word in str(each) for each in found for word in ("EOF", "reset", "timed out"))
