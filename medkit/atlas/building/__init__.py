"""Building an atlas: pieces of work on files, from a cohort to its template and transformations."""

from medkit.atlas.building.builder import HybridAtlas
from medkit.atlas.building.finishing import finish_atlas
from medkit.atlas.building.settings import AtlasSettings

__all__ = ["AtlasSettings", "HybridAtlas", "finish_atlas"]
