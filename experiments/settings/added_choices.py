"""Options of a group that are added to the option of a recipe instead of replacing it.

``experiment=mg callbacks=appendix_i`` means ``callbacks=[deeph_e3,appendix_i]``: the callbacks of MG's recipe, and
inference times as in Appendix I.
"""

from collections.abc import Sequence

from hydra import compose

ADDED = {"callbacks": ("appendix_i", "block_health", "equivariance")}


def with_added(config_name: str, overrides: Sequence[str], search_path: Sequence[str] = ()) -> list[str]:
    """Overrides in which an added option follows the option of the recipe in a list.

    If the configuration chooses no option of the group, the added option is the only one. Hydra has to be
    initialised.
    """
    result = list(overrides)
    for group, options in ADDED.items():
        named = [override for override in result if override in {f"{group}={option}" for option in options}]
        if not named:
            continue
        rest = [override for override in result if override not in named]
        # Only choices of groups: keys of the added option do not exist yet, and keys do not change a choice.
        groups = [override for override in rest if "." not in override.partition("=")[0]]
        choices = compose(
            config_name, [*groups, *search_path], return_hydra_config=True
        ).hydra.runtime.choices
        base = choices.get(group)
        if base:
            result = [*rest, f"{group}=[{str(base).strip('[]')},{named[-1].partition('=')[2]}]"]
    return result
