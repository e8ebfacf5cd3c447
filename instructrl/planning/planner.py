"""Plans a run on a TPU slice: compiles its functions and reads the programs.

Peak memory is what stays on a chip between the functions, plus what a function
adds. The time is a roofline: the longest of arithmetic, HBM traffic and
communication over all links of a chip, each at its published peak, as if they
overlapped perfectly; no run is faster. Traffic between slices counts as if it
used the links inside a slice, and copies from and to the hosts
(`config.offload`) take no time.
"""

from collections.abc import Mapping
import dataclasses
import math
import pathlib

import jax

from instructrl.planning import compiling
from instructrl.planning import flops
from instructrl.planning.chips import devices
from instructrl.planning.chips import GIB
from instructrl.runtime import sharding
from instructrl.stages import checks
from instructrl.stages import lm
from instructrl.stages import ppo_program
from instructrl.stages import reward

GPT_VOCAB = 50_257  # tokens of GPT-2's and GPT-3's tokenizer
# The stages that can be planned.
PLANNED = ('pretrain', 'sft', 'ppo_init', 'reward', 'ppo', 'ppo_ptx')


@dataclasses.dataclass(frozen=True)
class Function:
  """A compiled function. Figures per chip: sizes in bytes, times in seconds."""

  name: str
  arguments: int
  outputs: int
  temporaries: int
  code: int
  aliased: int  # size of the outputs that take the place of arguments
  xla_flops: float  # FLOPs of the compiled program
  hbm_traffic: float
  collectives: Mapping[str, float]  # kind -> bytes sent
  compile_seconds: float
  # Set by `_rated`, not kept in a file:
  peak: int = 0  # memory, with everything that stays between the functions
  model_flops: float = 0.0  # FLOPs counted from the model
  times: Mapping[str, float] = dataclasses.field(default_factory=dict)

  @property
  def seconds(self) -> float:
    return max(self.times.values())

  @property
  def bound(self) -> str:
    """The resource that takes longest: compute, hbm or ici."""
    return max(self.times, key=self.times.get)


@dataclasses.dataclass(frozen=True)
class Plan:
  """The needs of a run on a slice."""

  name: str  # name of the run
  topology: str
  chips: int
  mesh: Mapping[str, int]
  given: Mapping[str, int]  # config fields that were set for this slice
  hbm: float  # bytes of a chip
  peak_flops: float  # FLOP/s of a chip
  stays: int  # bytes that stay on a chip between the functions
  functions: tuple[Function, ...]
  steps: int  # steps of the run; 0 if they depend on its data
  problem: str = ''  # why the run does not fit

  @property
  def peak(self) -> int:
    return max((f.peak for f in self.functions), default=self.stays)

  @property
  def fits(self) -> bool:
    return not self.problem

  @property
  def seconds(self) -> float:
    """Seconds of a step."""
    return sum(f.seconds for f in self.functions)

  @property
  def communication(self) -> float:
    """Time of a step's communication alone, divided by the step's time."""
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
  """Builds the program of a stage.

  Returns:
    (program, function that returns its jitted functions and must be called
    inside the mesh, {function: model FLOPs}, steps of the run).
  """
  if config.stage in ('ppo', 'ppo_ptx'):
    # All responses have R tokens in a plan: without slots, the number of steps
    # is in the program.
    config = config.copy_and_resolve_references()
    config.ppo.rollout_slots = 0
    program = ppo_program.PPOProgram(
      config, mesh, vocab_size=vocab_size, eos_id=0, pad_id=0
    )
    policy = program.layouts['policy'].model.module
    count = flops.ppo(
      policy,
      program.layouts['value'].model.module,
      program.settings,
      num_rewards=len(program.names('model')),
      ptx_len=policy.max_len,
    )
    if program.names('function'):  # two functions do the work of `score`
      update = count.pop('update')
      count |= {'passes': count.pop('score'), 'finish': 0.0, 'update': update}
    return program, program.functions, count, config.ppo.num_iterations
  if config.stage == 'reward':
    program = reward.RewardProgram(
      config, mesh, vocab_size=vocab_size, num_steps=1
    )
    module = program.layout.model.module
    responses = [config.response_len] * config.max_responses
    count = config.batch_size * flops.ranking_trained(
      module, config.prompt_len, responses
    )
    return program, program.functions, {'update': count}, 0
  num_steps = config.num_steps or config.optimizer.warmup_steps + 1
  program = lm.LMProgram(
    config, mesh, vocab_size=vocab_size, num_steps=num_steps
  )
  module = program.layout.model.module
  tokens = config.batch_size * module.max_len
  count = flops.trained(module, tokens, module.max_len, tokens)
  make = lambda: program.functions(module.max_len)
  return program, make, {'update': count}, config.num_steps


def fewest_rows(config) -> int:
  """Returns the rows of the smallest batch that is split over the devices.

  Raises:
    ConfigError: the stage is not in `PLANNED`.
  """
  checks.require(
    config.stage in PLANNED,
    f'a plan needs one of the stages {", ".join(PLANNED)}; '
    f'got {config.stage!r}',
  )
  if 'ppo' in config:
    p = config.ppo
    parts = [p.minibatch_size, p.microbatch_size, p.generate_microbatch_size]
    parts += [p.score_microbatch_size, p.ptx_microbatch_size * bool(p.ptx_coef)]
  else:
    parts = [config.batch_size, config.microbatch_size]
  return min(rows for rows in parts if rows)


def on_slice(config, num_devices: int):
  """Fits a config to a number of devices.

  If the mesh leaves a size open (-1), `mesh.tensor` grows until each device has
  a row of every batch.

  Returns:
    (config, {field that was set: value}).
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
  """Returns (config for a slice, {field that was set: value}, mesh, chip).

  Raises:
    TopologyError: the slice is unknown.
    ValueError: the mesh does not fit the slice, or the stage does not train.
  """
  found, chip = devices(topology)
  config, given = on_slice(config, len(found))
  try:
    mesh = sharding.make_mesh(config.mesh.to_dict(), found)
  except ValueError as error:
    raise ValueError(f'{topology}: {error}') from error
  return config, given, mesh, chip


def bytes_per_device(tree) -> int:
  """Returns the bytes on a device of abstract arrays with shardings.

  Arrays in host memory do not count.
  """
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
    if x.sharding.memory_kind != sharding.HOST
  )


def largest(tree, count: int = 5) -> str:
  """Returns a text with the arrays that take most of a device."""
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
  say: compiling.Say = lambda text: None,
) -> Plan:
  """Compiles a run's functions for a slice, up to the first that does not fit.

  Args:
    config: config of a stage that trains.
    topology: a slice, such as 'v5p:4x4x4'.
    vocab_size: tokens of the tokenizer.
    name: name of the run; 'ppo_ptx:1.3b' by default.
    folder: where the figures of functions are kept and found again.
    say: is called with messages about the progress.

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
    trips = program.trips() if 'ppo' in config else {}
    for key, (fn, arguments) in make().items() if not problem else ():
      found = compiling.compiled(
        key,
        fn.lower(*arguments),
        topology,
        folder,
        lambda text: say(f'{title} for {topology}: {text}'),
        trips=trips.get(key, 1),
      )
      if 'problem' in found:
        problem = f'{key} does not fit: {found["problem"]}'
        break
      # Arguments that stay anyway are counted once.
      elsewhere = stays - _shared(resident, arguments)
      model_flops = counts[key] / mesh.size
      function = Function(**found['function'])
      functions.append(_rated(function, chip, elsewhere, model_flops))
      problem = _excess(functions[-1], chip, resident)
      if problem:
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


def _excess(f: Function, chip, resident) -> str:
  """Returns why a compiled function does not fit a chip; '' if it fits."""
  if f.peak <= chip.hbm:
    return ''
  return (
    f'{f.name} needs {f.peak / GIB:.1f} GiB of {chip.hbm / GIB:.4g}, '
    f'{f.temporaries / GIB:.1f} of them temporary; the largest arrays that '
    f'stay on a chip are {largest(resident)}'
  )


def _shared(resident, arguments) -> int:
  """Returns the bytes of the arguments that stay between the functions."""
  ids = {id(x) for x in jax.tree.leaves(resident)}
  return bytes_per_device(
    [x for x in jax.tree.leaves(arguments) if id(x) in ids]
  )


def _rated(f: Function, chip, elsewhere: int, model_flops: float) -> Function:
  """Returns a function with its peak memory and its times.

  Args:
    f: the function.
    chip: the chip's figures.
    elsewhere: bytes that stay on a chip and are not arguments of the function.
    model_flops: FLOPs counted from the model, per chip.
  """
  own = f.arguments + f.outputs - f.aliased + f.temporaries + f.code
  times = {
    'compute': f.xla_flops / chip.flops,
    'hbm': f.hbm_traffic / chip.hbm_bandwidth,
    'ici': sum(f.collectives.values()) / chip.ici_bandwidth,
  }
  return dataclasses.replace(
    f, model_flops=model_flops, peak=elsewhere + own, times=times
  )


def to_json(p: Plan) -> dict:
  """Returns all figures of a plan as plain data."""
  found = dataclasses.asdict(p)
  for f, function in zip(found['functions'], p.functions):
    f.update(seconds=function.seconds, bound=function.bound)
  found.update(fits=p.fits, peak=p.peak)
  if p.fits:
    for name in ('seconds', 'chip_hours', 'mfu', 'communication'):
      found[name] = getattr(p, name)
  return found
