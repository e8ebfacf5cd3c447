"""Runs the server of the labeling page."""

import contextlib
import re
import socket

import uvicorn

from instructrl.feedback import web
from instructrl.feedback.desk import Desk
from instructrl.runtime.errors import ConfigError

_PROXY = """\
The page must be reached over TLS, or the labelers' cookies could be read on the
way. Run a proxy with a certificate in front of this server; with Caddy:

  {host} {{
    reverse_proxy {address}:{port}
  }}

Cookies are now sent over https://{host} only.
"""


def serve(desk: Desk, host: str, port: int, public: str | None) -> None:
  """Serves a project until it is stopped, and prints the owner's link.

  Args:
    desk: of the project.
    host: address to listen on; 127.0.0.1 is this machine alone.
    port: to listen on.
    public: name under which a proxy serves the page over TLS, or None.

  Raises:
    ConfigError: the address cannot be used, or `public` is not a name.
  """
  if public and not re.fullmatch(r'[\w-]+(\.[\w-]+)*', public):
    raise ConfigError(
      f'--public must be a name such as label.example.org; got {public!r}'
    )
  with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is the way to end it
    _serve(desk, host, port, public)


def _serve(desk: Desk, host: str, port: int, public: str | None) -> None:
  listening = _listen(host, port)
  site = web.Site(desk, secure=bool(public))
  base = f'http://{host}:{port}'
  if public:
    print(_PROXY.format(host=public, address=host, port=port))
    base = f'https://{public}'
  print(f'{base}/owner/{site.owner_token}', flush=True)
  print('is your own link: invite labelers there. Ctrl-C ends the server.')
  app = web.make_app(site, hosts=(public or host,))
  # Without an access log: addresses of invitations are secret.
  config = uvicorn.Config(
    app, log_level='warning', access_log=False, server_header=False
  )
  uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
  try:
    return socket.create_server((host, port))
  except (OSError, OverflowError) as error:
    raise ConfigError(
      f'the page cannot be served at {host}:{port}: {error}; set --host or '
      '--port'
    ) from error
