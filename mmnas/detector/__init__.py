"""The bottom-up-attention detector: from the pixels of an image to its region features.

Anderson et al. (2018), "Bottom-up and top-down attention": Faster R-CNN on ResNet-101, trained on Visual Genome
with 1600 objects and 400 attributes. `images.py` decodes, `network.py` computes, `regions.py` proposes and selects,
`weights.py` reads the published weights, and `extraction.py` does all of it for a list of images.
"""
