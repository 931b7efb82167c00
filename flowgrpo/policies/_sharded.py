"""Networks in parts (FSDP2): a process keeps a part of each repeated block's weights, and has a block whole to compute it."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from flowgrpo.core.errors import UserError
from flowgrpo.core.lockstep import Lockstep
from flowgrpo.core.parts import whole
from flowgrpo.core.processes import Processes
from flowgrpo.policies._compiled import repeated


class Sharding:
    """Over `cards` processes that are neighbours, with copies on the others. From now on the processes go in `lockstep`, and the
    networks are added to it.
    """

    def __init__(self, processes: Processes, cards: int) -> None:
        count, device = processes.count, processes.device
        assert processes.lockstep is None, "one policy of a process is shared out"
        shape, names = ((cards,), ("shard",)) if cards == count else ((count // cards, cards), ("copy", "shard"))
        self.mesh: DeviceMesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
        self.is_main, self.device, self.lockstep = processes.is_main, device, Lockstep(count, device)
        processes.lockstep = self.lockstep

    def __call__(self, networks: Mapping[str, nn.Module]) -> None:
        """Share out the blocks of these networks, one after the other, and put what is left on the device.

        Errors: UserError where a network has none.
        """
        for network in networks.values():
            blocks = list(repeated(network))
            if not blocks:
                raise UserError(
                    f"{type(network).__name__} has no list of blocks to share out, so distributed.type must be replicate"
                )
            for block in blocks:
                _share_out(block, self.mesh)
            network.to(self.device)

    def gathered(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of whole tensors in main memory, on the main process; none on the others, which take part."""
        self.lockstep.finish()
        on_main = {}
        for name, tensor in state.items():
            value = whole(tensor)
            if self.is_main:
                on_main[name] = value.to("cpu", copy=True)
        return on_main


def _share_out(block: nn.Module, mesh: DeviceMesh) -> None:
    """Gradients are sums, not means, over the processes."""
    sharded: FSDPModule = fully_shard(block, mesh=mesh, reshard_after_forward=True)
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)
