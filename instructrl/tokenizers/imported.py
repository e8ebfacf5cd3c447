"""Tokenizers of Hugging Face, with the interface of `protocol`.

`Encoder` runs the tokenizer.json. The tokenizer.json, the special ids and the
prompt layout of a run are one JSON file (`tokenizer.hf.json`), so that every
stage lays out text in the same way.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any

from instructrl.runtime import files
from instructrl.tokenizers import chat_template
from instructrl.tokenizers import gguf_files
from instructrl.tokenizers import hf_files
from instructrl.tokenizers import hf_json
from instructrl.tokenizers.encoder import Encoder
from instructrl.tokenizers.layout import CHAT
from instructrl.tokenizers.layout import plain_as_chat_template
from instructrl.tokenizers.layout import PROMPT_TEMPLATE
from instructrl.tokenizers.layout import PromptLayout
from instructrl.tokenizers.layout import strip
from instructrl.tokenizers.protocol import AnyTokenizer

FORMAT = 'instructrl tokenizer'
FORMAT_VERSION = 1
# Texts whose ids show white space beside a token, and unknown characters.
_PROBES = ('a', ' a b ', '\n\n a\n', 'x\ty', '\u6c49 \u0434 \ue000\u0378')
_FIELDS = (
  'tokenizer vocab_size bos_id eos_id pad_id unk_id protected added_pad '
  'pad_note chat_template layout config'
).split()


class HFTokenizer(AnyTokenizer):
  """A tokenizer of another tool; see the base class, also for its attributes.

  Attributes:
    added_pad: whether `pad_id` is a new id, which needs a row in the model.
    pad_note: one line that says which token PAD is, and why.
    layout: of prompts and responses.
    chat_template: the model's own, or None.
  """

  FILE = 'tokenizer.hf.json'

  def __init__(self, content: bytes):
    """Wraps the contents of a file written by `save`.

    Raises:
      ValueError: the contents are damaged or of another version.
    """
    super().__init__(content)
    self._found = found = _parse(self._content)
    self.vocab_size = found['vocab_size']
    self.bos_id, self.pad_id = found['bos_id'], found['pad_id']
    self.document_eos_id, self.unk_id = found['eos_id'], found['unk_id']
    self.added_pad, self.pad_note = found['added_pad'], found['pad_note']
    self.chat_template = found['chat_template']
    self.layout = PromptLayout.from_dict(found['layout'])
    ids = hf_json.ids_of(found['tokenizer'])
    self.eos_id = (
      ids.get(self.layout.end) if self.layout.end else self.document_eos_id
    )
    self._end = self.layout.end or found['config']['eos_token']
    ends = (self.bos_id, self.eos_id, self.document_eos_id)
    if self.eos_id is None or self.pad_id in ends:
      raise ValueError(
        f'PAD {self.pad_id} or the end of a response {self.layout.end!r} is '
        'not a token of its own'
      )
    reserved = (*ends, self.pad_id)
    self._encoder = Encoder(
      found['tokenizer'],
      found['protected'],
      None if self.unk_id in reserved else self.unk_id,
    )
    # From the last special token before a response: the response's ids may
    # depend on it.
    after = self.layout.after
    starts = [f.start() for f in self._encoder.special_text.finditer(after)]
    self._opening = [(after[starts[-1] :] if starts else '', True)]
    self._head = self._encoder.encode(self._opening)
    self._silent = {*reserved} | {  # ids that `decode` drops
      token['id']
      for token in found['tokenizer']['added_tokens']
      if token['special']
    }

  @classmethod
  def from_source(
    cls,
    source: hf_files.TokenizerSource,
    *,
    vocab_rows: int = 0,
    prompt_template: str = '',
    response_template: str = '',
    system: str = '',
  ) -> 'HFTokenizer':
    """Makes the tokenizer of a run from another tool's tokenizer.

    Args:
      source: see `hf_files.read_folder` and `gguf_files.read`.
      vocab_rows: rows of the model's embedding; 0 uses `source.rows`.
      prompt_template: see `with_layout`. The default is 'chat' if the source
        has a chat template, else 'Human: {prompt}' and 'Assistant:'.
      response_template: see `with_layout`.
      system: see `with_layout`.

    Raises:
      ValueError: a token has no row, or the layout does not fit the source.
    """
    default = CHAT if source.chat_template else PROMPT_TEMPLATE
    source = hf_files.within(source, vocab_rows or source.rows)
    ids = source.ids()
    specials = {*source.roles.values(), *source.specials()}
    spoken = source.in_template() - specials
    layout = chat_template.make_layout(
      prompt_template or default,
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
      'unk_id': ids.get(hf_json.unknown_of(source.tokenizer)),
      # Not special, so `decode` keeps them, but a user cannot type them.
      'protected': sorted(spoken - {layout.end}),
      'added_pad': pad.added,
      'pad_note': pad.note,
      'chat_template': source.chat_template,
      'layout': dataclasses.asdict(layout),
      'config': {**source.config, **source.roles, 'pad_token': pad.token},
    }
    made = cls(_serialise(found))
    made._check()
    return made

  @classmethod
  def from_folder(cls, path, **options) -> 'HFTokenizer':
    """Reads a folder of Hugging Face files; options as for `from_source`."""
    with files.named(path):
      return cls.from_source(hf_files.read_folder(path), **options)

  @classmethod
  def from_gguf(cls, path, **options) -> 'HFTokenizer':
    """Reads the metadata of a GGUF file; options as for `from_source`."""
    return cls.from_source(gguf_files.read(path), **options)

  def with_layout(
    self,
    *,
    prompt_template: str = CHAT,
    response_template: str = '',
    system: str = '',
  ) -> 'HFTokenizer':
    """Returns a tokenizer with the same tokens and another layout.

    Args:
      prompt_template: text with `{prompt}` once, or 'chat' for the model's chat
        template.
      response_template: text with `{response}` once; not for 'chat'. The
        default is a space and the response.
      system: a system message; only for 'chat'.

    Raises:
      ValueError: see `chat_template.make_layout`; or PAD ends a response.
    """
    layout = chat_template.make_layout(
      prompt_template,
      response_template,
      system,
      self.chat_template,
      self._roles(),
      self._encoder.specials.values(),
    )
    made = HFTokenizer(
      _serialise({**self._found, 'layout': dataclasses.asdict(layout)})
    )
    made._check()
    return made

  def piece(self, token_id: int) -> str:
    return self._encoder.tok.id_to_token(token_id) or f'<{token_id}>'

  def encode(self, text: str) -> list[int]:
    return self._encoder.encode([(text, False)])

  def continuation(self, text: str) -> list[int]:
    return self._encoder.encode([(text, False)], inside=True)

  def prompt(self, text: str, turns: Sequence[str] = ()) -> list[int]:
    return self._begun(self._encoder.encode(self.layout.prompt(text, turns)))

  def prompts(self, asked):
    parts = [self.layout.prompt(text, turns) for text, turns in asked]
    return list(map(self._begun, self._encoder.encode_batch(parts)))

  def _begun(self, ids: list[int]) -> list[int]:
    return [*self._begin(), *ids] if self.layout.bos else ids

  def documents(self, texts):
    found = self._encoder.encode_batch([[(text, False)] for text in texts])
    ends = [self.document_eos_id]
    return [[*self._begin(), *ids, *ends] for ids in found]

  def response(self, text: str) -> list[int]:
    return self._responses(
      [text],
      lambda several, inside=False: [
        self._encoder.encode(texts, inside) for texts in several
      ],
    )[0]

  def responses(self, texts):
    return self._responses(texts, self._encoder.encode_batch)

  def _responses(self, texts: Sequence[str], encode) -> list[list[int]]:
    """Lays out responses; `encode` is that of many texts."""
    lay, found = self.layout, {}
    parts = {}
    for text in dict.fromkeys(texts):
      own = [
        (lay.response_before, True),
        (strip(text, lay.strip_response), False),
        (lay.response_after, True),
      ]
      if any(part for part, _ in own):
        parts[text] = [*own, (self._end, True)]
      else:
        found[text] = [self.eos_id]
    # A special token may take the white space beside it, and some tokenizers
    # treat text after one as a new text.
    head = self._head
    if head:
      whole = encode([[*self._opening, *own] for own in parts.values()])
      for text, ids in zip(parts, whole):
        if ids[: len(head)] == head:
          found[text] = ids[len(head) :]
    rest = [text for text in parts if text not in found]
    inside = encode([parts[text] for text in rest], inside=True)
    found |= zip(rest, inside)
    return [[*found[text]] for text in texts]

  def decode(self, ids: Sequence[int]) -> str:
    ids = hf_json.checked_ids(ids, self.vocab_size)
    kept = [i for i in ids if i not in self._silent]
    return self._encoder.tok.decode(kept, skip_special_tokens=False)

  def generation_ids(self) -> dict[str, Any]:
    bos = self._roles().get('bos_token')
    return {
      'bos_token_id': bos and self._encoder.tok.token_to_id(bos),
      'eos_token_id': sorted({self.eos_id, self.document_eos_id}),
      'pad_token_id': self.pad_id,
    }

  def write_files(self, folder, vocab_rows: int) -> None:
    """Writes them; the chat template writes what the layout writes."""
    hf_json.check_rows(self.vocab_size, vocab_rows)
    roles, config = self._roles(), self._found['config']
    if self.layout.prompt_template == CHAT:
      template = chat_template.exported_chat_template(
        self.layout, self.chat_template, roles, self._end
      )
    else:
      template = plain_as_chat_template(
        self.layout, self._end, ''.join(map(self.piece, self._begin()))
      )
    more = {name: config[name] for name in config if name not in roles}
    hf_json.write_files(folder, self._found['tokenizer'], roles, template, more)

  def _check(self) -> None:
    """Refuses tokens whose ids would differ from those of the library.

    Raises:
      ValueError: names the token.
    """
    library = hf_json.build(self._found['tokenizer'])
    theirs = lambda text: library.encode(text, add_special_tokens=False).ids
    specials = self._encoder.special_text
    for text in filter(lambda text: not specials.search(text), _PROBES):
      asked, whole = self._laid_out(text)
      try:
        prompt, response = self.prompt(text), self.response(text)
        equal = (self.encode(text), prompt) == (theirs(text), theirs(asked))
      except ValueError:  # only a special token can write the text
        equal = False
      # A merge across the border of prompt and response is theirs alone.
      if equal and theirs(whole)[: len(prompt)] == prompt:
        equal = theirs(whole) == [*prompt, *response]
      if not equal:
        self._refuse(text)

  def _laid_out(self, text: str) -> tuple[str, str]:
    """Returns a prompt, and the prompt with a response, as texts."""
    lay = self.layout
    asked = ''.join(part for part, _ in lay.prompt(text))
    if lay.bos and self.bos_id is not None:
      asked = self.piece(self.bos_id) + asked
    answer = strip(text, lay.strip_response)
    whole = asked + lay.response_before + answer + lay.response_after
    return asked, whole + self._end

  def _refuse(self, text: str) -> None:
    """Raises a ValueError that names the tokens that may be the reason."""
    flags = ('single_word', 'lstrip', 'rstrip', 'normalized')
    unusual = [
      f'{token["content"]} ({", ".join(flag for flag in flags if token[flag])})'
      for token in self._found['tokenizer']['added_tokens']
      if token['special'] and any(token[flag] for flag in flags)
    ]
    ends = (self.bos_id, self.eos_id, self.document_eos_id)
    if self.unk_id is not None and self.unk_id in ends:
      unusual.append(f'{self.piece(self.unk_id)} (unknown text, and an end)')
    raise ValueError(
      f'{text!r} has other ids here than in the library, because of the tokens '
      f'{", ".join(unusual) or "of the layout"}: this tokenizer cannot be used'
    )

  def _roles(self) -> dict[str, str]:
    config = self._found['config']
    return {name: config[name] for name in config if name in hf_files.ROLES}


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
    raise ValueError(f'not a tokenizer of this package (format {FORMAT!r})')
  version = found.get('format_version')
  if version != FORMAT_VERSION:
    raise ValueError(
      f'tokenizer of format_version {version}; this program reads '
      f'{FORMAT_VERSION}'
    )
  missing = [name for name in _FIELDS if name not in found]
  if missing:
    raise ValueError(f'damaged tokenizer: {missing[0]} is missing')
  return found
