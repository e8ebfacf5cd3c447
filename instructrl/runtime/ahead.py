"""Compiles jitted functions in threads, while a stage loads its inputs."""

from collections.abc import Iterator, Mapping
import concurrent.futures
import contextlib

import jax


@contextlib.contextmanager
def compiling(functions: Mapping[str, tuple], mesh) -> Iterator[None]:
  """Compiles functions, each in a thread, until the end of the context.

  A later call with arguments of the same types and shardings compiles nothing.

  Args:
    functions: {name: (jitted function, its abstract arguments)}.
    mesh: the current mesh; threads do not inherit it.

  Raises:
    Exception: what a compilation raised.
  """

  def compiled(fn, arguments):
    with jax.set_mesh(mesh):
      fn.lower(*arguments).compile()

  pool = concurrent.futures.ThreadPoolExecutor(max(1, len(functions)))
  try:
    running = [pool.submit(compiled, *part) for part in functions.values()]
    yield
    for future in running:
      future.result()
  finally:
    pool.shutdown(wait=False, cancel_futures=True)
