"""Loading: from a model's folder to a model that can be stepped, with all that is known about it.

Runs on the GPU thread, which will own every array made here.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import json
import logging
import os
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference import memory
from inference.detokenizer import Detokenizer
from inference.engine import LoadedModel
from inference.parser import Markers, Parser
from inference.repository import read_config, weight_bytes, weight_files
from inference.template import ChatTemplate
from parts import InvalidRequest, Message, ModelCard, Prompt, SamplingParams, Unavailable

if TYPE_CHECKING:
    from inference.cuda_attention import CudaAttention
    from inference.prefix_folder import PrefixFolder
    from inference.runner import Runner

log = logging.getLogger(__name__)

DECIDING = frozenset({".json", ".jinja", ".model", ".txt", ".safetensors"})
"""Kinds of files that have a part in what a model says."""
SMALL = 32 * 2**20
"""Bytes of a file that is read whole to name a model."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of malloc.h."""
OBJECTS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""Files of a tokenizer that hold JSON objects."""
MAX_REASON = 200
"""Characters of what a library says."""
DEFAULT_CONTEXT = 8192
"""Tokens, for a model that does not say how many it can read."""
HOPPER = 9
"""The compute capability of devices that were measured; smaller ones hold less at once."""
PLANNED = 16_384
"""Tokens of a prompt whose chunks are planned for at load, where that takes time."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Which model, and how."""

    folder: Path
    name: str
    adapter_path: str | None = None
    context_window: int | None = None
    template_args: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    prefix_cache_bytes: int = 2 * 2**30
    kv_bits: int | None = None
    """Bits of a number in the KV caches, instead of the model's own precision."""
    memory_limit: int | None = None
    """Bytes that the process may use; None is what the device recommends, less a part."""
    is_forced: bool = False
    """Whether to load what does not seem to fit."""
    prefix_cache_folder: Path | None = None
    prefix_folder_bytes: int = 10 * 2**30


def load(options: LoadOptions) -> LoadedModel:
    """Load a model and warm it up.

    Raises:
        Unavailable: with one sentence that says why it cannot be loaded.
    """
    with _file_limit_kept():
        import mlx.core as mx

        _set_up_cuda(mx)
        import mlx_lm
        from mlx_lm.tool_parsers import json_tools

        from inference import cuda_attention, self_test
        from inference.grammar import Grammars
        from inference.guide import Guide
        from inference.prefix_cache import PrefixCache
        from inference.runner import Runner
        from inference.shapes import Shapes

    device = mx.device_info()
    if not options.is_forced:
        memory.check_weights(weight_bytes(options.folder), device)
    _prepare_device(mx)
    try:
        model, tokenizer = mlx_lm.load(
            str(options.folder),
            adapter_path=options.adapter_path,
            tokenizer_config={"trust_remote_code": options.trust_remote_code},
            trust_remote_code=options.trust_remote_code,
        )
        _suit_to_device(mx, model)
        if options.kv_bits:
            _quantize_caches(model, options.kv_bits)
        width, layers = _warm_up(mx, model)
    except Unavailable:
        raise
    except Exception as error:  # whatever a model's files can make a library do
        log.debug("loading failed", exc_info=error)
        raise Unavailable(_reason(error, options)) from error
    template = ChatTemplate(tokenizer, options.template_args)
    markers, tool_parser = Markers.of(tokenizer), tokenizer.tool_parser
    if not template.can_call_tools:
        markers, tool_parser = markers.with_fallback_tools(tokenizer), json_tools.parse_tool_call

    num_embeddings = _num_embeddings(model) or width
    _try_template(template, options)

    def render(prompt: Prompt) -> list[int]:
        tokens = template.render(prompt)
        if (token := max(tokens, default=0)) >= num_embeddings:
            word = str(tokenizer.convert_ids_to_tokens(token))
            raise InvalidRequest(
                f"The prompt holds the token {word[:64]!r}, which this model was not made for.",
                param="messages",
                code="unsupported_content",
            )
        return tokens

    def make_parser(tokens: list[int], prompt: Prompt) -> Parser:
        return Parser(
            Detokenizer(tokenizer),
            markers,
            is_thinking=markers.opens_thinking(tokens, tokenizer),
            tools=prompt.tools,
            tool_parser=tool_parser,
        )

    def make_guide(tokens: list[int], prompt: Prompt, params: SamplingParams) -> Guide | None:
        return grammars.guide(prompt, tokens, max_reasoning_tokens=params.max_reasoning_tokens)

    attention = _attend_on_cuda(mx, model, width)
    can_batch, can_pad = self_test.run(model, width)
    limit = options.memory_limit or int(memory.recommended(device) * memory.SHARE)
    _limit_memory(mx, limit)
    # Not the number of tokens: some vocabularies have gaps, with the stop tokens behind them.
    vocab_size = min(width, max(tokenizer.get_vocab().values()) + 1)
    grammars = Grammars(tokenizer, markers, vocab_size=vocab_size, tool_parser=tool_parser)
    runner = Runner(
        model,
        tokenizer,
        vocab_size=vocab_size,
        num_opening=template.num_opening,
        can_batch=can_batch,
        can_pad=can_pad,
        is_compiled=attention is not None and self_test.can_compile(model, width),
        prefix_cache=PrefixCache(options.prefix_cache_bytes, _prefix_folder(options, model)),
        shapes=Shapes(
            is_planned=mx.cuda.is_available(),
            few=cuda_attention.FEW if attention else 0,
            most_scores=cuda_attention.MOST_SCORES,
            grid=512 if attention else 256,
        ),
        max_logits_bytes=limit // 40,
        max_padding_bytes=min(limit // 10, 2**31),
    )
    window = options.context_window or _context_window(options.folder, tokenizer)
    runner.warm_up()
    if attention:
        _plan(attention, runner, min(window, PLANNED))
    budget = memory.Budget(limit, mx.get_active_memory() + limit // 20, layers)
    if options.is_forced and budget.max_tokens(window) < window:
        log.warning("the model may not fit into memory: nothing is refused for want of it")
        budget = memory.Budget()
    memory.check_room(budget, window)
    grammars.warm_up()
    return LoadedModel(
        card=ModelCard(
            name=options.name,
            context_window=window,
            thinking=template.can_think,
            tools=template.can_call_tools,
            fingerprint=_fingerprint(
                options,
                *map(version, ("mlx", "mlx-lm", "llguidance")),
                f"{mx.default_device()} {device.get('device_name')}",
            ),
            num_bytes=weight_bytes(options.folder),
            sampling_defaults=_sampling_defaults(options.folder),
        ),
        runner=runner,
        release=_release,
        budget=budget,
        render=render,
        make_parser=make_parser,
        make_guide=make_guide,
        vocab_size=vocab_size,
        stop_tokens=frozenset(tokenizer.eos_token_ids),
    )


def _release() -> None:
    """Give back what a model took that nobody refers to any more."""
    import mlx.core as mx

    gc.unfreeze()  # where the model was taken for something that stays
    gc.collect()
    mx.clear_cache()


@contextlib.contextmanager
def _file_limit_kept() -> Iterator[None]:
    """Keep mlx-lm from setting the limit on open files, which it does when it is imported.

    It lowers a higher limit, which only root could raise again, and fails where less is allowed.
    """
    setrlimit = resource.setrlimit
    resource.setrlimit = lambda which, limits, /: None
    try:
        yield
    finally:
        resource.setrlimit = setrlimit


def _set_up_cuda(mx: Any) -> None:
    """Tell MLX how to use CUDA, in the environment, which it reads with its first stream."""
    if not mx.cuda.is_available():
        return
    # MLX counts the shapes that it has planned for, and fails for good after hundreds.
    chosen = {"MLX_ENABLE_CACHE_THRASHING_CHECK": "0", "MLX_CUDA_SDPA_CACHE_SIZE": "1024"}
    if _capability(mx) == HOPPER:
        # Work is handed to the device in pieces, each of which costs the host something.
        chosen |= {"MLX_MAX_OPS_PER_BUFFER": "100", "MLX_MAX_MB_PER_BUFFER": "1000"}
    for name, value in chosen.items():
        os.environ.setdefault(name, value)


def _capability(mx: Any) -> int:
    """The first number of a CUDA device's compute capability; 0 where there is none."""
    return int(mx.device_info().get("compute_capability_major", 0))


def _prepare_device(mx: Any) -> None:
    """Keep the weights wired on Metal, as mlx-lm does: unwired, they are paged out under load.

    On CUDA, keep caches from growing by 256: attention over such a one is planned anew for each
    size, which stops a stream for the better part of a second.
    """
    from mlx_lm.models.cache import BatchKVCache, KVCache

    _return_large_blocks()
    if mx.cuda.is_available():
        KVCache.step = BatchKVCache.step = 264
    limit = mx.device_info().get("max_recommended_working_set_size")
    if limit and mx.metal.is_available():
        mx.set_wired_limit(limit)


def _limit_memory(mx: Any, limit: int) -> None:
    """Have MLX keep some of the memory that is free, because to get it takes time."""
    if mx.cuda.is_available():
        # As much as the caches of a batch, which are made anew when rows come or go; what is kept
        # goes before more is taken than there may be.
        mx.set_cache_limit(limit // 8)
        mx.set_memory_limit(limit)
    else:
        mx.set_cache_limit(min(limit // 40, 2**30 if mx.default_device() == mx.gpu else 2**25))


def _attend_on_cuda(mx: Any, model: Any, vocab_size: int) -> CudaAttention | None:
    """On CUDA, have the model attend in our ways, if it answers as before."""
    from inference import cuda_attention, self_test
    from inference.rows import PaddedKVCache

    PaddedKVCache.is_ragged = False
    if not mx.cuda.is_available():
        return None
    attention = cuda_attention.CudaAttention(has_cudnn=_capability(mx) >= 8)
    undo = cuda_attention.install(model, attention)
    PaddedKVCache.is_ragged = True
    if self_test.run(model, vocab_size, level=logging.DEBUG) == (True, True):
        return attention
    log.info("this model's layers attend as MLX does, which costs a batch some of its speed")
    undo()
    PaddedKVCache.is_ragged = False
    return None


def _plan(attention: CudaAttention, runner: Runner, longest: int) -> None:
    """Have planned what takes long to plan. What cannot be is found out when it is asked for."""
    try:
        attention.plan(runner.shapes.planned(longest))
        runner.plan_batches()
    except Exception as error:  # out of memory, or of what a library knows
        log.info("not all is planned for: %s", error)


def _return_large_blocks() -> None:
    """Have glibc give blocks of 256 kB and more back to the system as soon as they are free.

    It learns to keep them, for speed; between small ones they are of no use to anybody, and a
    server that runs for days grows. MLX keeps what it needs again soon by itself.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, number in ((M_MMAP_THRESHOLD, 2**18), (M_TRIM_THRESHOLD, 2**20)):
            mallopt(parameter, number)


def _suit_to_device(mx: Any, model: Any) -> None:
    """On a CPU, compute a quantized model in float32: 8 to 30 times faster than in 16 bits.

    On CUDA, where starting a product costs more than a small one takes, have fewer of them.
    """
    import mlx.nn as nn

    from inference import cuda_products, fused

    has_gpu = mx.default_device() == mx.gpu
    is_quantized = any(isinstance(m, nn.QuantizedLinear) for m in model.modules())
    if is_quantized and not has_gpu:
        model.set_dtype(mx.float32)
        mx.eval(model.parameters())
    if mx.cuda.is_available():
        fused.fuse(model, cuda_products.few_rows() or fused.product_of)


def _quantize_caches(model: Any, bits: int) -> None:
    """Have the model make quantised caches, whoever asks it for one. Raises `Unavailable`."""
    from mlx_lm.models.cache import KVCache

    from inference.quantized_cache import group_size_for, quantize

    group_size = group_size_for(model, bits)
    own = getattr(model, "make_cache", None)

    def make_cache() -> list[Any]:
        plain = own() if own else [KVCache() for _ in model.layers]
        return quantize(plain, bits, group_size)

    model.make_cache = make_cache


def _warm_up(mx: Any, model: Any) -> tuple[int, tuple[memory.Growth, ...]]:
    """Compute a few tokens, so that the first client does not wait for kernels to be compiled.

    Returns the width of the logits, and how the caches grow.
    """
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    mx.eval(model(mx.zeros((1, 8), mx.uint32), cache=cache))
    logits = model(mx.zeros((1, 1), mx.uint32), cache=cache)
    mx.eval(logits)
    growth = tuple(g for layer in cache for g in memory.growth_of(layer))
    return int(logits.shape[-1]), growth


def _try_template(template: ChatTemplate, options: LoadOptions) -> None:
    """Refuse a template that fails on everything. Raises `Unavailable`."""
    try:
        template.render(Prompt((Message("user", "Hello"),)))
    except InvalidRequest as error:
        raise Unavailable(
            f"The chat template in {options.folder} cannot be used: {error.message}"
        ) from error


def _num_embeddings(model: Any) -> int:
    """How many tokens the model can read: the tokenizer's files may name more."""
    import mlx.nn as nn

    kinds = (nn.Embedding, nn.QuantizedEmbedding)
    rows = [m.weight.shape[0] for _, m in model.named_modules() if isinstance(m, kinds)]
    return max(rows, default=0)


def _prefix_folder(options: LoadOptions, model: Any) -> PrefixFolder | None:
    """Open the folder of prefixes, under a key that only this model's caches have."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    from inference.prefix_folder import PrefixFolder, key_of

    if options.prefix_cache_folder is None or not options.prefix_cache_bytes:
        return None
    files = [options.folder / "config.json", *weight_files(options.folder)]
    if options.adapter_path:
        files += sorted(p for p in Path(options.adapter_path).iterdir() if p.is_file())
    layers = [type(layer).__name__ for layer in make_prompt_cache(model)]
    layers.append(f"{options.kv_bits or 'all'} bits")
    device = str(mx.default_device())
    key = key_of(files, version("mlx"), version("mlx-lm"), device, *layers)
    return PrefixFolder(options.prefix_cache_folder, key, max_bytes=options.prefix_folder_bytes)


def _context_window(folder: Path, tokenizer: Any) -> int:
    config = read_config(folder)
    text = config.get("text_config")
    for source in (config, text if isinstance(text, dict) else {}):
        window = source.get("max_position_embeddings")
        if isinstance(window, int) and window > 0:
            return window
    length = getattr(tokenizer, "model_max_length", None)
    return length if isinstance(length, int) and 0 < length < 10**7 else DEFAULT_CONTEXT


def _sampling_defaults(folder: Path) -> dict[str, float]:
    """What the model's makers recommend where OpenAI's API has no default."""
    try:
        config = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
        said = {"top_k": config.get("top_k"), "min_p": config.get("min_p")}
    except (OSError, ValueError, AttributeError):
        return {}
    numbers = {k: v for k, v in said.items() if isinstance(v, int | float) and v > 0}
    return {k: v for k, v in numbers.items() if (v <= 1 if k == "min_p" else v == int(v))}


def _fingerprint(options: LoadOptions, *facts: str) -> str:
    """Name what, besides a request and its seed, decides the answer.

    A copy of a model has the name of the model: neither places nor times are looked at.
    """
    settings = (sorted(options.template_args.items()), options.kv_bits)
    digest = hashlib.sha256(repr((facts, settings)).encode())
    adapter = [Path(options.adapter_path)] if options.adapter_path else []
    for folder in (options.folder, *adapter):
        for path in sorted(p for p in folder.iterdir() if p.suffix in DECIDING):
            digest.update(f"{path.name}:{path.stat().st_size}".encode())
            digest.update(_sample(path))
    return f"fp_{digest.hexdigest()[:12]}"


def _sample(path: Path) -> bytes:
    """What a file holds, or some of it when that is much."""
    size, parts = path.stat().st_size, []
    with path.open("rb") as file:
        if size <= SMALL:
            return hashlib.sha256(file.read()).digest()
        for at in range(0, size, size // 64):
            file.seek(at)
            parts.append(file.read(4096))
    return b"".join(parts)


def _reason(error: Exception, options: LoadOptions) -> str:
    """Say in one sentence why loading failed, and what to try."""
    text, folder = str(error), options.folder
    if "trust_remote_code" in text or "custom module" in text:
        return (
            f"The model in {folder} needs to run its own code; if you trust it, start with "
            "--trust-remote-code."
        )
    if "not supported" in text and "odel type" in text:
        return f"mlx-lm does not know the model type that {folder / 'config.json'} names."
    if options.adapter_path and "adapter" in text.lower():
        return f"The adapter in {options.adapter_path} cannot be loaded onto this model."
    if memory.is_shortage(error):
        return f"There is not enough memory for the model in {folder}; try a smaller one."
    if "parameters" in text or "shape" in text.lower():
        return f"The weights in {folder} do not fit its config.json; download the model again."
    if (broken := _unreadable(folder)) is not None:
        return f"{broken} cannot be read as JSON; download the model again."
    said = " ".join(f"{type(error).__name__}: {text}".split())[:MAX_REASON]
    return (
        f"The model in {folder} cannot be loaded ({said}); --log-level debug shows where it fails."
    )


def _unreadable(folder: Path) -> Path | None:
    """A file of a model that is to be a JSON object, and is none."""
    for path in (folder / name for name in OBJECTS):
        with contextlib.suppress(FileNotFoundError):
            try:
                value = json.loads(path.read_text(encoding="utf-8"))
            except (ValueError, RecursionError):
                return path
            if not isinstance(value, dict):
                return path
    return None
