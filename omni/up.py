"""`omni up`: from settings to processes, and the one table that says what runs."""

import asyncio
import socket
import sys
from collections.abc import Sequence

from attrs import evolve

from omni.children import Child, ChildSpec
from omni.errors import SettingsError
from omni.gpus import visible_gpus
from omni.launcher import Launcher
from omni.log import log_path, set_up_logging
from omni.messages import Status, WorkerView
from omni.process import ROOT
from omni.progress import Progress
from omni.running import Running, announce, hold_run_dir, stop_left_over
from omni.security.first_start import key_lines
from omni.settings import ModelSettings, Settings
from omni.table import render_table


def up(settings: Settings, arguments: Sequence[str], gpus: Sequence[str] = ()) -> int:
    """Run everything until it is told to stop; return the exit code.

    arguments: what every child gets on its command line to come to the same settings. gpus: which
    to use, as nvidia-smi counts; empty: all. Raises: SettingsError, AlreadyRunning, StartFailed.
    """
    with hold_run_dir(settings.fabric.run_dir) as lock:
        set_up_logging("launcher", settings.fabric.run_dir, to_stderr=False)
        stop_left_over(settings.fabric.run_dir, settings.fabric.stop_timeout_s)
        port = free_port(settings.web.host, settings.service.gateway_port)
        settings = evolve(settings, service=evolve(settings.service, gateway_port=port))
        announce(lock, Running.of_this_process(address(settings)))
        keys = key_lines(settings)
        specs = child_specs(
            settings, [*arguments, "--set", f"service.gateway_port={port}"], list(gpus)
        )

        progress = Progress(sys.stdout)

        def show(children: list[Child], status: Status, took_s: float) -> None:
            progress.say(ready_table(settings, children, status, took_s, keys))

        launcher = Launcher(settings, specs, progress, show)
        return asyncio.run(launcher.run())


def free_port(host: str, port: int) -> int:
    """Return *port*, or for 0 one that is free now. Raises: SettingsError when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as exc:
            raise SettingsError(
                f"cannot listen on {host} port {port}: {exc.strerror or exc}. Choose another "
                "with --port N (0: any free one), another address with --host, or stop what "
                "uses it"
            ) from exc
        return int(probe.getsockname()[1])


def address(settings: Settings) -> str:
    """Return the address that people open."""
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(
        settings.web.host, settings.web.host
    )
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.web.https else 'http'}://{shown}:{settings.service.gateway_port}"


def child_specs(
    settings: Settings, arguments: Sequence[str], gpus: Sequence[str] = ()
) -> list[ChildSpec]:
    """Return what to start, in order. Raises: SettingsError for more workers than GPUs."""
    common = tuple(arguments)
    places = worker_gpus(settings, gpus)
    workers = [
        ChildSpec(
            name=f"worker-{index}",
            module="omni.gpu_worker",
            arguments=("--index", str(index), *(("--gpu", gpu) if gpu else ()), *common),
        )
        for index, gpu in enumerate(places)
    ]
    return [
        ChildSpec(name="broker", module="omni.broker", arguments=common),
        *workers,
        ChildSpec(name="web-0", module="omni.web", arguments=common),
    ]


def worker_gpus(settings: Settings, gpus: Sequence[str] = ()) -> list[str]:
    """Return the GPU of each worker; "" where its engine needs none."""
    if not needs_gpu(settings.model):
        return [""] * (settings.fabric.workers or 1)
    places = list(gpus) or visible_gpus()
    if not places:  # the engine runs on a CPU, too; slowly, which is its own to say
        return [""] * (settings.fabric.workers or 1)
    wanted = settings.fabric.workers or len(places)
    if wanted > len(places):
        raise SettingsError(
            f"fabric.workers = {wanted} is not allowed; there are {len(places)} GPUs here "
            f"({', '.join(places)}), and each worker needs its own"
        )
    return places[:wanted]


def needs_gpu(model: ModelSettings) -> bool:
    """True where the settings mean the MiniCPM-o engine."""
    return model.engine == "minicpmo" or (model.engine == "auto" and bool(model.model_path))


def ready_table(
    settings: Settings,
    children: Sequence[Child],
    status: Status,
    took_s: float,
    keys: Sequence[str] = (),
) -> str:
    """Return what `omni up` prints when everything is ready. keys: what to say about keys."""
    workers = {worker.name: worker for worker in status.workers}
    rows = [_row(child, workers.get(child.name), settings) for child in children]
    head = ("process", "pid", "gpu", "sessions", "ready after", "log")
    lines = ["", f"  omni is ready after {took_s:.1f} s:  {address(settings)}", ""]
    lines += [f"  {line}" for line in _engine_lines(status)]
    lines += ["", render_table(head, rows), ""]
    lines += [f"  {line}" for line in keys]
    if settings.web.https and not settings.web.ssl_certfile:
        lines.append("  The certificate is this server's own: the browser warns once; go on.")
    lines.append("  Ctrl-C stops it. Elsewhere: `omni status`, `omni drain`, `omni down`.")
    return "\n".join(lines) + "\n"


def _row(child: Child, worker: WorkerView | None, settings: Settings) -> list[str]:
    path = log_path(child.name, settings.fabric.run_dir)
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    gpu = (worker.gpu or "cpu") if worker else ""
    slots = str(worker.num_slots) if worker else ""
    return [child.name, str(child.pid), gpu, slots, f"{child.ready_after_s:.1f} s", str(shown)]


def _engine_lines(status: Status) -> list[str]:
    """Return what answers, honestly: each engine once."""
    engines = {
        worker.capabilities.model: worker.capabilities
        for worker in status.workers
        if worker.capabilities is not None
    }
    lines = []
    for model, capabilities in engines.items():
        lines.append(f"{capabilities.engine} engine: {model}")
        if capabilities.notice:
            lines.append(capabilities.notice)
    return lines
