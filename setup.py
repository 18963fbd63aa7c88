"""Builds the extension: C++ wherever torch is importable, CUDA where a toolkit and a CUDA build of torch are found.

INVERSEFORM_FAST_BUILD_CUDA=1 makes a missing CUDA an error, and =0 leaves CUDA out. TORCH_CUDA_ARCH_LIST names the
compute capabilities to build for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from setuptools import Extension, setup

CSRC = Path("csrc")
FLAGS = ["-O3", "-std=c++17", "-DTORCH_TARGET_VERSION=0x020b000000000000"]  # the stable ABI of LibTorch 2.11
CXX = [*FLAGS, "-g0", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
NVCC = [*FLAGS, "-Xcompiler=-fvisibility=hidden"]
GPUS = "7.5;8.0;9.0;10.0+PTX;12.0"  # each serves later GPUs of its major version, and the PTX all after 10.0


class Missing(Exception):
    """The extension, or its CUDA half, cannot be built without this."""


def main() -> None:
    asked = os.environ.get("INVERSEFORM_FAST_BUILD_CUDA") or "if possible"
    if asked not in ("if possible", "0", "1"):
        raise SystemExit(f"INVERSEFORM_FAST_BUILD_CUDA must be 0 or 1, got {asked!r}")
    extensions = []
    builds = (cuda_extension, cpu_extension)  # CUDA comes first: torch reads CUDA_HOME once, at its first use
    for build in builds if asked != "0" else builds[1:]:
        try:
            extensions.append(build())
        except Missing as missing:
            if asked == "1":
                raise SystemExit(f"INVERSEFORM_FAST_BUILD_CUDA=1, but {missing}") from None
            print(f"inverseform_fast: no {build.__name__.replace('_', ' ')}: {missing}", file=sys.stderr)
    options = {}
    if extensions:
        from torch.utils.cpp_extension import BuildExtension

        options = {"cmdclass": {"build_ext": BuildExtension}, "options": {"bdist_wheel": {"py_limited_api": "cp310"}}}
    setup(ext_modules=extensions, **options)


def cpu_extension() -> Extension:
    torch_version()
    sources = sorted(str(path) for path in CSRC.rglob("*_cpu.cpp"))
    return extension("_C", *sources, libraries=["torch_cpu"], extra_compile_args={"cxx": CXX})


def cuda_extension() -> Extension:
    toolkit = cuda_toolkit()
    os.environ["CUDA_HOME"] = str(toolkit)  # torch would infer a wrong one if the nvcc on PATH is a wrapper
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", GPUS)
    libraries = next(path for path in (toolkit / "lib64", toolkit / "lib") if (path / "libcudart_static.a").exists())
    return extension(
        "_C_cuda",
        *sorted(str(path) for path in CSRC.rglob("*_cuda.cu")),
        library_dirs=[str(libraries)],
        libraries=[
            "torch_cuda",
            "torch_cpu",
            "cudart_static",
            "rt",
            "pthread",
            "dl",
        ],  # a static runtime serves any CUDA version
        extra_compile_args={"cxx": CXX, "nvcc": NVCC},
    )


def extension(name: str, *sources: str, library_dirs: Sequence[str] = (), **options: object) -> Extension:
    from torch.utils.cpp_extension import include_paths, library_paths

    device = "cuda" if sources[0].endswith(".cu") else "cpu"
    return Extension(
        f"inverseform_fast.{name}",
        list(sources),
        include_dirs=[
            str(CSRC.resolve()),
            *include_paths(device),
        ],  # absolute, because ninja compiles in its own folder
        library_dirs=[*library_dirs, *library_paths()],
        depends=[str(path) for path in CSRC.rglob("*.h")],
        py_limited_api=True,
        **options,
    )


def torch_version() -> tuple[str, str | None]:
    """Returns torch's version, and that of its CUDA or None."""
    try:
        import torch
    except ImportError:
        raise Missing("torch is not installed here: install it first, and pass --no-build-isolation to pip") from None
    return torch.__version__, torch.version.cuda


def cuda_toolkit() -> Path:
    """Finds the toolkit of CUDA_HOME, of pip's nvidia-cuda-nvcc or of the nvcc on PATH.

    Raises:
        Missing: there is none, or its major version is not that of torch's CUDA.
    """
    version, cuda = torch_version()
    if cuda is None:
        raise Missing(f"torch {version} is a build without CUDA")
    major = cuda.split(".")[0]
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    pip_nvcc = Path(sysconfig.get_path("purelib"), "nvidia", f"cu{major}", "bin", "nvcc")
    nvcc = shutil.which(Path(home, "bin", "nvcc")) if home else shutil.which(pip_nvcc) or shutil.which("nvcc")
    if nvcc is None:
        raise Missing(f"there is no {home}/bin/nvcc" if home else "there is no nvcc: set CUDA_HOME, or put it on PATH")
    release = re.search(r"release (\d+)", run(nvcc, "--version"))
    if release is None or release[1] != major:
        raise Missing(f"{nvcc} is of CUDA {release[1] if release else '?'}, torch {version} of CUDA {cuda}")
    # Only nvcc knows where its toolkit is, because the file on PATH may be a wrapper in another folder.
    top = re.search(r"^#\$ TOP=(.*)$", run(nvcc, "--dryrun", "-x", "cu", os.devnull), re.MULTILINE)
    if top is None:
        raise Missing(f"{nvcc} --dryrun does not say where its toolkit is (no line '#$ TOP=')")
    return Path(top[1]).resolve()


def run(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


main()
