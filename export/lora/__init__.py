"""Merge LoRAs into the experts of a checkpoint before export. The result is a new checkpoint beside it.

Steps: read the file (`lora_file`), map its tensor names to modules (`key_formats`, `module_names`), check all of it
against the expert (`changes`, `complaints`), then write the shards (`merge`, `folder`).
"""
