"""Packaging. Pinned versions are in requirements.lock, requirements-tpu.lock and requirements-gpu.lock."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="asvit-tf",
    version="0.1.0",
    description="Auto-scaling Vision Transformers without training (As-ViT) for TensorFlow and the Model Garden",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["asvit_tf", "asvit_tf.*", "search", "search.*", "official_configs"]),
    package_data={"official_configs": ["*.yaml", "coco/*.yaml"]},
    install_requires=[
        "tensorflow>=2.20,<2.21",
        "tf-keras>=2.20,<2.21",
        "tf-models-official>=2.20,<2.21",
        "tensorflow-datasets>=4.9",
        # The Model Garden's input pipeline needs it and does not ask for it.
        "importlib_resources>=6",
        "numpy>=2,<3",
        "scipy>=1.13",
        "scikit-learn>=1.5",
        "absl-py>=1",
        "click>=8.1",
        "gin-config>=0.5",
        "joblib>=1.4",
        "protobuf>=4",
        "pyyaml>=6",
        "tensorboard>=2.20",
        "matplotlib>=3.9",
        "pillow>=10.1",
        "pycocotools>=2.0.7",
        "tqdm>=4.66",
    ],
    extras_require={
        "tpu-check": ["jax>=0.8", "libtpu>=0.0.30"],
        # For a TPU VM: what tensorflow-tpu 2.20.0 takes. Its package asks for 0.0.14 at least; beside 0.0.32 and newer
        # ones importing it aborts the process, because they lack functions that it calls (docs/tpu.md has the table).
        # tensorflow-tpu itself cannot be named: the Model Garden asks for tensorflow, whose files would overwrite its,
        # so it takes that one's place afterwards (docs/tpu.md), or requirements-tpu.lock is installed with --no-deps.
        "tpu": ["libtpu>=0.0.14,<=0.0.31"],
        "cluster": ["distributed>=2025.5"],
        "gpu": ["tensorflow[and-cuda]>=2.20,<2.21"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "mypy>=1.14",
            "import-linter>=2.1",
            "hypothesis>=6.100",
        ],
    },
    entry_points={"console_scripts": ["asvit = asvit_tf.cli.app:entry_point"]},
)
