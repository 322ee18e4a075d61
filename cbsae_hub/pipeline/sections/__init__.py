"""The sections that a recipe may have, as dataclasses: those of the steps, and those of the studies."""

from cbsae_hub.pipeline.recipe import Section
from cbsae_hub.pipeline.sections.steps import (
    ActivationsSection as ActivationsSection,
)
from cbsae_hub.pipeline.sections.steps import (
    CBSAESection as CBSAESection,
)
from cbsae_hub.pipeline.sections.steps import (
    DryRunSection as DryRunSection,
)
from cbsae_hub.pipeline.sections.steps import (
    EvaluationSection as EvaluationSection,
)
from cbsae_hub.pipeline.sections.steps import (
    ImageSource as ImageSource,
)
from cbsae_hub.pipeline.sections.steps import (
    PruneSettings as PruneSettings,
)
from cbsae_hub.pipeline.sections.steps import (
    SAESection as SAESection,
)
from cbsae_hub.pipeline.sections.steps import (
    ScoresSection as ScoresSection,
)
from cbsae_hub.pipeline.sections.steps import (
    SteerabilitySection as SteerabilitySection,
)
from cbsae_hub.pipeline.sections.studies import (
    ChatJudgeSettings as ChatJudgeSettings,
)
from cbsae_hub.pipeline.sections.studies import (
    InsertionSection as InsertionSection,
)
from cbsae_hub.pipeline.sections.studies import (
    SweepSection as SweepSection,
)
from cbsae_hub.pipeline.sections.studies import (
    ZeroShotSteeringSection as ZeroShotSteeringSection,
)

SECTIONS: dict[str, type[Section]] = {one.section: one for one in Section.__subclasses__()}
