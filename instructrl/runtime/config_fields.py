"""Lists the fields of a config with their values and comments.

The comments are read from the source of the config file and of the files that
it imports: what is beside and above an assignment such as
`c.optimizer.peak_lr = 1e-3  # highest rate`, and the text of a field that a
module named *_settings declares.
"""

import ast
from collections.abc import Iterator, Mapping
import pathlib
import re
import textwrap
from typing import Any

_ASSIGNED = re.compile(r'^\s*((?:\w+\.)+\w+)(?:, [\w., ]+)? = ')
_COMMENT = re.compile(r'(?:^|\s)#\s?(.*)$')
_WIDTH = 80


def render(config: Mapping[str, Any], path: str) -> str:
  """Returns the fields as lines of assignments with comments.

  Args:
    config: the config.
    path: the file that made it.
  """
  comments: dict[str, dict[str, str]] = {}
  for source in _sources(pathlib.Path(path).resolve()):
    comments[source.stem] = _settings(source) or _comments(source)
  lines: list[str] = []
  said: set[str] = set()
  for name, value in _leaves(config):
    parts = name.split('.')
    # The file of a study's stage is asked first: stages.sft -> sft.py.
    files = [comments[part] for part in parts if part in comments]
    files += [found for found in comments.values() if found not in files]
    for end in range(1, len(parts)):
      group = '.'.join(parts[:end])
      if group not in said:
        said.add(group)
        lines += ['', *_wrapped(_find(parts[:end], files))]
    field, about = f'{name} = {value!r}', _find(parts, files)
    if about and len(field) + len(about) + 4 <= _WIDTH:
      lines.append(f'{field}  # {about}')
    else:
      lines += [*_wrapped(about), field]
  return '\n'.join(lines).lstrip('\n')


def _wrapped(comment: str) -> list[str]:
  """Returns a comment as lines; none for ''."""
  return textwrap.wrap(
    comment, _WIDTH, initial_indent='# ', subsequent_indent='# '
  )


def _find(parts, files) -> str:
  """Returns the comment of the longest end of a field's name that has one."""
  for start in range(len(parts)):
    for comments in files:
      if text := comments.get('.'.join(parts[start:])):
        return text
  return ''


def _leaves(tree: Mapping[str, Any], prefix: str = '') -> Iterator[tuple]:
  for name, value in tree.items():
    if isinstance(value, Mapping) or hasattr(value, 'items'):
      yield from _leaves(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', value


def _sources(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a config file, and the files of its checkout that it imports."""
  root = next(
    (folder for folder in path.parents if (folder / 'instructrl').is_dir()),
    path.parent,
  )
  todo, seen = [path], set()
  while todo:
    path = todo.pop(0)
    if path in seen:
      continue
    seen.add(path)
    yield path
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
      if isinstance(node, ast.ImportFrom) and node.module:
        for name in node.names:
          file = root / node.module.replace('.', '/') / f'{name.name}.py'
          if file.is_file():
            todo.append(file)


def _comments(path: pathlib.Path) -> dict[str, str]:
  """Returns {'optimizer.peak_lr': comment} of the assignments in a file."""
  found: dict[str, str] = {}
  above: list[str] = []
  for line in path.read_text('utf-8').splitlines():
    code, comment = line.strip(), _COMMENT.search(line)
    if code.startswith('#'):
      above.append(comment[1] if comment else '')
      continue
    if assigned := _ASSIGNED.match(line):
      name = assigned[1].partition('.')[2]
      text = ' '.join([*above, comment[1] if comment else '']).strip()
      if text:
        found.setdefault(name, text)
    above = []
  return found


def _settings(path: pathlib.Path) -> dict[str, str]:
  """Returns {field: text} of the fields that a *_settings module declares."""
  if not path.stem.endswith('_settings'):
    return {}
  found = {}
  for node in ast.walk(ast.parse(path.read_text('utf-8'))):
    if (
      isinstance(node, ast.AnnAssign)
      and isinstance(node.value, ast.Call)
      and len(node.value.args) > 1
    ):
      found[node.target.id] = ast.literal_eval(node.value.args[1])
  return found
