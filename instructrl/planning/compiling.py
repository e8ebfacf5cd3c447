"""Compiles functions for TPU slices, and keeps what was read from the result.

Compiling takes minutes. Each function's figures are kept in a JSON file whose
name is a hash of the lowered program, the slice and the compiler's version.
"""

from collections.abc import Callable
import concurrent.futures
import contextlib
import hashlib
import importlib.metadata
import json
import pathlib
import re
import threading
import time

import jax
from jax.experimental.compilation_cache import compilation_cache

from instructrl.planning import hlo
from instructrl.runtime import files
from instructrl.runtime import progress

_REPORT_SECONDS = 60.0  # between messages while something compiles

Say = Callable[[str], None]


def compiled(
  name: str, lowered, topology: str, folder, say: Say, *, trips: int
) -> dict:
  """Returns the figures of a function, from an earlier run or compiled now.

  Args:
    name: name of the function.
    lowered: the lowered `jax.jit` function.
    topology: the slice.
    folder: where figures are kept; None keeps nothing.
    say: is called with messages about the progress.
    trips: see `hlo.HloProgram`.

  Returns:
    {'function': fields of `planner.Function`}, or {'problem': text} if XLA ran
    out of memory.
  """
  path = folder and folder / f'{key(lowered, topology)}.json'
  if path and path.exists():
    say(f'{name} was compiled before')
    return files.read_json(path)
  began = time.monotonic()
  say(f'{name} compiles')
  found = _compile(name, lowered, say, trips)
  say(f'{name} took {progress.format_seconds(time.monotonic() - began)}')
  if path:
    folder.mkdir(parents=True, exist_ok=True)
    files.atomic_write(path, json.dumps(found, indent=1))
  return found


def key(lowered, topology: str) -> str:
  """Returns a hash of everything that the figures of a function depend on."""
  versions = [
    f'{name} {importlib.metadata.version(name)}'
    for name in ('jax', 'jaxlib', 'libtpu')
  ]
  here = pathlib.Path(__file__).parent
  reader = [path.read_text('utf-8') for path in sorted(here.glob('hlo*.py'))]
  parts = [lowered.as_text(), topology, *reader, *versions]
  return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:32]


def _compile(name: str, lowered, say: Say, trips: int) -> dict:
  began = time.monotonic()

  def report(seconds):
    say(f'{name} compiles, {progress.format_seconds(seconds)} so far')

  try:
    with no_cache():
      program = while_reporting(lowered.compile, report)
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return {'problem': allocations(str(error))}
  seconds = time.monotonic() - began
  memory = program.memory_analysis()
  costs = hlo.HloProgram(program.as_text(), trips=trips).costs
  return {
    'function': dict(
      name=name,
      arguments=memory.argument_size_in_bytes,
      outputs=memory.output_size_in_bytes,
      temporaries=memory.temp_size_in_bytes,
      code=memory.generated_code_size_in_bytes,
      aliased=memory.alias_size_in_bytes,
      xla_flops=costs.flops,
      hbm_traffic=costs.hbm_bytes,
      collectives=dict(costs.collectives),
      compile_seconds=round(seconds, 1),
    )
  }


def while_reporting(fn: Callable, report: Callable[[float], None]):
  """Returns what `fn` returns, or raises its error.

  `fn` runs in a thread, so Ctrl-C still works, and `report` is called with the
  seconds so far every minute.
  """
  future = concurrent.futures.Future()

  def work():
    try:
      future.set_result(fn())
    except BaseException as error:  # raised again in the caller's thread
      future.set_exception(error)

  began = time.monotonic()
  threading.Thread(target=work, daemon=True).start()
  while not concurrent.futures.wait([future], _REPORT_SECONDS).done:
    report(time.monotonic() - began)
  return future.result()


@contextlib.contextmanager
def no_cache():
  """Disables JAX's compilation cache, which cannot read TPU programs here.

  JAX decides once per process whether it has a cache, so the cache is reset.
  """
  before = jax.config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', before)
    compilation_cache.reset_cache()


def allocations(error: str, count: int = 5) -> str:
  """Returns the reason and the largest buffers of XLA's out-of-memory error."""
  lines = error.splitlines()
  reasons = [x.strip() for x in lines if 'Used' in x or 'Exceeded' in x]
  reason = reasons[0] if reasons else lines[0]
  sizes = re.findall(r'Size: ([\d.]+[KMGT]?)', error)
  shapes = re.findall(r'Shape: (\S+)', error)
  names = re.findall(r'op_name="([^"]*)"', error)
  buffers = [' '.join(x) for x in zip(sizes, shapes, names)]
  return '; '.join([reason, *buffers[:count]])
