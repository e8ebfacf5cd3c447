"""Chat templates are rendered within limits of time and memory."""

import time

import pytest

from instructrl.tokenizers import jinja_process

LOOP = (
  '{% for a in range(99999) %}{% for b in range(99999) %}'
  '{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}'
)
RECURSION = '{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}'
DOUBLING = (
  "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(60) %}"
  '{% set n.s = n.s ~ n.s %}{% endfor %}'
)


def render(template, **variables):
  return jinja_process.render(dict(chat_template=template, **variables))


@pytest.mark.parametrize(
  'template, message',
  [
    (LOOP, 'it takes more than 2 seconds'),
    ('{{ 9 ** (9 ** 9) }}', '2 seconds|memory'),
    ("{{ 'x' * 9999999999 }}", 'MiB of memory'),
    ("{{ 'x' | center(9999999999) }}", 'MiB of memory'),
    ("{{ 'x'.ljust(9999999999) }}", 'MiB of memory'),
    ("{{ '%9999999999d' % 1 }}", 'MiB of memory'),
    (DOUBLING, '2 seconds|MiB of memory'),
    (RECURSION, 'recursion'),
    ("{{ 'x' * 2000000 }}", 'it writes more than 1,048,576 characters'),
    ('x' * 2_000_000, 'it has more than 1,048,576 characters'),
    ('{% for %}', 'Expected'),
  ],
)
def test_a_template_that_needs_too_much_is_refused(
  monkeypatch, template, message
):
  monkeypatch.setattr(jinja_process, 'SECONDS', 2)
  render('warm')
  began = time.monotonic()
  with pytest.raises(ValueError, match=message):
    render(template)
  assert time.monotonic() - began < 60
  monkeypatch.undo()
  assert render('{{ a }}\n', a='\u00e9') == ('\u00e9', {})


def test_dates_are_fixed_and_reported():
  assert render("{{ strftime_now('%d %B %Y') }}") == (
    '26 July 2024',
    {'%d %B %Y': '26 July 2024'},
  )
