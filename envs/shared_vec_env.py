"""What stable-baselines3 asks of vectorised environments, for worlds that are rows of one object."""

from __future__ import annotations

from collections.abc import Sequence

from stable_baselines3.common.vec_env import VecEnv


class SharedVecEnv(VecEnv):
    """Attributes and methods belong to the batch; asked per world, every world gives the same answer."""

    def env_is_wrapped(self, wrapper_class: type, indices: int | Sequence[int] | None = None) -> list[bool]:
        """No world is wrapped."""
        return [False] * len(self._rows(indices))

    def get_attr(self, attr_name: str, indices: int | Sequence[int] | None = None) -> list[object]:
        """Return the shared attribute once per world."""
        return [getattr(self, attr_name)] * len(self._rows(indices))

    def set_attr(self, attr_name: str, value: object, indices: int | Sequence[int] | None = None) -> None:
        """Set the shared attribute."""
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *args: object, indices: int | Sequence[int] | None = None, **kwargs: object
    ) -> list[object]:
        """Call a method of the batch once and return its answer once per world."""
        return [getattr(self, method_name)(*args, **kwargs)] * len(self._rows(indices))

    def _rows(self, indices: int | Sequence[int] | None) -> Sequence[int]:
        if indices is None:
            return range(self.num_envs)
        return [indices] if isinstance(indices, int) else indices
