"""Export to a directory that transformers loads, and import from one.

transformers' GPT2LMHeadModel has other names and keeps the matrices of its ``Conv1D`` layers transposed; nothing else
differs, so weights survive the round trip bit for bit. The tokenizer files (``vocab.json``, ``merges.txt``) are derived
from the ranks that this project ships, without the network. Weights are read from safetensors only; a pickled
``pytorch_model.bin`` is refused.

A model that is loaded computes what transformers computes. A directory of another architecture, or with weights that
this model has no place for, is refused.

``config.json`` fields: transformers, GPT2Config. Tokenizer files: openai/gpt-2, src/encoder.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data.bpe import END_OF_TEXT, TOKENIZER_ID, VOCAB_SIZE, encoding
from data.errors import InputError
from model.checkpoint import build
from model.config import ModelConfig
from model.gpt2 import GPT2

_OUTER = {"tokens": "transformer.wte", "positions": "transformer.wpe", "ln": "transformer.ln_f"}
_INNER = {
    "ln_1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.proj": "attn.c_proj",
    "ln_2": "ln_2",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.proj": "mlp.c_proj",
}
_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
_BUFFERS = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")  # the causal mask, in older files
_HEADS = ("lm_head.weight", "transformer.lm_head.weight")
_END = "<|endoftext|>"
_FIXED = {  # what GPT2Config must say for this model; these are its defaults
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def export(model: GPT2, folder: Path) -> None:
    """Write weights, configuration and tokenizer to ``folder``. Raises InputError if it exists and is not empty."""
    config = model.config
    if (config.tokenizer, config.vocab_size) != (TOKENIZER_ID, VOCAB_SIZE):
        raise InputError(
            f"the model has tokenizer {config.tokenizer} with {config.vocab_size} tokens; only {TOKENIZER_ID} with "
            f"{VOCAB_SIZE} tokens can be exported"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--to {folder}: exists and is not an empty directory; choose another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_tokenizer(folder, config.context)
        save_file(to_hf(model.state_dict(), config), folder / "model.safetensors", metadata={"format": "pt"})
        ends = {"bos_token_id": END_OF_TEXT, "eos_token_id": END_OF_TEXT}
        _write(folder / "generation_config.json", {**ends, "do_sample": True})
        _write(
            folder / "config.json", {**_hf_config(config), **ends}
        )  # last: transformers does not load a directory without it
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"--to {folder}: cannot be written ({error}); make room, then empty it or choose another directory"
        ) from error


def load_hf(folder: Path, *, device: str = "cpu") -> GPT2:
    """The model of a directory that transformers can load, in fp32 and in evaluation mode.

    Raises InputError, naming the difference, unless it holds a GPT-2 of this vocabulary in safetensors.
    """
    config = _config(folder)
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            tensors.update(load_file(path, device=device))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not readable as safetensors ({error})") from error
    return build(config, from_hf(tensors, config, str(folder)), str(folder))


def is_gpt2(folder: Path) -> bool:
    """Whether ``load_hf`` may take a directory: a GPT-2 whose tokens, as far as the directory says, are GPT-2's."""
    try:
        known = orjson.loads((folder / "config.json").read_bytes())
        if not all(known.get(name, allowed[0]) in allowed for name, allowed in _allowed(known).items()):
            return False
        vocabularies = [orjson.loads(path.read_bytes()) for path in folder.glob("vocab.json")]
        vocabularies += [orjson.loads(path.read_bytes())["model"]["vocab"] for path in folder.glob("tokenizer.json")]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return (folder / "config.json").is_file() is False  # load_hf says what is missing
    ours = _vocabulary()
    return known.get("vocab_size") == VOCAB_SIZE and all(
        {**vocabulary, _END: END_OF_TEXT} == ours for vocabulary in vocabularies
    )


def to_hf(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our weights with transformers' names and shapes."""
    return {
        theirs: (tensors[ours].t() if theirs.endswith(_TRANSPOSED) else tensors[ours]).contiguous()
        for ours, theirs in _names(config).items()
    }


def from_hf(tensors: Mapping[str, Tensor], config: ModelConfig, where: str) -> dict[str, Tensor]:
    """The inverse of ``to_hf``, in fp32.

    Names may lack ``transformer.``, as in OpenAI's published weights. Causal masks, and a head that equals the token
    embedding, are ignored. Raises InputError if a weight is missing, unknown or quantised, or if the head differs.
    """
    if not any(name.startswith("transformer.") for name in tensors):
        tensors = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
    names = _names(config)
    missing = sorted(set(names.values()) - tensors.keys())
    if missing:
        raise InputError(f"{where}: not a GPT-2 of {config.layers} layers: {missing[0]} is missing")
    extra = sorted(name for name in tensors.keys() - {*names.values(), *_HEADS} if not _BUFFERS.fullmatch(name))
    if extra:
        raise InputError(f"{where}: not a GPT-2 of {config.layers} layers: {extra[0]} is unknown")
    whole = sorted(name for name in names.values() if not tensors[name].is_floating_point())
    if whole:
        raise InputError(f"{where}: {whole[0]} is {tensors[whole[0]].dtype}; quantised weights are not supported")
    for head in (tensors[name] for name in _HEADS if name in tensors):
        if not head.equal(tensors["transformer.wte.weight"]):
            raise InputError(f"{where}: the head differs from the token embedding; in GPT-2 they are the same")
    return {
        ours: (tensors[theirs].t() if theirs.endswith(_TRANSPOSED) else tensors[theirs]).float().contiguous()
        for ours, theirs in names.items()
    }


def tokenizer_files() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """``vocab.json`` and the pairs of ``merges.txt``, from tiktoken's ranks.

    A token's rank is also the rank of the merge that makes it. The two halves of that merge are found by merging the
    token's bytes with lower ranks only.
    """
    ranks = encoding()._mergeable_ranks
    shown = _shown_bytes()
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            left, right = _halves(token, rank, ranks)
            merges.append(("".join(shown[byte] for byte in left), "".join(shown[byte] for byte in right)))
    return _vocabulary(), merges


def _vocabulary() -> dict[str, int]:
    shown = _shown_bytes()
    ranks = sorted(encoding()._mergeable_ranks.items(), key=lambda item: item[1])
    return {**{"".join(shown[byte] for byte in token): rank for token, rank in ranks}, _END: END_OF_TEXT}


def _write_tokenizer(folder: Path, context: int) -> None:
    special = {"bos_token": _END, "eos_token": _END, "unk_token": _END}
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "model_max_length": context}
    _write(folder / "tokenizer_config.json", {**special, **settings})
    _write(folder / "special_tokens_map.json", special)
    vocabulary, merges = tokenizer_files()
    (folder / "vocab.json").write_bytes(orjson.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")


def _halves(token: bytes, rank: int, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    pieces = [token[i : i + 1] for i in range(len(token))]
    while len(pieces) > 2:
        best = min(range(len(pieces) - 1), key=lambda i: ranks.get(pieces[i] + pieces[i + 1], rank))
        assert ranks.get(pieces[best] + pieces[best + 1], rank) < rank, f"{token!r} is not made by merges"
        pieces[best : best + 2] = [pieces[best] + pieces[best + 1]]
    return pieces[0], pieces[1]


def _shown_bytes() -> dict[int, str]:
    """The character that stands for each byte in GPT-2's files: printable bytes themselves, others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return {**{byte: chr(byte) for byte in printable}, **{byte: chr(256 + i) for i, byte in enumerate(hidden)}}


def _names(config: ModelConfig) -> dict[str, str]:
    """transformers' name of each of our weights."""
    modules = dict(_OUTER)
    for layer in range(config.layers):
        modules |= {f"blocks.{layer}.{ours}": f"transformer.h.{layer}.{theirs}" for ours, theirs in _INNER.items()}
    names = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in modules.items()}
    biased = (ours for ours in modules if ours not in ("tokens", "positions"))
    return {**names, **{f"{ours}.bias": f"{modules[ours]}.bias" for ours in biased}}


def _hf_config(config: ModelConfig) -> dict[str, Any]:
    sizes = {"n_layer": config.layers, "n_head": config.heads, "n_embd": config.width, "n_positions": config.context}
    dropouts = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), config.dropout)
    other = {"architectures": ["GPT2LMHeadModel"], "torch_dtype": "float32", "initializer_range": 0.02}
    return {**_FIXED, **sizes, "vocab_size": config.vocab_size, **dropouts, **other}


def _config(folder: Path) -> ModelConfig:
    path = folder / "config.json"
    try:
        known: dict[str, Any] = orjson.loads(path.read_bytes())
        differing = [name for name, allowed in _allowed(known).items() if known.get(name, allowed[0]) not in allowed]
        if differing:
            name = differing[0]
            (value, *_) = _allowed(known)[differing[0]]
            raise InputError(f"{name}={known[name]!r}, but GPT-2 has {value!r}; this model is not supported")
        config = ModelConfig(
            layers=known["n_layer"],
            heads=known["n_head"],
            width=known["n_embd"],
            context=known["n_positions"],
            vocab_size=known["vocab_size"],
            dropout=known.get("resid_pdrop", 0.1),
        )
    except OSError as error:
        raise InputError(f"--hf {folder}: no config.json there ({error.strerror})") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the configuration of a GPT-2 ({error!r})") from error
    if config.vocab_size != VOCAB_SIZE:
        raise InputError(f"{path}: has a vocabulary of {config.vocab_size} tokens, but GPT-2 has {VOCAB_SIZE}")
    return config


def _allowed(known: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The allowed values of each field, transformers' default first."""
    return {**{name: (value,) for name, value in _FIXED.items()}, "n_inner": (None, 4 * known["n_embd"])}


def _weight_files(folder: Path) -> list[Path]:
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(orjson.loads(index.read_bytes())["weight_map"].values()))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{index}: not an index of safetensors files ({error!r})") from error
        return [folder / Path(name).name for name in names]  # always beside the index, whatever path it gives
    pickled = " (a pickled pytorch_model.bin is not read; save it again with safe_serialization=True)"
    raise InputError(f"--hf {folder}: no model.safetensors{pickled if list(folder.glob('*.bin')) else ''}")


def _write(path: Path, value: Any) -> None:
    path.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2))
