"""Settings: read from a TOML file and the environment, checked, and given out as one value.

Owns: every setting's name, default and check. Nothing else reads the environment.
Does not own: what a setting does.
"""

from keyosk.config.settings import SETTINGS, Config, load

__all__ = ["SETTINGS", "Config", "load"]
