"""What a run needs of a TPU slice: its functions compiled for it, and read.

Peak memory is what stays on a chip between the functions, and what the function
adds. The time is a roofline: the longest of arithmetic, HBM traffic and
communication over all links of a chip, each at its published peak, as if they
overlapped perfectly. No run is faster. What goes between several slices counts
as if it went over the links inside one, and copies from and to the hosts
(`config.offload`) take no time.

Compiling takes minutes, so what was read is kept in a file for each function,
named by what was compiled: the lowered program, the slice and the compiler.
"""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import pathlib
import re
import threading
import time

import jax
from jax.experimental.compilation_cache import compilation_cache

from instructrl.planning import flops
from instructrl.planning import hlo
from instructrl.planning.chips import devices
from instructrl.planning.chips import GIB
from instructrl.runtime import files
from instructrl.runtime import progress
from instructrl.runtime import sharding
from instructrl.stages import lm
from instructrl.stages import ppo_program
from instructrl.stages import reward

GPT_VOCAB = 50_257  # of GPT-2's and GPT-3's tokenizer
_TELL_EVERY = 60.0  # seconds, while something compiles

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Function:
  """A compiled function, per chip. Sizes in bytes, times in seconds."""

  name: str
  arguments: int
  outputs: int
  temporaries: int
  code: int
  aliased: int  # of the outputs: they take the place of arguments
  xla_flops: float  # of the compiled program
  hbm_traffic: float
  collectives: Mapping[str, float]  # kind -> bytes sent
  compile_seconds: float
  # What the file of a function does not hold.
  peak: int = 0  # with what stays between the functions
  model_flops: float = 0.0  # counted from the model
  times: Mapping[str, float] = dataclasses.field(default_factory=dict)

  @property
  def seconds(self) -> float:
    return max(self.times.values())

  @property
  def bound(self) -> str:
    """What takes longest: compute, hbm or ici."""
    return max(self.times, key=self.times.get)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a config needs of a slice."""

  name: str  # of the run
  topology: str
  chips: int
  mesh: Mapping[str, int]
  given: Mapping[str, int]  # config fields that were set for this slice
  hbm: float  # of a chip, bytes
  peak_flops: float  # of a chip, per second
  stays: int  # on a chip between the functions, bytes
  functions: tuple[Function, ...]
  steps: int  # of the whole run; 0 if its data decide
  problem: str = ''  # why it does not fit

  @property
  def peak(self) -> int:
    return max((f.peak for f in self.functions), default=self.stays)

  @property
  def fits(self) -> bool:
    return not self.problem

  @property
  def seconds(self) -> float:
    """Of a step."""
    return sum(f.seconds for f in self.functions)

  @property
  def communication(self) -> float:
    """Time of a step's communication alone, of the step's time."""
    return sum(f.times['ici'] for f in self.functions) / self.seconds

  @property
  def chip_hours(self) -> float:
    return self.seconds * self.steps * self.chips / 3600

  @property
  def mfu(self) -> float:
    """The highest model FLOPs utilisation that the roofline allows."""
    return sum(f.model_flops for f in self.functions) / (
      self.seconds * self.peak_flops
    )


def program_of(config, mesh, vocab_size: int):
  """(program, its functions, model FLOPs of each, steps) of a config.

  The functions are made by a call: only they need the mesh around them.
  """
  if config.stage in ('ppo', 'ppo_ptx'):
    program = ppo_program.Program(
      config, mesh, vocab_size=vocab_size, eos_id=0, pad_id=0
    )
    s, layouts = program.settings, program.layouts
    policy = layouts['policy'].model.module
    rows = s.batch_size * s.ptx_examples_per_episode if s.ptx_coef else 0
    count = flops.ppo(
      policy,
      layouts['value'].model.module,
      episodes=s.batch_size,
      prompt_len=s.prompt_len,
      response_len=s.response_len,
      num_epochs=s.num_ppo_epochs,
      ptx_rows=rows,
      ptx_len=policy.max_len,
    )
    return program, program.functions, count, config.ppo.num_iterations
  if config.stage == 'reward':
    program = reward.Program(config, mesh, vocab_size=vocab_size, num_steps=1)
    count = config.batch_size * flops.ranking_trained(
      program.layout.model.module,
      config.prompt_len,
      config.response_len,
      config.max_responses,
    )
    return program, program.functions, {'update': count}, 0
  program = lm.Program(
    config,
    mesh,
    vocab_size=vocab_size,
    num_steps=config.num_steps or config.optimizer.warmup_steps + 1,
  )
  module = program.layout.model.module
  tokens = config.batch_size * module.max_len
  count = flops.trained(module, tokens, module.max_len, tokens)
  return (
    program,
    lambda: program.functions(module.max_len),
    {'update': count},
    config.num_steps,
  )


def fewest_rows(config) -> int:
  """Of all batches that a step splits over the devices."""
  if 'ppo' in config:
    p = config.ppo
    parts = [
      p.minibatch_size,
      p.microbatch_size,
      p.generate_microbatch_size,
      p.score_microbatch_size,
      p.ptx_microbatch_size * bool(p.ptx_coef),
    ]
  elif 'optimizer' not in config:
    raise ValueError(
      f'stage={config.stage!r} does not train: nothing to compile'
    )
  else:
    parts = [config.batch_size, config.microbatch_size]
  return min(rows for rows in parts if rows)


def on_slice(config, num_devices: int):
  """(config for so many devices, the fields that were set for it).

  `mesh.tensor` grows until each device has a row of every batch, where the mesh
  leaves a size open.
  """
  mesh, rows = config.mesh, fewest_rows(config)
  if -1 not in (mesh.data, mesh.fsdp):
    return config, {}
  tensor = mesh.tensor
  while rows % max(1, num_devices // tensor) and tensor < num_devices:
    tensor *= 2
  if tensor == mesh.tensor:
    return config, {}
  config = config.copy_and_resolve_references()
  config.mesh.tensor = tensor
  return config, {'mesh.tensor': tensor}


def laid_out(config, topology: str):
  """(config for a slice, fields that were set for it, mesh, chip).

  Raises:
    TopologyError: there is no such slice.
    ValueError: the mesh cannot be laid over it, or the stage does not train.
  """
  found, chip = devices(topology)
  config, given = on_slice(config, len(found))
  try:
    mesh = sharding.make_mesh(config.mesh.to_dict(), found)
  except ValueError as error:
    raise ValueError(f'{topology}: {error}') from error
  return config, given, mesh, chip


def bytes_per_device(tree) -> int:
  """Of abstract arrays with shardings; not of those that wait on the hosts."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
    if x.sharding.memory_kind != sharding.HOST
  )


def largest(tree, count: int = 5) -> str:
  """The arrays that take most of a device, with their paths."""
  leaves = [
    (bytes_per_device(x), jax.tree_util.keystr(path), x)
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  ]
  return '; '.join(
    f'{size / GIB:.2f} GiB {path} {x.dtype.name}{list(x.shape)}'
    for size, path, x in sorted(leaves, key=lambda l: -l[0])[:count]
  )


def plan(
  config,
  topology: str,
  vocab_size: int = GPT_VOCAB,
  *,
  name: str = '',
  folder: pathlib.Path | None = None,
  say: Say = lambda text: None,
) -> Plan:
  """Compiles a config's functions for a slice, to the first that does not fit.

  Args:
    config: of a stage that trains.
    topology: a slice, such as 'v5p:4x4x4'.
    vocab_size: tokens of the tokenizer.
    name: of the run; 'ppo_ptx:1.3b' by default.
    folder: where what was read is kept, and found again.
    say: is told what is compiled, and for how long.

  Raises:
    TopologyError, ValueError: see `laid_out`.
  """
  title = name or f'{config.stage}:{config.size}'
  config, given, mesh, chip = laid_out(config, topology)
  # Before the mesh is entered: nothing can be computed on these devices.
  program, make, counts, steps = program_of(config, mesh, vocab_size)
  resident = program.resident
  stays = bytes_per_device(resident)
  functions, problem = [], ''
  if stays > chip.hbm:
    problem = (
      f'what stays on a chip takes {stays / GIB:.1f} GiB of '
      f'{chip.hbm / GIB:.4g}, most of it {largest(resident)}'
    )
  with jax.set_mesh(mesh):
    for name, (fn, arguments) in make().items() if not problem else ():
      function, problem = _compiled(
        name,
        fn.lower(*arguments),
        topology,
        folder,
        lambda text: say(f'{title} for {topology}: {text}'),
        trips=config.get('ppo', {}).get('response_len', 1) - 1,
      )
      if problem:
        problem = f'{name} does not fit: {problem}'
        break
      # Arguments that stay anyway are counted once.
      elsewhere = stays - _shared(resident, arguments)
      function = _rated(function, chip, elsewhere, counts[name] / mesh.size)
      functions.append(function)
      if function.peak > chip.hbm:
        problem = (
          f'{name} needs {function.peak / GIB:.1f} GiB of '
          f'{chip.hbm / GIB:.4g}, {function.temporaries / GIB:.1f} '
          'of them temporary; of what stays on a chip the largest are '
          f'{largest(resident)}'
        )
        break
  return Plan(
    name=title,
    topology=topology,
    chips=mesh.size,
    mesh=dict(mesh.shape),
    given=given,
    hbm=chip.hbm,
    peak_flops=chip.flops,
    stays=stays,
    functions=tuple(functions),
    steps=steps,
    problem=problem,
  )


def _shared(resident, arguments) -> int:
  """Bytes of the arguments that are among what stays."""
  ids = {id(x) for x in jax.tree.leaves(resident)}
  return bytes_per_device(
    [x for x in jax.tree.leaves(arguments) if id(x) in ids]
  )


def _rated(f: Function, chip, elsewhere: int, model_flops: float) -> Function:
  """With its peak and its times."""
  return dataclasses.replace(
    f,
    model_flops=model_flops,
    peak=(
      elsewhere + f.arguments + f.outputs - f.aliased + f.temporaries + f.code
    ),
    times={
      'compute': f.xla_flops / chip.flops,
      'hbm': f.hbm_traffic / chip.hbm_bandwidth,
      'ici': sum(f.collectives.values()) / chip.ici_bandwidth,
    },
  )


def _compiled(
  name: str, lowered, topology: str, folder, say: Say, *, trips: int
) -> tuple[Function | None, str]:
  """(function, '') or (None, why XLA found no room), read before or now."""
  path = folder and folder / f'{_key(lowered, topology)}.json'
  if path and path.exists():
    found = files.read_json(path)
    say(f'{name} was compiled before')
  else:
    began = time.monotonic()
    say(f'{name} compiles')
    found = _read(name, lowered, say, trips)
    say(f'{name} took {progress.format_seconds(time.monotonic() - began)}')
    if path:
      folder.mkdir(parents=True, exist_ok=True)
      files.atomic_write(path, json.dumps(found, indent=1))
  if 'problem' in found:
    return None, found['problem']
  return Function(**found['function']), ''


def _key(lowered, topology: str) -> str:
  """Of all that a compiled function, and what is read from it, depends on."""
  versions = [
    f'{name} {importlib.metadata.version(name)}'
    for name in ('jax', 'jaxlib', 'libtpu')
  ]
  here = pathlib.Path(__file__).parent
  reader = [path.read_text('utf-8') for path in sorted(here.glob('hlo*.py'))]
  parts = [lowered.as_text(), topology, *reader, *versions]
  return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:32]


def _read(name: str, lowered, say: Say, trips: int) -> dict:
  """What a function needs and does, per chip, or why it has no room."""
  began = time.monotonic()
  try:
    with _no_cache():
      compiled = _while_telling(
        lowered.compile,
        lambda seconds: say(
          f'{name} compiles, {progress.format_seconds(seconds)} so far'
        ),
      )
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return {'problem': allocations(str(error))}
  seconds = time.monotonic() - began
  memory = compiled.memory_analysis()
  costs = hlo.Program(compiled.as_text(), trips=trips).costs
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


def _while_telling(fn: Callable, tell: Callable[[float], None]):
  """What `fn` returns or raises; it runs in a thread, so that Ctrl-C is heard,
  and how long it has taken is told each minute.
  """
  result = {}

  def work():
    try:
      result['value'] = fn()
    except BaseException as error:  # raised where it was asked for
      result['error'] = error

  began = time.monotonic()
  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  while thread.is_alive():
    thread.join(_TELL_EVERY)
    if thread.is_alive():
      tell(time.monotonic() - began)
  if 'error' in result:
    raise result['error']
  return result['value']


@contextlib.contextmanager
def _no_cache():
  """What is compiled for other devices cannot be read back here.

  JAX decides once in a process whether it has a cache: it is told to forget.
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
  """The reason and the largest buffers of XLA's message."""
  reason = next(
    (
      line.strip()
      for line in error.splitlines()
      if 'Used' in line or 'Exceeded' in line
    ),
    error.splitlines()[0],
  )
  sizes = re.findall(r'Size: ([\d.]+[KMGT]?)', error)
  shapes = re.findall(r'Shape: (\S+)', error)
  names = re.findall(r'op_name="([^"]*)"', error)
  buffers = [' '.join(x) for x in zip(sizes, shapes, names)]
  return '; '.join([reason, *buffers[:count]])


def to_json(p: Plan) -> dict:
  """All of a plan's figures."""
  found = dataclasses.asdict(p)
  for f, function in zip(found['functions'], p.functions):
    f.update(seconds=function.seconds, bound=function.bound)
  found.update(fits=p.fits, peak=p.peak)
  if p.fits:
    found.update(
      seconds=p.seconds,
      chip_hours=p.chip_hours,
      mfu=p.mfu,
      communication=p.communication,
    )
  return found
