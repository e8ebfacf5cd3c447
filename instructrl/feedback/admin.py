"""The owner's pages: progress, people, agreement, disagreements, export.

Only the link that the server prints at its start opens them.
"""

import hmac
import json

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.responses import Response

from instructrl.data.records import GROUPS
from instructrl.feedback import exports
from instructrl.feedback import scores
from instructrl.feedback.desk import Desk
from instructrl.feedback.desk import Person

SHOWN = 20  # disagreements on one page


def _require_owner(site, request: Request) -> None:
  session = site.sessions.read(request)
  started = session.owner if session else ''
  if not hmac.compare_digest(started.encode(), site.owner_start.encode()):
    raise HTTPException(
      404, 'There is no such page. (The owner opens the link of the server.)'
    )
  site.desk.refresh()


async def enter(site, request: Request) -> Response:
  """Starts the owner's session, by a button as for labelers."""
  link = request.path_params['link']
  if not hmac.compare_digest(link.encode(), site.owner_token.encode()):
    raise HTTPException(404, 'This link is not valid: the server prints it.')
  if request.method == 'GET':
    return site.page(request, 'join', invited='the owner of the project')
  await site.form(request)
  response = RedirectResponse('/admin', 303)
  site.sessions.start(response, 0, site.owner_start)
  return response


async def overview(site, request: Request) -> Response:
  _require_owner(site, request)
  return await _overview(site, request)


async def _overview(site, request: Request, **values) -> Response:
  desk: Desk = site.desk
  return site.page(
    request,
    'admin',
    desk=desk,
    people=[_shown(desk, person) for person in desk.people.values()],
    agreement={group: scores.agreement(desk, group) for group in GROUPS},
    needed=desk.needed(),
    groups=GROUPS,
    cut_offs=scores.CUT_OFFS,
    link=values.get('link', ''),
    message=values.get('message', ''),
  )


def _shown(desk: Desk, person: Person) -> dict:
  works = [work for work in person.items.values() if work.label]
  seconds = sorted(work.label['seconds'] for work in works)
  return {
    'person': person,
    'done': len(works),
    'skipped': sum(bool(work.skipped) for work in person.items.values()),
    'median': seconds[len(seconds) // 2] if seconds else None,
    'hours': sum(seconds) / 3600,
    'screened': scores.screen(desk, person) if desk.screening else None,
  }


async def change(site, request: Request) -> Response:
  """Invites, revokes, restores, pauses, resumes."""
  _require_owner(site, request)
  form = await site.form(request)
  desk: Desk = site.desk
  action = form.get('action')
  try:
    if action == 'invite':
      token = desk.invite(
        form.get('name', ''), form.get('group', ''), int(form['quota'] or -1)
      )
      link = f'{request.base_url}join/{token}'
      return await _overview(site, request, link=link)
    if action in ('pause', 'resume'):
      desk.set_paused(action == 'pause')
    elif action in ('revoke', 'restore') and int(form['of']) in desk.people:
      desk.set_revoked(int(form['of']), action == 'revoke')
    elif action == 'score' and 1 <= int(form['value']) <= 7:
      desk.score(int(form['of']), form['item'], int(form['value']))
      return RedirectResponse('/admin/demonstrations', 303)
  except (KeyError, ValueError) as error:
    return await _overview(site, request, message=str(error))
  return RedirectResponse('/admin', 303)


async def disagreements(site, request: Request) -> Response:
  """Shows the rankings of prompts on which labelers disagree, side by side."""
  _require_owner(site, request)
  desk: Desk = site.desk
  found = scores.disagreements(desk)
  shown = [
    dict(item=desk.items[key], same=same, labels=scores.labels_of(desk, key))
    for key, same in found[:SHOWN]
  ]
  return site.page(request, 'disagreements', shown=shown, total=len(found))


async def demonstrations(site, request: Request) -> Response:
  """Shows the demonstrations of the screening set, to be rated (B.1)."""
  _require_owner(site, request)
  desk: Desk = site.desk
  shown = [
    (person, key, desk.items[key], label['text'])
    for key in desk.screening
    for person, label in scores.labels_of(desk, key, field='text')
  ]
  return site.page(request, 'demonstrations', shown=shown, scores=desk.scores)


async def export(site, request: Request) -> Response:
  """Sends the labels as JSON lines; `label export` writes all files."""
  _require_owner(site, request)
  name = request.path_params['name']
  made = exports.lines(site.desk)
  if name not in made:
    raise HTTPException(404, f'There are: {", ".join(made)}.')
  text = ''.join(
    json.dumps(line, ensure_ascii=False) + '\n' for line in made[name]
  )
  headers = {'Content-Disposition': f'attachment; filename="{name}"'}
  return Response(text, media_type='application/x-ndjson', headers=headers)


ROUTES = (
  ('/owner/{link}', enter, ['GET', 'POST']),
  ('/admin', overview, ['GET']),
  ('/admin', change, ['POST']),
  ('/admin/disagreements', disagreements, ['GET']),
  ('/admin/demonstrations', demonstrations, ['GET']),
  ('/admin/export/{name}', export, ['GET']),
)
