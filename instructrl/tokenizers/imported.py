"""Hugging Face tokenizers, by the protocol of `tokenizer`.

Runs a `tokenizer.json` with the `tokenizers` library. All that a run needs of
it, with its special ids and the prompt layout, is one JSON file
(`tokenizer.hf.json`), so that every stage lays out text in the same way.

Text of users never gives a special token. The library can be told not to match
them (`encode_special_tokens`); those of a layout are written as aliases then,
tokens of non-characters that stand for them, and what comes out is checked:
where a special came out of the text nevertheless (its string is an ordinary
piece of a vocabulary as well), the text is encoded in parts, cut inside that
string. So ids equal those of transformers for all text without specials, also
where a merge spans the border of the layout and the text.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import itertools
import json
import pathlib
import re
from typing import Any

import tokenizers

from instructrl.runtime import files
from instructrl.tokenizers import gguf_files
from instructrl.tokenizers import hf_files
from instructrl.tokenizers import hf_json
from instructrl.tokenizers import layout as layout_lib

FORMAT = 'instructrl tokenizer'
FORMAT_VERSION = 1
_FIELDS = (
  'tokenizer',
  'vocab_size',
  'bos_id',
  'eos_id',
  'pad_id',
  'unk_id',
  'protected',
  'added_pad',
  'pad_note',
  'chat_template',
  'layout',
  'config',
)
# Aliases are made of code points that are no characters. The one without a
# number stands between two parts of one text.
_OPEN, _CLOSE = '\ufdd0', '\ufdd1'
_CUT = _OPEN + _CLOSE
# Some tokenizers put a space before every part. It goes before one of these
# texts then, and is dropped with it.
_CONTEXTS = ('', '\n', '.', 'x')


class HFTokenizer:
  """Encodes text and decodes ids. Immutable and picklable.

  Attributes:
    vocab_size: number of token ids; a model may have more rows.
    bos_id: what begins a text, or None where the model knows of nothing such.
    eos_id: what ends a response.
    document_eos_id: what ends a document.
    pad_id: fills up; never one of the above.
    added_pad: whether `pad_id` is a new id, for which a model needs a row.
    pad_note: one line, what PAD is and why.
    layout: of prompts and responses.
    chat_template: the model's own, or None.
  """

  FILE = 'tokenizer.hf.json'

  def __init__(self, content: bytes):
    """Wraps the contents of a file written by `save`.

    Raises:
      ValueError: they are damaged or of another version.
    """
    self._content = bytes(content)
    self._found = found = _parse(self._content)
    added = [
      {
        **token,
        'special': token['special'] or token['content'] in found['protected'],
      }
      for token in found['tokenizer']['added_tokens']
    ]
    self._tok = tok = hf_json.build(
      {**found['tokenizer'], 'added_tokens': added}
    )
    self.vocab_size = found['vocab_size']
    self.bos_id, self.pad_id = found['bos_id'], found['pad_id']
    self.document_eos_id, self.unk_id = found['eos_id'], found['unk_id']
    self.added_pad, self.pad_note = found['added_pad'], found['pad_note']
    self.chat_template = found['chat_template']
    self.layout = layout_lib.Layout.from_dict(found['layout'])
    self.eos_id = (
      tok.token_to_id(self.layout.end)
      if self.layout.end
      else self.document_eos_id
    )
    ends = (self.bos_id, self.eos_id, self.document_eos_id)
    if self.eos_id is None or self.pad_id in ends:
      raise ValueError(
        f'PAD {self.pad_id} or the end of a response '
        f'{self.layout.end!r} is not a token of its own'
      )
    self._protected = {  # id -> text
      token['id']: token['content'] for token in added if token['special']
    }
    self._silent = {  # what `decode` drops
      *ends,
      self.pad_id,
      *(
        token['id']
        for token in found['tokenizer']['added_tokens']
        if token['special']
      ),
    }
    tok.encode_special_tokens = True
    self._special_text = layout_lib.first_special([*self._protected.values()])
    self._alias_of = {
      text: f'{_OPEN}{i}{_CLOSE}' for i, text in self._protected.items()
    }
    self._aliases = self._add_aliases(added)
    # What stands for text that the vocabulary cannot write, if it is nothing
    # else as well.
    self._unknown_id = (
      None if self.unk_id in (*ends, self.pad_id) else self.unk_id
    )
    self._cut_id = tok.token_to_id(_CUT)
    self._contexts = self._find_contexts()

  def __reduce__(self):
    return HFTokenizer, (self._content,)

  def _add_aliases(self, added) -> dict[int, int]:
    """Adds an alias for each special; returns {id of an alias: the special}."""
    tokens = [
      tokenizers.AddedToken(
        self._alias_of[token['content']],
        normalized=False,
        lstrip=token['lstrip'],
        rstrip=token['rstrip'],
      )
      for token in added
      if token['special']
    ]
    self._tok.add_tokens(
      [*tokens, tokenizers.AddedToken(_CUT, normalized=False)]
    )
    return {
      self._tok.token_to_id(self._alias_of[text]): i
      for i, text in self._protected.items()
    }

  def _find_contexts(self) -> list[tuple[str, list[int]]]:
    """(text, the ids of a cut and this text): what follows is as inside text.

    Raises:
      ValueError: there is no such text.
    """
    found = []
    for context in _CONTEXTS:
      ids = self._raw(_CUT + context)
      longer = self._raw(_CUT + context + 'a')
      rest = longer[len(ids) :]
      if (
        longer[: len(ids)] == ids
        and rest
        and not self.piece(rest[0]).startswith(
          (hf_json.SPACE, hf_json.BYTE_SPACE, ' ')
        )
      ):
        found.append((context, ids))
    if not found:
      raise ValueError(
        'this tokenizer cannot continue a text: it puts '
        'something between any two parts'
      )
    return found

  @classmethod
  def load(cls, path) -> 'HFTokenizer':
    """Reads a file written by `save`."""
    path = pathlib.Path(path)
    try:
      return cls(path.read_bytes())
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from error

  @classmethod
  def from_source(
    cls,
    source: 'hf_files.Source',
    *,
    vocab_rows: int = 0,
    prompt_template: str = '',
    response_template: str = '',
    system: str = '',
  ) -> 'HFTokenizer':
    """Makes the tokenizer of a run from what another program wrote.

    Args:
      source: see `tokenizer_source.read_folder`, `tokenizer_gguf.read`.
      vocab_rows: rows of the model's embedding, for PAD; 0 as the source says.
      prompt_template: see `with_layout`. By default 'chat' if the source has
        a chat template, else 'Human: {prompt}' and 'Assistant:'.
      response_template: see `with_layout`.
      system: see `with_layout`.

    Raises:
      ValueError: a token has no row, or the layout does not fit the source.
    """
    chosen = prompt_template or (
      layout_lib.CHAT if source.chat_template else layout_lib.PROMPT_TEMPLATE
    )
    source = hf_files.within(source, vocab_rows or source.rows)
    ids = source.ids()
    specials = {*source.roles.values(), *source.specials()}
    spoken = source.in_template() - specials
    layout = layout_lib.make_layout(
      chosen,
      response_template,
      system,
      source.chat_template,
      source.roles,
      specials | spoken,
    )
    eos = source.roles['eos_token']
    pad = hf_files.choose_pad(source, vocab_rows, ends={layout.end or eos, eos})
    tokenizer = hf_files.with_tokens(
      source, {*specials, *filter(None, [layout.end])}, pad
    )
    found = {
      'tokenizer': tokenizer,
      'vocab_size': 1 + max([*ids.values(), pad.id]),
      'bos_id': ids.get(source.begin),
      'eos_id': ids[eos],
      'pad_id': pad.id,
      'unk_id': ids.get(source.roles.get('unk_token')),
      # Not special, and so decoded, but not what a user can type.
      'protected': sorted(spoken - {layout.end}),
      'added_pad': pad.added,
      'pad_note': pad.note,
      'chat_template': source.chat_template,
      'layout': dataclasses.asdict(layout),
      'config': {**source.config, **source.roles, 'pad_token': pad.token},
    }
    return cls(_serialise(found))

  @classmethod
  def from_folder(cls, path, **options) -> 'HFTokenizer':
    """Reads a folder of Hugging Face files; options as for `from_source`."""
    try:
      return cls.from_source(hf_files.read_folder(path), **options)
    except ValueError as error:
      if str(path) in str(error):
        raise
      raise ValueError(f'{path}: {error}') from error

  @classmethod
  def from_gguf(cls, path, **options) -> 'HFTokenizer':
    """Reads the metadata of a GGUF file; options as for `from_source`."""
    return cls.from_source(gguf_files.read(path), **options)

  def with_layout(
    self,
    *,
    prompt_template: str = layout_lib.CHAT,
    response_template: str = '',
    system: str = '',
  ) -> 'HFTokenizer':
    """The same tokens with another layout.

    Args:
      prompt_template: text with `{prompt}` once, or 'chat' for the chat
        template of the model.
      response_template: text with `{response}` once, by default a space and
        the response; not for 'chat'.
      system: a system message; only for 'chat'.

    Raises:
      ValueError: the templates are not of this kind, there is no chat
        template, it cannot be split around texts, or PAD ends a response.
    """
    config = self._found['config']
    layout = layout_lib.make_layout(
      prompt_template,
      response_template,
      system,
      self.chat_template,
      {name: config[name] for name in hf_files.ROLES if name in config},
      self._protected.values(),
    )
    return HFTokenizer(
      _serialise({**self._found, 'layout': dataclasses.asdict(layout)})
    )

  def save(self, path) -> None:
    """Writes the file, whole or not at all."""
    files.atomic_write(path, self._content)

  @property
  def fingerprint(self) -> str:
    """SHA-256 of the file, in hex: equal means the same tokenizer and layout."""
    return hashlib.sha256(self._content).hexdigest()

  def piece(self, token_id: int) -> str:
    """The piece as the vocabulary writes it, for tables and debugging."""
    return self._tok.id_to_token(token_id) or f'<{token_id}>'

  def encode(self, text: str) -> list[int]:
    """Ids of plain text; never a special id, whatever was typed.

    Raises:
      ValueError: the text holds a lone surrogate, which UTF-8 cannot write.
    """
    return self._encode([(text, False)])

  def continuation(self, text: str) -> list[int]:
    """Ids of text that goes on inside another one."""
    return self._encode([(text, False)], inside=True)

  def document(self, text: str) -> list[int]:
    """BOS, where there is one, the text, EOS of documents."""
    return [*self.plain(text), self.document_eos_id]

  def plain(self, text: str) -> list[int]:
    """BOS, where there is one, and text for a base model to go on with."""
    return [*self._begin(), *self.encode(text)]

  def prompt(self, text: str, turns: Sequence[str] = ()) -> list[int]:
    """What a user asks, laid out up to where the response begins.

    Args:
      text: of a dialogue, all of it.
      turns: of a dialogue, which a chat template lays out one by one.
    """
    ids = self._encode(self.layout.prompt(text, turns))
    return [*self._begin(), *ids] if self.layout.bos else ids

  def response(self, text: str) -> list[int]:
    """What answers `prompt`, its end included."""
    lay = self.layout
    texts = [
      (lay.response_before, True),
      (layout_lib.strip(text, lay.strip_response), False),
      (lay.response_after, True),
    ]
    if not any(text for text, _ in texts):
      return [self.eos_id]
    opening = self._special_text.findall(lay.before + lay.after)[-1:]
    if opening and (lay.before + lay.after).endswith(opening[0]):
      # What follows a special is a text of its own to some tokenizers.
      ids = self._encode([(opening[0], True), *texts])[1:]
    else:
      ids = self._encode(texts, inside=True)
    return [*ids, self.eos_id]

  def _begin(self) -> list[int]:
    return [] if self.bos_id is None else [self.bos_id]

  def _encode(
    self, texts: Sequence[tuple[str, bool]], inside: bool = False
  ) -> list[int]:
    """Ids of (text, whether special tokens in it are meant), as one text.

    Args:
      texts: one after another.
      inside: whether another text comes before.
    """
    for text, _ in texts:
      try:
        text.encode()
      except UnicodeEncodeError as error:
        raise ValueError(f'text cannot be written as UTF-8: {error}') from error
    if not any(text for text, _ in texts):
      return []
    for cuts in ('none', 'specials', 'all'):
      for context, dropped in self._contexts:
        cut = _CUT + context
        text = (cut if inside else '') + ''.join(
          self._aliased(part) if meant else self._cut(part, cuts, cut)
          for part, meant in texts
        )
        ids = self._restore(self._raw(text), dropped, cuts != 'none')
        if ids is not None:
          return ids
    raise ValueError(f'text cannot be encoded without special tokens: {texts}')

  def _aliased(self, text: str) -> str:
    return self._special_text.sub(lambda found: self._alias_of[found[0]], text)

  def _cut(self, text: str, cuts: str, cut: str) -> str:
    """Text of a user, cut so that no alias, and maybe no special, is left."""
    if cuts == 'all':
      return cut + cut.join(text) + cut
    places = {found.end() for found in re.finditer(_OPEN, text)}
    if cuts == 'specials':
      places |= {
        found.start() + 1 for found in self._special_text.finditer(text)
      }
    if not places:
      return text
    edges = [0, *sorted(places), len(text)]
    return cut.join(text[i:j] for i, j in itertools.pairwise(edges))

  def _raw(self, text: str) -> list[int]:
    return self._tok.encode(text, add_special_tokens=False).ids

  def _restore(
    self, ids: Sequence[int], dropped: Sequence[int], may_be_unknown: bool
  ) -> list[int] | None:
    """Ids without aliases and cuts; None where a special came out of text."""
    out, i = [], 0
    while i < len(ids):
      if ids[i] == self._cut_id:
        if list(ids[i : i + len(dropped)]) != list(dropped):
          return None  # what is dropped has grown into what follows
        i += len(dropped)
        continue
      if ids[i] in self._aliases:
        out.append(self._aliases[ids[i]])
      elif ids[i] in self._protected and not (
        may_be_unknown and ids[i] == self._unknown_id
      ):
        return None
      else:
        out.append(ids[i])
      i += 1
    return out

  def decode(self, ids: Sequence[int]) -> str:
    """Text of the ids. Specials are dropped; stray bytes become U+FFFD.

    Raises:
      ValueError: an id is outside the vocabulary.
    """
    ids = hf_json.checked_ids(ids, self.vocab_size)
    return self._tok.decode(
      [i for i in ids if i not in self._silent], skip_special_tokens=False
    )

  def generation_ids(self) -> dict[str, Any]:
    """The fields of generation_config.json that are token ids."""
    return {
      'bos_token_id': self._id_of('bos_token'),
      'eos_token_id': sorted({self.eos_id, self.document_eos_id}),
      'pad_token_id': self.pad_id,
    }

  def _id_of(self, role: str) -> int | None:
    token = self._found['config'].get(role)
    return None if token is None else self._tok.token_to_id(token)

  def write_files(self, folder, vocab_rows: int) -> None:
    """Writes the files from which transformers makes the same ids.

    Those are tokenizer.json, tokenizer_config.json, special_tokens_map.json
    and chat_template.jinja. The chat template lays out as this tokenizer's
    layout does.

    Args:
      folder: an existing folder.
      vocab_rows: rows of the embedding of the model beside them.

    Raises:
      ValueError: the embedding has fewer rows than there are tokens.
    """
    hf_json.check_rows(self.vocab_size, vocab_rows)
    roles = self._roles()
    hf_json.write_files(
      folder,
      self._found['tokenizer'],
      roles,
      self._exported_template(),
      {
        name: value
        for name, value in self._found['config'].items()
        if name not in roles
      },
    )

  def _exported_template(self) -> str:
    if self.layout.prompt_template != layout_lib.CHAT:
      return layout_lib.plain_as_chat_template(
        self.layout,
        self.piece(self.eos_id),
        '' if self.bos_id is None else self.piece(self.bos_id),
      )
    return layout_lib.exported_chat_template(
      self.layout, self.chat_template, self._roles()
    )

  def _roles(self) -> dict[str, str]:
    return {
      name: token
      for name, token in self._found['config'].items()
      if name in hf_files.ROLES
    }


def _serialise(found: Mapping[str, Any]) -> bytes:
  return json.dumps(
    {'format': FORMAT, 'format_version': FORMAT_VERSION, **found},
    ensure_ascii=False,
    separators=(',', ':'),
  ).encode()


def _parse(content: bytes) -> dict[str, Any]:
  try:
    found = json.loads(content)
  except ValueError as error:
    raise ValueError(f'damaged tokenizer: {error}') from error
  if not isinstance(found, dict) or found.get('format') != FORMAT:
    raise ValueError(f'no tokenizer of this package (format {FORMAT!r})')
  if found.get('format_version') != FORMAT_VERSION:
    raise ValueError(
      f'tokenizer of format_version '
      f'{found.get("format_version")}, this program reads '
      f'{FORMAT_VERSION}'
    )
  missing = [name for name in _FIELDS if name not in found]
  if missing:
    raise ValueError(f'damaged tokenizer: {missing[0]} is missing')
  return found
