"""Loads a model and its tokenizer by one name (``okr.load``). What goes wrong is said in one line."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers import __version__ as transformers_version
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from okr.errors import InvalidSetting, ModelLoadError, OKRError, OutOfMemory
from okr.loaders import hub
from okr.loaders.arguments import as_dtype, as_quantization, check_devices
from okr.loaders.deepseek import DeepseekConfig, register
from okr.loaders.expert_counts import expert_counts
from okr.loaders.failures import is_out_of_memory, one_line, out_of_memory, root_message, weights_fault
from okr.loaders.quantised import DeepseekLinearForCausalLM, as_stored, fit_to_host, quantised_share, register_linear
from okr.loaders.quiet import Report, quiet
from okr.loaders.random_weights import SHAPE, random_model
from okr.loaders.sources import Place, resolve

log = logging.getLogger("okr")


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode and its tokenizer.

    ``source`` names what was loaded, after aliases, presets and the search order were applied: an embedded model, a
    folder or a hub id. ``revision`` is the hub's commit, or None if the model is not from a hub.
    """

    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    source: str
    revision: str | None = None


def load(
    source: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype = "auto",
    device_map: str | Mapping[str, Any] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    quantization: str | None = None,
    trust_remote_code: bool = False,
) -> Loaded:
    """Load a Mixture-of-Experts language model and its tokenizer.

    Arguments:
        source: an embedded model (``tiny-deepseek-moe``, ``tiny-switch``), a preset (``tiny``, ``tiny-switch``,
            ``switch``, ``deepseek-moe``), ``deepseek-moe-random`` (the shape of DeepSeek-MoE-16B with random weights),
            a folder, or a hub id.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``, or the torch.dtype. ``auto`` is the checkpoint's own
            dtype, and float32 for embedded models.
        device_map: as in transformers. None keeps the model on the CPU.
        max_memory: the most memory to use on each device, such as ``{0: "70GiB"}``. It needs a ``device_map``.
        quantization: ``8bit`` or ``4bit``, by bitsandbytes. Routers are never quantised.
        trust_remote_code: run Python code from the checkpoint. Models of type ``deepseek`` need none, and theirs is
            never run.

    Raises:
        ModelLoadError: the model is not found, damaged, incomplete or not supported. The message is one line that says
            what to do.
        OutOfMemory: the model does not fit into memory.
        InvalidSetting: an argument is out of its range.
    """
    check_devices(device_map, max_memory)
    quantised, wanted = as_quantization(quantization), as_dtype(dtype)
    place = resolve(source)
    if place.kind == "random":
        return _random(place, wanted, quantised, device_map, max_memory)
    if place.kind == "embedded" and wanted == "auto":
        wanted = torch.float32  # stored as bfloat16 to be small
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": place.is_local}
    register()
    if not place.is_local:
        options["local_files_only"] = not hub.reachable(place)
    with quiet(progress=place.kind != "embedded") as report:
        config = _config(place, options, report)
        if isinstance(config, DeepseekConfig):
            options["trust_remote_code"] = False
        tokenizer = _tokenizer(place, config, options, report)
        placing = {
            "device_map": device_map,
            "max_memory": max_memory and dict(max_memory),
            "quantization_config": quantised,
        }
        given = {name: value for name, value in placing.items() if value is not None}
        model = _model(place, config, options | given | {"dtype": wanted}, report)
    if quantised is not None:
        fit_to_host(model)
        _say_share(place, quantised_share(model), quantization)
    rows = model.get_input_embeddings().num_embeddings
    if isinstance(rows, int) and len(tokenizer) > rows:
        log.warning("%s: the tokenizer has %d entries, the model embeds only %d", place.name, len(tokenizer), rows)
    log.info("loaded %s (%s) as %s", place.name, config.model_type, model.dtype)
    return Loaded(model.eval(), tokenizer, place.name, None if place.is_local else hub.revision(place))


def load_tokenizer(source: str | os.PathLike[str], *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model alone, for a model that another program runs. Raises ModelLoadError as :func:`load`
    does."""
    place = resolve(source)
    if place.kind == "random":
        return load_tokenizer("tiny-deepseek-moe")
    register()
    local = place.is_local or not hub.reachable(place)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": local}
    with quiet(progress=False) as report:
        return _tokenizer(place, _config(place, options, report), options, report)


def config_alone(source: str | os.PathLike[str], *, trust_remote_code: bool = False) -> PreTrainedConfig | None:
    """The configuration of a folder that lacks weights or a tokenizer; None for any other source, which :func:`load`
    can load. The configuration is enough to find the model's routers.

    Raises ModelLoadError if there is no such folder or its configuration cannot be read.
    """
    place = resolve(source)
    if place.kind != "folder" or (_has_tokenizer(place.location) and _has_weights(place.location)):
        return None
    return architecture(source, trust_remote_code=trust_remote_code)


def architecture(source: str | os.PathLike[str], *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration of a model with files. Raises ModelLoadError if it cannot be read."""
    place = resolve(source)
    register()
    local = place.is_local or not hub.reachable(place)
    with quiet(progress=False) as report:
        return _config(place, {"trust_remote_code": trust_remote_code, "local_files_only": local}, report)


def _say_share(place: Place, share: float, quantization: str | None) -> None:
    """Log the share of the weights that is quantised, with a warning if it is less than half."""
    log.info("%s: %.0f%% of the weights are held in %s", place.name, 100 * share, quantization)
    if share < 0.5:
        log.warning(
            "%s: only %.0f%% of the weights are held in %s: bitsandbytes reaches linear layers, and this class "
            "keeps its experts in one stacked tensor", place.name, 100 * share, quantization
        )  # fmt: skip


def _random(place: Place, dtype: Any, quantised: Any, device_map: Any, max_memory: Any) -> Loaded:
    """The model of DeepSeek-MoE-16B's shape with random weights. It gets the tokenizer of the embedded model, whose
    token ids are all in its vocabulary."""
    if quantised is not None:
        raise InvalidSetting(f"{place.name} has no weights to quantise: load it without quantization")
    tokenizer = load("tiny-deepseek-moe").tokenizer
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    wanted = torch.bfloat16 if dtype == "auto" else dtype
    with quiet(progress=False) as report, _failures(place, "weights", report):
        model = random_model(
            DeepseekConfig(**SHAPE, **ends), dtype=wanted, device_map=device_map, max_memory=max_memory
        )
    return Loaded(model, tokenizer, place.name)


def _config(place: Place, options: dict[str, Any], report: Report) -> PreTrainedConfig:
    with _failures(place, "configuration (config.json)", report):
        config: PreTrainedConfig = AutoConfig.from_pretrained(place.location, **options)
    counts = expert_counts(config)
    if None not in (counts.num_experts, counts.top_k) and counts.top_k > counts.num_experts:  # type: ignore[operator]
        raise ModelLoadError(
            f"{place.name}: config.json asks for the top {counts.top_k} of {counts.num_experts} experts: "
            "correct it, or download the model again"
        )
    return config


def _tokenizer(
    place: Place, config: PreTrainedConfig, options: dict[str, Any], report: Report
) -> PreTrainedTokenizerBase:
    if place.is_local and not _has_tokenizer(place.location):
        raise ModelLoadError(
            f"{place.name} has no tokenizer (looked for tokenizer.json, a vocabulary or a *.model file in the folder): "
            "copy the tokenizer files of the original model into it"
        )
    with _failures(place, "tokenizer", report):
        if not isinstance(config, DeepseekConfig):
            general: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place.location, config=config, **options)
            return general
        # The published files name a Llama class, which splits text in another way. tokenizer.json alone is right.
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(place.location, **options)
        said = get_tokenizer_config(place.location, local_files_only=options["local_files_only"])
        if said.get("add_bos_token") and tokenizer("a")["input_ids"][0] != tokenizer.bos_token_id:
            # The Llama class adds the token by itself, and tokenizer.json does not.
            tokenizer.add_bos_token = True  # type: ignore[misc]  # its setter is defined apart from its getter
        return tokenizer


def _has_tokenizer(folder: str) -> bool:
    names = os.listdir(folder)  # noqa: PTH208
    return any(n == "tokenizer.json" or n.startswith("vocab.") or n.endswith(".model") for n in names)


def _has_weights(folder: str) -> bool:
    return any(name.endswith((".safetensors", ".bin")) for name in os.listdir(folder))  # noqa: PTH208


def _model(place: Place, config: PreTrainedConfig, options: dict[str, Any], report: Report) -> PreTrainedModel:
    auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if "quantization_config" in options:
        options = options | {"quantization_config": as_stored(options["quantization_config"], config)}
    if "quantization_config" in options and isinstance(config, DeepseekConfig):
        register_linear()
        auto = DeepseekLinearForCausalLM
        options = {name: value for name, value in options.items() if name != "trust_remote_code"}
    with _failures(place, "weights", report):
        model, info = auto.from_pretrained(
            place.location,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # a mismatch is then reported in `info`, and refused below
            **options,
        )
    advice = "the checkpoint is damaged or its config.json is another model's: download it again"
    for key, found, expected in sorted(info["mismatched_keys"])[:1]:
        raise ModelLoadError(
            f"{place.name}: {len(info['mismatched_keys'])} weights have the wrong shape, such as {key} "
            f"({list(found)}, the configuration asks for {list(expected)}): {advice}"
        )
    for key in sorted(info["missing_keys"])[:1]:
        raise ModelLoadError(f"{place.name}: {len(info['missing_keys'])} weights are missing, such as {key}: {advice}")
    if info["error_msgs"]:
        raise ModelLoadError(f"{place.name}: {one_line(info['error_msgs'][0])}: {advice}")
    if info["unexpected_keys"]:
        extra = sorted(info["unexpected_keys"])
        log.warning(
            "%s: %d weights in the files have no place in the model, such as %s", place.name, len(extra), extra[0]
        )
    _check_cache(model)
    return model  # type: ignore[no-any-return]


def _check_cache(model: PreTrainedModel) -> None:
    """Switch the generation cache off in an encoder-decoder whose decoder has more layers than its encoder.
    transformers would make a cache of the encoder's size and fail."""
    decoder = getattr(model.config, "num_decoder_layers", None)
    if model.config.is_encoder_decoder and decoder is not None and decoder > model.config.num_hidden_layers:
        log.info("generating without a cache: the decoder has more layers than the encoder")
        model.generation_config.use_cache = False


@contextmanager
def _failures(place: Place, part: str, report: Report) -> Iterator[None]:
    """Raise one line about ``part`` of ``place`` for any error in the block: OutOfMemory or ModelLoadError. Errors of
    this package pass unchanged."""
    try:
        yield
    except OKRError:
        raise
    except Exception as error:
        told = RuntimeError(f"{error}\n{report.text}")  # some out-of-memory errors are in the report only
        if not is_out_of_memory(error) and not is_out_of_memory(told):
            raise ModelLoadError(_explain(place, part, error)) from error
        failure: OutOfMemory = out_of_memory(told, doing=f"loading {place.name}")
    else:
        return
    raise failure


def _explain(place: Place, part: str, error: Exception) -> str:
    """Why ``part`` of ``place`` cannot be loaded, and what to do, in one line."""
    fault = weights_fault(place.location) if place.is_local and part == "weights" else None
    if fault is not None:
        return f"the weights of {place.name} cannot be loaded: {fault}"
    if "offloaded to the disk" in str(error):
        return (
            f"{place.name} does not fit into the memory that device_map and max_memory leave (some of it would go to "
            "the disk): allow more max_memory, or load it quantised (8bit or 4bit)"
        )
    if "conversion of the weights" in str(error):
        return (
            f"the weights of {place.name} do not fit together: a matrix of some expert is missing or has another "
            "shape; the checkpoint is damaged or its config.json is another model's: download it again"
        )
    if "trust_remote_code" in str(error):
        return (
            f"{place.name} needs Python code from its own checkpoint: look at that code, and if you trust it pass "
            "trust_remote_code=True"
        )
    if "does not recognize this architecture" in str(error):
        return (
            f"{place.name} has a model type that transformers {transformers_version} does not know: upgrade "
            "transformers, or pass trust_remote_code=True if you trust the Python code that came with the model"
        )
    advice = "download it again" if place.is_local else "check the name, the network and HF_ENDPOINT"
    return f"the {part} of {place.name} cannot be loaded ({root_message(error)}): {advice}, or use another model"
