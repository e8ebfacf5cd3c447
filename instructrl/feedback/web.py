"""The pages of labelers, as a Starlette application."""

from collections.abc import Callable
import pathlib
import secrets
import string
import sys
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.responses import JSONResponse
from starlette.responses import RedirectResponse
from starlette.responses import Response
from starlette.routing import Mount
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from instructrl.feedback import admin
from instructrl.feedback import events
from instructrl.feedback import questions
from instructrl.feedback import security
from instructrl.feedback.desk import Desk
from instructrl.feedback.desk import Person
from instructrl.runtime.errors import ConfigError

_HERE = pathlib.Path(__file__).resolve().parent
_MARKDOWN = MarkdownIt('js-default')  # HTML in the text is shown as text
LETTERS = string.ascii_uppercase
LOCAL = ('127.0.0.1', 'localhost', '[::1]', 'testserver')


class Site:
  """Shared by all pages: the desk, sessions, templates."""

  def __init__(self, desk: Desk, *, secure: bool = False):
    self.desk = desk
    self.sessions = security.Sessions(desk.project.secret(), secure=secure)
    # The owner's link is new at each start of the server, and kept nowhere.
    self.owner_token = secrets.token_urlsafe(24)
    self.owner_start = secrets.token_urlsafe(8)
    self._templates = jinja2.Environment(
      loader=jinja2.FileSystemLoader(_HERE / 'templates'),
      autoescape=True,
      undefined=jinja2.StrictUndefined,
      trim_blocks=True,
      lstrip_blocks=True,
    )

  def page(
    self, request: Request, name: str, status: int = 200, **values: Any
  ) -> Response:
    """Renders a template for the session of a request."""
    session = self.sessions.read(request)
    html = self._templates.get_template(f'{name}.html.j2').render(
      title=self.desk.settings.title,
      token=self.sessions.form_token(session),
      **{'person': None, 'message': '', **values},
    )
    return HTMLResponse(html, status)

  def person(self, request: Request) -> Person:
    """Returns the labeler who sends a request.

    Raises:
      HTTPException: 401 without an invitation, or after it was revoked.
    """
    self.desk.refresh()
    session = self.sessions.read(request)
    person = self.desk.people.get(session.person) if session else None
    if person is None or person.revoked:
      raise HTTPException(401, 'Open your personal invitation link first.')
    return person

  async def form(self, request: Request) -> dict[str, str]:
    """Reads a form, and checks that it comes from this session's page."""
    form = await security.read_form(request)
    self.sessions.check_form(self.sessions.read(request), form)
    return form

  def instructions(self) -> dict[str, str]:
    version, text = self.desk.show_instructions()
    return {'version': version, 'instructions': _MARKDOWN.render(text)}


def make_app(site: Site, *, hosts: tuple[str, ...] = ()) -> Starlette:
  """Returns the application; `hosts` are its names beside the local ones."""
  bound = lambda handler: _bind(site, handler)
  return Starlette(
    routes=[
      Route('/', bound(home)),
      Route('/join/{link}', bound(join), methods=['GET', 'POST']),
      Route('/work', bound(work)),
      Route('/done', bound(done)),
      Route('/about', bound(about), methods=['POST']),
      Route('/items/{place:int}/{step:path}', bound(show)),
      Route('/items/{place:int}/{step:path}', bound(act), methods=['POST']),
      Route('/save/{place:int}/{step:path}', bound(save), methods=['POST']),
      *(
        Route(path, bound(handler), methods=methods)
        for path, handler, methods in admin.ROUTES
      ),
      Mount('/static', StaticFiles(directory=_HERE / 'static')),
    ],
    middleware=[
      Middleware(security.Guard, sessions=site.sessions),
      Middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, *hosts]),
    ],
    exception_handlers={
      HTTPException: bound(_refused),
      ConfigError: bound(_failed),
      events.DatabaseError: bound(_failed),
    },
  )


def _bind(site: Site, handler: Callable) -> Callable:
  async def bound(request: Request, *error) -> Response:
    return await handler(site, request, *error)

  return bound


async def _refused(site: Site, request: Request, error: HTTPException):
  if request.url.path.startswith('/save/'):
    return JSONResponse({'error': error.detail}, error.status_code)
  return site.page(request, 'message', error.status_code, message=error.detail)


async def _failed(site: Site, request: Request, error: Exception):
  """Answers when the database or a file of the project failed."""
  print(f'error: {error}', file=sys.stderr, flush=True)
  detail = 'Not saved: the server has a problem. Try again in a moment.'
  return await _refused(site, request, HTTPException(503, detail))


async def home(site: Site, request: Request) -> Response:
  site.person(request)
  return RedirectResponse('/work', 303)


async def join(site: Site, request: Request) -> Response:
  """Shows who is invited; the button starts the session.

  Programs that preview links send GET requests only, and start nothing.
  """
  link = request.path_params['link']
  site.desk.refresh()
  person = site.desk.person_of(link)
  if person is None:
    raise HTTPException(404, 'This invitation is not valid. Ask for a new one.')
  if request.method == 'GET':
    return site.page(request, 'join', invited=person.name)
  await site.form(request)
  response = RedirectResponse('/work', 303)
  site.sessions.start(response, person.id)
  return response


async def work(site: Site, request: Request) -> Response:
  """Goes to the page that is to be done next."""
  person = site.person(request)
  key = site.desk.next_item(person)
  if key is None:
    return RedirectResponse('/done', 303)
  steps = site.desk.steps(site.desk.items[key])
  drafts = person.items[key]
  step = next(
    (s for s in steps if questions.missing(s, drafts.draft(s))), steps[-1]
  )
  return RedirectResponse(f'/items/{site.desk.places[key]}/{step}', 303)


async def done(site: Site, request: Request) -> Response:
  """Lists what the labeler labeled; a label may be submitted again."""
  person = site.person(request)
  desk = site.desk
  mine = [
    dict(
      place=desk.places[key],
      step=desk.steps(desk.items[key])[-1],
      text=desk.items[key].prompt.text,
      state='submitted' if work.label else f'skipped: {work.skipped}',
      seconds=work.seconds,
    )
    for key, work in person.items.items()
    if work.finished
  ]
  return site.page(
    request,
    'done',
    person=person,
    done=desk.done(person),
    left=desk.left(person),
    mine=mine[::-1],
    paused=desk.paused,
  )


async def about(site: Site, request: Request) -> Response:
  person = site.person(request)
  form = await site.form(request)
  site.desk.describe(person, form.get('about', '')[: questions.MAX_NOTES])
  return RedirectResponse('/done', 303)


def _opened(site: Site, request: Request) -> tuple[Person, str, str]:
  """Returns (labeler, prompt, step) of a page that was given to the labeler."""
  person = site.person(request)
  place, step = request.path_params['place'], request.path_params['step']
  keys = site.desk.keys
  key = keys[place] if 0 <= place < len(keys) else ''
  if key not in person.items or step not in site.desk.steps(
    site.desk.items[key]
  ):
    raise HTTPException(404, 'This page was not given to you.')
  return person, key, step


async def show(site: Site, request: Request, message: str = '') -> Response:
  """Shows one page of a prompt."""
  person, key, step = _opened(site, request)
  desk = site.desk
  item, work = desk.items[key], person.items[key]
  steps = desk.steps(item)
  task, _, place = step.partition('/')
  texts = [item.responses[i].text for i in work.order]
  return site.page(
    request,
    'item',
    422 if message else 200,
    person=person,
    message=message,
    item=item,
    work=work,
    task=task,
    place=int(place or 0),
    step=step,
    steps=steps,
    url=f'/items/{desk.places[key]}/',
    number=steps.index(step) + 1,
    answers=list(zip(LETTERS, texts)),
    ranks=_ranks(work, work.draft('rank') if task == 'rank' else None),
    values=work.draft(step) or {},
    can_undo=bool(work.drafts.get(step)),
    done=desk.done(person),
    left=desk.left(person),
    questions=questions,
    **site.instructions(),
  )


def _ranks(work, values) -> list[int | None]:
  ranks = (values or {}).get('ranks')
  return [ranks[i] if ranks else None for i in work.order]


def _keep(site: Site, person: Person, key: str, step: str, form) -> None:
  order = person.items[key].order
  try:
    values = questions.read(form, step, order)
  except questions.Refused as error:
    raise HTTPException(422, str(error)) from error
  site.desk.save(person, key, step, values, questions.read_marks(form))


async def save(site: Site, request: Request) -> Response:
  """Autosave: keeps the draft of a page, for the script."""
  person, key, step = _opened(site, request)
  _keep(site, person, key, step, await site.form(request))
  return JSONResponse({'saved': True})


async def act(site: Site, request: Request) -> Response:
  """Keeps the page, then does what its button says."""
  person, key, step = _opened(site, request)
  form = await site.form(request)
  desk, action = site.desk, form.get('action', 'next')
  steps = desk.steps(desk.items[key])
  url = f'/items/{desk.places[key]}/'
  if action == 'undo':
    desk.undo(person, key, step)
    return RedirectResponse(url + step, 303)
  _keep(site, person, key, step, form)
  try:
    if action == 'skip':
      note = form.get('skip_note', '')[: questions.MAX_NOTES]
      desk.skip(person, key, form.get('reason', ''), note)
      return RedirectResponse('/work', 303)
    if action == 'back':
      return RedirectResponse(url + steps[max(0, steps.index(step) - 1)], 303)
    reason = questions.missing(step, person.items[key].draft(step))
    if reason:
      raise questions.Refused(reason)
    if step != steps[-1]:
      return RedirectResponse(url + steps[steps.index(step) + 1], 303)
    desk.submit(person, key, form.get('version', ''))
  except questions.Refused as error:
    return await show(site, request, str(error))
  return RedirectResponse('/work', 303)
