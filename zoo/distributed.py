"""Sums and messages between the processes of torchrun; where there is one process alone, they change nothing."""

import json
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, distributed

Result = TypeVar("Result")


def process_count() -> int:
    """How many processes work together: those of an initialised process group, or this one."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process of rank 0."""
    return process_count() == 1 or distributed.get_rank() == 0


def all_sum(tensor: Tensor) -> Tensor:
    """The sum over the processes, in all of them, in the memory of `tensor`."""
    return _exchange(tensor, distributed.all_reduce)


def broadcast(tensor: Tensor) -> Tensor:
    """The main process's tensor, in the memory of every process's own, which must have its shape and type."""
    return _exchange(tensor, lambda sent: distributed.broadcast(sent, 0))


def all_max(number: float) -> float:
    """The largest number of all processes."""
    found = torch.tensor(float(number), dtype=torch.float64)
    return _exchange(found, lambda sent: distributed.all_reduce(sent, distributed.ReduceOp.MAX)).item()


def all_or_none(work: Callable[[], Result]) -> Result:
    """What `work` returns in this process; where it fails in one process it fails in all, so that none waits for ever.

    Raises what `work` raises, and RuntimeError where another process failed.
    """
    if process_count() == 1:
        return work()
    try:
        result, error = work(), None
    except Exception as raised:
        result, error = None, raised
    failed = all_max(error is not None)
    if error is not None:
        raise error
    if failed:
        raise RuntimeError("another process has failed: its message says why")
    return result  # type: ignore[return-value]


def from_main(work: Callable[[], Tensor | None], like: Tensor) -> Tensor | None:
    """The matrix that `work` returns in the main process, or None, in every process; `like` has its type."""
    found = all_or_none(lambda: work() if is_main() else None)
    rows, columns = (int(all_max(0 if found is None else found.shape[i])) for i in (0, 1))
    if not columns:
        return None
    return broadcast(like.new_empty(rows, columns) if found is None else found)


def in_main_process(name: str, work: Callable[[], str], failure: type[Exception] = RuntimeError) -> str:
    """Do something in the main process alone, and give its result to all that ask for it.

    The main process waits for nobody, so that it may also be the only one to ask; the others wait for it.

    Arguments:
        name: of what is done, the same in every process.
        failure: what the other processes raise, with the message, where `work` raises.
    """
    if process_count() == 1:
        return work()
    store = distributed.distributed_c10d._get_default_store()
    _asked[name] += 1
    key = f"latent-zoo/{name}/{_asked[name]}"
    if not is_main():
        answer = json.loads(store.get(key))  # waits for it
        if "error" in answer:
            raise failure(f"the main process failed: {answer['error']}")
        return answer["result"]
    try:
        result = work()
    except BaseException as error:
        store.set(key, json.dumps({"error": str(error) or type(error).__name__}))
        raise
    store.set(key, json.dumps({"result": result}))
    return result


_asked: Counter[str] = Counter()
"""How often `in_main_process` was asked for each name in this process."""


def _exchange(tensor: Tensor, send: Callable[[Tensor], object]) -> Tensor:
    if process_count() == 1:
        return tensor
    nccl = "nccl" in distributed.get_backend()  # which moves nothing but the memory of GPUs
    device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
    sent = tensor.to(device).contiguous()
    send(sent)
    return tensor if sent is tensor else tensor.copy_(sent)
