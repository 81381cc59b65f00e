"""The command `bhsearch dataset backbones`."""
