"""`make bundle`: one archive that sets the workshop up without any network: this repository and every tested package.

For a room whose wifi cannot carry thirty installations: hand it round on USB sticks. It fits machines with the same system and
Python as the one that made it. Inside, `python3 install.py` does the set-up.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tqdm.auto import tqdm

from tools import install

ROOT = Path(install.ROOT)
PACKED = {".whl", ".gz", ".safetensors", ".png"}  # compressing these again gains nothing
INSTALL = '''"""Set the workshop up from the packages in wheels/. Needs no network."""

import os
import subprocess
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.exit(subprocess.call([sys.executable, "-m", "tools.install", ".venv"], cwd=here))
'''


def repository_files() -> list[Path]:
    """Every file that git tracks, relative to the repository."""
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        install.stop(f"{ROOT} is no git repository: make the bundle in a clone of the workshop.")
    return [Path(name) for name in done.stdout.split("\0") if name]


def fetch_wheels(folder: Path, torch_index: str) -> list[Path]:
    """A wheel of every package that this Python needs in `folder`, and no other; what lies there already is not fetched again."""
    fresh, log_file = folder.with_name("wheels.draft"), folder.with_name("wheels.log")
    shutil.rmtree(fresh, ignore_errors=True)
    for each in (folder, fresh):
        each.mkdir(parents=True, exist_ok=True)
    options = ["--wheel-dir", str(fresh), "--find-links", str(folder), "--find-links", str(fresh)]
    options += ["--constraint", str(ROOT / "constraints.txt")]
    if install.wants_cpu_torch(torch_index):
        install.pip(sys.executable, log_file, "wheel", *options, "--no-deps", "--index-url", torch_index, "torch")
    print("Fetching the packages …")
    install.pip(sys.executable, log_file, "wheel", *options, "--requirement", str(ROOT / "requirements.txt"))
    shutil.rmtree(folder)
    return sorted(fresh.rename(folder).glob("*.whl"))


def pack(archive: Path, wheels: list[Path]) -> str:
    """Write the archive, under another name until it is complete; returns its sha256."""
    files = {Path("workshop") / name: ROOT / name for name in repository_files()}
    files |= {Path("workshop/wheels") / wheel.name: wheel for wheel in wheels}
    needed = sum(file.stat().st_size for file in files.values()) / 1e6
    draft = archive.with_suffix(".draft")
    try:
        with zipfile.ZipFile(draft, "w") as target:
            for name, file in tqdm(files.items(), desc="archive", unit=""):
                method = zipfile.ZIP_STORED if file.suffix in PACKED else zipfile.ZIP_DEFLATED
                target.write(file, name.as_posix(), compress_type=method)
            target.writestr("workshop/install.py", INSTALL)
            target.writestr("workshop/wheels/made-for.txt", install.this_machine())
        draft.replace(archive)
    except OSError as error:
        install.stop(f"{archive} cannot be written ({error.strerror}): it needs {needed:,.0f} MB. Free some space.")
    finally:
        draft.unlink(missing_ok=True)
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-index", default="", help="where to get PyTorch without CUDA")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bundle", help="folder of the archive")
    options = parser.parse_args()
    wheels = fetch_wheels(options.output / "wheels", options.torch_index)
    system = f"{platform.system()}-{platform.machine()}".lower()
    archive = options.output / f"workshop-{system}-python{sys.version_info[0]}.{sys.version_info[1]}.zip"
    digest = pack(archive, wheels)
    archive.with_suffix(".zip.sha256").write_text(f"{digest}  {archive.name}\n", encoding="utf-8")
    print(f"{archive}: {archive.stat().st_size / 1e6:,.0f} MB, {len(wheels)} packages\nsha256 {digest}")
    print("Unpack it, then: cd workshop && python3 install.py")


if __name__ == "__main__":
    main()
