"""What is said: language packs, engines, the clip cache, and prompts composed into one file.

What it never does: dial, play, or know which PBX will play the file.
"""
