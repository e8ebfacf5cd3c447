"""The source of a user's Python code, to notice that it has changed."""

import ast
from collections.abc import Iterator
import importlib.util
import inspect
import pathlib
import pkgutil
import sys
import sysconfig
import types

from instructrl.runtime import files

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# Folders whose modules are not the user's own: Python, libraries, instructrl.
_OTHERS = (
  *(
    pathlib.Path(sysconfig.get_path(name)).resolve()
    for name in ('stdlib', 'platstdlib', 'purelib', 'platlib')
  ),
  _PACKAGE,
)


def fingerprint(function: str, module: types.ModuleType) -> str:
  """Returns a hash of the source of a function or class.

  Args:
    function: 'module:name' of it.
    module: the module. The user's modules that it imports count too.

  Raises:
    OSError or TypeError: the module was not made from Python source.
  """
  value = {'function': function, 'source': inspect.getsource(module)}
  others = imported(module)
  return files.fingerprint(value | ({'imported': others} if others else {}))


def imported(module: types.ModuleType) -> dict[str, str]:
  """Returns {name: source} of the user's modules that a module imports.

  Their own imports count too. Modules that are only named in strings, and files
  that the code reads, are not found.
  """
  found: dict[str, str] = {}
  waiting = [(inspect.getsource(module), module.__package__ or '')]
  while waiting:
    text, package = waiting.pop()
    for name in _names(text, package):
      spec = _find(name)
      if name in found or name == module.__name__ or not _is_users(spec):
        continue
      source = pathlib.Path(spec.origin).read_bytes()
      found[name] = importlib.util.decode_source(source)
      parent = name if spec.submodule_search_locations else spec.parent
      waiting.append((found[name], parent))
  return dict(sorted(found.items()))


def _names(text: str, package: str) -> Iterator[str]:
  """Yields the names of all modules that a source may import."""
  try:
    tree = ast.parse(text)
  except SyntaxError:  # an import of this module would fail
    return
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield from _with_parents(alias.name)
    elif isinstance(node, ast.ImportFrom):
      base = '.' * node.level + (node.module or '')
      if node.level:
        base = importlib.util.resolve_name(base, package)
      yield from _with_parents(base)
      yield from (f'{base}.{alias.name}' for alias in node.names)


def _with_parents(name: str) -> Iterator[str]:
  """'a.b.c' -> 'a', 'a.b', 'a.b.c': an import runs all of them."""
  parts = name.split('.')
  yield from ('.'.join(parts[:n]) for n in range(1, len(parts) + 1))


def _find(name: str):
  """Returns the spec of a module, or None; imports nothing."""
  parent = name.rpartition('.')[0]
  if not parent or name in sys.modules:
    try:
      return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a module without a spec
      return None
  above = _find(parent)  # None if `parent` is a function
  for folder in (above and above.submodule_search_locations) or ():
    finder = pkgutil.get_importer(folder)
    spec = finder and finder.find_spec(name)
    if spec is not None:
      return spec
  return None


def _is_users(spec) -> bool:
  if spec is None or not (spec.origin or '').endswith('.py'):
    return False
  path = pathlib.Path(spec.origin).resolve()
  return not any(path.is_relative_to(folder) for folder in _OTHERS)
