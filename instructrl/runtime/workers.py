"""Worker processes, for Python code that one core runs.

with workers.pool(2) as submit:
  found = [submit(function, argument) for argument in arguments]
  results = [future.result() for future in found]
"""

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import multiprocessing
from multiprocessing import connection
import os
import pickle
import signal
import threading
from typing import Any

Submit = Callable[..., futures.Future]


def cores() -> int:
  """Returns the cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):  # not on a Mac
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


@contextlib.contextmanager
def pool(count: int) -> Iterator[Submit]:
  """Starts worker processes, which end with the block.

  They also end if this process is killed, and leave Ctrl-C to it.

  Args:
    count: of processes. With 1, this process calls each function at once.

  Yields:
    (function, *args, **kwargs) -> a Future of the result. All of them, and
    what the function raises, must be picklable. The caller may change the
    arguments afterwards.
  """
  if count == 1:
    yield _at_once
    return
  # A forked process would have the locks of JAX's and the tokenizers' threads.
  context = multiprocessing.get_context('spawn')
  reader, writer = context.Pipe(duplex=False)
  executor = futures.ProcessPoolExecutor(count, context, _begin, (reader,))

  def submit(function, *args, **kwargs):
    # The executor would pickle them in a thread, at a later time.
    return executor.submit(_call, pickle.dumps((function, args, kwargs)))

  try:
    yield submit
    executor.shutdown()
  finally:
    writer.close()  # ends the workers; so does the end of this process
    executor.shutdown(cancel_futures=True)
    reader.close()


def _at_once(function: Callable, *args: Any, **kwargs: Any) -> futures.Future:
  future: futures.Future = futures.Future()
  future.set_result(function(*args, **kwargs))
  return future


def _call(pickled: bytes) -> Any:
  function, args, kwargs = pickle.loads(pickled)
  return function(*args, **kwargs)


def _begin(reader: connection.Connection) -> None:
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with, args=(reader,), daemon=True).start()


def _end_with(reader: connection.Connection) -> None:
  """Waits until the other end of the pipe is closed; then ends this process."""
  reader.poll(None)
  os._exit(1)
