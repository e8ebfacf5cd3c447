"""Reads other tools' tokenizers into one form, and chooses PAD.

A `TokenizerSource` has a tokenizer.json, the roles of its special tokens and
the chat template. This module reads a folder of Hugging Face files;
`gguf_files` reads a GGUF file.
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
# (name of a token that nothing else uses, whether it must be special), the best
# first.
_PAD_NAMES = (
  (re.compile(r'(?i)(?<![a-z])pad(ding)?(?![a-z])'), False),
  (re.compile(r'(?i)reserved|unused|extra_id|placeholder'), False),
  (re.compile(r'(?i)^<empty_output>$|^<\|endoftext\|>$'), True),
)
# Tokens that pad pictures, sound or text to fill in.
_NO_PAD = re.compile(r'(?i)image|vision|video|audio|fim|box|object')


@dataclasses.dataclass(frozen=True)
class TokenizerSource:
  """A tokenizer as another program wrote it.

  Attributes:
    tokenizer: contents of tokenizer.json.
    roles: {'bos_token': text, ...} for names of `ROLES`; has 'eos_token'.
    begin: the token that begins a text, or None.
    chat_template: Jinja, or None.
    rows: of the model's embedding; 0 if unknown.
    config: fields of tokenizer_config.json that an export repeats.
  """

  tokenizer: dict[str, Any]
  roles: dict[str, str]
  begin: str | None
  chat_template: str | None
  rows: int = 0
  config: dict[str, Any] = dataclasses.field(default_factory=dict)

  def ids(self) -> dict[str, int]:
    """Returns {text: id} of all tokens."""
    return hf_json.ids_of(self.tokenizer)

  def specials(self) -> set[str]:
    """Returns the tokens that are marked as special."""
    added = self.tokenizer['added_tokens']
    return {token['content'] for token in added if token['special']}

  def in_template(self) -> set[str]:
    """Returns the added tokens that occur in the chat template."""
    texts = {token['content'] for token in self.tokenizer['added_tokens']}
    template = self.chat_template or ''
    return {text for text in texts if text.strip() and text in template}


class Pad(NamedTuple):
  """The choice of PAD.

  Attributes:
    token: text of the token.
    id: id of the token.
    new: whether the tokenizer lacks the token.
    added: whether the embedding lacks the token's row, too.
    note: one line that says which token PAD is, and why.
  """

  token: str
  id: int
  new: bool
  added: bool
  note: str


def read_folder(path) -> TokenizerSource:
  """Reads the files of a tokenizer in a Hugging Face folder.

  Uses those of tokenizer.json, tokenizer_config.json, special_tokens_map.json,
  added_tokens.json, chat_template.jinja, generation_config.json and config.json
  that exist.

  Raises:
    FileNotFoundError: neither tokenizer.json nor the files that `slow_files`
      reads exist.
    ValueError: a file is damaged, or no token ends a text.
  """
  path = pathlib.Path(path)

  def read(name):
    return files.read_json(path / name) if (path / name).exists() else {}

  config, model = read('tokenizer_config.json'), read('config.json')
  model = {**model, **(model.get('text_config') or {})}
  tokenizer, usual = _read_tokenizer(path, config, model.get('model_type', ''))
  named = {**usual, **read('special_tokens_map.json'), **config}
  for name in ROLES:
    token = named.get(name)
    if token and not isinstance(_text_of(token), str):
      raise ValueError(
        f'{path}: {name} in tokenizer_config.json or special_tokens_map.json '
        f'must be a text; got {name}={token!r}'
      )
  try:
    _merge_added(tokenizer, config, read('added_tokens.json'), path)
  except (KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f'{path}: the added tokens of tokenizer_config.json or '
      f'added_tokens.json are damaged: {error!r}'
    ) from error
  roles = {name: _text_of(named[name]) for name in ROLES if named.get(name)}
  models = (model, read('generation_config.json'))
  roles = _complete_roles(roles, tokenizer, models, path)
  return TokenizerSource(
    tokenizer,
    roles,
    _begin(tokenizer, roles, config),
    _chat_template(path, config),
    model.get('vocab_size', 0),
    {name: config[name] for name in _KEPT if name in config},
  )


def _complete_roles(roles, tokenizer, models, path) -> dict[str, str]:
  """Returns the roles with those that `models` give as ids.

  Args:
    roles: {'bos_token': text, ...}.
    tokenizer: contents of tokenizer.json.
    models: config.json and generation_config.json.
    path: of the folder.
  """
  ids = hf_json.ids_of(tokenizer)
  texts = {i: text for text, i in ids.items()}
  for role in ('bos_token', 'eos_token', 'pad_token'):
    for model in models:
      found = model.get(f'{role}_id')
      first = next(iter(found), None) if isinstance(found, list) else found
      if role not in roles and isinstance(first, int) and first in texts:
        roles[role] = texts[first]
  end = roles.get('eos_token')
  if end is None:
    raise ValueError(
      f'{path}: no token ends a text: give eos_token in tokenizer_config.json '
      'or eos_token_id in config.json'
    )
  if end not in ids:
    raise ValueError(f'{path}: tokenizer.json has no token {end!r} (eos_token)')
  return {role: text for role, text in roles.items() if text in ids}


def _read_tokenizer(
  path: pathlib.Path, config, model_type: str
) -> tuple[dict[str, Any], dict[str, str]]:
  """Returns (contents of tokenizer.json, roles that no file names)."""
  file = path / 'tokenizer.json'
  if not file.exists():
    return slow_files.read(path, config, model_type)
  tokenizer = files.read_json(file)
  try:
    hf_json.vocabulary(tokenizer)
    tokenizer['added_tokens'] = [
      _added({'special': False, **token}, token.get('special', False))
      for token in tokenizer.get('added_tokens') or []
    ]
    hf_json.build(tokenizer)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{file} is damaged: {error}') from error
  _check_prefix(tokenizer, config, path)
  return {**tokenizer, 'truncation': None, 'padding': None}, {}


def _check_prefix(tokenizer, config, path) -> None:
  """Refuses a folder whose files differ in the space before a text.

  transformers' classes of byte-level BPE take the field of
  tokenizer_config.json, and its general class takes tokenizer.json's.
  """
  step = tokenizer.get('pre_tokenizer') or {}
  steps = step.get('pretokenizers') or [step]
  found = [
    step['add_prefix_space']
    for step in steps
    if step.get('type') == 'ByteLevel'
  ]
  wanted = config.get('add_prefix_space')
  general = config.get('tokenizer_class') == 'PreTrainedTokenizerFast'
  if found and wanted is not None and wanted != found[0] and not general:
    raise ValueError(
      f'{path}: add_prefix_space is {wanted} in tokenizer_config.json and '
      f'{found[0]} in tokenizer.json: save the tokenizer with transformers, or '
      'correct one of them'
    )


def _added(token: Mapping[str, Any], special: bool) -> dict[str, Any]:
  """Returns an entry of added_tokens, with the fields that it leaves out."""
  return {
    'single_word': False,
    'lstrip': False,
    'rstrip': False,
    'normalized': not special,
    **token,
    'special': special,
  }


def _text_of(token) -> str:
  return token.get('content') if isinstance(token, Mapping) else token


def _merge_added(tokenizer, config, more: Mapping[str, int], path) -> None:
  """Adds tokens that only other files name, and marks special tokens.

  Args:
    tokenizer: contents of tokenizer.json; is changed.
    config: tokenizer_config.json.
    more: added_tokens.json.
    path: of the folder.
  """
  known = {token['content']: token for token in tokenizer['added_tokens']}
  decoder = config.get('added_tokens_decoder') or {}
  wanted = {text: {'id': i, 'content': text} for text, i in more.items()}
  wanted |= {
    token['content']: {**token, 'id': int(i)} for i, token in decoder.items()
  }
  extra = (
    config.get('additional_special_tokens')
    or config.get('extra_special_tokens')
    or []
  )
  extra = extra.values() if isinstance(extra, Mapping) else extra
  roles = (config[name] for name in ROLES if config.get(name))
  named = {_text_of(token) for token in (*roles, *extra)}
  for text, token in sorted(wanted.items(), key=lambda item: item[1]['id']):
    special = token.get('special', text in named)
    if text not in known:
      known[text] = _added(token, special)
      tokenizer['added_tokens'].append(known[text])
    known[text]['special'] |= special
    if known[text]['id'] != token['id']:
      raise ValueError(
        f'{path}: token {text!r} has the id {known[text]["id"]} in '
        f'tokenizer.json and {token["id"]} in another file'
      )
  for text in named & set(known):
    known[text]['special'] = True
  tokenizer['added_tokens'].sort(key=lambda token: token['id'])


def _begin(tokenizer, roles, config) -> str | None:
  """Returns the token that begins a text, or None.

  This is BOS if the tokenizer puts it there, or if BOS is EOS too and so
  separates texts (GPT-2). Any other BOS begins something else.
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
    return files.read_text(file)
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
      f'{path / "tokenizer_config.json"}: chat_template must be a text'
    )
  return found or None


def within(source: TokenizerSource, rows: int) -> TokenizerSource:
  """Returns the source with only the tokens that have a row in the embedding.

  Some text models have the tokenizer of a larger family, whose last added
  tokens stand for pictures. These tokens are left out.

  Args:
    source: the tokenizer.
    rows: of the embedding; 0 if unknown.

  Raises:
    ValueError: a token without a row is needed.
  """
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
        f'token {text!r} has the id {i}, but the embedding has {rows} rows'
      )
  added = source.tokenizer['added_tokens']
  kept = [token for token in added if token['content'] not in beyond]
  return dataclasses.replace(
    source, tokenizer={**source.tokenizer, 'added_tokens': kept}
  )


def choose_pad(
  source: TokenizerSource, vocab_rows: int, ends: Iterable[str]
) -> Pad:
  """Chooses PAD, which text never gives and which ends or begins nothing.

  The candidates, in this order: the source's own PAD; a token whose name says
  that it is reserved or unused; a row of the embedding without a token; a new
  row at the end of the embedding.

  Args:
    source: the tokenizer.
    vocab_rows: rows of the embedding; 0 uses `source.rows`.
    ends: tokens that end a response.
  """
  ids, roles = source.ids(), source.roles
  ends = {*ends, source.begin, roles['eos_token'], roles.get('bos_token')}
  own = roles.get('pad_token')
  unknown = hf_json.unknown_of(source.tokenizer)
  if own and own not in {*ends, unknown, roles.get('unk_token')}:
    note = f'PAD is {own} ({ids[own]}), as the tokenizer says'
    return Pad(own, ids[own], False, False, note)
  reason = 'the tokenizer names none'
  if own:
    use = 'ends a text' if own in ends else 'is the unknown token'
    reason = f'its own PAD {own} {use}'
  taken = {
    *ends,
    unknown,
    *(token for role, token in roles.items() if role != 'pad_token'),
  }
  for pattern, special_only in _PAD_NAMES:
    for token in source.tokenizer['added_tokens']:
      text = token['content']
      unused = text not in taken and text not in (source.chat_template or '')
      named = pattern.search(text) and not _NO_PAD.search(text)
      if unused and named and (token['special'] or not special_only):
        note = f'PAD is {text} ({token["id"]}), which nothing uses: {reason}'
        return Pad(text, token['id'], False, False, note)
  new = 1 + max(ids.values())
  added = new >= (vocab_rows or source.rows or new)
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
  source: TokenizerSource, specials: Iterable[str], pad: Pad
) -> dict[str, Any]:
  """Returns a tokenizer.json with PAD, where these tokens are special.

  Raises:
    ValueError: the library gives a token another id.
  """
  tokenizer = copy.deepcopy(source.tokenizer)
  ids = {**source.ids(), pad.token: pad.id}
  added = {token['content']: token for token in tokenizer['added_tokens']}
  for text in {*filter(None, specials), pad.token}:
    token = added.setdefault(text, hf_json.added_token(ids[text], text, True))
    token['special'] = True
  tokenizer['added_tokens'] = sorted(
    added.values(), key=lambda token: token['id']
  )
  tok = hf_json.build(tokenizer)
  for text in added:
    if tok.token_to_id(text) != ids[text]:
      raise ValueError(
        f'token {text!r} should have the id {ids[text]}; the library gives it '
        f'{tok.token_to_id(text)}'
      )
  return tokenizer
