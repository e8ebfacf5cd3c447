"""Runs the server of the labeling page."""

import uvicorn

from instructrl.feedback import web
from instructrl.feedback.desk import Desk

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
  """
  site = web.Site(desk, secure=bool(public))
  base = f'http://{host}:{port}'
  if public:
    print(_PROXY.format(host=public, address=host, port=port))
    base = f'https://{public}'
  print(f'{base}/owner/{site.owner_token}', flush=True)
  print('is your own link: invite labelers there. Ctrl-C ends the server.')
  app = web.make_app(site, hosts=(public or host,))
  # Without an access log: addresses of invitations are secret.
  uvicorn.run(
    app,
    host=host,
    port=port,
    log_level='warning',
    access_log=False,
    server_header=False,
  )
