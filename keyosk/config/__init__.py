"""Settings: read from a TOML file and the environment, checked, and given out as one value.

Owns: every setting's name, default and check. Nothing else reads the environment.
Does not own: what a setting does.
"""

from keyosk.config.settings import SETTINGS, Config, is_debugging, load

__all__ = ["SETTINGS", "Config", "is_debugging", "load"]
