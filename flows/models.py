"""What the command line does with a trained run: ``sample`` and ``export``."""
