"""The main job from nothing, and live answers held against the source's."""
