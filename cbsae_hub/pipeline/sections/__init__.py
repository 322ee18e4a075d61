"""The sections that a recipe may have, as dataclasses: those of the steps, and those of the studies."""

from cbsae_hub.pipeline.recipe import Section
from cbsae_hub.pipeline.sections.clip_studies import (
    AttributeSettings,
    LayersSection,
    SuppressionSection,
    TargetSettings,
    TypographicSection,
)
from cbsae_hub.pipeline.sections.controls import ControlsSection, DictionarySection
from cbsae_hub.pipeline.sections.layer_studies import (
    LayerSAEs,
    OntologySection,
    OverlapSection,
    ProbingSection,
    ShiftedImages,
)
from cbsae_hub.pipeline.sections.names import NamesSection, SanitySection
from cbsae_hub.pipeline.sections.steps import (
    ActivationsSection,
    CBSAESection,
    DryRunSection,
    EncoderSettings,
    EvaluationSection,
    ImageSource,
    PruneSettings,
    SAESection,
    ScoresSection,
    SteerabilitySection,
    WordsSection,
)
from cbsae_hub.pipeline.sections.studies import (
    ChatJudgeSettings,
    DrawnFeaturesSection,
    InsertionSection,
    PairsSection,
    SweepSection,
    ZeroShotSteeringSection,
)

SECTIONS: dict[str, type[Section]] = {one.section: one for one in Section.__subclasses__()}

__all__ = [
    "SECTIONS",
    "ActivationsSection",
    "AttributeSettings",
    "CBSAESection",
    "ChatJudgeSettings",
    "ControlsSection",
    "DictionarySection",
    "DrawnFeaturesSection",
    "DryRunSection",
    "EncoderSettings",
    "EvaluationSection",
    "ImageSource",
    "InsertionSection",
    "LayersSection",
    "LayerSAEs",
    "OntologySection",
    "OverlapSection",
    "ProbingSection",
    "PairsSection",
    "NamesSection",
    "PruneSettings",
    "SAESection",
    "SanitySection",
    "ScoresSection",
    "ShiftedImages",
    "SteerabilitySection",
    "SuppressionSection",
    "SweepSection",
    "TargetSettings",
    "TypographicSection",
    "WordsSection",
    "ZeroShotSteeringSection",
]
