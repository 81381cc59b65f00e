"""Studies whose workers a cluster's launcher places on other machines, and the parts of a study that its jobs run."""
