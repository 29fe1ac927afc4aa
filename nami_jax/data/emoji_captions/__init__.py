"""`emoji_captions`: a tensorflow-datasets data set of emoji with captions, made from installed packages.

Importing this package registers the builder, so that `tfds.builder("emoji_captions")` finds it.
"""

from nami_jax.data.emoji_captions.builder import EmojiCaptions, EmojiConfig

__all__ = ["EmojiCaptions", "EmojiConfig"]
