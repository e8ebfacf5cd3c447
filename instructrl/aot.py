"""Whether a run fits a TPU slice, and how fast it could be, without a TPU.

  python -m instructrl.aot --config=experiments/ppo_ptx.py:1.3b \
      --topology=v5e:4x8,v5e:8x8 [--json]

Compiles the functions that the trainer runs for that slice, and reads the
compiled programs (see `hlo`). Of several slices it says which fit, and what the
whole run would cost. Exit status 1 if none does. Needs `pip install
"instructrl[aot]"`.

Peak memory is what stays on a chip between the functions, and what the function
adds. The time is a roofline: the longest of arithmetic, HBM traffic and
communication over all links of a chip, each at its published peak, as if they
overlapped perfectly. No run is faster. `--topology=2xv5e:8x8` is two slices:
what goes between them counts as if it went over the links inside one. Copies
from and to the hosts (`config.offload`) take no time in it.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import functools
import json
import math
import os
import re
import sys

from absl import flags
import jax
from ml_collections import config_flags

from instructrl import flops as flops_lib
from instructrl import hlo
from instructrl import main as main_lib
from instructrl import sharding
from instructrl.trainers import lm
from instructrl.trainers import ppo
from instructrl.trainers import reward

GIB = 2 ** 30
GPT_VOCAB = 50_257  # of GPT-2's and GPT-3's tokenizer


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published figures of one chip."""

  flops: float  # bf16, per second
  hbm: float  # bytes
  hbm_bandwidth: float  # bytes per second
  ici_bandwidth: float  # bytes per second, out of the chip, all links
  devices: int = 1  # of JAX


# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}. Interconnects are printed as the
# sum of both directions (2,400, 1,600, 4,800 and 3,200 Gbps); half goes out.
CHIPS = {
    'v4': Chip(275e12, 32 * GIB, 1228e9, 150e9, devices=2),
    'v5e': Chip(197e12, 16 * GIB, 819e9, 100e9),
    'v5p': Chip(459e12, 95 * GIB, 2765e9, 300e9),
    'v6e': Chip(918e12, 32 * GIB, 1600e9, 200e9),
}


@dataclasses.dataclass(frozen=True)
class Function:
  """A compiled function, per chip. Sizes in bytes, times in seconds."""

  name: str
  arguments: int
  outputs: int
  temporaries: int
  peak: int  # with what stays between the functions
  model_flops: float  # counted from the model
  xla_flops: float  # of the compiled program
  hbm_traffic: float
  collectives: Mapping[str, float]  # kind -> bytes sent
  times: Mapping[str, float]  # compute, hbm, ici

  @property
  def seconds(self) -> float:
    return max(self.times.values())

  @property
  def bound(self) -> str:
    return max(self.times, key=self.times.get)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a config needs of a slice."""

  topology: str
  chips: int
  mesh: Mapping[str, int]
  hbm: float
  functions: tuple[Function, ...]
  steps: int  # of the whole run; 0 if its data decide
  peak_flops: float  # of a device
  problem: str = ''  # why it does not fit

  @property
  def peak(self) -> int:
    return max((f.peak for f in self.functions), default=0)

  @property
  def fits(self) -> bool:
    return not self.problem

  @property
  def seconds(self) -> float:
    """Of a step."""
    return sum(f.seconds for f in self.functions)

  @property
  def chip_hours(self) -> float:
    return self.seconds * self.steps * self.chips / 3600

  @property
  def mfu(self) -> float:
    """The highest model FLOPs utilisation that the roofline allows."""
    return sum(f.model_flops for f in self.functions) / (
        self.seconds * self.peak_flops)


class TopologyError(ValueError):
  """A slice that is not there, or that cannot be compiled for."""


def devices(topology: str):
  """(compile-only devices, chip) of a slice such as 'v5p:4x4x4'.

  '2xv5p:4x4x4' is two of them.

  Raises:
    TopologyError: libtpu is not installed, or knows no such slice.
  """
  count, slice_name = re.fullmatch(r'(?:(\d+)x)?(.*)', topology).groups()
  kind = slice_name.partition(':')[0]
  if kind not in CHIPS:
    raise TopologyError(
        f'--topology={topology}: the chips are {", ".join(CHIPS)}')
  # There is no TPU here to ask for its surroundings, or to keep to one process.
  for name, value in (('TPU_SKIP_MDS_QUERY', '1'),
                      ('TPU_WORKER_HOSTNAMES', 'localhost'),
                      ('TPU_ACCELERATOR_TYPE', 'v5litepod-4'),
                      ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')):
    os.environ.setdefault(name, value)
  try:
    import libtpu  # pylint: disable=unused-import
  except ImportError as error:
    raise TopologyError(
        'libtpu is not installed: pip install "instructrl[aot]"') from error
  from jax.experimental import topologies
  try:
    found = topologies.get_topology_desc(
        platform='tpu', topology_name=slice_name,
        num_slices=int(count or 1)).devices
  except Exception as error:  # XLA's, of several types
    raise TopologyError(
        f'--topology={topology} is no slice that libtpu knows: '
        f'{str(error).splitlines()[0]}') from error
  return found, CHIPS[kind]


def program_of(config, mesh, vocab_size: int):
  """(program, its functions, model FLOPs of each, steps) of a config.

  The functions are made by a call: only they need the mesh around them.
  """
  if config.stage in ('ppo', 'ppo_ptx'):
    program = ppo.Program(
        config, mesh, vocab_size=vocab_size, eos_id=0, pad_id=0)
    s, layouts = program.settings, program.layouts
    policy = layouts['policy'].model.module
    rows = s.batch_size * s.ptx_examples_per_episode if s.ptx_coef else 0
    count = flops_lib.ppo(
        policy, layouts['value'].model.module, episodes=s.batch_size,
        prompt_len=s.prompt_len, response_len=s.response_len,
        num_epochs=s.num_ppo_epochs, ptx_rows=rows, ptx_len=policy.max_len)
    return program, program.functions, count, config.ppo.num_iterations
  if config.stage == 'reward':
    program = reward.Program(config, mesh, vocab_size=vocab_size, num_steps=1)
    count = 3 * config.batch_size * flops_lib.ranking(
        program.layout.model.module, config.prompt_len, config.response_len,
        config.max_responses)
    return program, program.functions, {'update': count}, 0
  if 'rows' in config:
    program = lm.Program(
        config, mesh, vocab_size=vocab_size,
        num_steps=config.num_steps or config.optimizer.warmup_steps + 1)
    module = program.layout.model.module
    tokens = config.batch_size * module.max_len
    count = 3 * flops_lib.forward(module, tokens, module.max_len, tokens)
    return (program, lambda: program.functions(module.max_len),
            {'update': count}, config.num_steps)
  raise ValueError(f'stage={config.stage!r} does not train: nothing to compile')


def bytes_per_device(tree) -> int:
  """Of abstract arrays with shardings; not of those that wait on the hosts."""
  return sum(
      math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
      for x in jax.tree.leaves(tree)
      if x.sharding.memory_kind != sharding.HOST)


def largest(tree, count: int = 5) -> list[str]:
  """The arrays that take most of a device, with their paths."""
  leaves = [(bytes_per_device(x), jax.tree_util.keystr(path), x) for path, x in
            jax.tree_util.tree_leaves_with_path(tree)]
  return [f'{size / GIB:.2f} GiB {path} {x.dtype.name}{list(x.shape)}'
          for size, path, x in sorted(leaves, key=lambda l: -l[0])[:count]]


def plan(config, topology: str, vocab_size: int = GPT_VOCAB) -> Plan:
  """Compiles a config's functions for a slice.

  Raises:
    TopologyError: there is no such slice.
    ValueError: the config's mesh or batch does not divide it.
  """
  found, chip = devices(topology)
  mesh = sharding.make_mesh(config.mesh.to_dict(), found)
  chips = len(found) // chip.devices
  whole = dict(topology=topology, chips=chips, mesh=dict(mesh.shape),
               hbm=chip.hbm / chip.devices, peak_flops=chip.flops / chip.devices)
  functions, problem = [], ''
  # Before the mesh is entered: nothing can be computed on these devices.
  program, make, counts, steps = program_of(config, mesh, vocab_size)
  with jax.set_mesh(mesh), _no_cache():
    resident = program.resident
    stays = bytes_per_device(resident)
    for name, (fn, arguments) in make().items():
      try:
        compiled = fn.lower(*arguments).compile()
      except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
          raise
        problem = f'{name} does not fit: {_allocations(str(error))}'
        break
      function = _read(
          name, compiled, chip, model_flops=counts[name] / len(found),
          # Arguments that stay anyway are counted once.
          elsewhere=stays - _shared(resident, arguments),
          trips=config.get('ppo', {}).get('response_len', 1) - 1)
      functions.append(function)
      if function.peak > whole['hbm']:
        problem = (f'{name} needs {function.peak / GIB:.1f} GiB of '
                   f'{whole["hbm"] / GIB:.0f}; of what stays on a chip the '
                   f'largest are {"; ".join(largest(resident))}')
        break
  return Plan(functions=tuple(functions), steps=steps, problem=problem, **whole)


@contextlib.contextmanager
def _no_cache():
  """What is compiled for other devices cannot be read back here."""
  before = jax.config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', False)
  try:
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', before)


def _shared(resident, arguments) -> int:
  """Bytes of the arguments that are among what stays."""
  ids = {id(x) for x in jax.tree.leaves(resident)}
  return bytes_per_device([
      x for x in jax.tree.leaves(arguments) if id(x) in ids])


def _read(name, compiled, chip: Chip, *, model_flops: float, elsewhere: int,
          trips: int) -> Function:
  """What a compiled function needs and does, per device."""
  memory = compiled.memory_analysis()
  costs = hlo.Program(compiled.as_text(), trips=trips).costs
  sent = dict(costs.collectives)
  return Function(
      name=name, arguments=memory.argument_size_in_bytes,
      outputs=memory.output_size_in_bytes,
      temporaries=memory.temp_size_in_bytes,
      peak=(elsewhere + memory.argument_size_in_bytes
            + memory.output_size_in_bytes - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.generated_code_size_in_bytes),
      model_flops=model_flops, xla_flops=costs.flops,
      hbm_traffic=costs.hbm_bytes, collectives=sent,
      times={'compute': costs.flops * chip.devices / chip.flops,
             'hbm': costs.hbm_bytes * chip.devices / chip.hbm_bandwidth,
             'ici': sum(sent.values()) * chip.devices / chip.ici_bandwidth})


def _allocations(error: str, count: int = 5) -> str:
  """The reason and the largest buffers of XLA's message."""
  reason = next((line.strip() for line in error.splitlines()
                 if 'Used' in line or 'Exceeded' in line), error.splitlines()[0])
  sizes = re.findall(r'Size: ([\d.]+[KMGT]?)', error)
  shapes = re.findall(r'Shape: (\S+)', error)
  names = re.findall(r'op_name="([^"]*)"', error)
  buffers = [' '.join(x) for x in zip(sizes, shapes, names)]
  return '; '.join([reason, *buffers[:count]])


def _size(amount: float) -> str:
  return f'{amount / GIB:.2f}'


def _time(seconds: float) -> str:
  return f'{seconds:.3g} s'


def describe(p: Plan) -> str:
  """The functions of a plan as a table."""
  shape = ' x '.join(f'{k} {v}' for k, v in p.mesh.items())
  lines = [f'{p.topology}: {p.chips} chips, {shape}, '
           f'{p.hbm / GIB:.0f} GiB a device']
  rows = [('per device', 'arguments', 'outputs', 'temporary', 'peak GiB',
           'TFLOP model', 'XLA', 'GB of HBM', 'GB sent', 'roofline', 'bound')]
  for f in p.functions:
    rows.append((
        f.name, _size(f.arguments), _size(f.outputs), _size(f.temporaries),
        _size(f.peak), f'{f.model_flops / 1e12:.3g}',
        f'{f.xla_flops / 1e12:.3g}', f'{f.hbm_traffic / 1e9:.4g}',
        ', '.join(f'{kind} {sent / 1e9:.3g}'
                  for kind, sent in sorted(f.collectives.items())) or '0',
        _time(f.seconds), f.bound))
  widths = [max(map(len, column)) for column in zip(*rows)]
  lines += ['  '.join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip()
            for row in rows]
  if p.fits:
    lines.append(
        f'a step takes at least {_time(p.seconds)}; model FLOPs utilisation of '
        f'at most {100 * p.mfu:.0f}%' + (
            f'; {p.steps:,} steps are {p.chip_hours:,.0f} chip-hours'
            if p.steps else ''))
  else:
    lines.append(f'does not fit: {p.problem}')
  return '\n'.join(lines)


def summary(plans: Sequence[Plan]) -> str:
  """One line per slice, as a markdown table."""
  lines = ['| slice | chips | GiB a device | fits | step, at least | bound | '
           'MFU, at most | chip-hours |', '|---' * 8 + '|']
  for p in plans:
    bounds = {f.name: f.bound for f in p.functions}
    slowest = max(p.functions, key=lambda f: f.seconds, default=None)
    lines.append(
        f'| {p.topology} | {p.chips} | {_size(p.peak)} of {p.hbm / GIB:.0f} | '
        + (f'yes | {_time(p.seconds)} | {slowest.name}: {bounds[slowest.name]} '
           f'| {100 * p.mfu:.0f}% | '
           f'{f"{p.chip_hours:,.0f}" if p.steps else "by its data"} |'
           if p.fits else 'no | | | | |'))
  return '\n'.join(lines)


def to_json(p: Plan) -> dict:
  found = dataclasses.asdict(p)
  for f, function in zip(found['functions'], p.functions):
    f.update(seconds=function.seconds, bound=function.bound)
  found.update(fits=p.fits, peak=p.peak)
  if p.fits:
    found.update(seconds=p.seconds, chip_hours=p.chip_hours, mfu=p.mfu)
  return found


def _main(config_flag, topology_flag, vocab_flag, json_flag):
  if config_flag.value is None:
    sys.exit('error: --config is missing: give a stage of experiments/ and its '
             'size, such as experiments/ppo_ptx.py:1.3b')
  if not topology_flag.value:
    sys.exit('error: --topology is missing: name a slice, such as v5p:4x4x4, '
             'or several, with commas')
  config = config_flag.value
  main_lib.validate(config)
  plans = []
  for topology in topology_flag.value:
    plans.append(plan(config, topology, vocab_flag.value))
    if not json_flag.value:
      print(describe(plans[-1]), end='\n\n', flush=True)
  if json_flag.value:
    print(json.dumps([to_json(p) for p in plans], indent=1))
  elif len(plans) > 1:
    print(summary(plans))
  if not any(p.fits for p in plans):
    sys.exit(1)


if __name__ == '__main__':
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  main_lib.run_door(functools.partial(
      _main,
      config_flags.DEFINE_config_file(
          'config', None, 'A stage that trains, and its size, such as '
          'experiments/ppo_ptx.py:1.3b.'),
      flags.DEFINE_list('topology', [], 'A slice, such as v5p:4x4x4, two of '
                        'them as one, 2xv5p:4x4x4, or several, with commas.'),
      flags.DEFINE_integer('vocab', GPT_VOCAB, 'Tokens of the tokenizer.'),
      flags.DEFINE_boolean('json', False, 'Print all figures as JSON.')))
