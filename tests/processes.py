"""Run a function in several processes that form a process group."""

import torch
from safetensors.torch import load_file, save_file


def in_processes(work, count, folder):
    """The tensors that `work(rank)`, a function of a module, gives in each of `count` processes."""
    torch.multiprocessing.spawn(_run, (work, count, folder), nprocs=count)
    return [load_file(folder / f"{rank}.safetensors") for rank in range(count)]


def _run(rank, work, count, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=count)
    save_file({name: tensor.contiguous() for name, tensor in work(rank).items()}, folder / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()
