"""What the package is, what it needs and where its folders go; tool settings are in pyproject.toml.

The top-level folders install below one name: `server/` as `ndcass.server`, and so on. Import them
by those names, also in the checkout.
"""

from setuptools import find_packages, setup

# Folder of the checkout -> name it is installed and imported by.
FOLDERS = {
    "ndcass": "ndcass",
    "server": "ndcass.server",
    "loadgen": "ndcass.loadgen",
    "schema": "ndcass.schema",
    "conf": "ndcass.conf",
}

RUNTIME = [
    "aiohttp>=3.11,<4",
    "blosc>=1.11,<2",
    "cassandra-driver>=3.30,<4",
    "crc32c>=2.7,<3",
    "h5py>=3.12,<4",
    "isal>=1.7,<2",
    "lmdb>=1.5,<4",
    "lz4>=4.3,<5",
    "nanoarrow>=0.6,<1",  # Arrow streams in 1 MB; pyarrow takes 45
    "networkx>=3.4,<4",  # writes graphs of segments in the formats of other tools
    "nibabel>=5.3,<6",
    "numpy>=2.1,<3",
    "pillow>=11,<14",
    "pyyaml>=6.0.2,<7",
    "requests>=2.32,<3",
    "tifffile>=2024.8",  # versions are dates, so an upper bound would only age
    "tqdm>=4.66,<5",
    "uvloop>=0.21,<1",
    "yarl>=1.17,<2",
    "zstandard>=0.23,<1",
]

TEST = [
    "blockbuster>=1.5,<2",
    "hypothesis>=6.100,<7",
    "mypy>=1.13,<3",
    "playwright>=1.49,<2",  # drives the browser of the system; it brings none
    "psutil>=6,<8",
    "pytest>=8.3,<10",
    "pytest-asyncio>=0.25,<2",
    "pytest-benchmark>=5,<6",
    "pytest-timeout>=2.3,<3",
    "ruff>=0.9,<1",
    "types-psutil>=6,<8",
    "types-PyYAML>=6,<7",
    "types-requests>=2.32,<3",
    "types-tqdm>=4.66,<5",
]


def packages() -> list[str]:
    """Every folder with an `__init__.py`, by its installed name."""
    found = []
    for folder, name in FOLDERS.items():
        found.append(name)
        found += [f"{name}.{inner}" for inner in find_packages(folder)]
    return sorted(found)


setup(
    name="ndcass",
    version="0.1.0",
    description="Stores 3-D and 4-D brain image volumes as cuboids and serves boxes over REST",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=packages(),
    package_dir={name: folder for folder, name in FOLDERS.items()},
    package_data={
        "ndcass": ["py.typed"],
        "ndcass.conf": ["*.yaml", "workloads/*.yaml", "cassandra/*"],
        "ndcass.schema": ["*.cql"],
        "ndcass.server": ["templates/*", "static/*"],
    },
    install_requires=RUNTIME,
    extras_require={"test": TEST},
    entry_points={"console_scripts": ["ndcass = ndcass.cli.main:main"]},
)
