"""Renders chat templates in a process of its own, with limits.

A chat template is a program that comes with a model. Jinja's sandbox keeps it
from files and from Python, but its loops may run for hours, and its texts may
fill the memory. This file is also the program of that process: it reads
requests and writes answers, a JSON object a line.
"""

import atexit
from collections.abc import Mapping
import datetime
import functools
import json
import resource
import select
import signal
import subprocess
import sys
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

SECONDS = 20  # for a template to be rendered
MAX_MEMORY = 1 << 30  # bytes
MAX_TEXT = 1 << 20  # characters of a template, and of what it writes
# The date in templates that write one: training fixes it. Llama 3's templates
# fall back on the same date.
DATE = datetime.datetime(2024, 7, 26)

_process: subprocess.Popen | None = None


def render(request: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
  """Renders a template in the other process; see `render_here`.

  Raises:
    ValueError: the template fails, or needs more than it may have.
  """
  if len(request['chat_template']) > MAX_TEXT:
    raise ValueError(f'it has more than {MAX_TEXT:,} characters')
  process = _started()
  process.stdin.write(json.dumps(request).encode() + b'\n')
  process.stdin.flush()
  if not select.select([process.stdout], [], [], SECONDS)[0]:
    _stop()
    raise ValueError(f'it takes more than {SECONDS} seconds')
  line = process.stdout.readline()
  if not line:
    _stop()
    raise ValueError(f'it needs more than {MAX_MEMORY >> 20} MiB of memory')
  answer = json.loads(line)
  if 'error' in answer:
    raise ValueError(answer['error'])
  return answer['text'], answer['dates']


def _started() -> subprocess.Popen:
  """Returns the process, which serves all requests of this program."""
  global _process
  if _process is None or _process.poll() is not None:
    _process = subprocess.Popen(
      [sys.executable, '-P', __file__],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
    )
  return _process


@atexit.register
def _stop() -> None:
  global _process
  if _process is not None:
    _process.kill()
    _process.communicate()
    _process = None


# --- In the process ----------------------------------------------------------


class _Generation(jinja2.ext.Extension):
  """`{% generation %}`, with which templates mark what to train on."""

  tags = {'generation'}

  def parse(self, parser):
    line = next(parser.stream).lineno
    body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
    return jinja2.nodes.Scope(body, lineno=line)


def _raise_exception(message):
  raise jinja2.exceptions.TemplateError(message)


def render_here(
  chat_template: str, **variables: Any
) -> tuple[str, dict[str, str]]:
  """Renders a chat template as transformers does, with the date `DATE`.

  Args:
    chat_template: Jinja, run in a sandbox.
    **variables: 'messages', 'bos_token' and so on.

  Returns:
    The text, and {format: text} of each date that the template asks for.
  """
  dates = {}

  def strftime_now(form):
    dates[form] = DATE.strftime(form)
    return dates[form]

  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[_Generation, jinja2.ext.loopcontrols],
  )
  environment.filters['tojson'] = functools.partial(
    json.dumps, ensure_ascii=False
  )
  environment.globals['raise_exception'] = _raise_exception
  environment.globals['strftime_now'] = strftime_now
  template = environment.from_string(chat_template)
  return template.render(tools=None, documents=None, **variables), dates


def _serve() -> None:
  """Answers requests until standard input ends."""
  resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
  for line in sys.stdin.buffer:
    try:
      text, dates = render_here(**json.loads(line))
      answer = {'text': text, 'dates': dates}
      if len(text) > MAX_TEXT:
        answer = {'error': f'it writes more than {MAX_TEXT:,} characters'}
    except MemoryError:
      answer = {'error': f'it needs more than {MAX_MEMORY >> 20} MiB of memory'}
    except Exception as error:  # a template is a program: it may fail as one
      answer = {'error': str(error) or repr(error)}
    print(json.dumps(answer), flush=True)


if __name__ == '__main__':
  _serve()
