"""Whether the W&B server answers. W&B's client retries for minutes; this asks once, with a deadline."""

from __future__ import annotations

import http.client
import os
import ssl
import threading
import urllib.error
import urllib.request

ANSWER_SECONDS = 4.0
"""How long the server may take to answer one request, name resolution and proxy included."""
INIT_TIMEOUT = "WANDB_INIT_TIMEOUT"
"""Environment variable of W&B's client, in seconds. If set, it replaces the deadlines of this package."""


class Unreachable(ConnectionError):
    """The W&B server does not answer."""


def deadline(default_s: float) -> float:
    """How many seconds to wait for W&B: WANDB_INIT_TIMEOUT if it is set, otherwise `default_s`."""
    return float(os.environ.get(INIT_TIMEOUT, default_s))


def check_reachable(url: str | None = None, timeout_s: float | None = None) -> None:
    """Ask the server for any answer, through the proxy of the environment.

    Args:
        url: None = W&B's setting `base_url`.
        timeout_s: Deadline in seconds; None = `deadline(ANSWER_SECONDS)`.

    Raises:
        Unreachable: There was no answer; the message names the server and the reason.
    """
    if url is None:
        import wandb

        url = wandb.setup().settings.base_url
    if timeout_s is None:
        timeout_s = deadline(ANSWER_SECONDS)
    failures: list[str] = []
    request = threading.Thread(target=_ask, args=(url, timeout_s, failures), daemon=True)  # resolving has no timeout
    request.start()
    request.join(timeout_s)
    if request.is_alive():
        failures = [f"no answer within {timeout_s:g} s"]
    if failures:
        raise Unreachable(f"{url}: {failures[0]}")


def _ask(url: str, timeout_s: float, failures: list[str]) -> None:
    """Send one request; the reason if there is no answer goes to `failures`."""
    try:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the user's W&B server
        urllib.request.build_opener().open(request, timeout=timeout_s).close()
    except urllib.error.HTTPError:
        pass  # an error is an answer
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # W&B may trust other certificates
            failures.append(str(error.reason))
    except (OSError, http.client.HTTPException, ValueError) as error:
        failures.append(f"{type(error).__name__}: {error}")
