"""Protection of the page: sessions, request forgery, limits, headers.

A session is a signed cookie (HttpOnly, SameSite=Lax) with the labeler's id and
a random number. Forms carry a second signature of that number, which another
site cannot read. All text is escaped by the templates; the content security
policy allows the page's own script and style only, so that an answer with
`<script>` in it is text even if an escape were missing.
"""

import collections
from collections.abc import Callable
import dataclasses
import hmac
import secrets
import time
from urllib.parse import parse_qsl

import itsdangerous
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.responses import Response

COOKIE = 'instructrl_label'
SESSION_SECONDS = 30 * 24 * 3600
# Bytes: an answer of 65,536 characters, at 9 bytes each (3 bytes of UTF-8,
# percent-encoded), and the other fields.
MAX_BODY = 640 * 1024
MAX_FIELDS = 256
RATE, BURST = 20.0, 200.0  # requests per second of one client, and at once
HEADERS = {
  'Content-Security-Policy': (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
  ),
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
  'Referrer-Policy': 'same-origin',
  'Permissions-Policy': 'camera=(), microphone=(), geolocation=()',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cache-Control': 'no-store',
}


@dataclasses.dataclass(frozen=True)
class Session:
  """Who sends a request: a labeler's id, or `owner`."""

  person: int
  owner: str  # the number of the server's start that made the owner's link
  nonce: str


class Sessions:
  """Makes and reads the cookies and the forms' tokens."""

  def __init__(self, secret: str, *, secure: bool):
    self._cookies = itsdangerous.URLSafeTimedSerializer(secret, salt='session')
    self._forms = itsdangerous.URLSafeSerializer(secret, salt='form')
    self._secure = secure  # the cookie is sent over TLS only

  def start(self, response: Response, person: int, owner: str = '') -> None:
    session = Session(person, owner, secrets.token_urlsafe(12))
    response.set_cookie(
      COOKIE,
      str(self._cookies.dumps(dataclasses.astuple(session))),
      max_age=SESSION_SECONDS,
      httponly=True,
      samesite='lax',
      secure=self._secure,
    )

  def read(self, request: Request) -> Session | None:
    """Returns the session of a request; None without a valid cookie."""
    try:
      found = self._cookies.loads(
        request.cookies.get(COOKIE, ''), max_age=SESSION_SECONDS
      )
    except itsdangerous.BadData:
      return None
    return Session(*found)

  def form_token(self, session: Session | None) -> str:
    return str(self._forms.dumps(session.nonce if session else 'join'))

  def check_form(self, session: Session | None, form: dict[str, str]) -> None:
    """Raises 403 unless the form comes from a page of this session."""
    wanted = self.form_token(session)
    if not hmac.compare_digest(form.get('token', '').encode(), wanted.encode()):
      raise HTTPException(403, 'This page is out of date: load it again.')


async def read_form(request: Request) -> dict[str, str]:
  """Reads an urlencoded form.

  Raises:
    HTTPException: 413 if it is too large, 400 if it is malformed or from
      another site.
  """
  if request.headers.get('sec-fetch-site', 'none') not in (
    'same-origin',
    'none',
  ):
    raise HTTPException(403, 'A form of another site is refused.')
  body = b''
  async for chunk in request.stream():
    body += chunk
    if len(body) > MAX_BODY:
      raise HTTPException(413, 'The text is too long to be saved.')
  try:
    return dict(
      parse_qsl(
        body.decode('utf-8'),
        keep_blank_values=True,
        strict_parsing=bool(body),
        errors='strict',
        max_num_fields=MAX_FIELDS,
      )
    )
  except ValueError as error:
    raise HTTPException(400, 'The form cannot be read.') from error


class Guard:
  """Middleware: adds the headers, and limits the rate of each client."""

  def __init__(
    self, app, sessions: Sessions, clock: Callable[[], float] = time.monotonic
  ):
    self._app, self._sessions, self._clock = app, sessions, clock
    # Client -> (tokens left, time). The oldest clients are forgotten.
    self._buckets: collections.OrderedDict[str, tuple[float, float]] = (
      collections.OrderedDict()
    )

  async def __call__(self, scope, receive, send):
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return

    static = scope['path'].startswith('/static/')  # parts of each page

    async def send_guarded(message):
      if message['type'] == 'http.response.start':
        headers = MutableHeaders(scope=message)
        if static:
          headers['Cache-Control'] = 'no-cache'  # asks whether it changed
        for name, value in HEADERS.items():
          headers.setdefault(name, value)
      await send(message)

    if static or self._admits(scope):
      await self._app(scope, receive, send_guarded)
    else:
      slow = PlainTextResponse('Too many requests: wait a moment.', 429)
      slow.headers['Retry-After'] = '1'
      await slow(scope, receive, send_guarded)

  def _admits(self, scope) -> bool:
    request = Request(scope)
    # Labelers may share an address; without a session the address counts.
    session = self._sessions.read(request)
    address = request.client.host if request.client else ''
    key = session.nonce if session else address
    now = self._clock()
    left, before = self._buckets.pop(key, (BURST, now))
    left = min(BURST, left + (now - before) * RATE)
    self._buckets[key] = max(0.0, left - 1), now
    if len(self._buckets) > 10_000:
      self._buckets.popitem(last=False)
    return left >= 1
