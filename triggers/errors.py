"""The one refusal of this package."""


class TriggerError(ValueError):
    """The trigger does not fit these images, or this model; one sentence says why."""
