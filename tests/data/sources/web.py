"""A web server on this machine that gives files as the public hosts do."""

import base64
import contextlib
import hashlib
import http.server
import threading


class Web:
  """Files by path, and what to do wrong with them."""

  def __init__(self):
    self.files = {}  # path -> bytes
    self.etags = {}  # path -> ETag, where it is not that of the bytes
    self.cut = {}  # path -> bytes after which the connection is lost, a list
    self.headers = {}  # path -> more headers
    self.redirects = {}  # path -> (path, headers)
    self.asked = []  # (path, Range or None)
    self.gated = ''  # the token that redirects ask for, as a hub does
    self.resumed = 0  # times only a part was given


def sha256(data):
  return hashlib.sha256(data).hexdigest()


def md5(data):
  return base64.b64encode(hashlib.md5(data).digest()).decode()


@contextlib.contextmanager
def serve():
  """Yields a `Web` and its address."""
  web = Web()

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):  # pylint: disable=invalid-name
      self.do_GET()

    def do_GET(self):  # pylint: disable=invalid-name
      path, asked = self.path, self.headers.get('Range')
      token = self.headers.get('Authorization')
      if path in web.redirects and web.gated not in ('', token):
        self._head(401, {'Content-Length': '0', 'X-Error-Code': 'GatedRepo'})
        return
      web.asked.append((path, asked))
      if path in web.redirects:
        to, headers = web.redirects[path]
        self._head(302, {'Location': to, **headers})
        return
      if path not in web.files:
        self._head(404, {'Content-Length': '0'})
        return
      data = web.files[path]
      etag = web.etags.get(path, f'"{sha256(data)[:9]}"')
      headers = {'ETag': etag, **web.headers.get(path, {})}
      start, status = 0, 200
      if asked and self.headers.get('If-Range') == etag:
        start, status = int(asked[6:].rstrip('-')), 206
        web.resumed += 1
        headers['Content-Range'] = f'bytes {start}-{len(data) - 1}/{len(data)}'
      headers.setdefault('Content-Length', str(len(data) - start))
      self._head(status, headers)
      if self.command == 'HEAD':
        return
      cuts = web.cut.get(path) or [None]
      cut = cuts.pop(0)
      self.wfile.write(data[start:cut])

    def _head(self, status, headers):
      self.send_response(status)
      for name, value in headers.items():
        self.send_header(name, value)
      self.end_headers()

    def log_message(self, *args):
      del args

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  thread = threading.Thread(
    target=server.serve_forever, args=(0.01,), daemon=True
  )
  thread.start()
  try:
    yield web, f'http://127.0.0.1:{server.server_port}'
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
