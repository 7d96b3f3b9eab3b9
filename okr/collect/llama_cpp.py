"""Reads which experts run in a model of llama.cpp.

Needs ``llama-cpp-python``. llama.cpp lets a callback see every tensor that it computes. The experts that a router chose
are the tensor ``ffn_moe_topk-<layer>``.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from okr.collect.routing import Routing
from okr.errors import InvalidConfig, RouterNotFound

TOPK = b"ffn_moe_topk-"
ITEM = 4  # bytes of an expert's number, int32


class _Tensor(ctypes.Structure):
    """The first fields of ggml's tensor: entries and bytes from one entry to the next, by dimension."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
    )


@contextmanager
def collected(model: Any) -> Iterator[Routing]:
    """Collect the experts that run in ``model``, a ``llama_cpp.Llama``, within the block, one sequence at a time.

    The engine runs unchanged, in a context of its own that begins empty: llama.cpp takes a callback only when it makes
    a context. What is collected follows that context. Where the engine goes back in its cache, for another text or
    after rejected drafts, the tokens that it takes out are forgotten.

    ``model`` must be made with ``logits_all=True``: llama.cpp runs the experts of the last layer only for tokens whose
    logits are asked for. Raises InvalidConfig if it is not, or if it has a LoRA adapter or a cache of states, and
    RouterNotFound if it has no experts.
    """
    if not any(name.endswith(".expert_count") and int(count) for name, count in model.metadata.items()):
        raise RouterNotFound("the model in llama.cpp has no experts")
    if not model._logits_all:
        raise InvalidConfig("make the Llama with logits_all=True: else the last layer skips the prompt's experts")
    if model.lora_path or model.cache:
        raise InvalidConfig("the Llama must have neither a LoRA adapter nor a cache of states")
    routing = Routing()
    own, parameters = model._ctx, type(model.context_params).from_buffer_copy(model.context_params)
    parameters.cb_eval = callback = _reading(routing)
    context = type(own)(model=model._model, params=parameters, verbose=model.verbose)
    context.callback = callback  # llama.cpp calls it as long as the context lives
    remove = context.kv_cache_seq_rm

    def removing(sequence: int, begin: int, end: int) -> bool:
        removed: bool = remove(sequence, begin, end)
        if removed:
            routing.keep(begin)
        return removed

    context.kv_cache_seq_rm = removing
    model._ctx = context
    try:
        model.reset()
        yield routing
    finally:
        model._ctx = own
        model.reset()
        context.close()


def _reading(routing: Routing) -> Any:
    """The callback that adds to ``routing`` the experts of every router that runs."""
    from llama_cpp import ggml_backend_sched_eval_callback
    from llama_cpp._ggml import libggml

    name_of = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(("ggml_get_name", libggml))
    size_of = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p)(("ggml_nbytes", libggml))
    parts = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
    copy_of = ctypes.CFUNCTYPE(None, *parts)(("ggml_backend_tensor_get", libggml))

    def read(address: int, asked: bool, _: Any) -> bool:
        name = name_of(address)
        if not name.startswith(TOPK):
            return not asked
        if not asked:
            tensor = _Tensor.from_address(address)
            memory = np.empty(size_of(address) // ITEM, np.int32)
            copy_of(address, memory.ctypes.data, 0, memory.nbytes)
            shape, strides = (tensor.ne[1], tensor.ne[0]), (tensor.nb[1], tensor.nb[0])
            routing.add(int(name[len(TOPK) :]), np.lib.stride_tricks.as_strided(memory, shape, strides).copy())
        return True

    return ggml_backend_sched_eval_callback(read)
