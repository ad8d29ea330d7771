"""Simulated brain cohort."""

from medkit.data.cohort.brains import BrainCohort, Subject

__all__ = ["BrainCohort", "Subject"]
