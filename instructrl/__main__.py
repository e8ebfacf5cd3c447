"""Lists the commands.

python -m instructrl
"""

import ast
import pathlib

FOLDER = pathlib.Path(__file__).resolve().parent


def commands(folder: pathlib.Path = FOLDER) -> dict[str, str]:
  """Returns {command: first line of its docstring}; imports nothing.

  A command is a file that runs as a program, or a package with a `__main__`.
  """
  found = {}
  for path in (*folder.glob('*.py'), *folder.glob('*/__main__.py')):
    source = path.read_text('utf-8')
    if (
      path == folder / '__main__.py'
      or "if __name__ == '__main__'" not in source
    ):
      continue
    name = path.parent.name if path.stem == '__main__' else path.stem
    docstring = ast.get_docstring(ast.parse(source)) or ''
    found[name] = docstring.split('\n')[0]
  return dict(sorted(found.items()))


def main() -> None:
  """Prints a line for each command."""
  found = commands()
  width = max(map(len, found))
  print(
    'python -m instructrl.COMMAND --help explains the flags of a command:\n'
  )
  for command, line in found.items():
    print(f'  {command:{width}}  {line}')


if __name__ == '__main__':
  main()
