"""`python -m local_hub --folder DIR --port 5005`: serve until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

import local_hub
from utils import WorkshopError


def main() -> int:
    parser = argparse.ArgumentParser(
        description=local_hub.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where repositories are kept")
    parser.add_argument("--port", type=int, default=5005)
    options = parser.parse_args()
    try:
        hub = local_hub.LocalHub(options.folder, options.port)
    except (WorkshopError, OSError) as error:
        print(f"\u2717 {error}", file=sys.stderr)
        return 1
    print(f"A stand-in for the Hub, not the Hub: export HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1")
    print(f"Tokens to log in with are in {options.folder / 'tokens.json'}; Ctrl-C ends.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        hub.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
