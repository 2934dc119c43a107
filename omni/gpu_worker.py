"""PROCESS: one engine and its slots. `python -m omni.gpu_worker --index N [--gpu ID]`.

The main thread is the I/O thread: it owns the link, and moves messages between it and the inbox and
outbox of the engine thread. Neither waits for the other: the rules for full are in `engine.inbox`
and `engine.thread`.
"""

import argparse
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import assert_never

from attrs import evolve

from omni.engine import Capabilities, Engine
from omni.engine.inbox import Inbox
from omni.engine.load import load_engine
from omni.engine.thread import Closed, Died, EngineThread, Output, Ready, Spoken
from omni.errors import OmniError
from omni.log import set_up_logging
from omni.messages import Heartbeat
from omni.process import (
    EXIT_CANNOT_START,
    EXIT_ENGINE_DEAD,
    add_parent_argument,
    add_settings_arguments,
    spare_the_loaded,
    start_process,
)
from omni.settings import FabricSettings
from omni.tenants import Tenants
from omni.worker_link import WorkerLink, open_worker_link

log = logging.getLogger(__name__)

#: Events that wait for the I/O thread; it takes them at once, so this is a moment's worth.
OUTBOX_SIZE = 1024


class Worker:
    """Joins a link to an engine thread until `stop`, or until the engine dies.

    on_loaded: called once, when the engine is.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        fabric: FabricSettings,
        on_loaded: Callable[[], None] = lambda: None,
    ) -> None:
        self._fabric = fabric
        self._on_loaded = on_loaded
        self._inbox = Inbox(fabric.inbox_size)
        self._wake: Callable[[], None] = lambda: None
        self._engine = EngineThread(
            make_engine,
            inbox=self._inbox,
            outbox_size=OUTBOX_SIZE,
            round_s=fabric.heartbeat_interval_s / 2,
            on_output=lambda: self._wake(),
        )
        self._num_tenants: Callable[[], int] = lambda: 0
        self._is_ready = False
        self._exit_code: int | None = None
        self._farewell = "stopped"

    def stop(self) -> None:
        """Leave the loop at its next turn; for signal handlers."""
        self._exit_code = 0 if self._exit_code is None else self._exit_code

    def pulse(self) -> Heartbeat:
        """Return how the engine loop is; the link sends it only while `steps` grows."""
        return Heartbeat(
            state="ready" if self._is_ready else "loading",
            steps=self._engine.steps,
            load=self._num_tenants(),
        )

    def run(self, link: WorkerLink) -> int:
        """Serve, and return the process's exit code."""
        tenants = Tenants(self._inbox, link.send)
        self._wake = link.wake
        self._num_tenants = lambda: len(tenants)
        self._engine.start()
        while self._exit_code is None:
            for header, message in link.poll(self._fabric.heartbeat_interval_s):
                tenants.on_message(header, message)
            for output in self._engine.outputs():
                self._take(output, tenants, link)
        link.say_goodbye(self._farewell)
        if not self._engine.stop(self._fabric.stop_timeout_s / 2):  # the launcher kills after all
            log.warning("the engine does not stop; leaving it")
        return self._exit_code

    def _take(self, output: Output, tenants: Tenants, link: WorkerLink) -> None:
        match output:
            case Spoken():
                tenants.on_spoken(output)
            case Closed():
                tenants.on_closed(output.slot)
            case Ready():
                capabilities = self._limited(output.capabilities)
                log.info("ready after %.1f s: %s", output.load_s, capabilities.model)
                self._on_loaded()
                self._is_ready = True
                link.announce("ready", capabilities)
            case Died():
                self._farewell = output.reason
                self._exit_code = EXIT_ENGINE_DEAD if output.can_restart else EXIT_CANNOT_START
            case _:
                assert_never(output)

    def _limited(self, capabilities: Capabilities) -> Capabilities:
        """Return *capabilities* with as many slots as the settings allow."""
        wanted = self._fabric.slots or capabilities.num_slots
        return evolve(capabilities, num_slots=min(wanted, capabilities.num_slots))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the worker process; returns its exit code."""
    parser = argparse.ArgumentParser(description="one engine and its slots")
    parser.add_argument("--index", type=int, default=0, help="number of this worker on its host")
    parser.add_argument("--gpu", default="", help="which GPU it may use, as nvidia-smi counts")
    add_settings_arguments(parser)
    add_parent_argument(parser)
    args = parser.parse_args(argv)
    if args.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = args.gpu  # before anything asks the driver
    settings = start_process(args)
    name = f"worker-{args.index}"
    set_up_logging(name, settings.fabric.run_dir)
    worker = Worker(lambda: load_engine(settings), settings.fabric, on_loaded=spare_the_loaded)
    try:
        with open_worker_link(
            settings.fabric, name=name, gpu=args.gpu, pulse=worker.pulse
        ) as link:
            with _signals_stop(worker, link):
                return worker.run(link)
    except OmniError as exc:  # the broker speaks another version, or an address is wrong
        log.error("%s", exc)
        return EXIT_CANNOT_START


@contextmanager
def _signals_stop(worker: Worker, link: WorkerLink) -> Iterator[None]:
    """Have SIGTERM and SIGINT end the loop: the handler notes it and ends the running poll."""

    def note(*_: object) -> None:
        worker.stop()
        link.wake()

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(code: int) -> None:
    """End the process although the engine thread may hang; everything of ours is closed."""
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    _leave(main())
