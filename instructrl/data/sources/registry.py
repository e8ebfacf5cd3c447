"""Records from a spec: public data sets, and files of your own.

A spec is `NAME[/SUBSET][:PATH][?option=value&...]`:

  hh-rlhf/helpful-base            downloaded once, see `data_dir`
  hh-rlhf:FOLDER                  the source's own files, from your disk
  jsonl:rankings.jsonl.gz?tie_margin=0.5    your own, see `datasets/own.py`
  text:corpus.txt?documents=blank&limit=1000

`limit` (rows to read from the beginning) and `strict` (a malformed row is an
error, not counted) are options of every source; `names` lists the others.
"""

from collections.abc import Mapping
import dataclasses
import difflib
import os
import pathlib
from typing import Any

from instructrl.data.records import Record
from instructrl.data.sources import ai_feedback
from instructrl.data.sources import base
from instructrl.data.sources import hh_rlhf
from instructrl.data.sources import instructions
from instructrl.data.sources import oasst
from instructrl.data.sources import own_files
from instructrl.data.sources import public
from instructrl.data.sources import summarize
from instructrl.data.sources import text
from instructrl.data.sources import webgpt
from instructrl.data.sources.base import Option
from instructrl.data.sources.base import Source
from instructrl.data.sources.files import SourceError

SOURCES: dict[str, type[Source]] = {
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
  )
}
OPTIONS = {  # of every source
  'limit': Option(
    0, base.at_least(0, int), 'rows to read from the beginning; 0 is all'
  ),
  'strict': Option(
    None,
    base.yes_or_no,
    'whether a malformed row is an error, else it is dropped and counted',
  ),
}
ENVIRONMENT = 'INSTRUCTRL_DATA'
DEFAULT_FOLDER = '~/.cache/instructrl/data'


@dataclasses.dataclass(frozen=True)
class Spec:
  """A spec, understood."""

  text: str
  name: str
  subset: str  # '' where the source has none
  path: pathlib.Path | None  # None: downloaded
  options: dict[str, Any]  # the source's own that were given
  limit: int
  strict: bool | None  # None: as the source has it

  @property
  def label(self) -> str:
    """The data set's name: 'hh-rlhf/harmless-base', 'jsonl/mine'."""
    name = '/'.join(filter(None, (self.name, self.subset)))
    own = self.path is not None and self.name in ('jsonl', 'text')
    return f'{name}/{self.path.name.split(".")[0]}' if own else name

  def source(self) -> Source:
    return SOURCES[self.name](self.subset, self.options)


@dataclasses.dataclass
class Loaded:
  """What a spec gave: read = records + dropped."""

  spec: str
  kind: type  # a record type
  records: list[Record]  # valid, in the source's order
  read: int  # rows
  dropped: dict[str, int]  # reason -> rows
  first: dict[str, str]  # reason -> 'file:line: reason' of the first such row
  notes: list[str]  # e.g. fields that were not read


def load(
  spec: str,
  *,
  limit: int = 0,
  data_dir: str | os.PathLike | None = None,
  options: Mapping[str, Any] | None = None,
  strict: bool | None = None,
) -> Loaded:
  """Reads the records that a spec names.

  Args:
    spec: see the file's docstring.
    limit: rows to read from the beginning, in the source's stable order; 0 is
      all, or what the spec says.
    data_dir: where downloads and what was made of them lie; by default
      $INSTRUCTRL_DATA, or ~/.cache/instructrl/data.
    options: of the source, over those in the spec.
    strict: whether a malformed row is an error; by default as the spec says,
      or as the source has it (True for `jsonl`).

  Returns:
    The records and counts of what was dropped and why. Rankings have no tokens
    yet: their `response_tokens` are ().

  Raises:
    SourceError: the spec names nothing that is known; a file is missing,
      damaged or cannot be downloaded; a malformed row if `strict`.
  """
  known = parse(spec, options)
  limit = limit or known.limit
  strict = known.strict if strict is None else strict
  source = known.source()
  if known.path is not None:
    found = source.find(known.path)
    if not found:
      raise SourceError(
        f'{known.path}: no file there belongs to {known.name}'
        f'{"/" * bool(known.subset)}{known.subset}'
      )
    result = base.read(source, found, limit=limit, strict=strict)
  else:
    folder = data_folder(data_dir)
    if limit or strict:  # what is prepared is all rows, counted
      with public.downloads.lock(folder):
        found = public.local_files(source, folder)
      result = base.read(source, found, limit=limit, strict=strict)
    else:
      result = public.load(source, folder)
  return Loaded(
    spec=spec,
    kind=source.kind(),
    records=result.records,
    read=result.read,
    dropped=result.dropped,
    first=result.first,
    notes=result.notes,
  )


def data_folder(data_dir: str | os.PathLike | None = None) -> pathlib.Path:
  """Where public data is kept."""
  return pathlib.Path(
    data_dir or os.environ.get(ENVIRONMENT) or DEFAULT_FOLDER
  ).expanduser()


def parse(spec: str, options: Mapping[str, Any] | None = None) -> Spec:
  """Understands a spec, without touching any file.

  Raises:
    SourceError: says what is wrong and what there is instead.
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
  given = _options(query, spec) | {
    key: str(value) for key, value in (options or {}).items()
  }
  parsed = {key: _value(cls, key, value, spec) for key, value in given.items()}
  return Spec(
    text=spec,
    name=name,
    subset=subset,
    path=pathlib.Path(path).expanduser() if path else None,
    limit=parsed.pop('limit', 0),
    strict=parsed.pop('strict', None),
    options=parsed,
  )


def _find(full: str, spec: str) -> tuple[str, str]:
  """(name, subset) of the part of a spec before its colon."""
  if full in SOURCES:
    return full, ''
  name, _, subset = full.rpartition('/')
  if name in SOURCES:
    subsets = SOURCES[name].SUBSETS
    if subset in subsets:
      return name, subset
    if subsets or not _below(name):
      raise SourceError(
        f'{name} has no subset {subset!r}; '
        + (
          f'it has {", ".join(subsets)}{_near(subset, subsets)}'
          if subsets
          else 'it has none'
        )
      )
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
      raise SourceError(
        f'{spec!r}: the option {item!r} is not written as name=value'
      )
    if key in given:
      raise SourceError(f'{spec!r}: the option {key!r} is there twice')
    given[key] = value
  return given


def _value(cls: type[Source], key: str, value: str, spec: str) -> Any:
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
  """(spec, what it is) of every source, with subsets and options."""
  listed = []
  for name, cls in SOURCES.items():
    about = f'{cls.RECORD.__name__ if hasattr(cls, "RECORD") else "any"}: '
    about += cls.ABOUT
    if cls.SUBSETS:
      about += f'; subsets {", ".join(cls.SUBSETS)}'
    for key, option in cls.OPTIONS.items():
      about += f'; ?{key}={option.default}: {option.about}'
    listed.append((name if cls.PUBLIC else f'{name}:PATH', about))
  return listed
