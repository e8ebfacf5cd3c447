"""Imports go one way: a file imports from rows above its own, or from its own
row without a circle, and each library is known in one place.
"""

import ast
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# First row on top. A name is a file or a folder of instructrl/.
ROWS = (
  {'types', 'masked', 'rng', 'hlo', 'hlo_kernels'},
  {'losses', 'advantages', 'sampling'}  # mathematics
  | {
    'sharding',
    'optimizer',
    'arrays',
    'checkpoint',
    'manifest',
    'metrics',
    'processes',
    'progress',
    'tokenizer',
    'interop',
    'chips',
  },  # services
  {'models', 'data', 'lab', 'flops'},
  {'rollout', 'evaluators'},
  {'trainers'},
  {
    'main',
    'study',
    'sweep',
    'sweep_points',
    'sweep_children',
    'sweep_results',
    'report',
    'expectations',
    'figures',
    'page',
    'page_parts',
    'page_style',
    'heldout_page',
    'heldout_report',
    'budget',
    'tables',
    'aot',
    'plan',
    'plan_report',
    'convert',
    'sample',
    'lab.learnability',
    'data.__main__',
  },
)
DOORS = ROWS[-1]

# What a unit may import of its own row, where that is not all of it.
OF_ITS_ROW = {
  'losses': {'losses'},
  'advantages': {'advantages'},
  'sampling': {'sampling'},
  'models': {'models'},
  'data': {'data'},
  'lab': {'lab', 'data.records'},
}

# Which libraries a unit may import at all, beyond the standard library.
MAY_IMPORT = {
  'types': {'jax'},
  'masked': {'chex', 'jax'},
  'rng': {'chex', 'jax'},
  'losses': {'chex', 'jax'},
  'advantages': {'chex', 'jax'},
  'sampling': {'chex', 'jax'},
  'lab': {'absl', 'numpy'},
  'experiments': {'ml_collections', 'numpy'},
}

# Where a library may be imported. Nothing else knows of it.
ONLY_IN = {
  'array_record': {'data'},
  'flax': {'models'},
  'grain': {'data'},
  'matplotlib': {'figures'},
  'ml_collections': {'trainers'} | DOORS,
  'optax': {'optimizer'},
  'gguf': {'interop'},
  'jinja2': {'interop'},
  'orbax': {'arrays'},
  'pyarrow': {'data'},
  'rich': {'progress'},
  'safetensors': {'interop'},
  'sentencepiece': {'tokenizer', 'interop'},
  'tensorboardX': {'metrics'},
  'tensorflow_datasets': {'data'},
  'tokenizers': {'interop'},
  # TensorFlow is not needed to use its data sets; PyTorch is for tests only.
  'clu': set(),
  'tensorflow': set(),
  'torch': set(),
  'transformers': set(),
}


def read_sources(*folders):
  """{module name: source} of all files in the folders of the checkout."""
  sources = {}
  for folder in folders:
    for path in sorted((ROOT / folder).rglob('*.py')):
      parts = path.relative_to(ROOT).with_suffix('').parts
      if parts[-1] == '__init__':
        parts = parts[:-1]
      sources['.'.join(parts)] = path.read_text('utf-8')
  return sources


def imports_of(source, modules):
  """The modules a source imports, anywhere in it, with their line numbers."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name, node.lineno
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'line {node.lineno}: a relative import'
      for alias in node.names:
        name = f'{node.module}.{alias.name}'
        yield name if name in modules else node.module, node.lineno


def unit_of(module):
  """'losses' of 'instructrl.losses', 'lab' of 'instructrl.lab.world'.

  A file whose own name stands in a row is apart from its folder.
  """
  parts = module.split('.')
  if '.'.join(parts[1:]) in DOORS:
    return '.'.join(parts[1:])
  return parts[1] if len(parts) > 1 else None


def row_of(module):
  rows = [i for i, row in enumerate(ROWS) if unit_of(module) in row]
  return rows[0] if rows else None


def internal_fault(module, imported):
  """Why `module` must not import `imported` of instructrl, or None."""
  if module.split('.')[0] == 'experiments':
    return 'a config must not import the package'
  if imported == 'instructrl':
    return None
  if row_of(imported) is None:
    return 'which stands in no row'
  if row_of(imported) > row_of(module):
    return f'which stands below it, in row {row_of(imported)}'
  unit = unit_of(module)
  if row_of(imported) == row_of(module) and unit in OF_ITS_ROW:
    known = {imported.removeprefix('instructrl.'), unit_of(imported)}
    if not known & OF_ITS_ROW[unit]:
      return 'which it may not know of'
  return None


def library_fault(module, library):
  """Why `module` must not import a library, or None."""
  unit = unit_of(module)
  if module.split('.')[0] == 'experiments':
    unit = 'experiments'
    if library == 'experiments' or library in MAY_IMPORT[unit]:
      return None
  elif library == 'experiments':
    return 'the package must not import a config'
  allowed = MAY_IMPORT.get(unit)
  if allowed is not None and library not in allowed:
    return f'{unit} may import {", ".join(sorted(allowed))} only'
  if library in ONLY_IN and unit not in ONLY_IN[library]:
    where = ', '.join(sorted(ONLY_IN[library])) or 'nowhere'
    return f'only allowed in: {where}'
  return None


def faults_of(sources):
  """One line for each import that breaks a rule."""
  faults = []
  for module, source in sources.items():
    if module.startswith('instructrl.') and row_of(module) is None:
      faults.append(f'{module} stands in no row of layers_test.py')
      continue
    for imported, line in imports_of(source, sources):
      library = imported.split('.')[0]
      if library in sys.stdlib_module_names:
        continue
      if library == 'instructrl':
        fault = internal_fault(module, imported)
      else:
        fault = library_fault(module, library)
      if fault:
        faults.append(f'{module}:{line} imports {imported}: {fault}')
  return faults


def circle_in(sources):
  """The modules of one circle of imports, or None."""
  graph = {
    module: sorted(
      {
        name
        for name, _ in imports_of(source, sources)
        if name in sources and name != module
      }
    )
    for module, source in sources.items()
  }
  finished = set()

  def visit(module, path):
    if module in path:
      return path[path.index(module) :] + [module]
    if module in finished:
      return None
    for imported in graph[module]:
      circle = visit(imported, path + [module])
      if circle:
        return circle
    finished.add(module)
    return None

  circles = (visit(module, []) for module in graph)
  return next((circle for circle in circles if circle), None)


def test_every_import_keeps_to_the_layers():
  faults = faults_of(read_sources('instructrl', 'experiments'))
  assert not faults, '\n' + '\n'.join(faults)


def test_no_import_goes_in_a_circle():
  circle = circle_in(read_sources('instructrl', 'experiments'))
  assert circle is None, ' -> '.join(circle)


def test_every_library_is_pinned():
  """What the package imports stands in setup.py, by the name on PyPI."""
  renamed = {'absl': 'absl-py', 'orbax': 'orbax-checkpoint'}
  pinned = {
    name.lower().replace('_', '-')
    for name in re.findall(r"'([\w-]+)==", (ROOT / 'setup.py').read_text())
  }
  sources = read_sources('instructrl', 'experiments')
  libraries = (
    {
      name.split('.')[0]
      for source in sources.values()
      for name, _ in imports_of(source, sources)
    }
    - sys.stdlib_module_names
    - {'instructrl', 'experiments'}
  )
  names = {
    renamed.get(name, name).lower().replace('_', '-') for name in libraries
  }
  assert names <= pinned, f'not in setup.py: {sorted(names - pinned)}'
  assert 'jax' in names  # the imports were found at all


@pytest.mark.parametrize(
  'module,source,message',
  [
    ('instructrl.losses', 'from instructrl import rollout', 'below it'),
    ('instructrl.losses', 'from instructrl import metrics', 'not know of'),
    ('instructrl.losses', 'import optax', 'only'),
    ('instructrl.types', 'import instructrl.trainers.ppo', 'below it'),
    ('instructrl.models.hf', 'import torch', 'nowhere'),
    ('instructrl.data.tasks', 'import tensorflow as tf', 'nowhere'),
    ('instructrl.rollout', 'import flax.linen as nn', 'models'),
    ('instructrl.main', 'from orbax import checkpoint', 'arrays'),
    (
      'instructrl.evaluators.suite',
      'from ml_collections import config_dict',
      'trainers',
    ),
    ('instructrl.evaluators.suite', 'import grain', 'data'),
    ('instructrl.lab.world', 'from instructrl.data import tasks', 'not know'),
    ('instructrl.lab.world', 'import jax', 'numpy only'),
    ('instructrl.models.heads', 'from instructrl import lab', 'not know'),
    (
      'instructrl.trainers.ppo',
      'def f():\n  from instructrl import main',
      'below it',
    ),
    ('instructrl.trainers.ppo', 'from experiments import ppo', 'config'),
    ('instructrl.helpers', '', 'no row'),
    ('experiments.ppo', 'from instructrl import types', 'config'),
    ('experiments.ppo', 'import jax', 'only'),
  ],
)
def test_a_wrong_import_is_found(module, source, message):
  sources = {module: source}
  for name in (
    'rollout',
    'metrics',
    'main',
    'types',
    'lab',
    'data.tasks',
    'trainers.ppo',
  ):
    sources.setdefault(f'instructrl.{name}', '')
  faults = faults_of(sources)
  assert len(faults) == 1
  assert message in faults[0]


def test_a_right_import_is_let_through():
  assert not faults_of(
    {
      'instructrl.masked': 'import jax.numpy as jnp\nimport functools',
      'instructrl.losses': 'from instructrl import masked\nimport chex',
      'instructrl.lab.world': 'from instructrl.data import records',
      'instructrl.data.records': '',
      'instructrl.trainers.ppo': 'import ml_collections, instructrl',
      'experiments.ppo': 'from experiments import common\nimport numpy',
      'experiments.common': '',
    }
  )


def test_a_circle_is_found():
  sources = {
    'instructrl.lab.a': 'from instructrl.lab import b',
    'instructrl.lab.b': 'import instructrl.lab.c',
    'instructrl.lab.c': 'from instructrl.lab.a import name',
    'instructrl.lab.d': 'from instructrl.lab import a',
  }
  circle = circle_in(sources)
  assert set(circle) == {f'instructrl.lab.{x}' for x in 'abc'}
  del sources['instructrl.lab.c']
  assert circle_in(sources) is None
