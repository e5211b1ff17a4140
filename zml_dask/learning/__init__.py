"""What is learnt from images: counts of words, and a model that names the language of a page."""
