"""Links, files and commands that the documentation names exist."""

import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = sorted([ROOT / 'README.md', *(ROOT / 'docs').rglob('*.md')])
PAGES = sorted({*DOCS, *ROOT.glob('*.md')})

FENCE = re.compile(r'^ *```.*?^ *```$', re.MULTILINE | re.DOTALL)
LINK = re.compile(r'\[[^\]]*\]\(([^)\s]+)\)')
FOLDERS = ('docs', 'examples', 'experiments', 'instructrl', 'scripts', 'tests')
# Files in code, such as --config=experiments/ppo.py:tiny. A path in backticks
# may be short: `stages/run.py`, `kl_coef.py`.
SUFFIX = r'\.(?:md|py|sh|txt|yaml)\b'
FILE = re.compile(rf'(?<![\w/.-])((?:{"|".join(FOLDERS)})/[\w./-]+{SUFFIX})')
SHORT = re.compile(r'`([\w/]+\.py)\b')
MODULE = re.compile(r'python -m (instructrl[\w.]*)')


def anchors_of(text):
  """Returns the anchors of the headings of a page, as GitHub makes them."""
  found = []
  for heading in re.findall(r'^#+ (.+)$', FENCE.sub('', text), re.MULTILINE):
    kept = re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
    count = sum(re.sub(r'-\d+$', '', anchor) == kept for anchor in found)
    found.append(f'{kept}-{count}' if count else kept)
  return found


def faults_of(page, text):
  """Returns the links of a page that lead nowhere."""
  faults = []
  for link in LINK.findall(FENCE.sub('', text)):
    if re.match(r'[a-z]+:', link):  # https:, mailto:
      continue
    name, _, anchor = link.partition('#')
    target = page.parent / name if name else page
    if not target.exists():
      faults.append(f'{link}: there is no such file')
    elif anchor:
      target_text = target.read_text('utf-8') if name else text
      if anchor not in anchors_of(target_text):
        faults.append(f'{link}: there is no such heading')
  return faults


@functools.cache
def python_files():
  """Returns '/PATH' of each Python file of the checkout."""
  found = [path for folder in FOLDERS for path in (ROOT / folder).rglob('*.py')]
  return [
    f'/{path.relative_to(ROOT).as_posix()}'
    for path in (*ROOT.glob('*.py'), *found)
  ]


def missing_from(text):
  """Returns the files and modules that a page names and that do not exist."""
  files = [name for name in FILE.findall(text) if not (ROOT / name).exists()]
  for name in SHORT.findall(text):
    if not any(path.endswith(f'/{name}') for path in python_files()):
      files.append(name)
  files = [name for name in files if not re.search(r'\b[A-Z]{2,}\b', name)]
  for module in MODULE.findall(text):
    path = ROOT / module.rstrip('.').replace('.', '/')
    runs = (path.with_suffix('.py'), path / '__main__.py')
    if not any(file.is_file() for file in runs):
      files.append(module)
  return list(dict.fromkeys(files))


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
  assert not faults_of(page, page.read_text('utf-8'))


@pytest.mark.parametrize('page', DOCS, ids=lambda page: page.name)
def test_every_file_and_module_exists(page):
  assert not missing_from(page.read_text('utf-8'))


def test_the_readme_links_every_page():
  linked = set(LINK.findall((ROOT / 'README.md').read_text('utf-8')))
  linked = {link.partition('#')[0] for link in linked}
  pages = {page.relative_to(ROOT).as_posix() for page in PAGES}
  assert pages - {'README.md'} <= linked


@pytest.mark.parametrize(
  'text, fault',
  [
    ('[a](missing.md)', 'no such file'),
    ('[a](README.md#missing)', 'no such heading'),
    ('[a](#missing)', 'no such heading'),
  ],
)
def test_a_broken_link_is_found(text, fault):
  (found,) = faults_of(ROOT / 'README.md', f'# Title\n{text}')
  assert fault in found


def test_what_is_not_a_link_is_passed_over():
  text = '# A page: `x`, of 2\n[a](#a-page-x-of-2) [b](https://x.org/#y)\n'
  text += '```\n[c](missing.md)\n```\n'
  assert not faults_of(ROOT / 'README.md', text)


def test_missing_files_and_modules_are_found():
  text = '`instructrl/missing.py`, python -m instructrl.missing'
  assert missing_from(text) == ['instructrl/missing.py', 'instructrl.missing']
  assert not missing_from(
    'python -m instructrl.data, `tests/ROOM/FILE_test.py`'
  )
