"""Physics: the tracking task for one robot and for many, rewards, observations, rendering.

Importing this package makes ``gymnasium.make("motionlex/H1Track-v0")`` known (one dictionary entry; gymnasium 1.x finds
no plug-ins by itself).
"""

from motionlex.envs.registration import register

register()
