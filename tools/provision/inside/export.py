"""Write a GGUF model as safetensors; run by the interpreter that has vLLM, not imported.

Arguments: the GGUF file and the folder to write. Source of the call: transformers' guide to GGUF.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

source, folder = map(Path, sys.argv[1:])
where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
model = AutoModelForCausalLM.from_pretrained(
    **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
)
model.save_pretrained(folder)
AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
