"""Ask this container's own `/health`, and end with 0 only when it says that all is well.

Run by HEALTHCHECK and by probes that can't send requests. The port is that of the command line, or PORT, or
LUCID_METRICS_PORT (a worker's).
"""

import os
import ssl
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 4.0
"""Below the health check's own, which would kill us before we could say why."""


def main() -> int:
    """Print what is down, if anything is."""
    given = sys.argv[1:] or [os.environ.get("PORT") or os.environ.get("LUCID_METRICS_PORT") or ""]
    if not given[0]:
        print("health: no port: set PORT or LUCID_METRICS_PORT", file=sys.stderr)
        return 2
    encrypted = bool(os.environ.get("LUCID_TLS_CERT"))
    url = f"{'https' if encrypted else 'http'}://127.0.0.1:{given[0]}/health"
    # Our own process, by an address that its certificate need not name.
    context = ssl._create_unverified_context() if encrypted else None  # noqa: S323 - see above
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S, context=context):  # noqa: S310 - a fixed scheme
            return 0
    except urllib.error.HTTPError as exc:
        print(f"health: {exc.code}: {exc.read(2000).decode(errors='replace')}", file=sys.stderr)
    except OSError as exc:
        print(f"health: {url}: {exc}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
