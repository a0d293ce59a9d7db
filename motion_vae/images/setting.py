"""What a data set with its bottleneck asks of methods."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from motionlex.motion_vae.contract import OptimisationConfig
from motionlex.motion_vae.domain import NetworkConfig
from motionlex.motion_vae.images.domain import ImageDomain

Values = Mapping[str, object]
"""Fields of a frozen dataclass, by name."""


@dataclass(frozen=True, kw_only=True)
class ImageSetting:
    """One data set with its bottleneck, as one table of a paper compares methods on it."""

    domain: ImageDomain
    """Size of the images, networks and likelihood."""
    autoregressive: NetworkConfig
    """Networks of methods with an autoregressive posterior."""
    factorised: NetworkConfig
    """Networks of methods whose posterior predicts all codes at once."""
    deterministic: NetworkConfig
    """Networks of methods without a choice of posterior (nearest code, rounding)."""
    values: Values
    """Fields of the method's configuration, set where the method has them."""
    optimisation: OptimisationConfig
    """How methods are trained unless they say otherwise."""
    methods: Mapping[str, Values] = field(default_factory=dict)
    """By method: fields of its configuration that differ."""
    domains: Mapping[str, Values] = field(default_factory=dict)
    """By method: fields of the domain that differ."""
    optimisations: Mapping[str, Values] = field(default_factory=dict)
    """By method: fields of the optimisation that differ."""
    variants: Mapping[str, str] = field(default_factory=dict)
    """By data set with images of the same size: name of the setting that it takes instead."""
    base: str = "paper"
    """Preset for motion that gives all other fields."""
