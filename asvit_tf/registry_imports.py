"""Every registration in one place: importing this makes the Model Garden know As-ViT and all that it ships itself."""

from official.vision import registry_imports  # noqa: F401

from asvit_tf.tasks import backbones, classification, detection, segmentation  # noqa: F401
