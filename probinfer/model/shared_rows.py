"""Rows of the data shared by several devices: each holds a part of them, and whatever rows do not have on every one.

XLA's partitioner does the rest: a program of these arrays computes the terms of a device's own rows there, and adds
them up over the devices. Imports JAX and NumPy only.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from probinfer.errors import MethodError


def devices_of(wanted: Any) -> tuple[jax.Device, ...]:
    """The devices that the user names: as many as the number says, or those in the list. Raises MethodError."""
    there = jax.local_devices()
    if isinstance(wanted, int | np.integer) and not isinstance(wanted, bool):
        if not 1 <= wanted <= len(there):
            text = f"devices is {wanted}, and there are {len(there)} ({_listed(there)})."
            if there[0].platform == "cpu":
                text += (
                    " A CPU is as many as jax.config.update('jax_num_cpu_devices', 4) says before JAX is first used."
                )
            raise MethodError(text)
        return (*there[: int(wanted)],)
    devices = tuple(wanted) if isinstance(wanted, Sequence) and not isinstance(wanted, str) else (wanted,)
    if not devices or not all(isinstance(device, jax.Device) for device in devices):
        raise MethodError(f"devices is {wanted!r}; wanted a number of them, or a list of some of jax.devices().")
    if len(set(devices)) < len(devices):
        raise MethodError(f"devices names one of them twice ({_listed(devices)}).")
    if len({device.platform for device in devices}) > 1:
        raise MethodError(f"devices are of different kinds ({_listed(devices)}); wanted all of one kind.")
    return devices


def _listed(devices: Sequence[jax.Device]) -> str:
    listed = ", ".join(f"{device.platform}:{device.id}" for device in devices[:4])
    return listed if len(devices) <= 4 else f"{listed}, …"


class SharedRows:
    """Which device holds what of a model's data.

    Args:
        devices: they share the rows evenly, in this order.
        outcomes: for each observed site, the shape of its log density, whose first axis are the rows.

    Raises:
        MethodError: the model has no outcome with rows, or they cannot be shared evenly.
    """

    def __init__(self, devices: Sequence[jax.Device], outcomes: dict[str, tuple[int, ...]]) -> None:
        self.devices = tuple(devices)
        whole = [name for name, shape in outcomes.items() if not shape]
        if not outcomes or whole:
            came = f"{', '.join(whole)} has one log density for all of them" if whole else "the model has no outcome"
            raise MethodError(
                f"devices= shares the rows of the data, and {came}. Give each row a log density of its own: an "
                "outcome in a numpyro.plate, not one vector (to_event) and no numpyro.factor. Or leave devices out."
            )
        counts = {name: shape[0] for name, shape in outcomes.items()}
        if len(set(counts.values())) > 1:
            came = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise MethodError(f"devices= shares the rows of the data, and the outcomes differ in theirs: {came}.")
        self.rows = next(iter(counts.values()))
        if rest := self.rows % len(self.devices):
            fitting = next(n for n in range(len(self.devices), 0, -1) if self.rows % n == 0)
            raise MethodError(
                f"{self.rows} rows cannot be shared evenly by {len(self.devices)} devices: leave out {rest} of them, "
                f"or use devices={fitting}."
            )
        self._mesh = Mesh(np.array(self.devices), ("rows",), axis_types=(AxisType.Auto,))

    @property
    def name(self) -> str:
        """Tells programs for these devices from those for others."""
        return f"rows over {_ids(self.devices)}"

    def place(self, value: np.ndarray) -> jax.Array:
        """An array on the devices: cut along its first axis if that is the rows'; no device is sent more."""
        by_row = value.shape[:1] == (self.rows,)
        return jax.device_put(value, NamedSharding(self._mesh, PartitionSpec("rows") if by_row else PartitionSpec()))

    def arguments(self, shapes: Any) -> Any:
        """Arguments of a program as its compiler wants them: what is placed stays, all else is on every device."""
        everywhere = NamedSharding(self._mesh, PartitionSpec())

        def one(leaf: Any) -> Any:
            if isinstance(leaf, jax.Array) and leaf.sharding.device_set == set(self.devices):
                return leaf
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere)

        return jax.tree.map(one, shapes)


def _ids(devices: Sequence[jax.Device]) -> str:
    return " ".join(f"{device.platform}:{device.id}" for device in devices)
