"""`omni precompile`: starts the engine once, so that the next start finds all kernels built.

A first start has Triton build each kernel (and, with service.compile, torch its own) before it can
record its steps; later ones read them from the data directory. Run it after an update, or when an
image is made; a start on another kind of GPU, or with another torch, builds anew by itself.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from omni.engine.load import engine_name
from omni.errors import OmniError, SettingsError
from omni.minicpmo.compiled import cache_folder
from omni.minicpmo.engine import MiniCPMOEngine
from omni.minicpmo.setup import default_device
from omni.process import add_settings_arguments, settings_of
from omni.settings import Settings


@frozen
class Kept:
    """What lies in a folder."""

    num_files: int
    num_bytes: int

    @classmethod
    def of(cls, folder: Path) -> "Kept":
        """Count the files in and below *folder*."""
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        return cls(len(sizes), sum(sizes))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="omni precompile", description=__doc__)
    parser.add_argument("--gpu", default="", help="which GPU, as nvidia-smi counts")
    add_settings_arguments(parser)
    args = parser.parse_args(argv)
    if args.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = args.gpu  # before anything asks the driver
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        print(precompile(settings_of(args)))
    except OmniError as exc:
        print(f"omni precompile: {exc}", file=sys.stderr)
        return 2
    return 0


def precompile(settings: Settings) -> str:
    """Build what an engine with *settings* needs; return what was done.

    Raises: SettingsError where there is nothing to build, CheckpointError.
    """
    if engine_name(settings.model) != "minicpmo":
        raise SettingsError("only the minicpmo engine has anything to build: name it with --model")
    device = default_device()
    if device.type == "cpu" and not settings.service.compile:
        raise SettingsError(
            "there is nothing to build: without a GPU there are no kernels, and service.compile is "
            "off (--compile has torch.compile build what it can for this CPU)"
        )
    folder = cache_folder(Path(settings.service.data_dir))
    before, started_s = Kept.of(folder), time.monotonic()
    engine = MiniCPMOEngine(settings)
    engine.load(lambda: None)
    took_s, capture_s = time.monotonic() - started_s, engine.loaded.capture_s
    engine.close()
    now = Kept.of(folder)
    return (
        f"started in {took_s:.1f} s on {device}, {capture_s:.1f} s of it to record steps; "
        f"{now.num_files - before.num_files} new files in {folder}: {now.num_files} files, "
        f"{now.num_bytes / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    sys.exit(main())
