"""Load the model of a command onto this process's own share of the cards and of the host's memory."""

import logging

import torch
from accelerate.utils import convert_file_size_to_int, get_max_memory

from okr.errors import InvalidConfig
from okr.jobs.placement import Placement
from okr.jobs.processes import ALONE, Processes
from okr.loaders import Loaded, load

log = logging.getLogger("okr")


def load_placed(config: Placement, processes: Processes = ALONE) -> Loaded:
    """Load the model of ``config`` on the device it names; several processes of one machine divide its cards evenly.

    Device ``auto`` is the CPU on a machine without a CUDA card. Raises what okr.load raises, and InvalidConfig where
    there are fewer cards than processes.
    """
    cards = torch.cuda.is_available()
    device: str | None = None if config.device == "cpu" or (config.device == "auto" and not cards) else config.device
    room: dict[int | str, int] | None = None
    if device is not None and cards:
        device, room = _on_cards(device, config, processes)
    if ignored := without_effect(config):
        log.warning("%s", ignored)
    return load(
        config.model,
        dtype=config.dtype,
        device_map=device,
        max_memory=room,  # type: ignore[arg-type]
        quantization=config.quantization,
        trust_remote_code=config.trust_remote_code,
    )


def without_effect(config: Placement) -> str:
    """What of ``config`` changes nothing on this machine, on one line, or ""."""
    if config.max_memory is None or (config.device == "auto" and torch.cuda.is_available()):
        return ""
    return f"max_memory {config.max_memory} has no effect: it caps the first CUDA card under device 'auto'"


def _on_cards(device: str, config: Placement, processes: Processes) -> tuple[str, dict[int | str, int] | None]:
    """The device map and, where it must be bounded, the memory by card and on the host ("cpu"), in bytes."""
    shared = processes.local_count > 1
    if shared and device.startswith("cuda:"):
        raise InvalidConfig(f"--device {device} names one card for every process: use --device cuda or auto")
    if device != "auto" and not shared:
        return device, None
    if not shared and config.max_memory is None:
        return device, None
    room = dict(get_max_memory())  # what is free on every card and on the host: what a cap shuts out goes there
    cards = sorted(place for place in room if isinstance(place, int))
    each = len(cards) // processes.local_count
    if each == 0:
        raise InvalidConfig(
            f"{processes.local_count} processes on a machine with {len(cards)} CUDA cards: start one for each card "
            "(--num_processes), or use --device cpu"
        )
    own = cards[processes.local_rank * each :][:each]
    if shared:
        torch.cuda.set_device(own[0])
        room = {card: room[card] for card in own} | {"cpu": room["cpu"] // processes.local_count}
    if device != "auto":
        return f"cuda:{own[0]}", None
    if config.max_memory is not None:
        room[own[0]] = min(room[own[0]], convert_file_size_to_int(config.max_memory.replace(" ", "")))
    return device, room
