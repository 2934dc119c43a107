"""A process for tests of the launcher: `python -m tests.badly_behaved --behaviour NAME`.

`exits-N`: exits with code N at once. `deaf`: hears no SIGTERM. `good`: ends when it is told to.
"""

import argparse
import signal
import sys
import threading


def main() -> int:
    """Behave."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--behaviour", required=True)
    parser.add_argument("--parent")
    behaviour = parser.parse_args().behaviour
    if behaviour.startswith("exits-"):
        print("these are its last words", file=sys.stderr)
        return int(behaviour.removeprefix("exits-"))
    if behaviour == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("it runs", flush=True)
    threading.Event().wait(600)
    return 0


if __name__ == "__main__":
    sys.exit(main())
