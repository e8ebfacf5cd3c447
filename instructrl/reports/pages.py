"""Renders HTML pages from the Jinja templates in `templates/`.

Every value is escaped, except the SVG of figures.
"""

import functools
import re
from typing import Any

import jinja2

from instructrl.reports import formats


@functools.cache
def _environment() -> jinja2.Environment:
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('instructrl.reports'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['duration'] = formats.duration
  environment.filters['words'] = words
  environment.filters['slug'] = slug
  return environment


def words(name: str) -> str:
  """Returns a name of the code as words: 'open_qa' -> 'open qa'."""
  return name.replace('_', ' ')


def slug(title: str) -> str:
  """Returns a title as an id: 'Alignment tax' -> 'alignment-tax'."""
  return re.sub(r'\W+', '-', title.lower()).strip('-')


def render(template: str, **values: Any) -> str:
  """Returns the page of `templates/TEMPLATE.html.j2` with these values."""
  return _environment().get_template(f'{template}.html.j2').render(values)
