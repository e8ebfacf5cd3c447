"""The database of a project: two tables to which rows are only appended.

`actions` has everything that people do, in order: invitations, opened prompts,
drafts, undone drafts, revocations. `labels` has what labelers submitted. No row
is ever changed or deleted, so that each label keeps its history, and the state
of the page is a function of the rows (`desk`). A row is on disk when `append`
returns: a killed server loses at most the action under way.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import json
import pathlib
from typing import Any

import sqlalchemy as sa

from instructrl.runtime.errors import ConfigError

DEFAULT_NAME = 'labels.sqlite'
_METADATA = sa.MetaData()
ACTIONS = sa.Table(
  'actions',
  _METADATA,
  sa.Column('id', sa.Integer, primary_key=True),
  sa.Column('time', sa.Float, nullable=False),  # seconds since 1970, UTC
  sa.Column('person', sa.Integer, nullable=False),  # 0: the owner
  sa.Column('kind', sa.String(16), nullable=False),
  sa.Column('item', sa.Text, nullable=False),  # id of a prompt, or ''
  sa.Column('body', sa.Text, nullable=False),  # JSON
  sqlite_autoincrement=True,
)
LABELS = sa.Table(
  'labels',
  _METADATA,
  sa.Column('id', sa.Integer, primary_key=True),
  sa.Column('action', sa.Integer, nullable=False),  # that submitted it
  sa.Column('time', sa.Float, nullable=False),
  sa.Column('person', sa.Integer, nullable=False),
  sa.Column('item', sa.Text, nullable=False),
  sa.Column('body', sa.Text, nullable=False),  # JSON
  sqlite_autoincrement=True,
)


@dataclasses.dataclass(frozen=True)
class Action:
  """A row of `actions`; of `kind` 'submit', the body is the label."""

  id: int
  time: float
  person: int
  kind: str
  item: str
  body: dict[str, Any]


class DatabaseError(OSError):
  """The database cannot be read or written now; nothing was appended."""


class EventLog:
  """Appends to the tables of a project and reads them.

  Its methods raise a `DatabaseError` if the database is locked, full or away.
  """

  def __init__(self, folder: pathlib.Path, url: str = ''):
    """Opens the database; makes the tables if they are missing.

    Args:
      folder: of the project.
      url: of SQLAlchemy, such as postgresql://USER@HOST/NAME; '' is SQLite in
        the folder.

    Raises:
      ConfigError: the database cannot be opened.
    """
    url = url or f'sqlite:///{folder / DEFAULT_NAME}'
    if url.startswith('postgresql://'):
      url = url.replace('postgresql://', 'postgresql+psycopg://', 1)
    # Without the name and the password.
    self._shown = url.rpartition('@')[2] if '@' in url else url
    try:
      self._engine = sa.create_engine(url, pool_pre_ping=True)
      if self._engine.dialect.name == 'sqlite':
        sa.event.listen(self._engine, 'connect', _set_up_sqlite)
      with self._writing() as connection:
        _METADATA.create_all(connection)
    except (sa.exc.SQLAlchemyError, ImportError) as error:
      reason = str(error).splitlines()[0]
      raise ConfigError(
        f'--database: {self._shown} cannot be opened: {reason}'
      ) from error

  @contextlib.contextmanager
  def _reported(self) -> Iterator[None]:
    try:
      yield
    except sa.exc.SQLAlchemyError as error:
      reason = str(error).splitlines()[0]
      raise DatabaseError(f'{self._shown}: {reason}') from error

  @contextlib.contextmanager
  def _writing(self) -> Iterator[sa.Connection]:
    """One writer at a time, so that rows are committed in the order of ids."""
    with self._engine.begin() as connection:
      if self._engine.dialect.name == 'sqlite':
        connection.exec_driver_sql('BEGIN IMMEDIATE')
      elif sa.inspect(connection).has_table(ACTIONS.name):
        connection.exec_driver_sql('LOCK TABLE actions IN EXCLUSIVE MODE')
      yield connection

  def append(
    self,
    time: float,
    person: int,
    kind: str,
    item: str = '',
    body: dict[str, Any] | None = None,
  ) -> Action:
    """Appends one action, and its label if the kind is 'submit'."""
    row = dict(time=time, person=person, item=item, body=_json(body or {}))
    with self._reported(), self._writing() as connection:
      made = connection.execute(ACTIONS.insert().values(kind=kind, **row))
      (number,) = made.inserted_primary_key
      if kind == 'submit':
        connection.execute(LABELS.insert().values(action=number, **row))
    return Action(number, time, person, kind, item, body or {})

  def after(self, number: int) -> list[Action]:
    """Returns the actions whose id is above a number, in order."""
    with self._reported(), self._engine.connect() as connection:
      rows = connection.execute(
        sa.select(ACTIONS).where(ACTIONS.c.id > number).order_by(ACTIONS.c.id)
      )
      return [Action(*row[:5], json.loads(row[5])) for row in rows]

  def close(self) -> None:
    self._engine.dispose()


def _set_up_sqlite(connection, _) -> None:
  # The driver opens no transactions of its own: `_writing` does.
  connection.isolation_level = None
  for pragma in ('journal_mode=WAL', 'synchronous=FULL', 'busy_timeout=10000'):
    connection.execute(f'PRAGMA {pragma}')


def _json(value: Any) -> str:
  return json.dumps(value, ensure_ascii=False, separators=(',', ':'))
