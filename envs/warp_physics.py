"""MuJoCo Warp as physics: many worlds of one model on a GPU, or on Warp's CPU device where tests run.

What must differ from the model that MuJoCo steps on the CPU:

- numbers are float32, and the solver's tolerance is 1e-6 instead of 1e-8 (MuJoCo Warp's own lower bound);
- the flag ``autoreset`` is unknown to MuJoCo Warp and dropped; it never resets a world by itself, which is what the
  flag asks for;
- contacts and constraint rows live in buffers of fixed size; what does not fit is dropped and reported.

Integrator (implicitfast), solver (Newton), friction cone (pyramidal), iterations, time step and disabled warm start are
those of the model's text. Without warm start, (qpos, qvel, ctrl) alone determine the next state here as well.

Where the task varies the robot or the floor, every world has a model of its own in the fields that may differ; where it
delays commands, every physics step has a ctrl of its own. Otherwise there is neither the memory nor the work for them.
"""

from __future__ import annotations

import mujoco
import mujoco_warp as mjw
import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from motionlex.data.errors import UserError, check_number
from motionlex.data.robots import Robot
from motionlex.envs.derived_constants import DERIVED_FIELDS
from motionlex.envs.simulator import substeps, task_model
from motionlex.envs.task_config import TaskConfig
from motionlex.envs.varied_model import VARIED_FIELDS
from motionlex.envs.warp_config import WarpBuffers

FEW_ITERATIONS = 8
"""Solver iterations that are always all run; more of them end as soon as no world needs another."""
_MOST = {mujoco.mjtGeom.mjGEOM_SPHERE: 1, mujoco.mjtGeom.mjGEOM_CAPSULE: 2}
_MOST_OF_OTHERS = 4


class WarpPhysics:
    """States of many worlds as torch views of Warp's own arrays: nothing is copied and nothing leaves the device.

    The physics steps of one control period are recorded once and replayed: on CUDA as a CUDA graph, on the CPU as
    Warp's own recording. Warp's stream and torch's default stream wait for each other, so that no call here makes the
    host wait; torch must stay on its default stream.
    """

    def __init__(
        self,
        robot: Robot,
        config: TaskConfig,
        *,
        worlds: int,
        device: str | torch.device,
        buffers: WarpBuffers | None = None,
    ) -> None:
        """Compile the model and reserve the worlds.

        Args:
            robot: What to simulate.
            config: Motors, rates, solver settings, and whether robots differ or motors are late.
            worlds: Number of robots.
            device: Torch device, ``cuda:0`` or ``cpu``.
            buffers: Room for contacts and constraints; None takes the defaults.

        Raises:
            UserError: If there is no world, or the task wants what MuJoCo Warp does not have.
        """
        check_number("worlds", worlds, above=0)
        if config.integrator == "implicit" or config.solver == "PGS":
            raise UserError(
                f"MuJoCo Warp has no integrator 'implicit' and no solver 'PGS'; the task has {config.integrator!r} and "
                f"{config.solver!r}: take implicitfast and Newton, or --backend cpu"
            )
        self.buffers = buffers or WarpBuffers()
        self.device = torch.empty(0, device=device).device  # with its index
        self.steps = substeps(config.hz, config.timestep)
        wp.config.log_level = wp.LOG_ERROR  # otherwise a line for each of a hundred kernels, and one without a GPU
        wp.init()
        self._warp_device = wp.device_from_torch(self.device)
        self.host_model = task_model(robot, config)
        self.host_model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        most_contacts = _most_contacts(self.host_model)
        own = (*VARIED_FIELDS, *DERIVED_FIELDS) if config.randomisation.physical else ()
        with wp.ScopedDevice(self._warp_device):
            self.model = mjw.put_model(self.host_model, batch_sizes=dict.fromkeys(own, worlds))
            # A fixed number of iterations needs no conditional nodes in the graph; without warm start hardly any world
            # is ready before the few that are allowed.
            self.model.opt.graph_conditional = config.iterations > FEW_ITERATIONS
            self.model.opt.warn_overflow = 0  # read from ``overflow``, not printed by the kernels
            self.data = mjw.make_data(
                self.host_model,
                nworld=worlds,
                naconmax=max(self.buffers.contacts * worlds, most_contacts),
                njmax=min(self.buffers.constraints, 4 * most_contacts + self.host_model.njnt),
            )
        self.qpos: Float[Tensor, "env coordinate"] = wp.to_torch(self.data.qpos)
        """Positions of all robots, a view."""
        self.qvel: Float[Tensor, "env velocity"] = wp.to_torch(self.data.qvel)
        """Velocities of all robots, a view."""
        self.ctrl: Float[Tensor, "env actuator"] = wp.to_torch(self.data.ctrl)
        """What the motors are told, a view."""
        self.fields: dict[str, Tensor] = {name: wp.to_torch(getattr(self.model, name)) for name in own}
        """Numbers of the model that every world has for itself, views; none where all worlds are the same."""
        late = self.steps if config.randomisation.delayed else 0
        with wp.ScopedDevice(self._warp_device):
            self._held = wp.zeros((late, *self.data.ctrl.shape), dtype=float)
        self.held: Float[Tensor, "env physics actuator"] = wp.to_torch(self._held).transpose(0, 1)
        """What the motors are told in each physics step, a view; without steps where ctrl is held."""
        self._overflow = wp.to_torch(self.data.overflow)
        self._graph = self._captured()

    def simulate(self) -> None:
        """Take one control period in every world, with ctrl or, where motors may be late, step by step with ``held``.

        Afterwards ctrl is what the motors were told last.
        """
        if self._graph is None:
            self._steps()
        else:
            wp.capture_launch(self._graph)

    def overflow(self) -> dict[str, int]:
        """Count the worlds in which a buffer was too small since the last call, by buffer; the host waits for it."""
        flags = self._overflow.to("cpu", copy=True)
        self._overflow.zero_()
        kinds = ((kind.name or "", int(kind)) for kind in mjw.OverflowType if kind.name not in ("NONE", "ALL"))
        counts = {name.lower(): int((flags & bit).ne(0).sum()) for name, bit in kinds}
        return {name: count for name, count in counts.items() if count}

    def _steps(self) -> None:
        with wp.ScopedDevice(self._warp_device):
            for step in range(self.steps):
                if size := self._held.size // self.steps:
                    wp.copy(self.data.ctrl, self._held, src_offset=step * size, count=size)
                mjw.step(self.model, self.data)

    def _captured(self) -> wp.Graph | None:
        """Record the steps of one control period, after a first run that compiles the kernels."""
        self._steps()
        if self._warp_device.is_cuda and not wp.is_mempool_enabled(self._warp_device):
            return None  # an old driver; without its memory pools a graph cannot hold the temporary arrays
        with wp.ScopedDevice(self._warp_device), wp.ScopedCapture(device=self._warp_device) as capture:
            self._steps()
        return capture.graph


def _most_contacts(model: mujoco.MjModel) -> int:
    """Return how many contacts one world can have: every geom that the floor can touch lies on it."""
    count = 0
    for first in range(model.ngeom):
        for second in range(first):
            kinds = {int(model.geom_type[first]), int(model.geom_type[second])}
            touches = (model.geom_contype[first] & model.geom_conaffinity[second]) | (
                model.geom_contype[second] & model.geom_conaffinity[first]
            )
            if touches:
                other = max(kinds)  # the plane is 0
                count += _MOST.get(mujoco.mjtGeom(other), _MOST_OF_OTHERS)
    return count
