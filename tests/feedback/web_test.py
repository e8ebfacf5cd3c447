"""The pages without a browser: forms, sessions, limits, what stays hidden."""

import json
import re
import time

import pytest
from starlette.testclient import TestClient

from instructrl.feedback import exports
from instructrl.feedback import security
from instructrl.feedback import web
from tests.feedback import labeling


@pytest.fixture
def site(tmp_path):
  lines = labeling.rows()
  lines[0]['prompt'] = '<script>alert("prompt")</script> & more'
  lines[0]['id'] = 'shared'
  return web.Site(labeling.open_desk(labeling.make(tmp_path / 'p', lines)))


def labeler(site, name='Ada', **fields):
  return labeling.client_of(site, f'/join/{site.desk.invite(name, **fields)}')


def owner(site):
  return labeling.client_of(site, f'/owner/{site.owner_token}')


def rank(client, *ranks):
  """Submits the ranks of the next prompt, by place; returns the response."""
  page = client.get('/work')
  form = labeling.fields_in(page.text)
  form |= {f'rank-{i}': str(rank) for i, rank in enumerate(ranks)}
  return client.post(page.url.path, data=form | {'action': 'next'})


def test_forms_rank_a_prompt_without_the_script(site):
  client = labeler(site)
  reply = rank(client, 1, 2)
  assert reply.status_code == 422 and '1 left' in reply.text
  assert 'value="2" checked' in reply.text  # the draft was kept
  assert rank(client, 2, 1, 2).url.path == '/items/1/rank'
  (ranking,) = exports.rankings(site.desk)
  (person,) = site.desk.people.values()
  order = person.items['shared'].order
  assert [ranking.ranks[i] for i in order] == [1, 0, 1]


def test_all_text_is_escaped_and_models_are_hidden(site):
  page = labeler(site).get('/work')
  assert (
    '<script>alert' not in page.text and '<script>document' not in page.text
  )
  assert '&lt;script&gt;alert' in page.text
  assert page.text.count('<script') == 1  # the page's own
  assert 'model0' not in page.text and 'model1' not in page.text
  policy = page.headers['content-security-policy']
  assert "default-src 'none'" in policy and 'unsafe' not in policy
  assert "script-src 'self'" in policy and "frame-ancestors 'none'" in policy
  assert not re.search(r'\son\w+=|\sstyle=|javascript:', page.text)


def test_instructions_are_markdown_without_html(site):
  path = site.desk.project.folder / 'instructions.md'
  path.write_text('**Be** [kind](javascript:alert(1)) <img src=x onerror=y>')
  page = labeler(site).get('/work').text
  assert '<strong>Be</strong>' in page and '<img' not in page
  assert 'href="javascript' not in page


def test_nobody_enters_without_a_link(site):
  client = labeling.client_of(site)
  for path in ('/', '/work', '/done', '/items/0/rank'):
    assert client.get(path).status_code == 401, path
  for path in ('/join/guess', '/owner/guess', '/admin', '/admin/disagreements'):
    assert client.get(path).status_code == 404, path
  client.cookies.set(security.COOKIE, 'WzEsIiIsIngiXQ.forged.signature')
  assert client.get('/work').status_code == 401


def test_a_labeler_sees_neither_others_nor_the_admin_pages(site):
  ada, bob = labeler(site), labeler(site, 'Bob')
  rank(ada, 1, 2, 3)
  assert bob.get('/items/0/rank').status_code == 404  # Ada's prompt
  assert bob.get('/items/99/rank').status_code == 404
  assert 'Ada' not in bob.get('/done').text
  for path in ('/admin', '/admin/export/labels.jsonl', '/admin/demonstrations'):
    assert bob.get(path).status_code == 404, path
  assert bob.post('/admin', data={'action': 'pause'}).status_code == 404
  assert not site.desk.paused


def test_a_revoked_labeler_is_out_at_once(site):
  client = labeler(site)
  assert client.get('/work').status_code == 200
  (person,) = site.desk.people.values()
  site.desk.set_revoked(person.id, True)
  assert client.get('/work').status_code == 401


def test_an_old_session_ends(site, monkeypatch):
  client = labeler(site)
  later = time.time() + security.SESSION_SECONDS + 2
  monkeypatch.setattr('itsdangerous.timed.time.time', lambda: later)
  assert client.get('/work').status_code == 401


def test_forged_and_oversized_forms_are_refused(site):
  client = labeler(site)
  page = client.get('/work')
  form = labeling.fields_in(page.text)
  path = page.url.path
  assert client.post(path, data={'rank-0': '1'}).status_code == 403
  other = labeling.fields_in(labeler(site, 'Bob').get('/work').text)
  assert client.post(path, data=form | other).status_code == 403
  crossed = {'Sec-Fetch-Site': 'cross-site'}
  assert client.post(path, data=form, headers=crossed).status_code == 403
  large = form | {'text': 'x' * security.MAX_BODY}
  assert client.post(path, data=large).status_code == 413
  many = form | {f'f{i}': '1' for i in range(security.MAX_FIELDS + 1)}
  assert client.post(path, data=many).status_code == 400
  for value in ('0', '4', '-1', '1e3', '²', 'x' * 99):
    reply = client.post('/save' + path[6:], data=form | {'rank-0': value})
    assert reply.status_code == 422, value
  assert client.post(path, data=form | {'action': 'skip'}).status_code == 422
  assert not exports.rankings(site.desk)


def test_cookies_and_hosts(site):
  client = labeling.client_of(site)
  link = f'/join/{site.desk.invite("Ada")}'
  token = labeling.token_in(client.get(link).text)
  reply = client.post(link, data={'token': token}, follow_redirects=False)
  cookie = reply.headers['set-cookie'].lower()
  assert 'httponly' in cookie and 'samesite=lax' in cookie
  assert 'secure' not in cookie
  host = {'Host': 'evil.example'}
  assert client.get('/', headers=host).status_code == 400
  site.sessions = security.Sessions('x', secure=True)
  token = labeling.token_in(client.get(link).text)
  reply = client.post(link, data={'token': token}, follow_redirects=False)
  assert 'secure' in reply.headers['set-cookie'].lower()


def test_the_rate_of_a_client_is_limited(site):
  app = web.make_app(site)
  stopped = lambda wrapped: security.Guard(
    wrapped, site.sessions, clock=lambda: 0.0
  )
  client = TestClient(stopped(app))
  codes = [client.get('/done').status_code for _ in range(202)]
  assert codes == [401] * int(security.BURST) + [429] * 2
  assert client.get('/static/label.js').status_code == 200  # part of a page


@pytest.mark.parametrize('broken', ['max_page_count = 1', 'query_only = 1'])
def test_a_failing_database_is_reported_and_nothing_is_marked_as_saved(
  site, broken, capsys
):
  """The disk is full, or the database can only be read."""
  client = labeler(site)
  page = client.get('/work')
  form = labeling.fields_in(page.text)

  def save(rank):
    data = form | {'rank-0': str(1 + rank % 2)}
    return client.post('/save' + page.url.path[6:], data=data)

  def set_up(pragma):
    with site.desk._log._engine.connect() as connection:
      connection.exec_driver_sql(f'PRAGMA {pragma}')

  set_up(broken)
  replies = map(save, range(100))  # until a page of the database is full
  refused = next(reply for reply in replies if reply.status_code == 503)
  assert 'Not saved' in refused.json()['error']
  error = capsys.readouterr().err
  assert 'labels.sqlite: (sqlite3.OperationalError)' in error
  saved = len(site.desk._log.after(0))
  set_up(f'{broken.split()[0]} = {10**6 * (broken[0] == "m")}')
  replies = [save(rank) for rank in (0, 1)]  # one is the last draft again
  assert [reply.json() for reply in replies] == [{'saved': True}] * 2
  assert len(site.desk._log.after(0)) > saved


def test_instructions_that_cannot_be_read_are_reported(site, capsys):
  client = labeler(site)
  path = site.desk.project.folder / 'instructions.md'
  path.write_bytes(b'\xff')
  assert client.get('/work').status_code == 503
  assert 'instructions.md cannot be read' in capsys.readouterr().err
  path.write_text('Be kind.')
  assert 'Be kind.' in client.get('/work').text


def test_the_longest_answer_fits_into_a_form(tmp_path):
  folder = labeling.make(tmp_path / 'p', tasks=('demonstrate',))
  site = web.Site(labeling.open_desk(folder))
  client = labeler(site)
  page = client.get('/work')
  form = labeling.fields_in(page.text) | {'action': 'next'}
  text = '\u0938' * 65_536  # three bytes each
  reply = client.post(page.url.path, data=form | {'text': text + 'x'})
  assert reply.status_code == 422
  assert client.post(page.url.path, data=form | {'text': text}).is_success
  (shown,) = exports.demonstrations(site.desk)
  assert shown.response == text


def test_the_owner_invites_pauses_exports_and_sees_disagreements(tmp_path):
  folder = labeling.make(tmp_path / 'p', share=1.0)
  site = web.Site(labeling.open_desk(folder))
  client = owner(site)
  token = labeling.token_in(client.get('/admin').text)
  form = {'token': token, 'action': 'invite', 'name': '<b>Ada', 'quota': '2'}
  page = client.post('/admin', data=form | {'group': 'train'}).text
  link = re.search(r'http://testserver(/join/[\w-]+)', page)[1]
  ada = labeling.client_of(site, link)
  ada.get('/work')
  (person,) = site.desk.people.values()
  order = person.items['p0'].order
  rank(ada, *(i + 1 for i in order))
  again = client.post('/admin', data=form | {'group': 'train'}).text
  assert 'already' in again and '&lt;b&gt;Ada' in again
  unknown = form | {'name': 'Cleo', 'group': 'other'}
  assert 'group must be' in client.post('/admin', data=unknown).text
  bob = labeler(site, 'Bob')
  bob.get('/work')
  order = [*site.desk.people.values()][-1].items['p0'].order
  rank(bob, *((1, 3, 2)[i] for i in order))
  shown = client.get('/admin/disagreements').text
  assert 'model0' in shown and 'Bob' in shown
  page = client.get('/admin').text
  assert 'pairs of 1 prompts' in page and '1 of 2' in page
  rows = client.get('/admin/export/labels.jsonl').text.splitlines()
  assert [json.loads(row)['labeler'] for row in rows] == ['<b>Ada', 'Bob']
  client.post('/admin', data={'token': token, 'action': 'pause'})
  assert site.desk.paused
  # A server that starts again has a new link for its owner.
  other = web.Site(labeling.open_desk(folder))
  old = labeling.client_of(other)
  old.cookies = client.cookies
  assert old.get('/admin').status_code == 404


def test_rating_and_demonstrating_page_by_page(tmp_path):
  tasks = ('demonstrate', 'rate')
  folder = labeling.make(tmp_path / 'p', labeling.rows(1, k=2), tasks=tasks)
  site = web.Site(labeling.open_desk(folder))
  client = labeler(site)
  page = client.get('/work')
  assert page.url.path == '/items/0/demonstrate' and 'Page 1 of 3' in page.text
  form = labeling.fields_in(page.text) | {'action': 'next'}
  page = client.post(page.url.path, data=form | {'text': 'Cats\r\n& dogs'})
  assert page.url.path == '/items/0/rate/0'
  rating = {'overall_quality': '6', 'include': '1', 'opinion': '1'}
  rating['harmful_advice'] = '1'
  assert client.post(page.url.path, data=form).status_code == 422
  page = client.post(page.url.path, data=form | rating)
  assert page.url.path == '/items/0/rate/1'
  back = client.post(page.url.path, data=form | {'action': 'back'})
  assert back.url.path == '/items/0/rate/0' and 'value="6" checked' in back.text
  page = client.post('/items/0/rate/1', data=form | rating)
  assert page.url.path == '/done' and 'Your work' in page.text
  (line,) = exports.lines(site.desk)['labels.jsonl']
  assert line['label']['text'] == 'Cats\n& dogs'
  assert [r['harmful_advice'] for r in line['label']['ratings']] == [1, 1]


def luminance(color):
  """Returns the relative luminance of '#rgb' or '#rrggbb' (WCAG 2.2)."""
  digits = color[1:] if len(color) == 7 else ''.join(c * 2 for c in color[1:])
  levels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
  linear = [
    c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in levels
  ]
  return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize('theme', [0, 1])  # light, dark
def test_colors_have_the_contrast_of_wcag_aa(theme):
  css = (web._HERE / 'static' / 'label.css').read_text()
  roots = re.findall(r':root \{(.*?)\}', css, re.DOTALL)
  colors = dict(re.findall(r'--([\w-]+): (#\w+)', roots[theme]))

  def contrast(one, other):
    pair = sorted(luminance(colors[name]) for name in (one, other))
    return (pair[1] + 0.05) / (pair[0] + 0.05)

  for text, back in (
    *(('ink', back) for back in ('paper', 'card', 'fill')),
    *(('soft', back) for back in ('paper', 'card', 'fill')),
    *(('accent', back) for back in ('card', 'tint', 'paper')),
    ('on-accent', 'accent'),
    ('warn', 'warn-tint'),
  ):
    assert contrast(text, back) >= 4.5, (text, back)
  assert contrast('edge', 'card') >= 3  # of buttons and fields
