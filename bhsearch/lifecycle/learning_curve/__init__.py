"""The learning curve over cases: computed from cached features on request, and stored on the run of the study."""
