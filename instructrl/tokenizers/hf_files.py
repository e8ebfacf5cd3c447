"""What other programs write as a tokenizer, read into one form.

A `Source` is a tokenizer.json, the roles of its special tokens and the chat
template, wherever they stand: in a folder of Hugging Face files here, in a
GGUF file in `tokenizer_gguf`.
"""

from collections.abc import Iterable, Mapping
import copy
import dataclasses
import pathlib
import re
from typing import Any, NamedTuple

from instructrl.runtime import files
from instructrl.tokenizers import hf_json
from instructrl.tokenizers import slow_files

ROLES = (
  'bos_token',
  'eos_token',
  'unk_token',
  'sep_token',
  'pad_token',
  'cls_token',
  'mask_token',
)
NEW_PAD = '<|pad|>'
# Fields of tokenizer_config.json that an export repeats.
_KEPT = (
  'model_max_length',
  'padding_side',
  'truncation_side',
  'model_input_names',
)
# Names of tokens that nothing else uses, the best first. Those of pictures,
# sound and fill-in-the-middle are padding of something else.
_PAD_NAMES = (
  (re.compile(r'(?i)(?<![a-z])pad(ding)?(?![a-z])'), False),
  (re.compile(r'(?i)reserved|unused|extra_id|placeholder'), False),
  (re.compile(r'(?i)^<empty_output>$|^<\|endoftext\|>$'), True),
)
_NO_PAD = re.compile(r'(?i)image|vision|video|audio|fim|box|object')


@dataclasses.dataclass(frozen=True)
class Source:
  """A tokenizer as another program wrote it.

  Attributes:
    tokenizer: what a tokenizer.json holds.
    roles: {'bos_token': text, ...}, of `ROLES`; 'eos_token' is there.
    begin: the token that a text begins with, or None.
    chat_template: Jinja, or None.
    rows: of the embedding, 0 if not known.
    config: fields of tokenizer_config.json that an export repeats.
  """

  tokenizer: dict[str, Any]
  roles: dict[str, str]
  begin: str | None
  chat_template: str | None
  rows: int = 0
  config: dict[str, Any] = dataclasses.field(default_factory=dict)

  def ids(self) -> dict[str, int]:
    """{text: id} of all tokens."""
    return {
      **hf_json.vocabulary(self.tokenizer),
      **{
        token['content']: token['id']
        for token in self.tokenizer['added_tokens']
      },
    }

  def specials(self) -> set[str]:
    """The tokens that are marked as special."""
    return {
      token['content']
      for token in self.tokenizer['added_tokens']
      if token['special']
    }

  def in_template(self) -> set[str]:
    """Added tokens that play a part in the chat template."""
    return {
      token['content']
      for token in self.tokenizer['added_tokens']
      if token['content'].strip()
      and token['content'] in (self.chat_template or '')
    }


class Pad(NamedTuple):
  """What PAD is.

  Attributes:
    token: its text.
    id: its id.
    new: whether the tokenizer lacks this token.
    added: whether the embedding lacks its row, too.
    note: one line.
  """

  token: str
  id: int
  new: bool
  added: bool
  note: str


def read_folder(path) -> Source:
  """Reads the files of a tokenizer in a Hugging Face folder.

  Of tokenizer.json, tokenizer_config.json, special_tokens_map.json,
  added_tokens.json, chat_template.jinja, generation_config.json and
  config.json what is there.

  Raises:
    FileNotFoundError: there is no tokenizer.json, nor what to make it of (see
      `tokenizer_slow`).
    ValueError: a file is damaged, or no token ends a text.
  """
  path = pathlib.Path(path)
  read = lambda name: (
    files.read_json(path / name) if (path / name).exists() else {}
  )
  config = read('tokenizer_config.json')
  model = read('config.json')
  model = {**model, **(model.get('text_config') or {})}
  tokenizer, usual = _read_tokenizer(path, config, model.get('model_type', ''))
  named = {**usual, **read('special_tokens_map.json'), **config}
  _check_roles(named, path)
  try:
    _merge_added(tokenizer, config, read('added_tokens.json'), path)
  except (KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f'{path}: the added tokens of tokenizer_config.json or '
      f'added_tokens.json are damaged: {error!r}'
    ) from error
  ids = Source(tokenizer, {}, None, None).ids()
  texts = {i: text for text, i in ids.items()}
  roles = {name: _text_of(named[name]) for name in ROLES if named.get(name)}
  for role in ('bos_token', 'eos_token', 'pad_token'):
    for other in (model, read('generation_config.json')):
      token_id = other.get(f'{role}_id')
      token_id = (
        next(iter(token_id), None) if isinstance(token_id, list) else token_id
      )
      if role not in roles and isinstance(token_id, int) and token_id in texts:
        roles[role] = texts[token_id]
  for role in [role for role, text in roles.items() if text not in ids]:
    if role == 'eos_token':
      raise ValueError(
        f'{path}: eos_token {roles[role]!r} is no token of tokenizer.json'
      )
    del roles[role]
  if 'eos_token' not in roles:
    raise ValueError(
      f'{path}: no token ends a text: give eos_token in '
      'tokenizer_config.json or eos_token_id in config.json'
    )
  return Source(
    tokenizer,
    roles,
    _begin(tokenizer, roles, config),
    _chat_template(path, config),
    model.get('vocab_size', 0),
    {name: config[name] for name in _KEPT if name in config},
  )


def _read_tokenizer(
  path: pathlib.Path, config, model_type: str
) -> tuple[dict[str, Any], dict[str, str]]:
  """What tokenizer.json holds, or would hold; roles that no file names."""
  file = path / 'tokenizer.json'
  if not file.exists():
    return slow_files.read(path, config, model_type)
  tokenizer = files.read_json(file)
  try:
    hf_json.vocabulary(tokenizer)
    tokenizer['added_tokens'] = [
      {
        'single_word': False,
        'lstrip': False,
        'rstrip': False,
        'normalized': not token.get('special', False),
        'special': False,
        **token,
      }
      for token in tokenizer.get('added_tokens') or []
    ]
    hf_json.build(tokenizer)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{file} is damaged: {error}') from error
  return {**tokenizer, 'truncation': None, 'padding': None}, {}


def _check_roles(named, path) -> None:
  """Refuses a role that is no token: text, or a table with its content."""
  for name in ROLES:
    token = named.get(name)
    if token and not isinstance(_text_of(token), str):
      raise ValueError(
        f'{path}: tokenizer_config.json or '
        f'special_tokens_map.json has {name}={token!r}, which '
        'is no text'
      )


def _text_of(token) -> str:
  return token.get('content') if isinstance(token, Mapping) else token


def _merge_added(tokenizer, config, more: Mapping[str, int], path) -> None:
  """Adds tokens that only the other files name; a special stays one."""
  known = {token['content']: token for token in tokenizer['added_tokens']}
  decoder = config.get('added_tokens_decoder') or {}
  wanted = {text: {'id': i, 'content': text} for text, i in more.items()}
  wanted |= {
    token['content']: {**token, 'id': int(i)} for i, token in decoder.items()
  }
  named = {_text_of(config[name]) for name in ROLES if config.get(name)}
  more_special = (
    config.get('additional_special_tokens')
    or config.get('extra_special_tokens')
    or []
  )
  if isinstance(more_special, Mapping):
    more_special = more_special.values()
  named |= {_text_of(token) for token in more_special}
  for text, token in sorted(wanted.items(), key=lambda item: item[1]['id']):
    special = token.get('special', text in named)
    if text in known:
      known[text]['special'] |= special
      if known[text]['id'] != token['id']:
        raise ValueError(
          f'{path}: token {text!r} is {known[text]["id"]} in tokenizer.json '
          f'and {token["id"]} beside it'
        )
      continue
    known[text] = {
      'single_word': False,
      'lstrip': False,
      'rstrip': False,
      'normalized': not special,
      **token,
      'special': special,
    }
    tokenizer['added_tokens'].append(known[text])
  for text in named & set(known):
    known[text]['special'] = True
  tokenizer['added_tokens'].sort(key=lambda token: token['id'])


def _begin(tokenizer, roles, config) -> str | None:
  """The token that a text begins with.

  BOS where the tokenizer puts it there. A BOS that is EOS as well separates
  texts (GPT-2); another BOS that is not put there begins something else.
  """
  bos = roles.get('bos_token')
  if bos is None:
    return None
  first = hf_json.build(tokenizer).encode('x').tokens[:1]
  if first == [bos] or config.get('add_bos_token') or bos == roles['eos_token']:
    return bos
  return None


def _chat_template(path: pathlib.Path, config) -> str | None:
  file = path / 'chat_template.jinja'
  if file.exists():
    return file.read_text(encoding='utf-8')
  found = config.get('chat_template')
  if isinstance(found, list):
    found = next(
      (
        each.get('template')
        for each in found
        if isinstance(each, Mapping) and each.get('name') == 'default'
      ),
      None,
    )
  if found and not isinstance(found, str):
    raise ValueError(
      f'{path / "tokenizer_config.json"}: chat_template is no text'
    )
  return found or None


def within(source: Source, rows: int) -> Source:
  """The tokens that an embedding has rows for.

  Some text models come with the tokenizer of a larger family, whose last added
  tokens stand for pictures: these are left out.

  Args:
    source: the tokenizer.
    rows: of the embedding, or 0 if not known.

  Raises:
    ValueError: another token has no row.
  """
  added = source.tokenizer['added_tokens']
  beyond = {text: i for text, i in source.ids().items() if 0 < rows <= i}
  if not beyond:
    return source
  needed = {
    *hf_json.vocabulary(source.tokenizer),
    *source.roles.values(),
    *source.in_template(),
  }
  for text, i in beyond.items():
    if text in needed:
      raise ValueError(
        f'token {text!r} has the id {i}, the embedding has {rows} rows'
      )
  kept = [token for token in added if token['content'] not in beyond]
  return dataclasses.replace(
    source, tokenizer={**source.tokenizer, 'added_tokens': kept}
  )


def choose_pad(source: Source, vocab_rows: int, ends: Iterable[str]) -> Pad:
  """Chooses PAD, which must end or begin nothing.

  In this order: the source's own; a token that is reserved or unused, by its
  name; a row of the embedding without a token; a new row at its end.

  Args:
    source: the tokenizer.
    vocab_rows: rows of the embedding; 0 as the source says.
    ends: tokens that end a response.
  """
  ids = source.ids()
  template = source.chat_template or ''
  taken = {
    *ends,
    source.begin,
    *(token for role, token in source.roles.items() if role != 'pad_token'),
  }
  free = lambda text: text not in taken and text not in template
  own = source.roles.get('pad_token')
  if own and own not in {
    *ends,
    source.begin,
    source.roles['eos_token'],
    source.roles.get('bos_token'),
  }:
    return Pad(
      own,
      ids[own],
      False,
      False,
      f'PAD is {own} ({ids[own]}), as the tokenizer says',
    )
  reason = (
    f'its own PAD {own} ends a text' if own else 'the tokenizer names none'
  )
  for pattern, special_only in _PAD_NAMES:
    for token in source.tokenizer['added_tokens']:
      text = token['content']
      if (
        pattern.search(text)
        and not _NO_PAD.search(text)
        and free(text)
        and (token['special'] or not special_only)
      ):
        return Pad(
          text,
          token['id'],
          False,
          False,
          f'PAD is {text} ({token["id"]}), which nothing uses: {reason}',
        )
  new = 1 + max(ids.values())
  rows = vocab_rows or source.rows or new
  added = new >= rows
  name = NEW_PAD
  while name in ids:
    name = name.replace('|>', '_|>')
  where = (
    'a row added to the embedding'
    if added
    else 'a row of the embedding that had no token'
  )
  return Pad(
    name, new, True, added, f'PAD is {name} ({new}), {where}: {reason}'
  )


def with_tokens(
  source: Source, specials: Iterable[str], pad: Pad
) -> dict[str, Any]:
  """A tokenizer.json in which these are special tokens, and PAD is there.

  Raises:
    ValueError: the library gives a token another id.
  """
  tokenizer = copy.deepcopy(source.tokenizer)
  ids = {**source.ids(), pad.token: pad.id}
  added = {token['content']: token for token in tokenizer['added_tokens']}
  for text in {*filter(None, specials), pad.token}:
    token = added.setdefault(
      text,
      {
        'id': ids[text],
        'content': text,
        'single_word': False,
        'lstrip': False,
        'rstrip': False,
        'normalized': False,
      },
    )
    token['special'] = True
  tokenizer['added_tokens'] = sorted(
    added.values(), key=lambda token: token['id']
  )
  tok = hf_json.build(tokenizer)
  for text in added:
    if tok.token_to_id(text) != ids[text]:
      raise ValueError(
        f'token {text!r} should have the id {ids[text]}, the '
        f'library gives it {tok.token_to_id(text)}'
      )
  return tokenizer
