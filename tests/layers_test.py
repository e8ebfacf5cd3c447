"""Imports go one way.

The rows below list the packages of instructrl/ from the bottom to the top,
each with the packages that it may import. A package may import only packages
of the rows below its own, so that packages form no circle. The commands stand
on top: nothing imports them. Each library is known in one place. Experiments
are plain data: of the package they import only modules named *_settings, which
declare the numbers of an algorithm, and the module of the paper's numbers. Both
import the standard library alone. Files and functions are short enough to read
at once.
"""

import ast
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

MATHEMATICS = {'losses', 'advantages', 'sampling'}
BASE = {'types', 'rng', 'masked'}

# Bottom row first: {package or file of instructrl/: what it may import}.
ROWS = (
  {'types': set(), 'rng': set(), 'masked': set()},
  {
    'losses': {'masked'},
    'advantages': {'masked'},
    'sampling': {'masked'},
    'packing': {'types'},
    'runtime': BASE,
  },
  {'tokenizers': {'runtime'}, 'models': BASE | {'runtime'}},
  {
    'interop': BASE | {'models', 'runtime', 'tokenizers'},
    'data': BASE | {'runtime', 'tokenizers'},
    'rollout': BASE | MATHEMATICS | {'models', 'runtime'},
  },
  {'lab': {'data'}, 'rewards': {'data', 'runtime', 'tokenizers'}},
  {
    'evaluators': BASE
    | MATHEMATICS
    | {'data', 'lab', 'models', 'rollout', 'runtime', 'tokenizers'}
  },
  {'feedback': {'data', 'evaluators', 'lab', 'runtime'}},
  {
    'stages': BASE
    | MATHEMATICS
    | {
      'data',
      'evaluators',
      'feedback',
      'interop',
      'lab',
      'models',
      'packing',
      'rewards',
      'rollout',
      'runtime',
      'tokenizers',
    }
  },
  {'reports': {'evaluators', 'runtime'}},
  {
    'planning': BASE
    | {
      'data',
      'models',
      'reports',
      'rewards',
      'runtime',
      'stages',
      'tokenizers',
    }
  },
  {'orchestration': {'planning', 'reports', 'runtime', 'stages'}},
)

# Which libraries a package may import at all, beyond the standard library.
MAY_IMPORT = {
  'types': {'jax'},
  'masked': {'chex', 'jax'},
  'rng': {'chex', 'jax'},
  'losses': {'chex', 'jax'},
  'advantages': {'chex', 'jax'},
  'sampling': {'chex', 'jax'},
  'packing': {'chex', 'jax'},
  'lab': {'absl', 'numpy'},
  'experiments': {'ml_collections', 'numpy'},
}

# The largest sizes: of a file, of a function, and of instructrl/ itself.
FILE_LINES, FUNCTION_LINES, TOP_FILES = 450, 80, 18

DOORS = 'doors'  # the commands: files of instructrl/ in no row, and __main__

# Where a library may be imported. Nothing else knows of it.
ONLY_IN = {
  'array_record': {'data'},
  'flax': {'models'},
  'gguf': {'interop', 'tokenizers'},
  'grain': {'data'},
  'huggingface_hub': {'data'},
  'itsdangerous': {'feedback'},
  'jinja2': {'feedback', 'reports', 'tokenizers'},
  'markdown_it': {'feedback'},
  'matplotlib': {'reports'},
  'ml_collections': {'orchestration', 'stages', DOORS},
  'optax': {'runtime'},
  'orbax': {'runtime'},
  'pyarrow': {'data'},
  'rich': {'runtime'},
  'safetensors': {'interop'},
  'sentencepiece': {'tokenizers'},
  'sqlalchemy': {'feedback'},
  'starlette': {'feedback'},
  'tensorboardX': {'runtime'},
  'tensorflow_datasets': {'data'},
  'tokenizers': {'tokenizers'},
  'uvicorn': {'feedback'},
  # TensorFlow is not needed to use its data sets; PyTorch is for tests only.
  'clu': set(),
  'tensorflow': set(),
  'torch': set(),
  'transformers': set(),
}


def read_sources(*folders):
  """Returns {module name: source} of all files in folders of the checkout."""
  sources = {}
  for folder in folders:
    for path in sorted((ROOT / folder).rglob('*.py')):
      parts = path.relative_to(ROOT).with_suffix('').parts
      if parts[-1] == '__init__':
        parts = parts[:-1]
      sources['.'.join(parts)] = path.read_text('utf-8')
  return sources


def imports_of(source, modules):
  """Yields (module, line) of each import, anywhere in a source."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name, node.lineno
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'line {node.lineno}: a relative import'
      for alias in node.names:
        name = f'{node.module}.{alias.name}'
        yield name if name in modules else node.module, node.lineno


def row_of(package):
  """Returns the index of a package's row, or None."""
  return next((i for i, row in enumerate(ROWS) if package in row), None)


def package_of(module):
  """Returns the package of a module; DOORS of a command.

  'instructrl.losses' -> 'losses', 'instructrl.lab.world.facts' -> 'lab',
  'instructrl.main' -> 'doors', 'instructrl' -> 'instructrl'.
  """
  parts = module.split('.')
  if parts[0] != 'instructrl' or len(parts) == 1:
    return parts[0]
  if parts[-1] == '__main__' or len(parts) == 2 and row_of(parts[1]) is None:
    return DOORS
  return parts[1]


PAPER = 'instructrl.reports.paper_values'


def is_settings(module):
  """Whether a module declares numbers, and may be read by an experiment.

  An experiment that took the numbers from elsewhere would import JAX and all
  that the algorithm needs, or declare the numbers a second time.
  """
  return module == PAPER or (
    module.startswith('instructrl.') and module.endswith('_settings')
  )


def internal_fault(module, imported):
  """Returns why `module` must not import `imported` of instructrl, or None."""
  package, other = package_of(module), package_of(imported)
  if package == 'experiments' and not is_settings(imported):
    return f'a config may import *_settings modules and {PAPER} only'
  if package == 'experiments':
    return None
  if is_settings(module):
    ok = is_settings(imported)
    return None if ok else 'a *_settings module may import *_settings only'
  if other == DOORS:
    return 'nothing may import a command'
  if other == 'instructrl' or package in (DOORS, 'instructrl', other):
    return None
  if row_of(other) is None:
    return 'its package stands in no row'
  if row_of(package) is None:
    return f'the package {package} stands in no row'
  if other not in ROWS[row_of(package)][package]:
    return f'{package} may not import {other}'
  return None


def library_fault(module, library):
  """Returns why `module` must not import a library, or None."""
  package = package_of(module)
  if library == 'experiments':
    return (
      None
      if package == 'experiments'
      else 'the package must not import a config'
    )
  if is_settings(module):
    return 'a *_settings module may import the standard library only'
  allowed = MAY_IMPORT.get(package)
  if allowed is not None and library not in allowed:
    return f'{package} may import {", ".join(sorted(allowed))} only'
  if library in ONLY_IN and package not in ONLY_IN[library] | {'experiments'}:
    where = ', '.join(sorted(ONLY_IN[library])) or 'nowhere'
    return f'only allowed in: {where}'
  return None


def faults_of(sources):
  """Returns one line for each import that breaks a rule."""
  faults = []
  for module, source in sources.items():
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
  """Returns the modules of one circle of imports, or None."""
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


def test_rows_only_look_down():
  """What a package may import stands below it: packages form no circle."""
  for number, row in enumerate(ROWS):
    below = set().union(*ROWS[:number])
    for package, allowed in row.items():
      assert allowed <= below, (package, sorted(allowed - below))


def test_rows_name_what_there_is():
  """Each folder stands in a row, and each name of a row is there."""
  names = set().union(*ROWS)
  folders = {path.parent.name for path in ROOT.glob('instructrl/*/__init__.py')}
  assert folders <= names, f'in no row: {sorted(folders - names)}'
  there = folders | {path.stem for path in ROOT.glob('instructrl/*.py')}
  assert names <= there, f'not in instructrl/: {sorted(names - there)}'


def test_every_import_keeps_to_the_layers():
  faults = faults_of(read_sources('instructrl', 'experiments'))
  assert not faults, '\n' + '\n'.join(faults)


def test_no_import_goes_in_a_circle():
  circle = circle_in(read_sources('instructrl', 'experiments'))
  assert circle is None, ' -> '.join(circle)


def too_large(module, source):
  """Yields a line for a file or function that is too long to read at once."""
  length = len(source.splitlines())
  if length > FILE_LINES:
    yield f'{module} has {length} lines, more than {FILE_LINES}'
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      length = node.end_lineno - node.lineno + 1
      if length > FUNCTION_LINES:
        yield f'{module}.{node.name}: {length} lines, max {FUNCTION_LINES}'


def test_files_and_functions_are_short():
  sources = read_sources('instructrl')
  faults = [fault for pair in sources.items() for fault in too_large(*pair)]
  assert not faults, '\n' + '\n'.join(faults)
  top = sorted(path.name for path in ROOT.glob('instructrl/*.py'))
  assert len(top) <= TOP_FILES, top


def test_a_long_file_and_a_long_function_are_found():
  source = 'def f():\n' + '  x = 1\n' * FUNCTION_LINES
  (fault,) = too_large('instructrl.a', source)
  assert fault == f'instructrl.a.f: {FUNCTION_LINES + 1} lines, max 80'
  (fault,) = too_large('instructrl.a', '\n' * (FILE_LINES + 1))
  assert fault == f'instructrl.a has {FILE_LINES + 1} lines, more than 450'


def names_of(sources):
  """Yields (name, what it means) of each class and each imported module.

  The files of an algorithm's numbers and of evaluators are found by name, and
  so each has a class of one name: `Evaluator`.
  """
  for module, source in sources.items():
    for node in ast.walk(ast.parse(source)):
      if isinstance(node, ast.ClassDef) and node.name != 'Evaluator':
        if not node.name.startswith('_'):
          yield node.name, f'{module}.{node.name}'
      elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
          name = f'{node.module}.{alias.name}'
          if name in sources:
            yield alias.asname or alias.name, name


def test_one_name_is_one_thing():
  """A reader looks up a class or a module once, not in each file."""
  meant = {}
  for name, thing in names_of(read_sources('instructrl')):
    meant.setdefault(name, set()).add(thing)
  several = {name: things for name, things in meant.items() if len(things) > 1}
  assert not several, several


def test_a_name_of_two_things_is_found():
  sources = {
    'instructrl.a': 'from instructrl.runtime import files\nclass Source: pass',
    'instructrl.b': 'from instructrl.data import rows as files',
    'instructrl.runtime.files': 'class Source: pass',
    'instructrl.data.rows': '',
  }
  found = {}
  for name, thing in names_of(sources):
    found.setdefault(name, set()).add(thing)
  assert [name for name, things in found.items() if len(things) > 1] == [
    'files',
    'Source',
  ]


def pins():
  """Returns {package: version} of scripts/constraints.txt."""
  text = (ROOT / 'scripts' / 'constraints.txt').read_text('utf-8')
  found = re.findall(r'^([\w.-]+)==(\S+)$', text, re.MULTILINE)
  return {name.lower().replace('_', '-'): pin for name, pin in found}


def ranges():
  """Returns {package: (tested version, first excluded version)} of setup.py."""
  found = re.findall(
    r"'([\w-]+)(?:\[\w+\])?>=([\d.]+),<([\d.]+)[';]",
    (ROOT / 'setup.py').read_text('utf-8'),
  )
  return {
    name.lower().replace('_', '-'): (first, end) for name, first, end in found
  }


# apache-beam asks for another protobuf than the pinned one (setup.py); no test
# installs the others.
UNPINNED = {'apache-beam', 'tensorboard', 'trackio', 'wandb'}


def test_every_library_is_declared_and_pinned():
  """setup.py has a range for each import, and constraints.txt a pin."""
  renamed = {
    'absl': 'absl-py',
    'markdown_it': 'markdown-it-py',
    'orbax': 'orbax-checkpoint',
  }
  declared, pinned = ranges(), pins()
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
  missing = sorted(names - set(declared))
  assert not missing, f'not in setup.py: {missing}'
  missing = sorted(set(declared) - set(pinned) - UNPINNED)
  assert not missing, f'not in scripts/constraints.txt: {missing}'
  assert 'jax' in names  # the imports were found at all


def test_ranges_start_at_the_tested_version():
  pinned = pins()
  for name, (first, end) in ranges().items():
    assert first == pinned.get(name, first), name
    numbers = [[int(n) for n in v.split('.')] for v in (first, end)]
    assert numbers[0] < numbers[1], name


def test_no_dependency_is_without_a_range():
  for line in (ROOT / 'setup.py').read_text('utf-8').splitlines():
    assert '==' not in line or 'sys_platform' in line or 'node' in line, line


@pytest.mark.parametrize(
  'module,source,message',
  [
    (
      'instructrl.losses',
      'from instructrl import rollout',
      'may not import rollout',
    ),
    (
      'instructrl.losses',
      'from instructrl.runtime import files',
      'may not import runtime',
    ),
    ('instructrl.losses', 'import optax', 'only'),
    (
      'instructrl.types',
      'import instructrl.stages.ppo',
      'may not import stages',
    ),
    ('instructrl.models.heads', 'import torch', 'nowhere'),
    ('instructrl.data.tasks', 'import tensorflow as tf', 'nowhere'),
    ('instructrl.rollout', 'import flax.linen as nn', 'models'),
    ('instructrl.main', 'from orbax import checkpoint', 'runtime'),
    (
      'instructrl.evaluators.probes',
      'from ml_collections import config_dict',
      'stages',
    ),
    ('instructrl.evaluators.probes', 'import grain', 'data'),
    (
      'instructrl.data.tasks',
      'from instructrl.lab.world import facts',
      'may not import lab',
    ),
    ('instructrl.lab.world.facts', 'import jax', 'numpy only'),
    (
      'instructrl.models.heads',
      'from instructrl import lab',
      'may not import lab',
    ),
    (
      'instructrl.stages.ppo',
      'def f():\n  from instructrl import main',
      'nothing may import a command',
    ),
    (
      'instructrl.sweep',
      'from instructrl import main',
      'nothing may import a command',
    ),
    ('instructrl.stages.ppo', 'from experiments import ppo', 'config'),
    (
      'instructrl.new.helpers',
      'from instructrl import types',
      'new stands in no row',
    ),
    ('experiments.ppo', 'from instructrl import types', 'config'),
    (
      'instructrl.stages.ppo_settings',
      'from instructrl import types',
      'may import *_settings only',
    ),
    ('instructrl.stages.ppo_settings', 'import numpy', 'standard library only'),
    ('experiments.ppo', 'import jax', 'only'),
  ],
)
def test_a_wrong_import_is_found(module, source, message):
  sources = {module: source}
  for name in (
    'rollout',
    'runtime.files',
    'main',
    'types',
    'lab',
    'lab.world.facts',
    'data.tasks',
    'stages.ppo',
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
      'instructrl.lab.world.facts': 'from instructrl.data import records',
      'instructrl.data.records': '',
      'instructrl.stages.ppo': 'import ml_collections, instructrl',
      'instructrl.main': 'from instructrl.data import records',
      'instructrl.data.__main__': 'from instructrl.data import records',
      'experiments.ppo': 'from experiments import common\nimport numpy',
      'experiments.common': 'from instructrl.stages import ppo_settings',
      'instructrl.stages.ppo_settings': 'import dataclasses',
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
