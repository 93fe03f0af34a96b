"""Options of a group that are added to the option of a recipe instead of taking its place.

``experiment=mg callbacks=appendix_i`` means ``callbacks=[deeph_e3,appendix_i]``: the callbacks of MG's recipe, with
inference times as in Appendix I.
"""

from collections.abc import Sequence

from hydra import compose

ADDED = {"callbacks": ("appendix_i", "block_health")}


def with_added(config_name: str, overrides: Sequence[str]) -> list[str]:
    """Overrides in which an added option stands behind the option of the recipe; Hydra has been initialised.

    Where the configuration chooses no option of the group, the added one stands alone.
    """
    found = list(overrides)
    for group, options in ADDED.items():
        named = [override for override in found if override in {f"{group}={option}" for option in options}]
        if not named:
            continue
        rest = [override for override in found if override not in named]
        # Keys of the added option do not exist yet, and no setting of a key changes a choice.
        whole = [override for override in rest if "." not in override.partition("=")[0]]
        choices = compose(config_name, whole, return_hydra_config=True).hydra.runtime.choices
        base = choices.get(group)
        if base:
            found = [*rest, f"{group}=[{str(base).strip('[]')},{named[-1].partition('=')[2]}]"]
    return found
