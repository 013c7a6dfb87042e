"""Stores of a run: one, or several of the same views by different teachers (`cache: [a.yaml, b.yaml]`)."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

from pydantic import ConfigDict, RootModel, WrapValidator, field_validator

from pipeline.cache.config import CacheConfig
from pipeline.cache.manifest.identity import JOINING, differing_views, identity_from_config


class JoinedConfig(RootModel[tuple[CacheConfig, ...]]):
    """Stores of the same views, one for each teacher."""

    model_config = ConfigDict(frozen=True)

    @field_validator("root")
    @classmethod
    def _same_views(cls, caches: tuple[CacheConfig, ...]) -> tuple[CacheConfig, ...]:
        if len(caches) < 2:
            raise ValueError(f"a list joins the stores of several teachers, found {len(caches)}; give one without []")
        if len({cache.store for cache in caches}) < len(caches):
            raise ValueError(f"found the same store twice in {[cache.store for cache in caches]}; name each once")
        first, *others = (identity_from_config(cache) for cache in caches)
        for cache, other in zip(caches[1:], others, strict=True):
            if lines := differing_views(first, other):
                raise ValueError(
                    f"{caches[0].store} and {cache.store} cannot be joined, their views differ: {'; '.join(lines)}. "
                    f"{JOINING}"
                )
        return caches

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each teacher, as it stands before its levels: ``hiera_tiny``; of equal ones also ``hiera_tiny_2``."""
        found: list[str] = []
        for cache in self.root:
            name, count = teacher_name(cache), 1
            while (own := name if count == 1 else f"{name}_{count}") in found:
                count += 1
            found.append(own)
        return tuple(found)

    @property
    def levels(self) -> tuple[str, ...]:
        """``<teacher>:<level>`` of all teachers, one after the other."""
        return tuple(
            f"{name}:{level}"
            for name, cache in zip(self.names, self.root, strict=True)
            for level in cache.teacher.levels
        )

    @property
    def zoom(self) -> Mapping[str, Fraction]:
        """Pixels of each teacher's view for one of the student's, by the teacher's name."""
        return {name: cache.zoom for name, cache in zip(self.names, self.root, strict=True)}


def one_or_several(value: Any, handler: Any) -> Any:
    """Takes a list for several stores, anything else for one, so that mistakes are told of the right one."""
    if isinstance(value, CacheConfig | JoinedConfig):
        return value
    return (JoinedConfig if isinstance(value, list | tuple) else CacheConfig).model_validate(value)


StoresConfig = Annotated[CacheConfig | JoinedConfig, WrapValidator(one_or_several)]


def teacher_name(cache: CacheConfig) -> str:
    """Name of a teacher in front of its levels: kind and architecture, of timm's models the model without its tag."""
    kind, model = cache.teacher.kind, cache.teacher.architecture.rpartition("/")[2].split(".")[0]
    return re.sub(r"[^a-z0-9]+", "_", (model if kind == "timm" else f"{kind}_{model}").lower())


def levels_of(cache: CacheConfig | JoinedConfig) -> tuple[str, ...]:
    """Names of the levels that a method can read."""
    return cache.levels if isinstance(cache, JoinedConfig) else tuple(cache.teacher.levels)


def one_of(cache: CacheConfig | JoinedConfig, who: str) -> CacheConfig:
    """The run's only store, for what cannot work on several.

    Raises:
        ValueError: there are several; names ``who`` asked.
    """
    if isinstance(cache, JoinedConfig):
        raise ValueError(f"{who} takes a run of one store, found cache: {[one.store for one in cache.root]}; name one")
    return cache
