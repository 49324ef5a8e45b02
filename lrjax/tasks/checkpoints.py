"""Folders with a RoBERTa of Hugging Face's: configuration, tokenizer and weights.

`config.json` and the tokenizer are read by transformers' own classes, from the folder
alone; weights come from `model.safetensors`. Pickles are refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrjax.common import files
from lrjax.core import cut, shown
from lrjax.tasks import tokens
from lrjax.tasks.data import DataError, reading

WEIGHTS = "model.safetensors"
EMBEDDED = Path(__file__).parent / "checkpoint"
_PICKLED = ("pytorch_model.bin", "pytorch_model.pt", "model.pt")
_CONFIG = "config.json"
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_MOST_BYTES = 2**26  # of a file beside the weights
_MOST_WEIGHTS = 2**33  # bytes; roberta-large has 1.4 GB
# What our model has built in: field of the configuration -> its value.
_FIXED = {"hidden_act": "gelu", "type_vocab_size": 1, "pad_token_id": tokens.PAD}
_IDS = {"bos_token_id": tokens.START, "pad_token_id": tokens.PAD}


class Checkpoint(NamedTuple):
    """A RoBERTa in a folder.

    Attributes:
      config: a `transformers.RobertaConfig`.
      tokenizer: a `transformers.RobertaTokenizer`.
      weights: the safetensors file.
      fingerprint: 16 hexadecimal digits of the content of all files.
    """

    config: Any
    tokenizer: Any
    weights: Path
    fingerprint: str


def read(folder: Path) -> Checkpoint:
    """Read configuration and tokenizer of a checkpoint, and find its weights.

    Args:
      folder: with config.json, model.safetensors, and either tokenizer.json or
        vocab.json and merges.txt.

    Raises:
      DataError: if a file is missing, damaged or a pickle, or the model is another than
        RoBERTa as `models.Roberta` has it.
    """
    names = _names(folder)
    # Otherwise it says at its import that there is no PyTorch, which is not needed.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import RobertaConfig, RobertaTokenizer

    digest = hashlib.sha256()
    for name in names:
        with reading(folder / name), files.open_given(folder / name) as file:
            most = _MOST_WEIGHTS if name == WEIGHTS else _MOST_BYTES
            if os.fstat(file.fileno()).st_size > most:
                raise DataError(f"{folder / name}: has more than {most:,} bytes")
            content: Any = file
            digest.update(hashlib.file_digest(content, "sha256").digest())
    with reading(folder / _CONFIG):
        given, _ = RobertaConfig.get_config_dict(str(folder), local_files_only=True)
    _check_fields(given, {"model_type": "roberta"}, folder / _CONFIG)
    with reading(folder / _CONFIG):
        config = RobertaConfig.from_pretrained(str(folder), local_files_only=True)
    _check(config, folder / _CONFIG)
    with reading(folder, "not a RoBERTa tokenizer"):
        tokenizer = RobertaTokenizer.from_pretrained(
            str(folder), local_files_only=True, split_special_tokens=True
        )
    for name, wanted in _IDS.items():
        if getattr(tokenizer, name) != wanted:
            raise DataError(
                f"{folder}: not RoBERTa's tokenizer: its {name} is "
                f"{shown(getattr(tokenizer, name))} instead of {wanted}"
            )
    size = 1 + max(tokenizer.get_vocab().values())
    if size > config.vocab_size:
        raise DataError(
            f"{folder}: the tokenizer has {size:,} tokens, the model room for "
            f"{config.vocab_size:,}"
        )
    fingerprint = digest.hexdigest()[:16]
    return Checkpoint(config, tokenizer, folder / WEIGHTS, fingerprint)


def _names(folder: Path) -> list[str]:
    """The files of a checkpoint.

    Raises:
      DataError: if one is missing, in words that say what to do.
    """
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: there is no such folder with a checkpoint")
    if not files.is_there(folder / WEIGHTS):
        for name in _PICKLED:
            if files.is_there(folder / name):
                raise DataError(
                    f"{folder / name}: a pickle may run anything, and is not read; "
                    f"convert it to {WEIGHTS}: RobertaForMaskedLM.from_pretrained("
                    "FOLDER).save_pretrained(NEW) of transformers, where you trust it"
                )
    for name in (_CONFIG, WEIGHTS):
        if not files.is_there(folder / name):
            raise DataError(f"{folder}: there is no {name}")
    for group in _TOKENIZERS:
        if all(files.is_there(folder / name) for name in group):
            return [_CONFIG, *group, WEIGHTS]
    raise DataError(
        f"{folder}: there is no tokenizer.json, and no vocab.json with merges.txt"
    )


def _check_fields(
    given: Mapping[str, Any], wanted: Mapping[str, Any], path: Path
) -> None:
    """Refuse a configuration whose fields have other values than those wanted."""
    for name, value in wanted.items():
        if given.get(name) != value:
            raise DataError(
                f"{path}: {name} is {shown(given.get(name))}; lrjax has RoBERTa with "
                f"{shown(value)} alone"
            )


def _check(config: Any, path: Path) -> None:
    """Refuse models that differ from RoBERTa where `models.Roberta` has no choice."""
    _check_fields(vars(config), _FIXED, path)
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    for name in (*sizes, "intermediate_size", "max_position_embeddings"):
        value = getattr(config, name)
        if not isinstance(value, int) or not 1 <= value <= 2**20:
            raise DataError(f"{path}: {name} is {cut(str(value))}, which is no size")
    if config.hidden_size % config.num_attention_heads:
        raise DataError(
            f"{path}: {config.num_attention_heads} heads do not divide hidden_size, "
            f"{config.hidden_size}"
        )
    if config.vocab_size > 2**16:
        raise DataError(f"{path}: more tokens than uint16 can tell apart")


def encode(checkpoint: Checkpoint, texts: Sequence[str], length: int) -> np.ndarray:
    """Tokenise texts: each between START and END, cut at `length`, then PAD.

    Args:
      checkpoint: whose tokenizer is used.
      texts: at least one.
      length: most tokens of a row.

    Returns:
      uint16 [texts, tokens], as wide as the longest needs, in eights.
    """
    encoded = checkpoint.tokenizer(
        list(texts), truncation=True, max_length=length, return_attention_mask=False
    )["input_ids"]
    longest = max(map(len, encoded))
    rows = np.full((len(texts), min(length, -(-longest // 8) * 8)), tokens.PAD, "<u2")
    for row, ids in zip(rows, encoded, strict=True):
        row[: len(ids)] = ids
    return rows


def write(
    folder: Path,
    model: Any,
    params: Any,
    vocabulary: tokens.Vocabulary,
    dtype: Any = np.float32,
) -> None:
    """Write a pre-trained model as a checkpoint that transformers can load.

    Args:
      folder: exists.
      model: the `models.Roberta`, without `pre_norm`.
      params: its parameters.
      vocabulary: the tokenizer.
      dtype: of the weights in the file.

    Raises:
      UsageError: if the folder cannot be written.
    """
    from safetensors.numpy import save
    from transformers import RobertaConfig

    from lrjax.tasks.models import roberta

    config = RobertaConfig(
        architectures=["RobertaForMaskedLM"],
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        intermediate_size=model.intermediate_size,
        max_position_embeddings=model.max_positions,
        type_vocab_size=1,
        layer_norm_eps=model.layer_norm_eps,
        hidden_dropout_prob=model.dropout,
        attention_probs_dropout_prob=model.attention_dropout,
    )
    tensors = roberta.tensors_of(params)
    content = save({k: v.astype(dtype) for k, v in tensors.items()}, {"format": "pt"})
    with files.writing(folder):
        files.replace(folder / WEIGHTS, content)
        files.replace(folder / _CONFIG, config.to_json_string(use_diff=False))
        files.replace(folder / "tokenizer.json", vocabulary.tokenizer.to_str())
