"""Recipes for images: every method on every data set.

A recipe starts from a method's own preset for motion. A data set then sets the fields that a method has (bottleneck,
networks, KL weights, samples), so that a method added later has image recipes unasked; what the papers give for one
method alone comes last.
"""

from dataclasses import fields, replace

from motionlex.data.errors import unknown_name
from motionlex.motion_vae.contract import Preset
from motionlex.motion_vae.domain import NetworkConfig
from motionlex.motion_vae.images.domain import ImageDomain
from motionlex.motion_vae.images.setting import ImageSetting
from motionlex.motion_vae.images.settings import SETTINGS
from motionlex.motion_vae.registry import get_method


def available_settings() -> tuple[str, ...]:
    """Names of all data sets with their bottlenecks, sorted."""
    return tuple(sorted(SETTINGS))


def image_preset(method: str, setting: str) -> tuple[Preset, ImageDomain]:
    """Look up the recipe of a method on a data set.

    Args:
        method: Name in the registry.
        setting: Name of a data set with its bottleneck, see :func:`available_settings`.

    Returns:
        The recipe, and the domain to build the model with; their likelihoods agree.

    Raises:
        UserError: If there is no such method or setting.
    """
    member = get_method(method)
    if setting not in SETTINGS:
        raise unknown_name("image setting", setting, available_settings(), "motion_vae/images/settings.py")
    chosen = SETTINGS[setting]
    config = member.presets[chosen.base]().method
    known = {f.name for f in fields(config)}
    common = {**chosen.values, "networks": _networks(chosen, config)}
    changes = {name: value for name, value in common.items() if name in known}
    config = replace(config, **{**changes, **chosen.methods.get(method, {})})
    optimisation = replace(chosen.optimisation, **chosen.optimisations.get(method, {}))
    domain = replace(chosen.domain, **chosen.domains.get(method, {}))
    return Preset(method=config, optimisation=optimisation, likelihood=domain.likelihood_config), domain


def _networks(setting: ImageSetting, config: object) -> NetworkConfig:
    """Sizes for the posterior of this configuration; the papers give NA and VQ variants more or wider blocks."""
    factorisation = getattr(config, "factorisation", None)
    if factorisation == "autoregressive":
        return setting.autoregressive
    return setting.deterministic if factorisation is None else setting.factorised
