"""Threads for what live calls do beside the event loop: a disk that stands still stops no call.

Files are read and written in asyncio's own threads (`asyncio.to_thread`). A call has few pieces of
work here, as it waits for each: the line is no longer than there are calls.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")

_threads = ThreadPoolExecutor(thread_name_prefix="calls")


async def in_call_thread(
    work: Callable[_Given, _Made], *args: _Given.args, **kwargs: _Given.kwargs
) -> _Made:
    """Return what *work* returns, which touches no files. Raises: what *work* raises."""
    run = partial(copy_context().run, work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_threads, run)
