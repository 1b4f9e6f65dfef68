"""The media of the zoo: native file to tensor to picture. Adapters know no model."""

from modalities.modality import KINDS, MediaError, Modality, adapter, from_config, guess

__all__ = ["KINDS", "MediaError", "Modality", "adapter", "from_config", "guess"]
