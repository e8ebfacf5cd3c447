"""Loads records from a spec: public data sets, and your own files.

A spec is `NAME[/SUBSET][:PATH][?option=value&...]`:

  hh-rlhf/helpful-base            downloaded once, see `load`
  hh-rlhf:FOLDER                  the source's own files, from your disk
  jsonl:rankings.jsonl.gz?tie_margin=0.5    your own files, see `own_files`
  text:corpus.txt?documents=blank&limit=1000

All sources have the options `limit` (rows to read from the beginning) and
`strict` (a malformed row is an error); `names` lists the other options.
"""

from collections.abc import Callable, Sequence
import dataclasses
import difflib
import functools
import os
import pathlib
from typing import Any

from instructrl.data.records import Record
from instructrl.data.sources import ai_feedback
from instructrl.data.sources import arena
from instructrl.data.sources import base
from instructrl.data.sources import film_reviews
from instructrl.data.sources import hh_rlhf
from instructrl.data.sources import instructions
from instructrl.data.sources import label_tools
from instructrl.data.sources import oasst
from instructrl.data.sources import own_files
from instructrl.data.sources import row_files
from instructrl.data.sources import summarize
from instructrl.data.sources import text
from instructrl.data.sources import webgpt
from instructrl.data.sources.row_files import SourceError
from instructrl.runtime import typed

SOURCES: dict[str, type[base.Source]] = {
  cls.NAME: cls
  for cls in (
    own_files.Own,
    text.Text,
    text.C4,
    hh_rlhf.HhRlhf,
    summarize.Comparisons,
    summarize.Posts,
    webgpt.WebGpt,
    oasst.Oasst1,
    oasst.Oasst2,
    oasst.Oasst1Demonstrations,
    oasst.Oasst2Demonstrations,
    ai_feedback.UltraFeedback,
    ai_feedback.Nectar,
    instructions.Alpaca,
    instructions.Dolly,
    instructions.SelfInstruct,
    film_reviews.FilmReviews,
    arena.Arena,
    label_tools.Argilla,
    label_tools.LabelStudio,
    label_tools.Potato,
  )
}
OPTIONS = {  # of every source
  'limit': base.Option(
    0, base.at_least(0, int), 'rows to read from the beginning; 0 is all'
  ),
  'strict': base.Option(
    None,
    base.yes_or_no,
    'whether a malformed row is an error, else it is dropped and counted',
  ),
}
ENVIRONMENT = 'INSTRUCTRL_DATA'
DEFAULT_FOLDER = '~/.cache/instructrl/data'


@dataclasses.dataclass(frozen=True)
class SourceSpec:
  """A parsed spec."""

  name: str
  subset: str  # '' if the source has no subsets
  path: pathlib.Path | None  # None: download
  options: dict[str, Any]  # the source's own options that were given
  limit: int
  strict: bool | None  # None: the source's default

  @property
  def label(self) -> str:
    """Name of the data set: 'hh-rlhf/harmless-base', 'jsonl/mine'."""
    name = '/'.join(filter(None, (self.name, self.subset)))
    own = self.path is not None and self.name in ('jsonl', 'text')
    return f'{name}/{self.path.name.split(".")[0]}' if own else name

  def source(self) -> base.Source:
    return SOURCES[self.name](self.subset, self.options)

  def files(self) -> list[row_files.File]:
    """Returns the source's files at `path`; raises a SourceError if none is."""
    found = self.source().find(self.path) if self.path else []
    if not found:
      subset = f'/{self.subset}' if self.subset else ''
      raise SourceError(
        f'{self.path}: no file there belongs to {self.name}{subset}'
      )
    return found


@dataclasses.dataclass
class Loaded(base.Read):
  """The records of a spec, and counts: read = records + dropped."""

  spec: str = ''
  kind: type[Record] | None = None
  part: str = ''  # the part of the data stage that the spec is given for


def load(
  spec: str,
  *,
  limit: int = 0,
  data_dir: str | os.PathLike | None = None,
  folder: str | os.PathLike | None = None,
) -> Loaded:
  """Reads the records that a spec names.

  Args:
    spec: see the module's docstring.
    limit: rows to read from the beginning, in the source's stable order; 0 uses
      the spec's limit, or reads all.
    data_dir: folder of downloads and prepared data; by default
      $INSTRUCTRL_DATA, or ~/.cache/instructrl/data.
    folder: where the records are stored while they are used; by default that of
      temporary files.

  Returns:
    The records, and counts of the dropped rows by reason. Rankings have no
    tokens yet: their `response_tokens` are ().

  Raises:
    SourceError: the spec is wrong; a file is missing, damaged or cannot be
      downloaded; a row is malformed and the spec is strict.
  """
  known = parse(spec)
  limit = limit or known.limit
  source = known.source()
  how = dict(limit=limit, strict=known.strict, folder=folder)
  if known.path is not None:
    result = base.read(source, known.files(), **how)
  else:
    from instructrl.data.sources import public  # imports TFDS, which is slow

    public_data = data_folder(data_dir)
    if limit or known.strict:  # prepared data are all rows, with counts
      with public.downloads.lock(public_data):
        found = public.local_files(source, public_data)
      result = base.read(source, found, **how)
    else:
      result = public.load(source, public_data, folder)
  return Loaded(spec=spec, kind=source.kind(), **vars(result))


def shards(spec: str) -> dict[str, list[Callable[[], Sequence[Record]]]]:
  """Divides a source into its files, for `store.Shards`.

  Args:
    spec: of a source with a path.

  Returns:
    Split of the files -> functions that read the records of a file each.
    Duplicates in two files are not noticed.
  """
  known = parse(spec)
  found = {}
  for file in known.files():
    make = functools.partial(_records, known.source(), file, known.strict)
    found.setdefault(file.split, []).append(make)
  return found


def _records(source, file, strict) -> Sequence[Record]:
  return base.read(source, [file], strict=strict).records


def data_folder(data_dir: str | os.PathLike | None = None) -> pathlib.Path:
  """Returns the folder of public data."""
  return typed.path(data_dir or os.environ.get(ENVIRONMENT) or DEFAULT_FOLDER)


def parse(spec: str) -> SourceSpec:
  """Parses a spec; reads no file.

  Raises:
    SourceError: the spec is wrong; lists the valid choices.
  """
  rest, mark, query = spec.rpartition('?')
  if not mark:
    rest, query = spec, ''
  full, mark, path = rest.partition(':')
  if mark and not path:
    raise SourceError(f'{spec!r} has no path after the colon')
  name, subset = _find(full, spec)
  cls = SOURCES[name]
  if not cls.PUBLIC and not path:
    raise SourceError(f'{spec!r} needs a path: {name}:FILE or {name}:FOLDER')
  parsed = {
    key: _value(cls, key, value, spec)
    for key, value in _options(query, spec).items()
  }
  return SourceSpec(
    name=name,
    subset=subset,
    path=typed.path(path) if path else None,
    limit=parsed.pop('limit', 0),
    strict=parsed.pop('strict', None),
    options=parsed,
  )


def _find(full: str, spec: str) -> tuple[str, str]:
  """Returns (name, subset) from the part of a spec before its colon."""
  if full in SOURCES:
    return full, ''
  name, _, subset = full.rpartition('/')
  if name in SOURCES:
    subsets = SOURCES[name].SUBSETS
    if subset in subsets:
      return name, subset
    if subsets or not _below(name):
      near = f'{", ".join(subsets)}{_near(subset, subsets)}' or 'none'
      raise SourceError(f'{name} has no subset {subset!r}; it has {near}')
  if _below(full):
    raise SourceError(f'{full} is {" or ".join(_below(full))}: say which')
  raise SourceError(
    f'{spec!r} names no known source{_near(full, SOURCES)}. There are: '
    f'{", ".join(sorted(SOURCES))}. Your own files are jsonl:PATH or '
    'text:PATH'
  )


def _below(name: str) -> list[str]:
  return [other for other in SOURCES if other.startswith(name + '/')]


def _near(word: str, words) -> str:
  near = difflib.get_close_matches(word, list(words), 1, 0.5)
  return f' (did you mean {near[0]!r}?)' if near else ''


def _options(query: str, spec: str) -> dict[str, str]:
  given = {}
  for item in filter(None, query.split('&')):
    key, mark, value = item.partition('=')
    if not mark:
      raise SourceError(f'{spec!r}: the option {item!r} is not name=value')
    if key in given:
      raise SourceError(f'{spec!r} has the option {key!r} twice')
    given[key] = value
  return given


def _value(cls: type[base.Source], key: str, value: str, spec: str) -> Any:
  known = {**cls.OPTIONS, **OPTIONS}
  if key not in known:
    raise SourceError(
      f'{spec!r}: {cls.NAME} has no option {key!r}{_near(key, known)}; it '
      f'has {", ".join(known)}'
    )
  try:
    return known[key].parse(value)
  except ValueError as error:
    raise SourceError(
      f'{spec!r}: the option {key} is {value!r}, not {error}'
    ) from error


def names() -> list[tuple[str, str]]:
  """Returns (spec, description) of each source, with subsets and options."""
  listed = []
  for name, cls in SOURCES.items():
    kind = cls.RECORD.__name__ if hasattr(cls, 'RECORD') else 'any'
    about = f'{kind}: {cls.ABOUT}'
    if cls.SUBSETS:
      about += f'; subsets {", ".join(cls.SUBSETS)}'
    for key, option in cls.OPTIONS.items():
      about += f'; ?{key}={option.default}: {option.about}'
    listed.append((name if cls.PUBLIC else f'{name}:PATH', about))
  return listed
